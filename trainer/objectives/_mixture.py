"""Pairs of a remaining sample x and a forgotten one a, one of them noised: m_t ~ q_λ(· | x, a), of arXiv 2503.01034.

    q_λ(m_t | x, a) = (1 - λ) q(m_t | x) + λ q(m_t | a)
    E_{q(x_t | x)} l(x_t) = E_{q_λ} w_x l(m_t),   w_x = q(m_t | x) / q_λ(m_t | x, a),   and w_a for a alike

so that a loss on either's noised sample is one on the mixture's. Where x and a are told different conditions, x_t comes
with a condition, and so do the densities: of an input that is told c, the one of the sample that is not told c is 0.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from ..models.model import Told
from ..models.schedule import Schedule
from .targets import Noised


def mixed(schedule: Schedule, remain: Noised, forget: Noised, from_forget: Tensor) -> tuple[Noised, Noised]:
    """m_t as a noised x and as a noised a, each with the noise that leads there; from_forget: bool [B].

    Both are at the forgotten samples' timesteps, of their noise, and told what the sample is told that is noised.
    """
    t, epsilon = forget.timesteps, forget.epsilon
    x_t, a_t = (schedule.noised(one.x_0, epsilon, t) for one in (remain, forget))
    m_t = _where(from_forget, a_t, x_t)
    told = {name: _where(from_forget, forget.told[name], remain.told[name]) for name in remain.told}
    nothing = torch.zeros_like(m_t)
    sigma = schedule.noised(nothing, torch.ones_like(m_t), t)

    def at_mixture(one: Noised) -> Noised:
        epsilon = (m_t - schedule.noised(one.x_0, nothing, t)) / sigma
        return replace(one, epsilon=epsilon, x_t=m_t, timesteps=t, told=told)

    return at_mixture(remain), at_mixture(forget)


def importance(
    remain: Noised, forget: Noised, from_forget: Tensor, is_told_same: Tensor, forget_chance: float
) -> tuple[Tensor, Tensor]:
    """w_x and w_a, fp32 [B], of what `mixed` gives; is_told_same: bool [B]. They are 1/(1 - λ) and 1/λ at most."""
    # sums of squares are large beside their difference
    squares_x, squares_a = (one.epsilon.double().square().flatten(1).sum(1) for one in (remain, forget))
    # log q(m_t | x) - log q(m_t | a)
    apart = (squares_a - squares_x) / 2
    certain = torch.where(from_forget, -math.inf, math.inf).to(apart)
    # the chance that m_t is of x
    share_x = (torch.where(is_told_same, apart, certain) + math.log(1 / forget_chance - 1)).sigmoid()
    return (share_x / (1 - forget_chance)).float(), ((1 - share_x) / forget_chance).float()


def are_told_same(one: Told, other: Told, count: int, device: torch.device) -> Tensor:
    """Which of `count` samples are told the same here and there, bool [B]."""
    same = torch.ones(count, dtype=torch.bool, device=device)
    for name in one:
        same &= (one[name] == other[name]).reshape(count, -1).all(1)
    return same


def _where(from_forget: Tensor, of_forget: Tensor, of_remain: Tensor) -> Tensor:
    return torch.where(from_forget.view(-1, *[1] * (of_remain.ndim - 1)), of_forget, of_remain)
