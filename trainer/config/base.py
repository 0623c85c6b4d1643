"""What every group of settings shares. No torch here."""

from __future__ import annotations

from typing import Any, ClassVar

# stands where a default depends on another setting, until that is known
LATER: Any = None


class Settings:
    """A key that no field has is an error, not ignored."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}


def class_names(words: tuple[str, ...], option: str) -> tuple[str, ...]:
    """A file's names in place of its own: what a run was started with stays in its config, whatever becomes of it."""
    if not words:
        return ()
    from ...shards.sources.classes import read_class_names

    return read_class_names(words, option)
