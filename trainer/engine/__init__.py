"""The sharded engine: gradients, displacements and the outer step on ZeRO partitions.

What methods use of it is imported, and torch with it, when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...kernels.multiplier import multiplier
    from ..ranks.collectives import sum_
    from .constraints import two_multipliers
    from .optimizer import OuterOptimizer
    from .packet import Packet
    from .sharded_model import ShardedModel
    from .vector import ShardedVector

__all__ = ["OuterOptimizer", "Packet", "ShardedModel", "ShardedVector", "multiplier", "sum_", "two_multipliers"]

_PLACES = {
    "OuterOptimizer": ".optimizer",
    "Packet": ".packet",
    "ShardedModel": ".sharded_model",
    "ShardedVector": ".vector",
    "multiplier": "...kernels.multiplier",
    "sum_": "..ranks.collectives",
    "two_multipliers": ".constraints",
}


def __getattr__(name: str) -> object:
    if name in _PLACES:
        return getattr(import_module(_PLACES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
