"""JSON of a user's, read without passing over what it says."""

import json
from typing import Any


def loads(text: str) -> Any:
    """`json.loads`, and ValueError for a name that an object has twice, whose first value json would drop."""
    return json.loads(text, object_pairs_hook=_named_once)


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is there twice; write one of them")
    return found
