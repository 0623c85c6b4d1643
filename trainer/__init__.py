"""The algorithm: models, objectives, the sharded engine, methods, the loop.

What is exported here is imported when it is first used, so that settings can be read without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .config import EngineConfig, OptimizerConfig, ScrubConfig, TrainConfig
    from .errors import ConfigError, TrainingError
    from .methods.erasediff import EraseDiffConfig
    from .methods.finetune import FinetuneConfig
    from .methods.moo import MOOConfig
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

_PLACES = {
    "ConfigError": ".errors",
    "TrainingError": ".errors",
    "EraseDiffConfig": ".methods.erasediff",
    "FinetuneConfig": ".methods.finetune",
    "MOOConfig": ".methods.moo",
    "scrub": ".scrubbing",
}


def __getattr__(name: str) -> object:
    if name in __all__:
        return getattr(import_module(_PLACES.get(name, ".config"), __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
