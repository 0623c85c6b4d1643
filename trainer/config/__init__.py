"""Every setting: frozen dataclasses, from TOML file and command line to record. No torch here."""

from .base import LATER, Settings
from .bench import BenchConfig, SweepConfig
from .commands import ConceptConfig, DemoConfig, EraseConfig, EvaluateConfig, PretrainConfig, SampleConfig, ScrubConfig
from .compare import BudgetConfig, CompareConfig
from .judge import AttackConfig, JudgeConfig, RelearnConfig, ResNetConfig
from .methods import MethodConfig, Sought, TargetedConfig
from .models import AutoencoderConfig, GenerateConfig, ModelConfig, SamplingConfig, StableDiffusionConfig, UNetConfig
from .run import MAX_OLD_WEIGHTS, EngineConfig, OptimizerConfig, Precision, TrainConfig

__all__ = [
    "LATER",
    "MAX_OLD_WEIGHTS",
    "AttackConfig",
    "AutoencoderConfig",
    "BenchConfig",
    "BudgetConfig",
    "CompareConfig",
    "ConceptConfig",
    "DemoConfig",
    "EngineConfig",
    "EraseConfig",
    "EvaluateConfig",
    "GenerateConfig",
    "JudgeConfig",
    "MethodConfig",
    "ModelConfig",
    "OptimizerConfig",
    "Precision",
    "PretrainConfig",
    "RelearnConfig",
    "ResNetConfig",
    "SampleConfig",
    "SamplingConfig",
    "ScrubConfig",
    "Settings",
    "Sought",
    "StableDiffusionConfig",
    "SweepConfig",
    "TargetedConfig",
    "TrainConfig",
    "UNetConfig",
]
