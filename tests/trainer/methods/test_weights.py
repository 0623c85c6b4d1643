"""What weights methods give two gradients, from their inner products alone, where the answer is known."""

from __future__ import annotations

import math

import pytest
import torch
from erasediff.trainer.engine import Packet
from erasediff.trainer.methods import munba, restricted_gradient
from torch import Tensor


def packet(grad_r: Tensor, grad_f: Tensor) -> Packet:
    sums = {"dot_gg": grad_f @ grad_f, "dot_gr": grad_f @ grad_r, "dot_rr": grad_r @ grad_r}
    return Packet(torch.zeros(1, 3, dtype=torch.float64), **sums)


def two(seed: int, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    grad_r, grad_f = torch.randn(2, 7, generator=generator, dtype=torch.float64)
    return grad_r, grad_f * scale


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("seed", range(4))
def test_neither_player_gains_by_another_bargain(seed: int, scale: float) -> None:
    """G α = 1/α, the condition of a Nash bargain; the gradients' scales do not matter to it."""
    grad_r, grad_f = two(seed, scale)
    alpha_r, alpha_f = map(float, munba._weights(packet(grad_r, grad_f)))
    delta = alpha_r * grad_r + alpha_f * grad_f
    assert float(grad_r @ delta) == pytest.approx(1 / alpha_r)
    assert float(grad_f @ delta) == pytest.approx(1 / alpha_f)
    assert float(delta.norm()) == pytest.approx(math.sqrt(2))


def test_equal_gradients_share_alike_and_orthogonal_ones_are_added() -> None:
    one = torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert [float(value) for value in munba._weights(packet(one, one))] == pytest.approx([0.2 / math.sqrt(2)] * 2)
    other = torch.tensor([-4.0, 3.0], dtype=torch.float64) * 10
    assert [float(value) for value in munba._weights(packet(one, other))] == pytest.approx([0.2, 0.02])


def test_players_that_cannot_agree_hardly_move() -> None:
    grad_r = two(0)[0]
    weights = munba._weights(packet(grad_r, -2 * grad_r))
    delta = weights[0] * grad_r + weights[1] * (-2 * grad_r)
    assert float(weights[0] * grad_r.norm()) == pytest.approx(1 / math.sqrt(munba.MIN_AGREEMENT))
    assert float(delta.norm()) < 1e-6


@pytest.mark.parametrize("method", [munba, restricted_gradient])
def test_a_gradient_of_zero_changes_nothing(method) -> None:
    grad_r = two(1)[0]
    for pair in [(grad_r, torch.zeros_like(grad_r)), (torch.zeros_like(grad_r), grad_r)]:
        weight_r, weight_f = map(float, method._weights(packet(*pair)))
        delta = weight_r * pair[0] + weight_f * pair[1]
        assert math.isfinite(weight_r) and math.isfinite(weight_f)
        assert float(delta @ grad_r / delta.norm() / grad_r.norm()) == pytest.approx(1)


def test_a_restricted_step_leaves_each_loss_what_the_other_gives() -> None:
    """To first order L_r falls by ‖∇L_r‖² - ⟨∇L_r, ∇L_f⟩²/‖∇L_f‖², as without the other loss in reach."""
    grad_r, grad_f = two(2)
    weight_r, weight_f = map(float, restricted_gradient._weights(packet(grad_r, grad_f)))
    delta = weight_r * grad_r + weight_f * grad_f
    along = float(grad_r @ grad_f)
    assert float(delta @ grad_r) == pytest.approx(float(grad_r @ grad_r) - along**2 / float(grad_f @ grad_f))
    assert float(delta @ grad_f) == pytest.approx(float(grad_f @ grad_f) - along**2 / float(grad_r @ grad_r))
