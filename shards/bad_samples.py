"""What happens to a sample that cannot be read."""

import logging
import threading
from typing import Literal

from .errors import DataError, shorten

BadSamplePolicy = Literal["error", "skip"]
_log = logging.getLogger("erasediff.shards")


class BadSamples:
    """Counts and names samples that could not be read, each once; safe to share between threads."""

    def __init__(self, policy: BadSamplePolicy, max_num: int) -> None:
        if policy not in ("error", "skip"):
            raise DataError(f"on_bad_sample: {policy!r}; error and skip are possible")
        self._policy = policy
        self._max_num = max_num
        self._lock = threading.Lock()
        self._keys: dict[str, None] = {}

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of the bad samples this process has met, in that order."""
        return tuple(self._keys)

    def add(self, key: str, error: DataError) -> None:
        """Note a bad sample, or raise `error` if the policy says so."""
        if self._policy == "error":
            raise error
        with self._lock:
            is_new = key not in self._keys
            self._keys[key] = None
        if is_new:
            _log.warning("skipped with weight 0: %s", error)

    def check(self, num: int) -> None:
        """Raise `DataError` if `num`, the bad samples of all ranks together, is more than the ceiling."""
        if num > self._max_num:
            named = shorten(self._keys) or "none on this rank"
            raise DataError(
                f"max_bad_samples: {num} bad samples, at most {self._max_num} are skipped: {named}; repair them"
            )
