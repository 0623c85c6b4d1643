"""An erasure whose request is words: drawn, split, scrubbed towards the anchor, asked with all phrasings, published."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import pytest
from erasediff.shards import DataError, Dataset
from erasediff.trainer.concepts.erasing import DRAWN, WordsErasure
from erasediff.trainer.config import (
    EngineConfig,
    EraseConfig,
    GenerateConfig,
    JudgeConfig,
    ModelConfig,
    SamplingConfig,
    TargetedConfig,
    TrainConfig,
)
from erasediff.trainer.config.methods import method_kind
from erasediff.trainer.erase import check, run_erase
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.evidence.classifier import train_classifier
from erasediff.trainer.methods.forget_me_not import ForgetMeNotConfig
from erasediff.trainer.models.lineage import read_lineage
from tiny_text import make_pipeline

REQUEST = """\
id = "words-7"
concept = ["three", "seven"]
remain = ["one", "two"]
phrasings = ["a red {}", "an image of a {}"]
held_out_phrasings = ["a photo of a {}"]
anchor = ["one", "two"]
"""
SAMPLING = SamplingConfig(num_inference_steps=2, batch_size=8)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model/, request.toml"""
    folder = tmp_path_factory.mktemp("words")
    make_pipeline(folder / "model")
    (folder / "request.toml").write_text(REQUEST)
    return folder


def config_of(given: Path, output: Path, **changes: Any) -> EraseConfig:
    config = EraseConfig(
        request=str(given / "request.toml"),
        model=ModelConfig(str(given / "model")),
        output=str(output),
        generate=GenerateConfig(num_forget_images=8, num_remain_images=8, sampling=SAMPLING),
        train=TrainConfig(max_train_steps=2, train_batch_size=4, max_loss_r_ratio=None),
        engine=EngineConfig(device="cpu"),
        judge=JudgeConfig(
            num_forget_samples_per_class=12,
            num_remain_samples_per_class=4,
            sampling=SAMPLING,
            device="cpu",
            # random weights forget nothing: what is asked is that it is told
            thresholds=("accuracy_remaining >= 0",),
        ),
        publish="within-limits",
    )
    return dataclasses.replace(config, **changes)


def test_from_words_to_a_published_model(given: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    check(config_of(given, output))
    assert not output.exists(), "a check writes nothing"
    erasure = run_erase(config_of(given, output))
    record = erasure.evidence.record
    assert erasure.model == output / "model" and (erasure.model / "unet").is_dir()
    assert record.forgotten_classes == ["three"] and record.request.id == "words-7" and DRAWN in record.notes
    assert record.judge["prompts"] == str(output / "concept" / "prompts.csv")
    asked = record.models["scrubbed"].metrics["p_psi_by_phrasing"].by_class
    assert set(asked) == {"a red {}", "an image of a {}", "a photo of a {}"}
    told = {"a red three", "a red seven", "an image of a three", "an image of a seven"}
    forget, remain = (Dataset.open(output / "split" / name) for name in ("forget", "remain"))
    assert {forget.text(i) for i in range(len(forget))} == told and len(forget) == len(remain) == 8
    assert {forget.classes[label] for label in forget.labels} == {"three"}
    assert forget.manifest.latents is not None
    method = tomllib.loads((output / "scrub" / "config.toml").read_text())["method"]
    assert method["anchor"] == ["one", "two"] and method["concept"] == ["three", "seven"]
    assert set(read_lineage(erasure.model).forgotten[0].prompts) != set()
    # the same again finds everything
    times = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}
    check(config_of(given, output))
    again = run_erase(config_of(given, output))
    assert again.evidence.record == record
    after = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}
    assert {path.name for path in after if after[path] != times.get(path)} <= {"prompts.csv"}, "written again, the same"
    # other words are another erasure
    other = tmp_path / "other.toml"
    other.write_text(REQUEST.replace('"seven"', '"five"'))
    with pytest.raises(ConfigError, match="holds another run: request"):
        run_erase(config_of(given, output, request=str(other)))


def test_the_null_prompt_as_anchor(given: Path, tmp_path: Path) -> None:
    """In place of the whole prompt, not of the word."""
    text = REQUEST.replace('anchor = ["one", "two"]', 'anchor = ""')
    (tmp_path / "null.toml").write_text(text)
    method = (
        WordsErasure.of(config_of(given, tmp_path / "out", request=str(tmp_path / "null.toml"))).on_samples().method
    )
    assert isinstance(method, TargetedConfig) and (method.anchors, method.concept) == (("",), ())


def test_a_method_that_looks_for_words_looks_for_the_requests(given: Path, tmp_path: Path) -> None:
    (tmp_path / "words.toml").write_text(REQUEST.replace('anchor = ["one", "two"]', ""))
    for concept, expected in (((), ("three", "seven")), (("red",), ("red",))):
        method = ForgetMeNotConfig(concept=concept)
        config = config_of(given, tmp_path / "out", request=str(tmp_path / "words.toml"), method=method)
        assert WordsErasure.of(config).on_samples().method == ForgetMeNotConfig(concept=expected)
    check(config_of(given, tmp_path / "out", request=str(tmp_path / "words.toml"), method=ForgetMeNotConfig()))


def test_what_must_hold_where_nothing_is_said(given: Path, tmp_path: Path) -> None:
    """No distance to pictures that the unscrubbed model drew itself: its own is nearly 0, and so would be the limit."""
    judge = WordsErasure.of(config_of(given, tmp_path / "out", judge=_judging(given, thresholds=()))).on_samples().judge
    assert set(judge.thresholds) == {
        "p_psi_worst_class <= 0.1",
        "p_psi_worst_phrasing <= 0.2",
        "accuracy_worst_class >= unscrubbed - 0.1",
        "accuracy_remaining >= unscrubbed - 0.02",
        "non_finite_samples <= 0",
    }
    for column, expected in (("phrasing", True), ("of", False)):
        (tmp_path / "asked.csv").write_text(f"prompt,class,{column}\na red three,three,red\na red one,one,red\n")
        own = _judging(given, thresholds=(), prompts=str(tmp_path / "asked.csv"))
        judge = WordsErasure.of(config_of(given, tmp_path / "out", judge=own)).on_samples().judge
        assert ("p_psi_worst_phrasing <= 0.2" in judge.thresholds) is expected
    with pytest.raises(
        ConfigError, match=r"needs 23 samples of each phrasing .* = 12 asks one of them 4 times: set it"
    ):
        check(config_of(given, tmp_path / "out", judge=_judging(given, thresholds=())))
    judge = WordsErasure.of(config_of(given, tmp_path / "out")).on_samples().judge
    assert judge.thresholds == ("accuracy_remaining >= 0",), "what is given stands"


def _judging(given: Path, **changes: Any) -> JudgeConfig:
    return dataclasses.replace(config_of(given, given).judge, **changes)


def test_what_is_refused_before_anything_is_drawn(given: Path, digits: Path, tmp_path: Path) -> None:
    train_classifier(Dataset.open(digits / "data"), image_size=8, channels=1, num_epochs=1).save(tmp_path / "c")
    kind = method_kind("erasediff")
    samples = tmp_path / "samples.toml"
    (tmp_path / "some.csv").write_text("prompt,class\na red three,three\na red one,one\n")
    samples.write_text('[[selectors]]\nlabels = ["three"]\n')
    for changes, told in (
        ({"data": "there"}, "data = 'there': .* forgets words, for which the model draws the data itself"),
        ({"request": str(samples)}, "data: .* selects samples: name the dataset folder"),
        ({"judge": _judging(given, with_retrained=True)}, "judge.retrained: of a request of words"),
        ({"judge": _judging(given, retrained="there")}, "judge.retrained: of a request of words"),
        ({"judge": _judging(given, classifier=str(tmp_path / "c"))}, "has no three, one, two, for which"),
        ({"judge": _judging(given, kept_prompts=str(tmp_path / "absent.csv"))}, "absent.csv"),
        ({"judge": _judging(given, factor=str(tmp_path / "absent"))}, "absent"),
        ({"judge": _judging(given, prompts=str(tmp_path / "some.csv"))}, "has no prompt of class 'two'"),
        ({"model": ModelConfig(str(given / "model"), caption="an image of {}")}, "model.caption: a request of words"),
        ({"judge": _judging(given, thresholds=("p_phi <= 1",))}, "p_phi"),
        ({"method": kind("erasediff", anchor=("one",))}, "anchor, and method.anchor or method.concept"),  # pyright: ignore[reportCallIssue]
        ({"method": method_kind("finetune")("finetune")}, "anchor: method.name = 'finetune' takes none"),
        ({"method": method_kind("esd")("esd")}, "anchor: method.target = 'negative_guidance' takes none: leave it out"),
    ):
        for run in (check, run_erase):
            with pytest.raises((ConfigError, DataError), match=told):
                run(config_of(given, tmp_path / "out", **changes))
            assert not (tmp_path / "out").exists(), changes
    # a text encoder reads over case and spaces
    drawn = tmp_path / "drawn.toml"
    drawn.write_text(REQUEST.replace('anchor = ["one", "two"]', ""))
    with pytest.raises(ConfigError, match=r"method.anchor = 'A red  Three' is a prompt that is to be forgotten"):
        changed = {"request": str(drawn), "method": kind("erasediff", anchor="A red  Three")}  # pyright: ignore[reportCallIssue]
        check(config_of(given, tmp_path / "out", **changed))
    long = tmp_path / "long.toml"
    long.write_text(REQUEST.replace('anchor = ["one", "two"]', f'anchor = "image{" image" * 20}"'))
    with pytest.raises(ConfigError, match=r"method.anchor = 'a red image image .* tokens, the model takes 14"):
        check(config_of(given, tmp_path / "out", request=str(long)))
