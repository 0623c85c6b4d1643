"""What is shown, and what not, where models were sampled from the same noise."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from erasediff.trainer.comparing.run import _Work  # pyright: ignore[reportPrivateUsage]
from erasediff.trainer.config import JudgeConfig
from erasediff.trainer.config.thresholds import parse_threshold
from erasediff.trainer.evidence.formulas import p_psi_earlier
from erasediff.trainer.evidence.images import Images
from erasediff.trainer.evidence.intervals import borne_out, for_each_of, score_interval
from erasediff.trainer.evidence.means import mean_by, share
from erasediff.trainer.evidence.membership import auc_of, membership_gap
from erasediff.trainer.evidence.metrics import Estimate, Measurement
from erasediff.trainer.evidence.noise import are_alike
from erasediff.trainer.evidence.pairing import related, taken_apart
from erasediff.trainer.evidence.thresholds import hold
from evidence_cases import Sampled

Z = 1.959964


@pytest.mark.parametrize(("n", "num_classes"), [(10, 1), (30, 1), (50, 9), (200, 9)])
def test_few_samples_on_which_models_agree_are_no_certainty(n: int, num_classes: int) -> None:
    """A class that has got worse by .11, which .1 allows no more: how often is that called shown?"""
    confidence = for_each_of(num_classes)
    counts = np.random.default_rng(0).multinomial(n, [0.39, 0.11, 0.5], 20_000)
    called, distinct = 0, np.unique(counts, axis=0, return_counts=True)
    for (both, lost, _), times in zip(distinct[0].tolist(), distinct[1].tolist(), strict=True):
        before = torch.tensor([1.0] * (both + lost) + [0.0] * (n - both - lost))
        after = torch.tensor([1.0] * both + [0.0] * (n - both))
        models = {
            name: Sampled(*taken_apart({"accuracy_remaining": mean_by(values, ["a"] * n, ["a"], None)}))
            for name, values in (("unscrubbed", before), ("scrubbed", after))
        }
        figures = related(models)
        for model in figures.values():  # of as many classes as are looked at
            found = model["accuracy_remaining"]
            found.by_class.update({str(i): found.by_class["a"] for i in range(num_classes - 1)})
        (verdict,) = hold([parse_threshold("accuracy_worst_class >= unscrubbed - 0.1")], figures)
        called += times * verdict.shown
    # as the normal arithmetic has it at 200, twice what each class is allowed
    assert called / 20_000 <= 2.2 * (1 - confidence) / 2


def test_what_few_samples_bear_out() -> None:
    assert borne_out(1.0, 7) == borne_out(0.5, 7) == 0.0
    assert borne_out(1.0, 1000) == pytest.approx(1 - 2 * Z**2 / 1000)
    assert borne_out(1.0, 1000, for_each_of(9)) == pytest.approx(1 - 2 * 2.7729**2 / 1000, rel=1e-5)
    assert borne_out(0.3, 1000) == 0.3 and borne_out(-0.9, 5) == -0.9
    # two models that answer alike, twice
    ours = dataclasses.replace(share(torch.tensor([1.0, 0.0]), None), correlation={"unscrubbed": 1.0})
    (verdict,) = hold(
        [parse_threshold("accuracy_remaining >= unscrubbed - 0.1")],
        {name: {"accuracy_remaining": ours} for name in ("scrubbed",)}
        | {"unscrubbed": {"accuracy_remaining": share(torch.tensor([1.0, 0.0]), None)}},
    )
    assert verdict.passed and not verdict.shown
    assert are_alike(ours, share(torch.tensor([1.0, 1.0]), None), "unscrubbed")


def test_the_fewer_samples_count_for_a_correlation() -> None:
    """Of two models, and of a figure that rests on two sides or on few images beside many generated ones."""
    name = "nearest_to_forget[x]"

    def found(n: int, num_independent: int | None, together: float = 1.0) -> Measurement:
        about: dict[str, Any] = {"low": 9.0, "high": 11.0, "correlation": {"retrained": together}}
        return Measurement(10.0, n, num_independent=num_independent, **about)

    for ours, theirs, fewest in (
        (found(100, None), found(500, None), 100),
        (found(500, None), found(100, None), 100),
        (found(500, 12), found(500, 12), 12),
        (found(500, 40), found(500, 12), 12),
        (found(500, 12), found(500, None), 12),
    ):
        (verdict,) = hold(
            [parse_threshold(f"{name} >= retrained - 1")], {"scrubbed": {name: ours}, "retrained": {name: theirs}}
        )
        # of ends one away on either side: 2 - 2 · (1 - 2 z² / n)
        assert verdict.margin_low == pytest.approx(1 - (4 * Z**2 / fewest) ** 0.5), fewest
    for num_independent, alike in ((12, True), (None, False)):
        ours = found(500, num_independent)
        theirs = dataclasses.replace(ours, value=10.8, low=9.8, high=11.8)
        assert are_alike(ours, theirs, "retrained") is alike


def test_of_d_f_and_of_two_sides_the_fewer_are_recorded() -> None:
    generator = torch.Generator().manual_seed(0)
    for members, others in ((12, 300), (300, 12), (5, 300)):
        area = auc_of([torch.randn(members, generator=generator), torch.randn(others, generator=generator)], 0)
        for figure in (area, membership_gap(area)):
            assert (figure.n, figure.num_independent) == (members + others, min(members, others))
    assert auc_of([torch.tensor([float("nan"), *range(12)]), torch.arange(300.0)], 0).num_independent == 12


def test_few_members_beside_many_others_are_no_certainty() -> None:
    """Two models that both know members, the second one less: by .05 in truth, which a limit of .05 just holds."""
    generator, called = torch.Generator().manual_seed(0), 0
    for _ in range(2000):
        noise, others = torch.randn(20, generator=generator), torch.randn(1000, generator=generator)
        own = torch.randn(20, generator=generator)
        # P(member < other) = Φ(shift / √2): .95 and .9
        first = auc_of([noise - 2.3262, others], 0)
        second = auc_of([0.98 * noise + (1 - 0.98**2) ** 0.5 * own - 1.8124, others], 0)
        models = related(
            {
                n: Sampled(*taken_apart({"membership_auc": one}))
                for n, one in (("scrubbed", first), ("unscrubbed", second))
            }
        )
        (verdict,) = hold([parse_threshold("membership_auc <= unscrubbed + 0.05")], models)
        called += verdict.shown
    assert called / 2000 <= 0.025 + 3 * (0.025 * 0.975 / 2000) ** 0.5


def test_a_comparisons_verdicts_are_by_pairs() -> None:
    """A Fréchet distance of which each by itself is known to ± 9, and both differ by .5 whatever the noise."""
    low, high = score_interval(0.0, 500)
    forgotten = {"p_psi": Measurement(0.0, 500, low=low, high=high), "frechet_distance[x]": Measurement(20.5, 500)}
    before = {"p_psi": Measurement(1.0, 500, low=1 - high, high=1.0), "frechet_distance[x]": Measurement(20.0, 500)}
    noise = torch.randn(500, generator=torch.Generator().manual_seed(0)).double()
    noise = 9 / Z * noise / noise.norm()
    models = {}
    for name, found in (("unscrubbed", before), ("scrubbed", forgotten)):
        distance = found["frechet_distance[x]"]
        assert distance.value is not None
        wide = dataclasses.replace(distance, low=distance.value - 9, high=distance.value + 9)
        models[name] = Sampled(found | {"frechet_distance[x]": wide}, {"frechet_distance[x]": {"": noise}})
    judge = JudgeConfig(thresholds=("p_psi <= 0.1", "frechet_distance[x] <= 1.2 * unscrubbed"))
    work: Any = SimpleNamespace(
        _config=SimpleNamespace(judge=judge),
        _bench=SimpleNamespace(forgets_classes=True),
        _references={"unscrubbed": models["unscrubbed"]},
    )
    assert _Work._verdict(work, models["scrubbed"]) == "shown"  # pyright: ignore[reportArgumentType, reportPrivateUsage]
    models["scrubbed"].influences = {}
    assert _Work._verdict(work, models["scrubbed"]) == "not shown"  # pyright: ignore[reportArgumentType, reportPrivateUsage]


def test_a_wide_interval_of_a_class_is_its_own() -> None:
    """Of probabilities that hardly vary in one class, and do in the other."""
    generator = torch.Generator().manual_seed(0)
    steady, loose = 0.5 + 0.001 * torch.randn(100, generator=generator), torch.rand(100, generator=generator)
    models = {
        name: Sampled(*taken_apart({"p_psi": mean_by(torch.cat([steady, scale * loose]), groups, ["a", "b"], None)}))
        for name, scale, groups in (("u", 1.0, ["a"] * 100 + ["b"] * 100), ("s", 0.9, ["a"] * 100 + ["b"] * 100))
    }
    found = related(models)["u"]["p_psi"].by_class
    assert 0 < found["a"].correlation["s"] < 1e-4 and found["b"].correlation["s"] > 0.2


def test_samples_of_earlier_classes_that_are_lost_put_the_rest_out_of_step() -> None:
    images = Images(torch.zeros(4, 1, 2, 2), torch.zeros(4, dtype=torch.long), [0] * 4, seed=4)
    judge = SimpleNamespace(
        probabilities=lambda images: torch.full((len(images), 2), 0.5), card=SimpleNamespace(classes=("a", "b"))
    )
    bench = SimpleNamespace(classifier=judge, earlier=SimpleNamespace(conditions={0: [0]}))
    for asked, is_in_step in ((4, True), (5, False)):
        bench.config = SimpleNamespace(num_forget_samples_per_class=asked)
        of: Any = SimpleNamespace(bench=bench, earlier=images)
        assert isinstance(p_psi_earlier(of), Estimate) is is_in_step
