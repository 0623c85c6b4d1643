"""What decides a run's result: a run goes on only with what it was begun with."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from ..config import Settings
from ..config.toml import as_dict, flatten

# what may change when a run is continued: how the work is spread and when it is saved, never what is computed
FREE_KEYS = frozenset(
    {
        "output",
        "device",
        "num_threads",
        "publish",
        "judge.sampling.batch_size",
        "generate.sampling.batch_size",
        "engine.zero_stage",
        "engine.device",
        "engine.forward_batch_size",
        "engine.reduce_bucket_size",
        "engine.overlap_communication",
        "engine.persistence_threshold",
        "engine.activation_checkpointing",
        "engine.activation_checkpointing_share",
        "engine.attention",
        "engine.compile",
        "engine.channels_last",
        "engine.cudnn_benchmark",
        "engine.num_threads",
        "engine.step_timeout_seconds",
        "train.max_bad_samples",
        "train.max_loss_r_ratio",
        "train.dataloader_num_workers",
        "train.checkpointing_steps",
        "train.checkpoints_total_limit",
        "train.sample_every",
        "train.report_to",
    }
)

# of these, what sums in another order: the result is then equal to rounding, not bit for bit
ROUNDING_KEYS = frozenset(
    {
        "engine.zero_stage",
        "engine.device",
        "engine.forward_batch_size",
        "engine.reduce_bucket_size",
        "engine.overlap_communication",
        "engine.activation_checkpointing",
        "engine.activation_checkpointing_share",
        "engine.attention",
        "engine.compile",
        "engine.channels_last",
        "engine.cudnn_benchmark",
        # a prompt is encoded by a worker's one thread, or in the step by all
        "train.dataloader_num_workers",
    }
)


@dataclass(frozen=True)
class Identity:
    """Settings, flat, and hashes of what they are applied to."""

    values: dict[str, Any]
    defaults: frozenset[str]
    """Keys that have their default value: what an older erasediff wrote down may not know them."""

    @classmethod
    def of(cls, config: Settings) -> Identity:
        return cls(what_counts(as_dict(config)), frozenset(_defaults(config)))

    def with_hashes(self, hashes: dict[str, str]) -> Identity:
        return Identity(self.values | hashes, self.defaults)

    def differing(self, theirs: dict[str, Any]) -> list[str]:
        """The keys in which a run with the values `theirs` is another run."""
        return [
            key
            for key in sorted(theirs.keys() | self.values.keys())
            if theirs.get(key) != self.values.get(key) and not (key not in theirs and key in self.defaults)
        ]


def what_counts(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that decide the result, flat."""
    return {key: value for key, value in flatten(settings).items() if key not in FREE_KEYS}


def free_settings(settings: Settings) -> dict[str, Any]:
    """The settings that may change when a run is continued, flat: they are the attempt's."""
    return {key: value for key, value in flatten(as_dict(settings)).items() if key in FREE_KEYS}


def without_free(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings without those that may change when a run is continued."""
    return {
        key: without_free(value, f"{prefix}{key}.") if isinstance(value, dict) else value
        for key, value in settings.items()
        if prefix + key not in FREE_KEYS
    }


def _defaults(config: Settings, prefix: str = "") -> list[str]:
    assert dataclasses.is_dataclass(config)
    found: list[str] = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            found += _defaults(value, f"{prefix}{field.name}.")  # pyright: ignore[reportArgumentType]
        elif value == field.default:
            found.append(prefix + field.name)
    return found
