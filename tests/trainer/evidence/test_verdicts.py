"""Three verdicts: the exit code of each, what the card says, and what is advised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
from erasediff.launch.cli import main
from erasediff.trainer import EraseDiffConfig
from erasediff.trainer.config import OptimizerConfig
from erasediff.trainer.evidence.advice import advice
from erasediff.trainer.evidence.record import read_record
from erasediff.trainer.evidence.thresholds import Overall, Verdict
from erasediff.trainer.scrubbing import run_scrub


@pytest.fixture(scope="module")
def wrecked(digits: Path, base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scrub so rough that the model draws no 3, and nothing else either."""
    rough = tiny.tiny_config(
        digits,
        base_model,
        tmp_path_factory.mktemp("wrecked") / "scrub",
        optimizer=OptimizerConfig(learning_rate=0.1),
    )
    run_scrub(rough)
    return Path(rough.output)


@pytest.mark.parametrize(
    ("thresholds", "status", "verdict"),
    [
        (["p_psi <= 0.06"], 0, "shown"),
        # of a hundred samples none says less than .04
        (["p_psi <= 0.02"], 3, "not shown"),
        (["p_psi <= 0.06", "accuracy_remaining >= 0.9"], 1, "failed"),
    ],
)
def test_the_exit_code_tells_the_verdict(
    wrecked: Path,
    digits: Path,
    classifier: Path,
    thresholds: list[str],
    status: int,
    verdict: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    words = ["evaluate", "--run", str(wrecked), "--data", str(digits / "data"), "--judge.classifier", str(classifier)]
    words += ["--judge.num-forget-samples-per-class", "100", "--judge.num-remain-samples-per-class", "3"]
    words += ["--judge.sampling.num-inference-steps", "2", "--judge.device", "cpu", "--judge.num-threads", "1"]
    assert main([*words, "--judge.thresholds", *thresholds]) == status
    record = read_record(wrecked / "record.json")
    assert record.verdict == verdict
    card = (wrecked / "model" / "README.md").read_text()
    assert f"forgetting **{verdict}** (record.json)" in card
    assert ("**FAILED**" in card) is (verdict == "failed") is ("Scrubbed with" not in card)
    told = "next     it has forgotten, and the rest is harmed: --method.lambda-cap 1, in another output"
    assert (told in capfd.readouterr().out) is (verdict == "failed")


def failing(*texts: str) -> list[Verdict]:
    return [Verdict(text, 0.5, 0.6, passed=False, shown=False, margin=-0.1) for text in texts]


FORGETTING, REST = "p_psi <= 0.5", "accuracy_remaining >= 0.9"


@pytest.mark.parametrize(
    ("method", "texts", "null_class", "line"),
    [
        (EraseDiffConfig(), [FORGETTING], 10, "it remembers, and the rest is kept: --method.anchor 10"),
        (EraseDiffConfig(anchor=10), [FORGETTING], 10, "it remembers, and the rest is kept: --train.max-train-steps 6"),
        (EraseDiffConfig(), [FORGETTING], None, "it remembers, and the rest is kept: --train.max-train-steps 6"),
        (EraseDiffConfig(), [REST], 10, "it has forgotten, and the rest is harmed: --method.lambda-cap 1"),
        (EraseDiffConfig(lambda_cap=None), [REST], 10, "and the rest is harmed: --method.lambda-cap 1"),
        (EraseDiffConfig(lambda_cap=1), [REST], 10, "and the rest is harmed: --train.max-train-steps 1"),
        (EraseDiffConfig(), [FORGETTING, REST], 10, "it remembers, and the rest is harmed: --method.anchor 10"),
        (EraseDiffConfig(target="noise"), [FORGETTING, REST], 10, "is harmed: --optimizer.learning-rate "),
    ],
)
def test_what_to_try_next(
    digits: Path, method: EraseDiffConfig, texts: list[str], null_class: int | None, line: str
) -> None:
    config = tiny.tiny_config(digits, digits, digits, method=method)
    about: dict[str, Any] = {"null_class": null_class, "forgets_classes": True, "publishes": None}
    (found,) = advice(config, failing(*texts), "failed", **about)
    assert line in found and found.endswith(", in another output")
    verdicts: tuple[Overall, ...] = ("shown", "not shown")
    for verdict in verdicts:
        assert advice(config, [], verdict, **about) == []


def test_the_retrained_model_is_offered_where_it_is_the_better_one(digits: Path) -> None:
    config = tiny.tiny_config(digits, digits, digits)
    about: dict[str, Any] = {"null_class": None, "forgets_classes": True}
    offered = "the retrained model holds every threshold: `erase … --publish retrained` publishes it instead"
    assert advice(config, failing(REST), "failed", **about, publishes="shown")[1:] == [offered]
    assert advice(config, [], "not shown", **about, publishes="shown") == [offered]
    assert advice(config, [], "shown", **about, publishes="shown") == []
    assert advice(config, [], "not shown", **about, publishes="not shown") == []
    assert advice(config, [], "not shown", **about, publishes=None) == []
