"""Figures of two models from the same noise, beside many fresh draws and beside samples left out one at a time."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from erasediff.trainer.comparing.kept import keep, kept
from erasediff.trainer.config.thresholds import parse_threshold
from erasediff.trainer.evidence import metrics
from erasediff.trainer.evidence.evaluation import Figures, evaluate
from erasediff.trainer.evidence.finished import FinishedScrub
from erasediff.trainer.evidence.intervals import (
    difference_low,
    normal_interval,
    score_interval,
)
from erasediff.trainer.evidence.making import make_bench
from erasediff.trainer.evidence.means import mean_by, share, worst_of
from erasediff.trainer.evidence.membership import auc_of, membership_gap
from erasediff.trainer.evidence.metrics import Estimate, Measurement, estimated
from erasediff.trainer.evidence.noise import are_alike
from erasediff.trainer.evidence.pairing import correlation, related, taken_apart
from erasediff.trainer.evidence.thresholds import hold
from erasediff.trainer.evidence.variances import frechet_influences, kernel_influences, variance_of
from evidence_cases import Sampled, tiny_evaluation

Z = 1.959964


def _interval(figure: Measurement) -> tuple[float, float]:
    assert figure.low is not None and figure.high is not None
    return figure.low, figure.high


def _low(ours: Measurement, theirs: Measurement) -> float:
    """Lower end of the interval of their difference."""
    assert isinstance(ours, Estimate) and isinstance(theirs, Estimate)
    assert ours.influences_N is not None and theirs.influences_N is not None
    assert ours.value is not None and theirs.value is not None
    found = correlation(ours, ours.influences_N, theirs, theirs.influences_N)
    return difference_low(ours.value, _interval(ours), theirs.value, _interval(theirs), found)


def _distances(kind: str, real: torch.Tensor, made: torch.Tensor) -> Estimate:
    if kind == "frechet":
        value, influences = metrics.frechet_distance(real, made), frechet_influences(real, made)
    else:
        influences = kernel_influences(real, made)
        inner = ((made @ made.T / 4 + 1) ** 3).fill_diagonal_(0).sum() / (len(made) * (len(made) - 1))
        value = inner - 2 * ((made @ real.T / 4 + 1) ** 3).mean()  # but for what no model changes
    low, high = normal_interval(value.item(), variance_of(influences).item())
    return estimated(Measurement(value.item(), len(made), low=low, high=high), influences)


@pytest.mark.parametrize("kind", ["frechet", "kernel"])
@pytest.mark.parametrize("likeness", [0.95, -0.5])
def test_a_difference_of_distances_varies_as_much_as_its_interval_says(kind: str, likeness: float) -> None:
    """One model's samples are near the other's of the same noise; or, if it can be, opposite to them."""
    generator = np.random.default_rng(3)
    real = torch.from_numpy(generator.standard_normal((200, 4)))
    differences, widths, alone = [], [], []
    for _ in range(300):
        noise = generator.standard_normal((150, 4)) @ np.diag([1.5, 1, 1, 0.7]) + [1, 0, 0, 0]
        own = generator.standard_normal((150, 4)) + np.array([1, 0, 0, 0])
        other = likeness * (noise - [1, 0, 0, 0]) + math.sqrt(1 - likeness**2) * own + [1.2, 0, 0, 0]
        ours, theirs = (_distances(kind, real, torch.from_numpy(made)) for made in (noise, other))
        assert ours.value is not None and theirs.value is not None
        differences.append(ours.value - theirs.value)
        widths.append(ours.value - theirs.value - _low(ours, theirs))
        alone.append(math.hypot(ours.value - _interval(ours)[0], theirs.value - _interval(theirs)[0]))
    spread = Z * np.std(differences)
    assert np.sqrt(np.mean(np.square(widths))) == pytest.approx(spread, rel=0.12)
    if likeness > 0:
        assert np.mean(alone) > 1.5 * spread, "what pairing is for"


# shares of samples that both, only the first and only the second have right
@pytest.mark.parametrize("cells", [(0.5, 0.2, 0.1), (0.0, 0.5, 0.5), (0.95, 0.03, 0.01), (0.97, 0.03, 0.0)])
def test_the_interval_of_a_difference_of_shares_covers_it(cells: tuple[float, float, float]) -> None:
    """Of paired yes and no; independent intervals miss in one of twelve where one is right when the other is not."""
    generator = np.random.default_rng(0)
    counts = generator.multinomial(200, [*cells, max(0.0, 1 - sum(cells))], 3000)
    misses = 0
    for both, first, second, neither in counts.tolist():
        right = torch.tensor([[1, 1], [1, 0], [0, 1], [0, 0]]).repeat_interleave(
            torch.tensor([both, first, second, neither]), dim=0
        )
        ours, theirs = (share(side.double(), None) for side in right.T)
        misses += _low(ours, theirs) > cells[1] - cells[2] + 1e-12
    assert misses / len(counts) <= 0.025 + 3 * math.sqrt(0.025 * 0.975 / len(counts))


def test_an_interval_that_is_wider_than_need_be_makes_no_difference_surer() -> None:
    """Wilson's of probabilities that hardly vary: their correlation of 1 must not cancel the other's whole variance."""
    generator = np.random.default_rng(1)
    noise = torch.from_numpy(generator.standard_normal(400))
    steady, loose = 0.02 + 0.001 * noise.tanh(), 0.5 + 0.4 * noise.tanh()
    ours, theirs = share(steady, None), share(loose, None)
    assert ours.value is not None and theirs.value is not None
    true = Z * ((steady - loose).std() / math.sqrt(400)).item()
    assert ours.value - theirs.value - _low(ours, theirs) >= true
    assert isinstance(ours, Estimate) and isinstance(theirs, Estimate)
    assert ours.influences_N is not None and theirs.influences_N is not None
    assert 0 < correlation(ours, ours.influences_N, theirs, theirs.influences_N) < 0.1
    assert torch.corrcoef(torch.stack([steady, loose]))[0, 1] > 0.999


def test_two_aucs_of_the_same_samples() -> None:
    """Beside the spread over fresh draws (DeLong et al. 1988), and as gaps, on either side of a half."""
    generator = torch.Generator().manual_seed(0)
    found: dict[str, list[tuple[float, float]]] = {"area": [], "gap": []}
    for _ in range(1000):
        members, others = torch.randn(80, generator=generator), torch.randn(90, generator=generator)
        scores = [
            [side + 0.5 * torch.randn(len(side), generator=generator) for side in (members, others)] for _ in "ab"
        ]
        first = auc_of([-scores[0][0] - 1.0, -scores[0][1]], 0)  # losses: lower for members
        second = auc_of([-scores[1][0] + 1.0, -scores[1][1]], 0)
        for kind, ours, theirs in (
            ("area", first, second),
            ("gap", membership_gap(first), membership_gap(second)),
        ):
            assert ours.value is not None and theirs.value is not None
            difference = ours.value - theirs.value
            found[kind].append((difference, difference - _low(ours, theirs)))
    for kind, each in found.items():
        differences, widths = np.array(each).T
        assert np.sqrt(np.mean(widths**2)) == pytest.approx(Z * np.std(differences), rel=0.1), kind


def test_a_gap_that_may_be_either_way_goes_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    area = auc_of([torch.randn(20, generator=generator), torch.randn(20, generator=generator)], 0)
    assert isinstance(area, Estimate) and not isinstance(membership_gap(area), Estimate)
    # out of step with another model's
    lost = auc_of([torch.tensor([math.nan, *range(20)]), torch.arange(20.0)], 0)
    assert not isinstance(lost, Estimate)


def _sampled(right: list[int], num_non_finite: int = 0, **more: Measurement) -> Sampled:
    values = torch.tensor(right).double()
    by_class = mean_by(values, ["a", "b"] * (len(right) // 2), ["a", "b"], None)
    found, influences = taken_apart(
        {"accuracy": by_class, "worst": worst_of(by_class, highest=False), "counted": Measurement(3.0, 4), **more}
    )
    assert not any(isinstance(figure, Estimate) for figure in found.values())
    return Sampled(found, influences, num_non_finite)


def test_figures_are_related_by_name_and_class() -> None:
    one, other, still = [1, 1, 0, 1, 1, 0, 1, 0], [1, 0, 0, 1, 1, 1, 1, 0], [1] * 8
    models = {"u": _sampled(one, extra=share(torch.ones(4), None)), "s": _sampled(other), "r": _sampled(still)}
    found = related(models)
    # both right in so many of 8, of class a 3 and 4 of 4, of b 2 and 2 of 4
    cases = (("", 5 / 8, 5 / 8, 4 / 8), ("a", 3 / 4, 3 / 4, 3 / 4), ("b", 2 / 4, 2 / 4, 1 / 4))
    for name, p, q, both in cases:
        n = 4 if name else 8
        figures = [found[model]["accuracy"] for model in ("u", "s")]
        ours, theirs = [figure.by_class[name] if name else figure for figure in figures]
        assert (ours.value, theirs.value) == (p, q), name
        allowed = math.prod((high - low) / 2 / Z for low, high in (score_interval(p, n), score_interval(q, n)))
        covariance = (both - p * q) / n
        spread = math.sqrt(p * (1 - p) * q * (1 - q)) / n
        assert ours.correlation == {"s": pytest.approx(covariance / max(allowed, spread)), "r": 0.0}, name
        assert theirs.correlation["u"] == pytest.approx(ours.correlation["s"]), name
    assert found["u"]["worst"].correlation == found["u"]["counted"].correlation == found["u"]["extra"].correlation == {}

    broken = related({"u": _sampled(one), "s": _sampled(other, num_non_finite=1), "r": _sampled(still)})
    assert broken["s"]["accuracy"].correlation == {} == broken["s"]["accuracy"].by_class["a"].correlation
    assert set(broken["u"]["accuracy"].correlation) == {"r"}
    fewer = related({"u": _sampled(one), "s": _sampled(other[:6])})
    assert fewer["u"]["accuracy"].correlation == {"s": 0.0}, "other samples"


@pytest.mark.parametrize("at_most", [True, False])
def test_a_threshold_takes_the_figures_together(at_most: bool) -> None:
    """Newcombe's (1998, II), by hand."""
    value, limit = 20.0, 1.2 * 16.0
    figures = {
        "scrubbed": {"frechet_distance[x]": Measurement(value, 900, low=17, high=24, correlation={"unscrubbed": 0.9})},
        "unscrubbed": {"frechet_distance[x]": Measurement(16.0, 900, low=12.0, high=21.0)},
    }
    text = f"frechet_distance[x] {'<=' if at_most else '>='} 1.2 * unscrubbed"
    (verdict,) = hold([parse_threshold(text)], figures)
    ours, theirs = (value - 17, 1.2 * 5) if not at_most else (24 - value, 1.2 * 4)
    half = math.sqrt(ours**2 + theirs**2 - 2 * 0.9 * ours * theirs)
    margin = limit - value if at_most else value - limit
    assert verdict.margin == pytest.approx(margin)
    assert verdict.margin_low == pytest.approx(margin - half)


def test_of_a_class_it_is_the_class_own() -> None:
    def model(of_a: float, together: float, whole: float) -> dict[str, Measurement]:
        low, high = score_interval(of_a, 300)
        own = Measurement(of_a, 300, low=low, high=high, correlation={"unscrubbed": together})
        mean = Measurement(of_a, 300, low=low, high=high, correlation={"unscrubbed": whole}, by_class={"a": own})
        return {"accuracy_remaining": mean}

    models = {"unscrubbed": model(0.9, 0.0, 0.0), "scrubbed": model(0.85, 0.8, -0.8)}
    (verdict,) = hold([parse_threshold("accuracy_worst_class >= unscrubbed - 0.1")], models)
    down, up = 0.85 - score_interval(0.85, 300)[0], score_interval(0.9, 300)[1] - 0.9
    assert verdict.margin_low == pytest.approx(0.05 - math.sqrt(down**2 + up**2 - 2 * 0.8 * down * up))
    (verdict,) = hold([parse_threshold("accuracy_remaining >= unscrubbed - 0.1")], models)
    assert verdict.margin_low == pytest.approx(0.05 - math.sqrt(down**2 + up**2 + 2 * 0.8 * down * up))


def test_what_goes_together_is_told_apart_sooner() -> None:
    ours, theirs = Measurement(0.9, 500, low=0.85, high=0.95), Measurement(0.86, 500, low=0.81, high=0.91)
    assert are_alike(ours, theirs, "unscrubbed")
    paired = dataclasses.replace(ours, correlation={"unscrubbed": 0.97, "retrained": 0.0})
    assert not are_alike(paired, theirs, "unscrubbed")
    assert are_alike(paired, theirs, "retrained")


def test_an_evaluation_relates_its_models(digits: Path, run: Path, classifier: Path, tmp_path: Path) -> None:
    """Beside the same figures with each sample left out in turn."""
    scrubbed = FinishedScrub.open(run)
    config = tiny_evaluation(run, digits, classifier)
    bench = make_bench(config, scrubbed, torch.device("cpu"))
    before = evaluate(scrubbed.unscrubbed, bench)
    after = evaluate(scrubbed.scrubbed, bench, before.samples)
    found = related({"unscrubbed": before, "scrubbed": after})["scrubbed"]

    n = len(after.samples.remain)
    features = [bench.features(figures.samples.remain.images).double() for figures in (before, after)]
    left_out = np.array(
        [
            [metrics.frechet_distance(bench.real_remain_features, side[torch.arange(n) != i]).item() for i in range(n)]
            for side in features
        ]
    )
    assert found["frechet_distance[digits-cnn]"].correlation["unscrubbed"] == pytest.approx(
        np.corrcoef(left_out)[0, 1], abs=0.1
    )
    right = [
        bench.classifier.probabilities(figures.samples.remain.images).argmax(1) == figures.samples.remain.labels
        for figures in (before, after)
    ]
    covariance = torch.cov(torch.stack(right).double(), correction=0)[0, 1].item() / n
    intervals = [_interval(figures.metrics["accuracy_remaining"]) for figures in (before, after)]
    halves = [(high - low) / 2 / Z for low, high in intervals]
    spread = math.prod(side.double().std(correction=0).item() / math.sqrt(n) for side in right)
    assert found["accuracy_remaining"].correlation["unscrubbed"] == pytest.approx(
        covariance / max(spread, math.prod(halves)), rel=1e-6
    )
    for name in ("p_psi", "entropy", "nearest_to_forget[digits-cnn]", "kernel_distance[digits-cnn]"):
        assert abs(found[name].correlation["unscrubbed"]) > 1e-6, name

    # a comparison that goes on has what one has that was not interrupted
    again = _kept_and_back(before, bench, tmp_path)
    for name, figure in related({"unscrubbed": again, "scrubbed": after})["scrubbed"].items():
        assert figure.correlation == pytest.approx(found[name].correlation, rel=1e-9), name
        for part, expected in found[name].by_class.items():
            assert figure.by_class[part].correlation == pytest.approx(expected.correlation, rel=1e-9), (name, part)


def _kept_and_back(figures: Figures, bench: Any, folder: Path) -> Figures:
    from erasediff.trainer.comparing.rows import Row, write_row

    row = Row("unscrubbed", None, "", "cpu", {}, "so", metrics=figures.metrics, relearning=figures.relearning)
    write_row(row, folder / "row.json")
    keep(figures, folder / "row", "so")
    found = kept(folder / "row", bench, "so")
    assert found is not None
    assert kept(folder / "row", bench, "otherwise") is None
    assert found.metrics == figures.metrics
    for ours, theirs in zip(found.samples.sides, figures.samples.sides, strict=True):
        assert torch.equal(ours.images, theirs.images)
    return found
