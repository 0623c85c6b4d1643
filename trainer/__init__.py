"""The algorithm: models, objectives, the sharded engine, methods, the loop.

What is exported here is imported when it is first used, so that settings can be read without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .config import (
    EngineConfig,
    EraseDiffConfig,
    FinetuneConfig,
    MOOConfig,
    OptimizerConfig,
    ScrubConfig,
    TrainConfig,
)
from .errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from .scrubbing import scrub

__all__ = [
    "ConfigError",
    "EngineConfig",
    "EraseDiffConfig",
    "FinetuneConfig",
    "MOOConfig",
    "OptimizerConfig",
    "ScrubConfig",
    "TrainConfig",
    "TrainingError",
    "scrub",
]


def __getattr__(name: str) -> object:
    if name == "scrub":
        return import_module(".scrubbing", __name__).scrub
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
