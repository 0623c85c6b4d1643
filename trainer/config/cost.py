"""What one outer step costs, counted from the algorithm. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Cost:
    """Passes over one batch each; logging g with `inner_every` is left out."""

    gradients: int  # a forward and a backward pass
    forwards: int = 0  # without a gradient
    exact_gradients: int = 0  # of the gradients, those that run in fp32 arithmetic though the others run in bf16
    exact_forwards: int = 0
    publications: int = 1  # times that other weights are made those of all ranks' passes, θ_{t+1} among them
    # weights that forward passes alone run at, or run at last: stage 3 gathers them once, however many passes
    forward_gathers: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(**{field.name: getattr(self, field.name) + getattr(other, field.name) for field in fields(Cost)})

    def __str__(self) -> str:
        gradients = f"{_number(self.gradients, 'gradient')}{_of_them(self.exact_gradients)}"
        forwards = f"{_number(self.forwards, 'forward pass', 'es')}{_of_them(self.exact_forwards)}"
        return f"{gradients} and {forwards} without one"


def _number(count: int, what: str, plural: str = "s") -> str:
    return f"{count} {what}{plural if count != 1 else ''}"


def _of_them(count: int) -> str:
    return f" ({count} in fp32)" if count else ""
