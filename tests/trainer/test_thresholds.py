"""Thresholds: what they say, and what they refuse."""

from __future__ import annotations

import pytest
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.evidence.metrics import Measurement
from erasediff.trainer.evidence.thresholds import (
    check_thresholds,
    judge,
    parse_threshold,
    shows_forgetting,
    tells_nothing,
)

MODELS = {
    "unscrubbed": {"accuracy_remaining": Measurement(0.99, 450), "p_psi": Measurement(0.95, 500)},
    "scrubbed": {
        "accuracy_remaining": Measurement(0.97, 450),
        "p_psi": Measurement(0.08, 500),
        "frechet_distance[digits-cnn]": Measurement(None, 20, reason="too few"),
    },
    "retrained": {"p_psi": Measurement(0.05, 500)},
}


@pytest.mark.parametrize(
    ("text", "limit", "passed"),
    [
        ("p_psi <= 0.1", 0.1, True),
        ("p_psi<=.05", None, None),
        ("p_psi <= 8e-2", 0.08, True),
        ("p_psi >= 0.1", 0.1, False),
        ("p_psi <= retrained + 0.05", 0.1, True),
        ("p_psi <= retrained", 0.05, False),
        ("accuracy_remaining >= unscrubbed - 0.01", 0.98, False),
        ("accuracy_remaining >= unscrubbed - 0.03", 0.96, True),
        ("accuracy_remaining >= retrained - 0.5", None, False),
        ("frechet_distance[digits-cnn] <= 100", 100, False),
    ],
)
def test_a_threshold_holds_or_not(text: str, limit: float | None, passed: bool | None) -> None:
    if passed is None:
        with pytest.raises(ConfigError, match=r"judge\.thresholds: 'p_psi<=\.05' is none; write"):
            parse_threshold(text)
        return
    (verdict,) = judge([parse_threshold(text)], MODELS)
    assert verdict.passed is passed
    assert verdict.limit == (None if limit is None else pytest.approx(limit))


def test_a_threshold_that_the_unscrubbed_model_holds_too_tells_nothing() -> None:
    assert not tells_nothing("p_psi <= 0.1", MODELS)
    assert tells_nothing("p_psi <= retrained + 0.95", MODELS)
    # of quality it is expected
    assert not tells_nothing("accuracy_remaining >= unscrubbed - 0.01", MODELS)


@pytest.mark.parametrize(
    ("text", "shows"),
    [
        ("p_psi <= 0.1", True),
        ("p_psi <= 0.99", False),
        ("p_psi <= 0.01", False),
        # the unscrubbed model fails it, but it says nothing of forgetting
        ("accuracy_remaining <= 0.98", False),
    ],
)
def test_what_shows_forgetting_holds_for_the_scrubbed_model_alone(text: str, shows: bool) -> None:
    (verdict,) = judge([parse_threshold(text)], MODELS)
    assert shows_forgetting(verdict, MODELS) is shows


def test_a_metric_that_is_not_computed() -> None:
    with pytest.raises(ConfigError, match=r"'fid <= 3' is on a metric that is not computed; computed are: p_psi, ent"):
        check_thresholds([parse_threshold("fid <= 3")], ["p_psi", "entropy"], False)
    with pytest.raises(ConfigError, match=r"set judge\.with_retrained"):
        check_thresholds([parse_threshold("p_psi <= retrained + 0.05")], ["p_psi"], False)
    check_thresholds([parse_threshold("p_psi <= retrained + 0.05")], ["p_psi"], True)
