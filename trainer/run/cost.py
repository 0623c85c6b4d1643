"""What one outer step costs, counted from the algorithm."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import EraseDiffConfig, MethodConfig, MOOConfig, Precision


@dataclass(frozen=True)
class Cost:
    """Passes over one batch each; logging g with `inner_every` is left out."""

    gradients: int  # a forward and a backward pass
    forwards: int = 0  # without a gradient
    exact_gradients: int = 0  # of the gradients, those that run in fp32 arithmetic though the others run in bf16
    exact_forwards: int = 0

    def __str__(self) -> str:
        gradients = f"{_number(self.gradients, 'gradient')}{_of_them(self.exact_gradients)}"
        forwards = f"{_number(self.forwards, 'forward pass', 'es')}{_of_them(self.exact_forwards)}"
        return f"{gradients} and {forwards} without one"


def cost(method: MethodConfig, precision: Precision = "fp32") -> Cost:
    """The passes of one outer step."""
    if not isinstance(method, EraseDiffConfig | MOOConfig):
        return Cost(1)
    target = int(method.target == "rl")
    if isinstance(method, MOOConfig) or not method.needs_inner_loop or method.num_inner_steps == 0:
        return Cost(2, target)
    autocasts = precision == "bf16-autocast"
    if method.subtracts_gradients:
        return Cost(method.num_inner_steps + 2, target, exact_gradients=2 * autocasts)
    # L_f(φ^K); under autocast the loss that comes with ∇L_f(θ) cannot stand beside it, so that one more is needed
    ends = 1 + autocasts
    return Cost(method.num_inner_steps + 1, target + ends, exact_forwards=ends * autocasts)


def _number(count: int, what: str, plural: str = "s") -> str:
    return f"{count} {what}{plural if count != 1 else ''}"


def _of_them(count: int) -> str:
    return f" ({count} in fp32)" if count else ""
