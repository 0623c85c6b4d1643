"""How much distances between features vary, beside the spread over fresh draws; and whose interval a figure has."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from erasediff.trainer.evidence import metrics, variances
from erasediff.trainer.evidence.classifier import read_images
from erasediff.trainer.evidence.evaluation import evaluate
from erasediff.trainer.evidence.finished import FinishedScrub
from erasediff.trainer.evidence.formulas import _distance
from erasediff.trainer.evidence.images import Images
from erasediff.trainer.evidence.intervals import normal_interval, score_interval
from erasediff.trainer.evidence.making import make_bench
from erasediff.trainer.evidence.variances import frechet_influences, kernel_influences, variance_of
from evidence_cases import tiny_evaluation


def test_figures_have_the_intervals_of_their_own_samples(digits: Path, run: Path, classifier: Path) -> None:
    scrubbed = FinishedScrub.open(run)
    bench = make_bench(tiny_evaluation(run, digits, classifier), scrubbed, torch.device("cpu"))
    figures = evaluate(scrubbed.scrubbed, bench)
    forget, remain = (
        bench.features(torch.from_numpy(read_images(data, 8, 1).images)) for data in (scrubbed.forget, scrubbed.remain)
    )
    made = {side: bench.features(getattr(figures.samples, side).images) for side in ("forget", "remain")}
    both = remain, made["remain"]
    frechet, kernel = metrics.frechet_distance(*both).item(), metrics.kernel_distance(*both, seed=0).item()
    precise, recalled = (share.item() for share in metrics.precision_recall(*both, k=3))
    nearest = metrics.nearest_distance(forget, made["forget"])
    intervals = {
        "frechet_distance": normal_interval(frechet, variance_of(frechet_influences(*both)).item()),
        "kernel_distance": normal_interval(kernel, variance_of(kernel_influences(*both)).item()),
        # each of its own side's samples
        "precision": score_interval(precise, len(made["remain"])),
        "recall": score_interval(recalled, len(remain)),
        "nearest_to_forget": normal_interval(nearest.mean().item(), nearest.var().item() / len(forget)),
    }
    for name, (low, high) in intervals.items():
        found = figures.metrics[f"{name}[digits-cnn]"]
        assert (found.low, found.high) == (pytest.approx(low, rel=1e-5), pytest.approx(high, rel=1e-5)), name


class TestVariances:
    """Beside the spread of the distance over fresh draws."""

    @staticmethod
    def draws(
        num: int = 300, shift: float = 0.7, n: int = 200, m: int = 120
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        generator = np.random.default_rng(5)
        mix, real = generator.standard_normal((4, 4)), torch.from_numpy(generator.standard_normal((200, 4)))
        for _ in range(num):
            made = generator.standard_normal((120, 4)) @ mix * 0.8 + [shift, 0, 0, 0]
            yield real, torch.from_numpy(made)

    # where the means differ most, and where the covariances do
    @pytest.mark.parametrize("shift", [0.0, 4.0])
    @pytest.mark.parametrize("which", ["frechet", "kernel"])
    def test_it_is_how_far_the_distance_varies(self, which: str, shift: float) -> None:
        distances, variances = [], []
        for real, made in self.draws(shift=shift):
            if which == "frechet":
                distances.append(metrics.frechet_distance(real, made).item())
                variances.append(variance_of(frechet_influences(real, made)).item())
            else:
                distances.append(_mmd(real, made))
                variances.append(variance_of(kernel_influences(real, made)).item())
        assert np.sqrt(np.mean(variances)) == pytest.approx(np.std(distances), rel=0.12)

    def test_it_falls_with_the_generated_alone(self) -> None:
        """The real ones are the same for every model."""
        (real, made), *_ = self.draws(1)
        for influences in (frechet_influences, kernel_influences):
            whole = variance_of(influences(real, made)).item()
            # but for the covariance's n - 1, and for copies that are not left out as a sample itself is
            assert variance_of(influences(real, made.repeat(10, 1))).item() == pytest.approx(whole / 10, rel=0.35)
            assert variance_of(influences(real.repeat(10, 1), made)).item() == pytest.approx(whole, rel=0.03)

    def test_in_parts_it_is_the_same(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ((real, made),) = self.draws(1)
        whole = kernel_influences(real, made)
        monkeypatch.setattr(variances, "_ROWS", 7)
        torch.testing.assert_close(kernel_influences(real, made), whole)

    def test_features_that_never_vary(self) -> None:
        """A dead unit of a network: no inverse, and still a figure."""
        ((real, made),) = self.draws(1)
        dead = [torch.cat([side, torch.zeros(len(side), 1)], 1) for side in (real, made)]
        assert variance_of(frechet_influences(*dead)).item() == pytest.approx(
            variance_of(frechet_influences(real, made)).item(), rel=1e-6
        )


def test_a_distance_whose_variance_is_not_known_has_no_interval() -> None:
    images = Images(torch.zeros(20, 1, 2, 2), torch.zeros(20), [None] * 20, seed=3)  # pyright: ignore[reportArgumentType]
    of: Any = SimpleNamespace(remain=images, bench=SimpleNamespace(features=SimpleNamespace(name="some")))
    for influence in (math.nan, math.inf):
        found = _distance(of, torch.tensor(2.5), torch.tensor([influence, 0.0]), 0.0)
        assert (found.value, found.n, found.seed, found.features) == (2.5, 20, 3, "some")
        assert (found.low, found.high) == (None, None)
    quarter = torch.tensor([0.25, -0.25])  # its variance: (0.0625 + 0.0625) / (2 - 1) · 2
    known = _distance(of, torch.tensor(2.5), quarter, 0.0)
    assert (known.low, known.high) == pytest.approx((2.5 - 1.95996 * 0.5, 2.5 + 1.95996 * 0.5), rel=1e-5)
    assert _distance(of, torch.tensor(0.5), quarter, 0.0).low == 0.0


def _mmd(real: torch.Tensor, made: torch.Tensor) -> float:
    """The unbiased MMD², by its definition."""
    own = []
    for side in (real, made):
        kernel = (side @ side.T / 4 + 1) ** 3
        own.append((kernel.sum() - kernel.trace()) / (len(side) * (len(side) - 1)))
    return (own[0] + own[1] - 2 * ((real @ made.T / 4 + 1) ** 3).mean()).item()
