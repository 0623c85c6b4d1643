"""A finished scrub, opened again: the models before and after, the sets, and what happened on the way."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from ...shards.dataset import Dataset
from ..config import ScrubConfig
from ..config.toml import decode, read_toml
from ..errors import ConfigError
from ..models.families import load_model
from ..models.fitting import Fitted, fit
from ..models.model import Model
from ..run.attempts import history
from ..run.folder import is_finished
from ..run.provenance import Inputs, ModelStamp, differing, frozen_sha256, read_inputs
from .record import RunEntry


@dataclass(frozen=True)
class FinishedScrub:
    """A finished scrub, opened: what was forgotten, from which model, into which."""

    run: Path
    config: ScrubConfig
    inputs: Inputs
    fitted_forget: Fitted
    fitted_remain: Fitted
    unscrubbed: Model
    scrubbed: Model

    @property
    def forget(self) -> Dataset:
        return self.fitted_forget.data

    @property
    def remain(self) -> Dataset:
        return self.fitted_remain.data

    @classmethod
    def open(cls, run: Path) -> FinishedScrub:
        """Raises ConfigError for a folder that is no finished scrub, or whose base is no longer what it was."""
        if not (run / "config.toml").exists():
            raise ConfigError(f"run = '{run}' is no run folder: it holds no config.toml")
        config = decode(ScrubConfig, read_toml(run / "config.toml"), str(run / "config.toml"))
        inputs = read_inputs(run)
        if not is_finished(run) or inputs is None:
            raise ConfigError(f"run = '{run}' is not finished: give the scrub's command again, it continues")
        forget, remain = Dataset.open(config.forget), Dataset.open(config.remain)
        for ours, theirs, path in ((inputs.forget, forget, config.forget), (inputs.remain, remain, config.remain)):
            if ours.fingerprint != theirs.fingerprint:
                raise ConfigError(f"'{path}' holds other samples than when '{run}' was scrubbed: restore them")
        unscrubbed = load_model(config.model)
        for what, found, was in differing(ModelStamp.of(unscrubbed).hashes(), inputs.base.hashes()):
            raise ConfigError(
                f"model.path = '{config.model.path}' is not the model that '{run}' scrubbed: its {what} have SHA-256 "
                f"{found}…, the scrubbed one's had {was}…; put the original back"
            )
        scrubbed = load_model(dataclasses.replace(config.model, path=str(run / "model"), revision=None))
        for name, found, was in differing(frozen_sha256(scrubbed), inputs.base_frozen_sha256):
            raise ConfigError(
                f"'{run / 'model'}' has another '{name}' than the model it was made from ({found}… and {was}…): copy "
                "that one's back"
            )
        return cls(run, config, inputs, fit(forget, unscrubbed), fit(remain, unscrubbed), unscrubbed, scrubbed)


def metrics_lines(run: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def run_entry(run: Path) -> RunEntry:
    """What the metrics and the attempts tell of a finished run."""
    lines, starts = metrics_lines(run), history(run)

    def count(flag: str) -> int:
        return sum(line.get(flag) == 1 for line in lines)

    return RunEntry(
        num_steps=len(lines),
        capped_steps=count("capped"),
        infeasible_steps=count("infeasible"),
        skipped_steps=count("skipped"),
        interruptions=max(len(starts) - 1, 0),
        starts=starts,
    )
