"""Families of models, a file each: `recognises` a pipeline by its model_index.json, `load` it as a `Model`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, cast

from ... import plugins
from ...config import ModelConfig
from ..model import Model
from ..pipeline import read_index, resolve

# says what is wrong with a pipeline that is of no family
_OTHERWISE = "unet2d"


class Family(Protocol):
    """What a family's module has."""

    def recognises(self, index: dict[str, Any]) -> bool:
        """Whether model_index.json is of a pipeline of this family."""
        ...

    def load(self, config: ModelConfig, folder: Path, index: dict[str, Any]) -> Model:
        """The model in fp32. Raises ConfigError for what cannot be scrubbed, and why."""
        ...


def load_model(config: ModelConfig) -> Model:
    """Loads the model to scrub, in fp32, whatever its family. Raises ConfigError for what cannot be scrubbed."""
    folder = resolve(config)
    index = read_index(folder)
    families = (cast(Family, plugins.load("models.families", name)) for name in plugins.names("models.families"))
    family = next((family for family in families if family.recognises(index)), None)
    return (family or cast(Family, plugins.load("models.families", _OTHERWISE))).load(config, folder, index)
