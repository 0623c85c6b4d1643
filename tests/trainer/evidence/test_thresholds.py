"""Thresholds: what they say, what is shown, and what they refuse."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from erasediff.trainer.config.thresholds import parse_threshold
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.evidence.formulas import nearest_to_forget
from erasediff.trainer.evidence.images import Images
from erasediff.trainer.evidence.intervals import score_interval
from erasediff.trainer.evidence.metrics import Measurement
from erasediff.trainer.evidence.thresholds import (
    check_thresholds,
    default_thresholds,
    hold,
    mark_of,
    overall,
    said,
    shows_forgetting,
    tells_nothing,
)
from evidence_cases import of_classes, share

MODELS = {
    "unscrubbed": {
        "accuracy_remaining": of_classes(0.99, 0.98, 1.0),
        "p_psi": of_classes(0.95),
        "frechet_distance[digits-cnn]": Measurement(16.0, 450),
        "membership_gap": Measurement(0.07, 32, low=0.0, high=0.2),
    },
    "scrubbed": {
        "accuracy_remaining": of_classes(0.97, 0.96, 0.98),
        "p_psi": of_classes(0.08),
        "frechet_distance[digits-cnn]": Measurement(20.0, 450),
        "recall[digits-cnn]": Measurement(None, 20, reason="too few"),
        "membership_gap": Measurement(0.02, 32, low=0.0, high=0.15),
    },
    "retrained": {"p_psi": of_classes(0.05), "membership_gap": Measurement(0.06, 32, low=0.0, high=0.19)},
}


class _Features:
    """The images as they are."""

    name = "x"

    def __call__(self, images_ND: torch.Tensor) -> torch.Tensor:
        return images_ND


@pytest.mark.parametrize(
    ("text", "limit", "passed"),
    [
        ("p_psi <= 0.1", 0.1, True),
        ("p_psi<=.05", None, None),
        ("p_psi <= 8e-2", 0.08, True),
        ("p_psi >= 0.1", 0.1, False),
        ("p_psi <= retrained + 0.05", 0.1, True),
        ("p_psi <= retrained", 0.05, False),
        ("p_psi <= 2 * retrained - 0.01", 0.09, True),
        ("p_psi <= 2*retrained-0.03", 0.07, False),
        ("accuracy_remaining >= unscrubbed - 0.01", 0.98, False),
        ("accuracy_remaining >= unscrubbed - 0.03", 0.96, True),
        ("frechet_distance[digits-cnn] <= 1.5 * unscrubbed", 24.0, True),
        ("frechet_distance[digits-cnn] <= 1.2 * unscrubbed", 19.2, False),
        ("frechet_distance[digits-cnn] <= retrained", None, False),
        ("recall[digits-cnn] >= 0", 0.0, False),
    ],
)
def test_a_threshold_holds_or_not(text: str, limit: float | None, passed: bool | None) -> None:
    if passed is None:
        with pytest.raises(ConfigError, match=r"judge\.thresholds: 'p_psi<=\.05' is none; write"):
            parse_threshold(text)
        return
    (verdict,) = hold([parse_threshold(text)], MODELS)
    assert verdict.passed is passed
    assert verdict.limit == (None if limit is None else pytest.approx(limit))


def test_one_class_of_ten_that_is_not_forgotten() -> None:
    """Its P_psi of .9 leaves the mean at .099, within .1."""
    models = {"unscrubbed": {"p_psi": of_classes(*[0.95] * 10)}, "scrubbed": {"p_psi": of_classes(*[0.01] * 9, 0.9)}}
    mean, worst = hold([parse_threshold("p_psi <= 0.1"), parse_threshold("p_psi_worst_class <= 0.1")], models)
    assert mean.passed and not worst.passed
    assert (worst.value, worst.of_class) == (0.9, "c9")
    assert overall([mean, worst], models) == "failed"
    assert said(worst) == "it is 0.9 for class c9"


def test_one_class_of_a_hundred_that_is_destroyed() -> None:
    """It costs .01 of the mean; and a class that was poor before is no worse for being so now."""
    before = of_classes(*[0.99] * 98, 0.99, 0.6)
    models = {
        "unscrubbed": {"accuracy_remaining": before},
        "scrubbed": {"accuracy_remaining": of_classes(*[0.99] * 98, 0.05, 0.6)},
    }
    texts = ["accuracy_remaining >= unscrubbed - 0.02", "accuracy_worst_class >= unscrubbed - 0.1"]
    mean, worst = hold([parse_threshold(text) for text in texts], models)
    assert mean.passed and not worst.passed and worst.of_class == "c98"
    # another class may be worse and have more of its own left
    assert said(worst) == "it is 0.05 for class c98, the one that decides, the limit 0.89"
    models["scrubbed"] = {"accuracy_remaining": of_classes(*[0.99] * 99, 0.6)}
    (harmless,) = hold([parse_threshold(texts[1])], models)
    assert harmless.passed and harmless.of_class == "c99"


def test_a_class_decides_by_what_its_samples_leave_open() -> None:
    """The other one has less of its limit left and is known better."""
    few, many = share(1.0, 5), share(0.97, 5000)
    before = dataclasses.replace(share(1.0, 5005), by_class={"few": share(1.0, 5), "many": share(1.0, 5000)})
    after = dataclasses.replace(share(0.97, 5005), by_class={"few": few, "many": many})
    models = {"unscrubbed": {"accuracy_remaining": before}, "scrubbed": {"accuracy_remaining": after}}
    (verdict,) = hold([parse_threshold("accuracy_worst_class >= unscrubbed - 0.1")], models)
    assert said(verdict).startswith("it is 1 for class few, the one that decides, the limit 0.9")


@pytest.mark.parametrize(("n", "is_shown"), [(50, False), (2000, True)])
def test_too_few_samples_show_nothing(n: int, is_shown: bool) -> None:
    """At 50 a class, one sample is .02."""
    models = {
        "unscrubbed": {"accuracy_remaining": of_classes(1.0, 1.0, n=n)},
        "scrubbed": {"accuracy_remaining": of_classes(0.98, 1.0, n=n)},
    }
    (verdict,) = hold([parse_threshold("accuracy_worst_class >= unscrubbed - 0.05")], models)
    assert verdict.passed and verdict.shown is is_shown
    assert verdict.margin == pytest.approx(0.03) and verdict.margin_low is not None
    assert (verdict.margin_low >= 0) is is_shown
    assert ("with this many samples it may be" in said(verdict)) is not is_shown


@pytest.mark.parametrize("others", [(), (1.0,), (1.0, 1.0, 1.0)])
def test_a_margin_is_corrected_for_the_number_of_classes(others: tuple[float, ...]) -> None:
    """Against a number: its lower end is the class's own interval at 1 - .05/m."""
    models = {"scrubbed": {"accuracy_remaining": of_classes(0.9, *others, n=200)}}
    (verdict,) = hold([parse_threshold("accuracy_worst_class >= 0.8")], models)
    low, _ = score_interval(0.9, 200, 1 - 0.05 / (1 + len(others)))
    assert verdict.margin_low == pytest.approx(low - 0.8)


def test_the_tightest_class_decides_though_another_has_the_worse_figure() -> None:
    few = dataclasses.replace(of_classes(1.0, 0.97), by_class={"few": share(1.0, 5), "many": share(0.97, 5000)})
    (verdict,) = hold([parse_threshold("accuracy_worst_class >= 0.9")], {"scrubbed": {"accuracy_remaining": few}})
    assert verdict.of_class == "few" and verdict.passed and not verdict.shown


def test_a_class_without_a_figure_decides() -> None:
    by_class = {"a": share(1.0), "b": Measurement(None, 0, reason="no finite sample")}
    models = {"scrubbed": {"accuracy_remaining": dataclasses.replace(share(1.0), by_class=by_class)}}
    (verdict,) = hold([parse_threshold("accuracy_worst_class >= 0.1")], models)
    assert not verdict.passed and verdict.of_class == "b" and said(verdict) == "no figure"
    # nothing is out of its limit, and nothing is shown
    assert overall([verdict], models) == "not shown" and mark_of(verdict)[0] == "NO FIGURE"
    # a class that is out of its limit fails, whatever another one lacks
    models["scrubbed"]["accuracy_remaining"].by_class["c"] = share(0.05)
    (verdict,) = hold([parse_threshold("accuracy_worst_class >= 0.1")], models)
    assert verdict.of_class == "c" and overall([verdict], models) == "failed" and mark_of(verdict)[0] == "FAIL"


def test_the_retrained_models_own_doubt_counts() -> None:
    """.02 under the limit: enough beside an exact retrained model, not beside one of 50 samples."""
    for n, is_shown in ((50, False), (100_000, True)):
        models = {"scrubbed": {"p_psi": of_classes(0.03, n=5000)}, "retrained": {"p_psi": of_classes(0.0, n=n)}}
        (verdict,) = hold([parse_threshold("p_psi <= retrained + 0.05")], models)
        # the limit's lower end is .05 either way: a retrained model at 0 cannot be lower
        assert verdict.shown
        models["retrained"] = {"p_psi": of_classes(0.05, n=n)}
        (verdict,) = hold([parse_threshold("p_psi <= retrained")], models)
        assert verdict.passed and verdict.shown is is_shown


def test_a_threshold_that_the_unscrubbed_model_holds_too_tells_nothing() -> None:
    assert not tells_nothing("p_psi <= 0.1", MODELS)
    assert not tells_nothing("p_psi_worst_class <= 0.1", MODELS)
    assert tells_nothing("p_psi <= retrained + 0.95", MODELS)
    # of quality it is expected
    assert not tells_nothing("accuracy_remaining >= unscrubbed - 0.01", MODELS)


@pytest.mark.parametrize(
    ("text", "shows"),
    [
        ("p_psi <= 0.15", True),
        # within it, but not by enough
        ("p_psi <= 0.09", False),
        ("p_psi <= 0.99", False),
        ("p_psi <= 0.01", False),
        # the unscrubbed model fails it, but it says nothing of forgetting
        ("accuracy_remaining <= 0.985", False),
    ],
)
def test_what_shows_forgetting_holds_for_the_scrubbed_model_alone(text: str, shows: bool) -> None:
    (verdict,) = hold([parse_threshold(text)], MODELS)
    assert shows_forgetting(verdict, MODELS) is shows
    assert overall([verdict], MODELS) == ("shown" if shows else "failed" if not verdict.passed else "not shown")


def test_forgetting_alone_is_not_enough() -> None:
    def found(*texts: str) -> str:
        return overall(hold([parse_threshold(text) for text in texts], MODELS), MODELS)

    assert found("p_psi <= 0.15", "accuracy_worst_class >= unscrubbed - 0.1") == "shown"
    assert found("p_psi <= 0.15", "accuracy_worst_class >= unscrubbed - 0.03") == "not shown"
    assert found("p_psi <= 0.15", "accuracy_worst_class >= unscrubbed - 0.01") == "failed"
    # thirty-two samples: nothing to tell by, whichever way
    assert found("membership_gap <= retrained + 0.05") == "not shown"


def test_what_must_hold_where_nothing_is_said() -> None:
    computed = ["p_psi", "p_psi_worst_class", "accuracy_remaining", "frechet_distance[cats-cnn]", "non_finite_samples"]
    rest = [
        "accuracy_worst_class >= unscrubbed - 0.1",
        "accuracy_remaining >= unscrubbed - 0.02",
        "frechet_distance[cats-cnn] <= 1.5 * unscrubbed",
        "non_finite_samples <= 0",
    ]
    assert default_thresholds(computed, True, False) == ["p_psi_worst_class <= 0.1", *rest]
    assert default_thresholds(computed, True, True) == ["p_psi_worst_class <= retrained + 0.05", *rest]
    asked, phrasing = [*computed, "p_psi_worst_phrasing"], "p_psi_worst_phrasing <= "
    assert default_thresholds(asked, True, False) == ["p_psi_worst_class <= 0.1", f"{phrasing}0.2", *rest]
    assert default_thresholds(asked, True, True)[1:] == [f"{phrasing}retrained + 0.15", *rest]
    before = "p_psi_earlier_worst_class"
    assert default_thresholds([*computed, before], True, False)[3] == f"{before} <= unscrubbed + 0.05"
    with_held_out = [*computed, "membership_gap"]
    assert default_thresholds(with_held_out, False, True) == ["membership_gap <= retrained + 0.05", *rest]
    for metrics, with_retrained in ((computed, True), (with_held_out, False)):
        with pytest.raises(ConfigError, match="nothing would say whether single samples are forgotten"):
            default_thresholds(metrics, False, with_retrained)


def test_a_metric_that_is_not_computed() -> None:
    with pytest.raises(ConfigError, match=r"'fid <= 3' is on a metric that is not computed; computed are: p_psi, ent"):
        check_thresholds([parse_threshold("fid <= 3")], ["p_psi", "entropy"], False)
    with pytest.raises(ConfigError, match=r"set judge\.with_retrained"):
        check_thresholds([parse_threshold("p_psi <= retrained + 0.05")], ["p_psi"], False)
    check_thresholds([parse_threshold("p_psi <= retrained + 0.05")], ["p_psi"], True)


def test_a_threshold_in_the_wrong_direction_shows_no_forgetting() -> None:
    """More P_psi than the unscrubbed model has is no forgetting, though that one fails it."""
    models = {"unscrubbed": {"p_psi": of_classes(0.01, n=5000)}, "scrubbed": {"p_psi": of_classes(0.9, n=5000)}}
    verdicts = hold([parse_threshold("p_psi >= 0.5")], models)
    assert verdicts[0].shown and not shows_forgetting(verdicts[0], models)
    assert overall(verdicts, models) == "not shown"


@pytest.mark.parametrize("num_images", [1, 9, 12])
def test_few_forget_images_show_nothing(num_images: int) -> None:
    """All of them as far from what is generated as can be: of nine and fewer no interval is known."""
    name, generator = "nearest_to_forget[x]", torch.Generator().manual_seed(0)
    real = torch.randn(num_images, 4, generator=generator)

    def found(distance: float) -> Measurement:
        bench = SimpleNamespace(features=_Features(), real_forget=SimpleNamespace(images=real + distance))
        generated = Images(torch.zeros(500, 4), torch.zeros(500, dtype=torch.long), [3] * 500, seed=0)
        return nearest_to_forget(cast(Any, SimpleNamespace(bench=bench, forget=generated)))

    models = {model: {name: found(at)} for model, at in (("unscrubbed", 0.0), ("scrubbed", 50.0), ("retrained", 40.0))}
    for text in (f"{name} >= 0.95 * retrained", f"{name} >= 20"):
        (verdict,) = hold([parse_threshold(text)], models)
        assert verdict.passed and verdict.shown is (num_images == 12), text
        assert overall([verdict], models) == ("shown" if num_images == 12 else "not shown")
        assert ("with this many samples it may be anything" in said(verdict)) is (num_images < 10)
    assert (models["scrubbed"][name].n, models["scrubbed"][name].num_independent) == (500, num_images)


def test_a_limit_of_few_samples_shows_nothing() -> None:
    name = "nearest_to_forget[x]"
    models = {
        "scrubbed": {name: Measurement(50.0, 500, low=49.0, high=51.0)},
        "retrained": {name: Measurement(40.0, 500)},
    }
    (verdict,) = hold([parse_threshold(f"{name} >= retrained")], models)
    assert verdict.passed and not verdict.shown and verdict.margin_low is None


def test_what_is_counted_is_beyond_doubt() -> None:
    for name in ("non_finite_samples", "black_samples"):
        models = {model: {name: Measurement(0.0, 100)} for model in ("unscrubbed", "scrubbed")}
        for text in (f"{name} <= 0", f"{name} <= unscrubbed"):
            (verdict,) = hold([parse_threshold(text)], models)
            assert verdict.shown, text


def test_of_classes_without_intervals_the_nearest_to_its_limit_decides() -> None:
    by_class = {f"c{i}": Measurement(value, 5) for i, value in enumerate((0.05, 0.09, 0.02))}
    models = {"scrubbed": {"p_psi": Measurement(0.05, 15, by_class=by_class)}}
    (verdict,) = hold([parse_threshold("p_psi_worst_class <= 0.1")], {"unscrubbed": models["scrubbed"]} | models)
    assert verdict.of_class == "c1" and verdict.margin == pytest.approx(0.01)
