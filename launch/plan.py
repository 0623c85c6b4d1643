"""`erasediff plan`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, cast

import tyro

from ..trainer.config import ScrubConfig
from ..trainer.config.toml import check_ranges
from ..trainer.errors import ConfigError, TrainingError
from ..trainer.plan.devices import GpuType, device_of
from .options import parse, read_settings


@dataclass(frozen=True)
class Options:
    """Say what a scrub will take: memory, traffic and time: plan [RUN.toml] --gpus N --gpu-type TYPE [OPTIONS]

    RUN.toml is a scrub's; its options may follow. Of the model only configuration is read, of the data nothing: neither
    weights nor datasets need to be there. Exit code 1 where the scrub fits in no way.
    """

    gpus: int
    """Ranks, one a GPU."""
    gpu_type: GpuType
    """What each runs on; cpu: ranks that share this machine."""
    gpus_per_node: int | None = None
    """GPUs of one node, 8 if not given. The node's network is taken to be as much less as it has fewer."""
    mfu: float = 0.28
    """Share of the GPU's dense peak that forward and backward passes reach; seconds are in proportion to it. .28 is
    what a Stable Diffusion 2 training is reported to reach on 8 A100 at 512 pixels (mosaicml/diffusion), from stored
    latents with compiled, fused layers: an assumption here, to be replaced by what you measure."""
    stored_latents: bool = False
    """The data hold latents beside their images, so that no image is encoded in training."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = field(default=False)
    """Print one line of JSON instead."""


@dataclass(frozen=True)
class Plan:
    config: ScrubConfig
    options: Options

    @classmethod
    def read(cls, words: Sequence[str], prog: str) -> Plan:
        words = list(words)
        file = [words.pop(0)] if words and not words[0].startswith("-") else []
        # tyro then returns what it does not know, too: the scrub's options
        options, others = cast(tuple[Options, list[str]], parse(Options, words, prog=prog, return_unknown_args=True))
        for name, value in (("gpus", options.gpus), ("gpus-per-node", options.gpus_per_node)):
            if value is not None and value < 1:
                raise ConfigError(f"--{name} {value}: at least 1")
        if not 0 < options.mfu <= 1:
            raise ConfigError(f"--mfu {options.mfu:g}: a share of the peak, more than 0 and at most 1")
        # not read, so not asked for
        unread = [word for name in ("forget", "remain", "output") for word in (f"--{name}", "none-is-read")]
        config = read_settings(ScrubConfig, [*file, *others, *unread], prog=prog)
        check_ranges(config)
        return cls(config, options)

    def run(self) -> None:
        """Prints it; raises TrainingError where nothing fits."""
        from ..trainer.plan.plan import make_plan
        from .plan_table import as_dict, as_table

        options = self.options
        device = device_of(options.gpu_type, options.gpus, options.gpus_per_node)
        plan = make_plan(self.config, device, options.gpus, mfu=options.mfu, stored_latents=options.stored_latents)
        print(json.dumps(as_dict(plan)) if options.as_json else as_table(plan), flush=True)
        if plan.best is None:
            raise TrainingError(
                f"it fits in no way on {options.gpus} × {device.name}: more or larger GPUs, a smaller "
                "model.image_size, fewer train.layers, or optimizer.name = 'sgd' take less"
            )
