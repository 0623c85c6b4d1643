"""One comparison on a sample's metadata, such as `year >= 2020` or `author == "Jane Doe"`. Nothing is executed."""

import contextlib
import json
import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import DataError

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_PATTERN = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_.-]*)\s*(==|!=|<=|>=|<|>)\s*(\S.*?)\s*", re.DOTALL)
_MAX_CHARACTERS = 10_000
Scalar = str | int | float | bool


@dataclass(frozen=True)
class Comparison:
    """`field` `operator` `value`."""

    field: str
    operator: str
    value: Scalar

    def holds(self, metadata: Mapping[str, Any]) -> bool:
        """False where the field is missing or of another type, `!=` included: what is not known is not compared.

        Numbers written as text, as CSV has them, compare as numbers.
        """
        found = metadata.get(self.field)
        if _is_number(self.value) and isinstance(found, str):
            found = _number(found)
        if isinstance(found, float) and math.isnan(found):  # a table's word for what it does not know
            return False
        comparable = _is_number(found) if _is_number(self.value) else type(found) is type(self.value)
        return comparable and _OPERATORS[self.operator](found, self.value)


def parse_comparison(text: str) -> Comparison:
    """Parse `field operator value`, the value a JSON string, number, true or false; raises `DataError`."""
    match = _PATTERN.fullmatch(text) if len(text) <= _MAX_CHARACTERS else None
    if match is None:
        raise DataError(f'{text[:80]!r} is no comparison; expected one like `year >= 2020` or `author == "Jane Doe"`')
    field, sign, literal = match.groups()
    try:
        value = json.loads(literal)
    # RecursionError for a thousand brackets
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, Scalar) or (isinstance(value, float) and not math.isfinite(value)):
        raise DataError(f'{text[:80]!r}: {literal[:40]!r} is no number, "string", true or false')
    return Comparison(field, sign, value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(text: str) -> float | None:
    # whole numbers stay exact: an id of 64 bits would be rounded to another one
    with contextlib.suppress(ValueError):
        return int(text)
    with contextlib.suppress(ValueError):
        return float(text)
    return None
