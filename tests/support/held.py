"""What is held in memory, counted by storages: each from its making to its end."""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Held(TorchDispatchMode):
    """Bytes of the storages that operations inside have made and that are still there."""

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {id(value.untyped_storage()) for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)}
        made = func(*args, **(kwargs or {}))
        for storage in (value.untyped_storage() for value in tree_leaves(made) if isinstance(value, Tensor)):
            if id(storage) not in given and id(storage) not in self._known:
                self._add(storage, id(storage), storage.nbytes())
        return made

    def _add(self, storage: Any, key: int, num_bytes: int) -> None:
        def end(_: object) -> None:
            del self._known[key]
            self.num_bytes -= num_bytes

        self._known[key] = weakref.ref(storage, end)
        self.num_bytes += num_bytes
        self.peak = max(self.peak, self.num_bytes)
