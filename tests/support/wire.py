"""Counts what collectives send, below whatever calls them: torch's own operations, as they are dispatched."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Wire(TorchDispatchMode):
    """Bytes of the whole vector that each kind of collective inside reduces or gathers, and how many there are."""

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes: Counter[str] = Counter()
        self.num_calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            # a collective's output and its input: the longer is the whole vector
            tensors = [value for value in tree_leaves(args[:2]) if isinstance(value, Tensor)]
            name = func._schema.name.removeprefix("c10d::")
            self.num_bytes[name] += max((value.nbytes for value in tensors), default=0)
            self.num_calls[name] += 1
        return func(*args, **(kwargs or {}))
