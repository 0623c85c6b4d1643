"""What the doctor looks at: a run's settings, or folders alone. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...trainer.config import EngineConfig, EraseConfig, PretrainConfig, ScrubConfig
from ...trainer.config.toml import read_toml
from ...trainer.errors import ConfigError
from ..options import read_settings

RunConfig = ScrubConfig | PretrainConfig | EraseConfig


@dataclass(frozen=True)
class DoctorConfig:
    output: str = "."
    """Where the run would write."""
    shards: tuple[str, ...] = ()
    """Dataset folders, beside those of the run."""
    run: RunConfig | None = None
    """The run that is to start; without one, its model, its datasets and its disk space are not looked at."""
    full: bool = False
    """Read every byte of the shards, on every host."""
    fill_cache: str | None = None
    """Fill this folder with what Triton builds."""
    timeout_seconds: float = 120.0
    """How long a check may take on a rank."""

    @classmethod
    def of_run(cls, run: RunConfig) -> DoctorConfig:
        """For a launcher that is about to start it."""
        return cls(output=run.output, run=run)

    @property
    def engine(self) -> EngineConfig:
        return EngineConfig() if self.run is None else self.run.engine

    @property
    def datasets(self) -> dict[str, str]:
        """Folders by the option that names them."""
        named: dict[str, str] = {}
        if isinstance(self.run, ScrubConfig):
            named = {"forget": self.run.forget, "remain": self.run.remain}
        elif self.run is not None:
            named = {} if self.run.data is None else {"data": self.run.data}
        many = len(self.shards) > 1
        return named | {f"shards {number}" if many else "shards": path for number, path in enumerate(self.shards, 1)}


def read_run(file: str, words: Sequence[str], prog: str) -> RunConfig:
    """The settings of a scrub, pretrain or erase from its TOML file and options. Raises ConfigError for others."""
    values = read_toml(Path(file))
    kinds: dict[str, type[RunConfig]] = {"request": EraseConfig, "forget": ScrubConfig, "remain": ScrubConfig}
    kinds |= {} if "run" in values else {"data": PretrainConfig}
    kind = next((kind for key, kind in kinds.items() if key in values), None)
    if kind is None:
        raise ConfigError(f"{file} is no run of scrub (forget, remain), erase (request) or pretrain (data)")
    return read_settings(kind, [file, *words], prog=prog)
