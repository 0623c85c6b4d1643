"""`erasediff compare` and `ablate`: methods side by side, on the same model, sets, samples and judge. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .base import AtLeast1, Positive, Seed, Settings
from .judge import JudgeConfig
from .models import ModelConfig
from .run import EngineConfig


@dataclass(frozen=True)
class BudgetConfig(Settings):
    """What each method may spend: one of these. None given: each takes the steps that its settings say."""

    steps: AtLeast1 | None = None
    """Outer iterations."""
    gradients: AtLeast1 | None = None
    """Gradients of a batch, as a method's cost counts them, those before its first step included: a method that takes
    more of them takes fewer steps."""
    seconds: Positive | None = None
    """On this machine, of iterations at the pace of a method's first ones and of what it does before them."""

    def __post_init__(self) -> None:
        given = [f"budget.{name}" for name, value in vars(self).items() if value is not None]
        if len(given) > 1:
            raise ValueError(f"{given[0]} and {given[1]} are two budgets: give one")


@dataclass(frozen=True)
class CompareConfig(Settings):
    """Scrub one model by several methods, measure all alike, and write the table, with spread over seeds."""

    output: str
    """Folder for runs/, rows/, pictures/, and comparison.csv, .md and .html."""
    model: ModelConfig
    """The model to scrub."""
    data: str
    """Dataset folder with samples of every class: the judge is trained on it."""
    forget: str
    """Dataset folder of D_f."""
    remain: str
    """Dataset folder of D_r."""
    methods: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Settings of each method by the name it has in the table: `method.name = "moo"`, `train.max_train_steps = 50`."""
    seeds: tuple[Seed, ...] = (0,)
    """Of the scrub; samples are drawn from the judge's own, the same for all."""
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    """What each method may spend."""
    vary: dict[str, list[Any]] = field(default_factory=dict)
    """Values of dotted keys: each method also once with each of them, the rest as it is."""
    grid: dict[str, list[Any]] = field(default_factory=dict)
    """Values of dotted keys: each method once for every combination of them."""
    train: dict[str, Any] = field(default_factory=dict)
    """Length, batches and bookkeeping of all methods, under what a method says itself."""
    optimizer: dict[str, Any] = field(default_factory=dict)
    """Their outer optimizer, the same."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    """Sharding and precision."""
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    """What is measured, and how. Without judge.retrained or judge.with_retrained the table says that it is
    incomplete."""

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds = {[*self.seeds]}: give one at least, and each once")
        for name in self.methods:
            if not name.strip() or name in REFERENCES:
                raise ValueError(f"methods.{name}: give it another name")
        for table in ("vary", "grid"):
            for key, values in getattr(self, table).items():
                if not values:
                    raise ValueError(f"{table} has no value for {key}")
        if self.vary and self.grid:
            raise ValueError("vary changes one key at a time, grid all together: give one of them")
        if self.judge.retrained is not None and self.judge.retrained.endswith(".json"):
            raise ValueError(
                f"judge.retrained = '{self.judge.retrained}' is a record, which has no samples to compare with: name "
                "the model's folder"
            )


# rows that are there whatever the methods are
UNSCRUBBED, RETRAINED = REFERENCES = ("unscrubbed", "retrained")
