"""The metrics' arithmetic, against closed forms, hand-made sets and other libraries."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from erasediff.trainer.evidence import formulas, integrity, metric_table, metrics
from erasediff.trainer.evidence.images import Images
from erasediff.trainer.evidence.means import share
from erasediff.trainer.evidence.metrics import Measurement
from sklearn.metrics import roc_auc_score
from torch import Tensor


def with_moments(mean: np.ndarray, covariance: np.ndarray, n: int, seed: int) -> Tensor:
    """A set whose sample mean and covariance (n - 1) are these exactly, up to rounding."""
    drawn = np.random.default_rng(seed).standard_normal((n, len(mean)))
    drawn -= drawn.mean(0)
    whitened = drawn @ np.linalg.inv(np.linalg.cholesky(np.cov(drawn.T))).T
    return torch.from_numpy(whitened @ np.linalg.cholesky(covariance).T + mean)


def random_covariance(size: int, seed: int) -> np.ndarray:
    factor = np.random.default_rng(seed).standard_normal((size, size))
    return factor @ factor.T + 0.1 * np.eye(size)


def test_frechet_distance_is_the_closed_form_between_gaussians() -> None:
    size = 7
    mean_1, mean_2 = np.arange(size) / 3.0, np.ones(size)
    covariance_1, covariance_2 = random_covariance(size, 1), random_covariance(size, 2)
    # tr (Σ Σ')^½, by eigenvalues of the symmetric Σ^½ Σ' Σ^½
    half = np.real_if_close(np.asarray(scipy.linalg.sqrtm(covariance_1)))
    root_trace = np.sqrt(np.linalg.eigvalsh(half @ covariance_2 @ half)).sum()
    expected = ((mean_1 - mean_2) ** 2).sum() + np.trace(covariance_1 + covariance_2) - 2 * root_trace
    found = metrics.frechet_distance(
        with_moments(mean_1, covariance_1, 400, 3), with_moments(mean_2, covariance_2, 300, 4)
    )
    assert found.item() == pytest.approx(expected, rel=1e-8)


def test_frechet_distance_of_shifted_and_scaled_sets() -> None:
    points = torch.randn(200, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert metrics.frechet_distance(points, points + 2.0).item() == pytest.approx(5 * 4.0, rel=1e-9)
    centred = points - points.mean(0)
    # doubling centred data: tr(Σ + 4Σ - 2·2Σ) = tr Σ
    trace = centred.square().sum().item() / 199
    assert metrics.frechet_distance(centred, 2 * centred).item() == pytest.approx(trace, rel=1e-9)


def unbiased_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """Bińkowski et al. 2018, eq. 4, with their kernel (x·y / D + 1)³, pair by pair."""

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return (float(a @ b) / len(a) + 1) ** 3

    m, n = len(x), len(y)
    within_x = sum(kernel(x[i], x[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    within_y = sum(kernel(y[i], y[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return within_x + within_y - 2 * sum(kernel(a, b) for a in x for b in y) / (m * n)


def test_kernel_distance_is_the_unbiased_estimate() -> None:
    """Of sets of one size, which are subsets of their own; of the same distribution it is as often below 0 as above."""
    generator = np.random.default_rng(1)
    real, generated = generator.standard_normal((16, 4)), generator.standard_normal((16, 4)) * 1.3 + 0.4
    given = torch.from_numpy(real), torch.from_numpy(generated)
    state = torch.random.get_rng_state()
    assert metrics.kernel_distance(*given, seed=0).item() == pytest.approx(unbiased_mmd(real, generated), rel=1e-9)
    assert torch.equal(torch.random.get_rng_state(), state)
    alike = [
        metrics.kernel_distance(*torch.from_numpy(generator.standard_normal((2, 20, 3))), seed=0) for _ in range(14)
    ]
    assert 2 < sum(value < 0 for value in alike) < 12


def test_kernel_distance_of_subsets() -> None:
    """The mean over the subsets that torch draws with this seed, 100 of 12 from either side."""
    generator = np.random.default_rng(2)
    real, generated = generator.standard_normal((40, 3)), generator.standard_normal((12, 3)) + 0.5
    drawn = torch.Generator().manual_seed(7)
    estimates = []
    for _ in range(100):
        rows, others = torch.randperm(40, generator=drawn)[:12], torch.randperm(12, generator=drawn)
        estimates.append(unbiased_mmd(real[rows], generated[others]))
    given = torch.from_numpy(real), torch.from_numpy(generated)
    assert metrics.kernel_distance(*given, seed=7).item() == pytest.approx(np.mean(estimates), rel=1e-9)
    assert metrics.kernel_distance(*given, seed=8).item() != pytest.approx(np.mean(estimates), rel=1e-3)


def test_kernel_distance_of_as_many_as_a_subset_has() -> None:
    """1,000 of either side are all of them, in whatever order they are drawn."""
    generator = np.random.default_rng(3)
    real, generated = generator.standard_normal((1000, 2)), generator.standard_normal((1000, 2)) + 0.2
    given = torch.from_numpy(real), torch.from_numpy(generated)
    assert metrics.kernel_distance(*given, seed=0).item() == pytest.approx(unbiased_mmd(real, generated), rel=1e-9)


def test_precision_and_recall_of_a_hand_made_set() -> None:
    # on a line: the 3rd nearest neighbour of 0, 1, 2, 3 lies 3, 2, 2, 3 away, so the real manifold is [-3, 6]
    real = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    # radii 0.3, 0.2, 0.2, 0.3 around 5.0 … 5.3 and 94.8, …: one far outlier reaches back over everything
    generated = torch.tensor([[5.0], [5.1], [5.2], [5.3], [100.0]])
    precision, recall = metrics.precision_recall(real, generated)
    assert precision.item() == pytest.approx(4 / 5)
    # the outlier's 3rd neighbour is 5.1, 94.9 away: its ball starts at 5.1 and holds no real point
    assert recall.item() == 0.0
    # 3 and 6 lie on the borders of each other's balls, which are closed
    found = metrics.precision_recall(real, real + 6)
    assert [value.item() for value in found] == [1 / 4, 1 / 4]
    assert [value.item() for value in metrics.precision_recall(real, real.clone())] == [1.0, 1.0]


@pytest.mark.parametrize("num_rows", [1024, 16])
def test_precision_and_recall_against_a_loop(num_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rows of distances there are at a time."""
    monkeypatch.setattr(metrics, "_ROWS", num_rows)
    generator = torch.Generator().manual_seed(3)
    real, generated = torch.randn(40, 3, generator=generator), torch.randn(30, 3, generator=generator) + 0.7

    def share_inside(points: np.ndarray, manifold: np.ndarray) -> float:
        inside = 0
        for point in points:
            for i, centre in enumerate(manifold):
                others = np.delete(manifold, i, axis=0)
                radius = np.sort(np.sqrt(((others - centre) ** 2).sum(1)))[2]
                if np.sqrt(((point - centre) ** 2).sum()) <= radius:
                    inside += 1
                    break
        return inside / len(points)

    a, b = real.double().numpy(), generated.double().numpy()
    precision, recall = metrics.precision_recall(real, generated)
    assert precision.item() == pytest.approx(share_inside(b, a))
    assert recall.item() == pytest.approx(share_inside(a, b))
    assert 0 < precision < 1 and 0 < recall < 1


def test_what_a_classifier_sees() -> None:
    probabilities = torch.tensor([[0.5, 0.5, 0.0], [0.1, 0.2, 0.7]])
    labels = torch.tensor([1, 2])
    assert metrics.p_psi(probabilities, labels).tolist() == pytest.approx([0.5, 0.7], abs=1e-7)
    expected = (math.log(2) - sum(p * math.log(p) for p in (0.1, 0.2, 0.7))) / 2
    assert metrics.entropy(probabilities).mean().item() == pytest.approx(expected, rel=1e-6)
    assert metrics.accuracy(probabilities, torch.tensor([0, 1])).tolist() == [1.0, 0.0]


def test_distances() -> None:
    a, b = torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([[3.0, 4.0], [1.0, 1.0]])
    assert metrics.paired_distance(a, b).mean().item() == 2.5
    assert metrics.paired_distance(a, a).mean().item() == 0.0
    assert metrics.nearest_distance(a, b).mean().item() == pytest.approx((math.sqrt(2) + 0) / 2)
    # label 0: 0, 3, 9 in a ring: 3, 6, 9 apart; label 1: 1 and 2, twice 1 apart
    features, labels = torch.tensor([[0.0], [1.0], [3.0], [2.0], [9.0]]), torch.tensor([0, 1, 0, 1, 0])
    assert metrics.other_seed_distance(features, labels).mean().item() == pytest.approx((3 + 6 + 9 + 1 + 1) / 5)


def test_auc_is_scikit_learns_with_ties() -> None:
    generator = np.random.default_rng(5)
    members, others = generator.integers(0, 6, 50) + 1.0, generator.integers(0, 6, 70) + 0.0
    expected = roc_auc_score([1] * 50 + [0] * 70, np.concatenate([members, others]))
    found, _ = metrics.auc(torch.from_numpy(members), torch.from_numpy(others))
    assert found.item() == pytest.approx(expected, abs=1e-12)


def test_what_is_not_a_number_has_a_reason_instead() -> None:
    assert metrics.measured(torch.tensor(0.25), 8, seed=1) == Measurement(0.25, 8, seed=1)
    for value in (math.nan, math.inf):
        found = metrics.measured(value, 8)
        assert found.value is None and found.n == 8 and found.reason


def test_the_documented_table_is_the_one_that_is_computed() -> None:
    documented = (Path(__file__).parents[3] / "docs" / "record.md").read_text(encoding="utf-8")
    assert metric_table.markdown() in documented


def test_a_share_of_what_is_no_number_is_no_figure() -> None:
    found = share(torch.tensor([0.5, math.nan]), seed=3)
    assert (found.value, found.n, found.seed, found.low, found.high) == (None, 2, 3, None, None)
    assert found.reason == "came out nan"


def test_recall_is_a_share_of_the_real_images() -> None:
    """Wilson's interval of 40, whatever is generated; and precision's of the 12 that are."""
    generator = torch.Generator().manual_seed(0)
    real, made = torch.randn(40, 2, generator=generator), torch.randn(12, 2, generator=generator)
    bench = SimpleNamespace(real_remain=real, real_remain_features=real, features=SimpleNamespace(name="x"))
    remain = Images(made, torch.zeros(12), [0] * 12, seed=0)
    of: Any = SimpleNamespace(bench=bench, remain=remain, remain_features=made, once=lambda make: make(of))
    for compute, n in ((formulas.recall, 40), (formulas.precision, 12)):
        figure = compute(of)
        assert figure.value is not None
        expected = scipy.stats.binomtest(round(figure.value * n), n).proportion_ci(0.95, method="wilson")
        assert (figure.low, figure.high) == pytest.approx((expected.low, expected.high), abs=1e-6), n


def test_of_a_ceiling_half_as_many_are_independent() -> None:
    """Twelve images of one class, each beside the next one: in two pairs each."""
    features = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    ours = Images(features, torch.zeros(12, dtype=torch.long), [0] * 12, seed=0)

    class Features:
        name = "x"

        def __call__(self, images: torch.Tensor) -> torch.Tensor:
            return images

    bench = SimpleNamespace(remain_labels=[0], features=Features())
    of: Any = SimpleNamespace(bench=bench, samples=SimpleNamespace(of_side=lambda side: ours))
    figure = integrity.integrity_ceiling_remaining(of)
    distances = np.linalg.norm((features - features.roll(-1, 0)).numpy(), axis=1)
    expected = scipy.stats.norm.interval(0.95, distances.mean(), distances.std(ddof=1) / 6**0.5)
    assert (figure.low, figure.high) == pytest.approx(expected, rel=1e-5) and figure.n == 12
