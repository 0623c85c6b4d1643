"""What every group of settings shares. No torch here."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar

from pydantic import Field

# numbers by their range, as `toml.check_ranges` holds every settings' fields to them
AtLeast0 = Annotated[int, Field(ge=0)]
AtLeast1 = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=1 << 63)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]

# stands where a default depends on another setting, until that is known
LATER: Any = None


class Settings:
    """A key that no field has is an error, not ignored."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    deciding: ClassVar[tuple[str, ...]] = ()
    """Keys, such as "method.name", that decide which other keys there are, or what their defaults are."""

    @classmethod
    def decided(cls, values: dict[str, Any], chosen: dict[str, str]) -> dict[str, Any]:
        """A file's `values` where what was `chosen` of the deciding keys counts. Raises ConfigError for others."""
        return values

    @classmethod
    def section_defaults(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Each section that `values` may name in part, as it is where nobody sets any of it."""
        assert dataclasses.is_dataclass(cls)
        factories = {field.name: field.default_factory for field in dataclasses.fields(cls)}
        made = {name: make() for name, make in factories.items() if make is not dataclasses.MISSING}
        return {name: section for name, section in made.items() if dataclasses.is_dataclass(section)}


def class_names(words: tuple[str, ...], option: str) -> tuple[str, ...]:
    """A file's names in place of its own: what a run was started with stays in its config, whatever becomes of it."""
    if not words:
        return ()
    from ...shards.sources.classes import read_class_names

    return read_class_names(words, option)
