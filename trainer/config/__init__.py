"""Every setting: frozen dataclasses, from TOML file and command line to record. No torch here."""

from .base import LATER, Settings
from .commands import DemoConfig, EraseConfig, EvaluateConfig, PretrainConfig, SampleConfig, ScrubConfig
from .judge import JudgeConfig, RelearnConfig
from .methods import METHOD_CONFIGS, EraseDiffConfig, FinetuneConfig, MethodConfig, MOOConfig
from .models import ModelConfig, SamplingConfig, UNetConfig
from .run import MAX_OLD_WEIGHTS, EngineConfig, OptimizerConfig, Precision, Schedule, TrainConfig, default_sections

__all__ = [
    "LATER",
    "MAX_OLD_WEIGHTS",
    "METHOD_CONFIGS",
    "DemoConfig",
    "EngineConfig",
    "EraseConfig",
    "EraseDiffConfig",
    "EvaluateConfig",
    "FinetuneConfig",
    "JudgeConfig",
    "MOOConfig",
    "MethodConfig",
    "ModelConfig",
    "OptimizerConfig",
    "Precision",
    "PretrainConfig",
    "RelearnConfig",
    "SampleConfig",
    "SamplingConfig",
    "Schedule",
    "ScrubConfig",
    "Settings",
    "TrainConfig",
    "UNetConfig",
    "default_sections",
]
