"""Families of models, a file each: `recognises` a pipeline by its model_index.json, `load` it as a `Model`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, cast

from ... import plugins
from ...config import ModelConfig
from ...errors import ConfigError
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
    return _family_of(index).load(config, folder, index)


def outline_model(config: ModelConfig) -> Model:
    """The same model on `meta`, from its configuration alone: nothing in it can be computed or saved.

    A family says how in a function `outline`, called as `load` is. Raises ConfigError as `load_model` does, and for a
    family without one.
    """
    folder = resolve(config, weights=False)
    index = read_index(folder)
    family = _family_of(index)
    outline = getattr(family, "outline", None)
    if outline is None:
        name = getattr(family, "__name__", type(family).__name__)
        raise ConfigError(f"model.path = {config.path!r}: its family, {name}, has no outline(), which a plan counts")
    return outline(config, folder, index)


def _family_of(index: dict[str, Any]) -> Family:
    families = (cast(Family, plugins.load("models.families", name)) for name in plugins.names("models.families"))
    family = next((family for family in families if family.recognises(index)), None)
    return family or cast(Family, plugins.load("models.families", _OTHERWISE))
