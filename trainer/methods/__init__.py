"""One file a method, found by its name. Each reads like its paper's algorithm, in the engine's operations.

A method's file has a class `Config`, a `MethodConfig` with the method's options. No torch is imported here or there: it
comes with the engine, when a method is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from ..engine import Packet, ShardedModel, ShardedVector
    from ..objectives.objective import Batches

# made when needed: not every step asks for it
NormSquared = Callable[[], "Tensor"]


@dataclass(frozen=True)
class Update:
    """What a method wants done in one step."""

    delta: ShardedVector
    packet: Packet  # at least loss_r, and the sums of each parameter; the same on all ranks
    skip: Tensor  # 0-dim, 1 where a loss or gradient is not finite
    norm_squared: NormSquared  # ‖δ‖², 0-dim fp64, the same on all ranks
    observe: Callable[[ShardedVector], dict[str, Tensor]] | None = None
    """Of θ_t - θ_{t+1}, what is to be logged of the step the optimizer made of δ, where that was asked for."""


class Method(Protocol):
    """A method at work. All ranks call its methods together."""

    state: Mapping[str, ShardedVector]
    """What it carries from step to step, by name: saved in checkpoints and put back before `step` goes on."""
    advice: str
    """Options of its own to lower where the remain loss runs away, such as "method.eta or "."""

    def prepare(self, model: ShardedModel, read: Callable[[int], Batches]) -> None:
        """Makes `state` before the first step of a run, not of one that goes on. read: any step's micro-batches."""
        ...

    def step(self, model: ShardedModel, forget: list[Any], remain: list[Any], step: int, *, diagnose: bool) -> Update:
        """δ of one outer step at the model's θ_t; θ is not changed. forget is empty where D_f is not read.

        diagnose: also what is logged on some steps alone.
        """
        ...

    def explain(self, values: dict[str, float]) -> dict[str, float]:
        """A step's packet, on the host, with what follows from it for the log."""
        ...


class Stateless:
    """The parts of a `Method` that carries nothing and explains nothing."""

    state: Mapping[str, ShardedVector] = {}
    advice = ""

    def prepare(self, model: ShardedModel, read: Callable[[int], Batches]) -> None:
        pass

    def explain(self, values: dict[str, float]) -> dict[str, float]:
        return values
