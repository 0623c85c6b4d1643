"""`erasediff bench`: a scrub's settings, and what of them is varied. No torch here."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass, field
from typing import Any, Literal

from .base import AtLeast0, AtLeast1, Settings, Share
from .commands import ScrubConfig
from .run import Precision


@dataclass(frozen=True)
class SweepConfig(Settings):
    """What is varied: every value of a list with every value of the others. None given: as the settings have it."""

    zero_stage: tuple[Literal[1, 2, 3], ...] = ()
    """Of engine.zero_stage."""
    precision: tuple[Precision, ...] = ()
    """Of engine.precision."""
    train_batch_size: tuple[AtLeast1, ...] = ()
    """Of train.train_batch_size."""
    forward_batch_size: tuple[AtLeast1, ...] = ()
    """Of engine.forward_batch_size."""
    activation_checkpointing: tuple[Literal["off", "inner", "all"], ...] = ()
    """Of engine.activation_checkpointing."""
    activation_checkpointing_share: tuple[Share, ...] = ()
    """Of engine.activation_checkpointing_share."""
    attention: tuple[Literal["native", "xformers", "flash"], ...] = ()
    """Of engine.attention."""
    compile: tuple[bool, ...] = ()
    """Of engine.compile."""
    channels_last: tuple[bool, ...] = ()
    """Of engine.channels_last."""
    cudnn_benchmark: tuple[bool, ...] = ()
    """Of engine.cudnn_benchmark."""
    overlap_communication: tuple[bool, ...] = ()
    """Of engine.overlap_communication."""
    reduce_bucket_size: tuple[AtLeast1, ...] = ()
    """Of engine.reduce_bucket_size."""
    reduce_dtype: tuple[Literal["fp32", "bf16"], ...] = ()
    """Of engine.reduce_dtype."""

    def combinations(self) -> list[dict[str, Any]]:
        """Values by the settings' names, those that are not varied left out; one, empty, where none is."""
        varied = {each.name: getattr(self, each.name) for each in dataclasses.fields(self) if getattr(self, each.name)}
        return [dict(zip(varied, values, strict=True)) for values in itertools.product(*varied.values())]


@dataclass(frozen=True)
class BenchConfig(ScrubConfig):
    """Time a scrub's iterations on random weights and random samples, for each combination of what is varied.

    Neither weights nor data are read: of the model its configuration alone. Rows go to ROWS/bench.jsonl and
    ROWS/bench.csv, a row for each combination, with the spread of its iterations and what they are made of.
    """

    forget: str = ""
    """Not read."""
    remain: str = ""
    """Not read."""
    output: str = ""
    """Not written; see rows."""
    rows: str = "bench"
    """Folder of bench.jsonl, which is added to, and of bench.csv, the same as a table."""
    sweep: SweepConfig = field(default_factory=SweepConfig)
    """What is varied."""
    rounds: AtLeast1 = 3
    """So many times all combinations are gone through: what else happens on a machine meets all of them."""
    repeats: AtLeast1 = 10
    """Timed iterations of a combination in a round."""
    warmup: AtLeast0 = 3
    """Iterations before them that do not count."""
    trace: str | None = None
    """Write a trace of two iterations on rank 0 to this JSON file, for Perfetto; of several combinations, to a file
    each with their number in its name."""
    compare: str | None = None
    """Earlier rows, a .jsonl: exit code 1 where a combination takes 5 % longer than there, beyond both spreads."""
