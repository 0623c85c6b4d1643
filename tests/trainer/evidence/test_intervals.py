"""Intervals, against scipy, a published example and simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats
import torch
from erasediff.trainer.evidence.intervals import (
    MIN_SAMPLES,
    bounded_interval,
    count_interval,
    difference_low,
    for_each_of,
    is_within_noise,
    normal_interval,
    samples_to_show,
    score_interval,
    spread_interval,
)
from erasediff.trainer.evidence.membership import membership_gap
from erasediff.trainer.evidence.metrics import Measurement, auc


@pytest.mark.parametrize(("successes", "n"), [(0, 12), (3, 50), (199, 200), (500, 500)])
@pytest.mark.parametrize("confidence", [0.95, 0.9944])
def test_of_a_share_it_is_wilsons(successes: int, n: int, confidence: float) -> None:
    expected = scipy.stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    assert score_interval(successes / n, n, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_the_fewest_samples_that_show_a_limit_are_found_by_trying() -> None:
    for limit, confidence in ((0.2, 0.975), (0.15, for_each_of(6)), (0.9, 0.95)):
        tried = next(n for n in range(1, 1000) if score_interval(0.0, n, confidence)[1] <= limit)
        assert samples_to_show(limit, confidence) == tried


def test_rounding_takes_no_end_beyond_what_can_be() -> None:
    """A limit of 0 or 1 must not fail for 1e-18."""
    for n in range(1, 400):
        for mean in (0.0, 1 / 3, 1.0):
            low, high = score_interval(mean, n)
            assert 0 <= low <= mean <= high <= 1, (n, mean)


def test_of_probabilities_it_covers_their_mean() -> None:
    """Skewed ones, mostly near 0, as a classifier gives them: a normal interval covers their mean too rarely."""
    draws = np.random.default_rng(0).beta(0.05, 1.0, (4000, 20))
    true = 0.05 / 1.05
    found = [score_interval(mean, 20) for mean in draws.mean(1).tolist()]
    assert np.mean([low <= true <= high for low, high in found]) >= 0.95


def test_of_bounded_numbers_it_is_the_normal_one() -> None:
    """Within what can be; of equal ones Wilson's, of few anything."""
    drawn = np.random.default_rng(1).normal(31, 3, 40)
    expected = scipy.stats.norm.interval(0.95, drawn.mean(), drawn.std(ddof=1) / 40**0.5)
    assert bounded_interval(torch.from_numpy(drawn), 100.0) == pytest.approx(expected)
    assert bounded_interval(torch.from_numpy(drawn[:9]), 100.0) == (0, 100)
    low, high = bounded_interval(torch.tensor([0.0] * 11 + [4.0]), 100.0)
    assert low == 0 and high > 0
    wilson = scipy.stats.binomtest(10, 20).proportion_ci(0.95, method="wilson")
    assert bounded_interval(torch.full((20,), 50.0), 100.0) == pytest.approx((100 * wilson.low, 100 * wilson.high))


def test_a_difference_is_newcombes() -> None:
    """Newcombe 1998, table II, (a), method 10: 56/70 - 48/80 has .0524 to .3339."""
    one, other = score_interval(56 / 70, 70), score_interval(48 / 80, 80)
    assert difference_low(56 / 70, one, 48 / 80, other) == pytest.approx(0.0524, abs=5e-5)
    assert -difference_low(48 / 80, other, 56 / 70, one) == pytest.approx(0.3339, abs=5e-5)


def test_intervals_of_many_classes_hold_together() -> None:
    """How often does one of nine miss its class's true share? With 5 %, where each alone would be right with 95."""
    generator = np.random.default_rng(1)
    true = generator.uniform(0.5, 1.0, (4000, 9))
    shares = generator.binomial(200, true) / 200

    def misses(confidence: float) -> float:
        found = np.array([[score_interval(p, 200, confidence) for p in row] for row in shares.tolist()])
        return float(((found[..., 0] > true) | (found[..., 1] < true)).any(1).mean())

    three_standard_errors = 3 * (0.05 * 0.95 / 4000) ** 0.5
    assert misses(for_each_of(9)) <= 0.05 + three_standard_errors
    assert misses(0.95) > 0.3
    assert for_each_of(1) == 0.95


def test_the_variance_of_an_auc_is_that_of_many_draws() -> None:
    generator = torch.Generator().manual_seed(0)
    areas, variances = [], []
    for _ in range(3000):
        members = torch.randn(12, generator=generator) + 0.8
        others = torch.randn(30, generator=generator)
        area, variance = auc(members, others)
        areas.append(area.item())
        variances.append(variance.item())
    assert np.mean(variances) == pytest.approx(np.var(areas), rel=0.1)
    assert auc(torch.zeros(1), torch.zeros(3))[1].isnan()
    low, high = normal_interval(0.6, 0.01)
    assert (low, high) == pytest.approx(scipy.stats.norm(0.6, 0.1).interval(0.95))


@pytest.mark.parametrize(("num_members", "covers"), [(2, False), (MIN_SAMPLES, True)])
def test_few_members_are_too_few_for_a_normal_interval(num_members: int, covers: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    hits = 0
    for _ in range(1000):
        area, variance = auc(torch.randn(num_members, generator=generator), torch.randn(200, generator=generator))
        low, high = normal_interval(area.item(), variance.item())
        hits += low <= 0.5 <= high
    assert (hits >= 890) == covers


@pytest.mark.parametrize(
    ("area", "gap"),
    [
        ((0.6, 0.55, 0.65), (0.1, 0.05, 0.15)),
        ((0.1, 0.0, 0.2), (0.4, 0.3, 0.5)),
        ((0.52, 0.4, 0.64), (0.02, 0.0, 0.14)),
    ],
)
def test_an_auc_below_a_half_tells_as_much(area: tuple[float, float, float], gap: tuple[float, float, float]) -> None:
    value, low, high = area
    found = membership_gap(Measurement(value, 40, low=low, high=high))
    assert (found.value, found.low, found.high) == pytest.approx(gap)


@pytest.mark.parametrize("mean", [-1e-16, 1 + 1e-15])
def test_a_mean_that_rounding_left_outside_has_an_interval(mean: float) -> None:
    assert score_interval(mean, 50) == score_interval(float(round(mean)), 50)


def test_of_distances_it_is_the_normal_one_above_zero() -> None:
    drawn = np.random.default_rng(1).normal(31, 3, 40)
    expected = scipy.stats.norm.interval(0.95, drawn.mean(), drawn.std(ddof=1) / 40**0.5)
    assert spread_interval(torch.from_numpy(drawn)) == pytest.approx(expected)
    fewer = scipy.stats.norm.interval(0.95, drawn.mean(), drawn.std(ddof=1) / 20**0.5)
    assert spread_interval(torch.from_numpy(drawn), 20) == pytest.approx(fewer)
    assert spread_interval(torch.from_numpy(drawn[: MIN_SAMPLES - 1])) == (None, None)
    assert spread_interval(torch.tensor([0.0] * 11 + [4.0]))[0] == 0


def test_of_counts_it_covers_their_expectation() -> None:
    """Of clumped ones, which vary more than Poisson's; and of none at all it is his."""
    generator = np.random.default_rng(3)
    draws = generator.poisson(generator.gamma(0.5, 2.0, (2000, 200)))
    found = [count_interval(torch.from_numpy(draw)) for draw in draws]
    assert np.mean([low <= 200 <= high for low, high in found]) == pytest.approx(0.95, abs=0.03)
    assert count_interval(torch.zeros(200)) == pytest.approx((0, scipy.stats.chi2.ppf(0.975, 2) / 2))


def test_of_rare_boxes_it_is_no_narrower_than_poissons() -> None:
    """Each in another of 500 samples: one box more leaves room for more, and 95 % cover."""
    ends = [count_interval((torch.arange(500) < total).long()) for total in range(41)]
    for total, (low, high) in enumerate(ends):
        assert high >= scipy.stats.chi2.ppf(0.975, 2 * total + 2) / 2 * 0.998, total
        assert low <= (scipy.stats.chi2.ppf(0.025, 2 * total) / 2 * 1.002 if total else 0.0), total
    for before, after in itertools.pairwise(ends):
        assert before[0] <= after[0] and before[1] < after[1]
    for mean in (1, 2, 3, 4, 5, 8, 15):
        chances = scipy.stats.binom.pmf(np.arange(41), 500, mean / 500)
        covers = sum(p for p, (low, high) in zip(chances, ends, strict=True) if low <= mean <= high)
        assert covers >= 0.95, mean


def test_what_is_within_the_noise() -> None:
    """56 of 70 and 48 of 80 are told apart, 9 of 10 and 3 of 10, too (Newcombe 1998, table II); 56 and 50 of 70 not."""
    for one, n, other, m, alike in ((56, 70, 48, 80, False), (9, 10, 3, 10, False), (56, 70, 50, 70, True)):
        both = [(one / n, score_interval(one / n, n)), (other / m, score_interval(other / m, m))]
        for (a, of_a), (b, of_b) in (both, both[::-1]):
            assert is_within_noise(a, of_a, b, of_b) is alike
    assert is_within_noise(2.0, (2.0, 2.0), 2.0, (2.0, 2.0)), "equal and known without doubt"


def test_few_counts_and_equal_ones_are_not_certain() -> None:
    """Garwood's, which scipy has as chi-squared quantiles."""
    for counts in ([1, 1], [2] * 40, [3], [0, 0, 5]):
        total = sum(counts)
        low, high = count_interval(torch.tensor(counts))
        expected = (scipy.stats.chi2.ppf(0.025, 2 * total) / 2, scipy.stats.chi2.ppf(0.975, 2 * total + 2) / 2)
        assert low <= expected[0] * 1.03 and high >= expected[1] * 0.99, counts
    assert count_interval(torch.tensor([2] * 40)) == pytest.approx((63.4, 99.6), abs=0.3)
