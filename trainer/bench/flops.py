"""Floating-point operations of an iteration, and the most that a device could do: model FLOPs utilisation (MFU).

Counted are products (of matrices, convolutions, attention) of the passes that the algorithm asks for, a multiply and an
add each; what checkpointing computes again is not (as in arXiv 2204.02311, appendix B).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..config.cost import Cost
from ..models.model import Model
from ..plan.devices import PEAKS


@dataclass(frozen=True)
class Flops:
    """Of one sample."""

    forward: int
    backward: int

    def of_passes(self, cost: Cost) -> int:
        """Of an iteration, for each sample of a batch of one loss."""
        return cost.gradients * (self.forward + self.backward) + cost.forwards * self.forward


def count(model: Model) -> Flops:
    """Of a model on `meta`, as far as its parameters require a gradient."""
    module: Any = model.module
    inputs = model.blank_pass(1)
    with FlopCounterMode(display=False) as counter:
        output = model.predict(module, *inputs)
        forward = counter.get_total_flops()
        output.square().mean().backward()
    nn.Module.zero_grad(module)
    return Flops(forward, counter.get_total_flops() - forward)


def peak(device: str, precision: str) -> float | None:
    """FLOP/s of a device by its name, in the arithmetic that most passes of this precision run in; None: not known."""
    arithmetic = "bf16" if precision.startswith("bf16") else precision
    return next((peaks[arithmetic] for name, peaks in PEAKS.items() if name in device), None)
