"""The retrained model's column: trained here, or out of a record."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
from erasediff.shards import Dataset, build
from erasediff.trainer.config import (
    EngineConfig,
    ModelConfig,
    OptimizerConfig,
    PretrainConfig,
    RelearnConfig,
    SamplingConfig,
    TrainConfig,
    UNetConfig,
)
from erasediff.trainer.config.toml import as_dict, read_toml
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.evidence.classifier import load_classifier
from erasediff.trainer.evidence.collect import run_evaluate
from erasediff.trainer.evidence.record import Record
from erasediff.trainer.evidence.retrained import entry_of
from erasediff.trainer.models.families import load_model
from erasediff.trainer.models.sampling import sample
from erasediff.trainer.pretrain import run_pretrain
from evidence_cases import make_clip, make_run, sha256_of_file, tiny_evaluation


def test_every_column_is_of_the_model_it_names(
    digits: Path, run: Path, base_model: Path, classifier: Path, tmp_path: Path
) -> None:
    """Each model sampled and judged here by itself."""
    other = tiny.make_pipeline(tmp_path / "other", seed=2)
    record = run_evaluate(tiny_evaluation(run, digits, classifier, retrained=str(other)), output=tmp_path).record
    judge, found = load_classifier(classifier), {}
    for name, folder in (("unscrubbed", base_model), ("scrubbed", run / "model"), ("retrained", other)):
        model = load_model(ModelConfig(str(folder), null_class=10))
        images = sample(model, [3] * 12, SamplingConfig(num_inference_steps=2, seed=0))
        found[name] = judge.probabilities(images)[:, 3].mean().item()
        assert record.models[name].metrics["p_psi"].value == pytest.approx(found[name], rel=1e-6), name
        assert record.models[name].weights_sha256 == sha256_of_file(folder)
    assert len(set(found.values())) == 3


def test_a_recorded_model_is_named_with_its_date(digits: Path, run: Path, classifier: Path, tmp_path: Path) -> None:
    other = tiny.make_pipeline(tmp_path / "other", seed=2)
    first = run_evaluate(tiny_evaluation(run, digits, classifier, retrained=str(other)), output=tmp_path)
    # how many images are made at a time is no other measurement
    sampling = SamplingConfig(num_inference_steps=2, batch_size=50)
    again = run_evaluate(tiny_evaluation(run, digits, classifier, retrained=str(first.record_path), sampling=sampling))
    assert first.record.models["retrained"].metrics["p_psi"].correlation, "with models that are measured here"
    assert again.record.models["retrained"] == entry_of(first.record)
    assert not again.record.models["retrained"].metrics["p_psi"].correlation
    assert set(again.record.models["scrubbed"].metrics["p_psi"].correlation) == {"unscrubbed"}
    with pytest.raises(ConfigError, match=r"measured with judge\.num_forget_samples_per_class = 12, here it is 13"):
        more = {"num_forget_samples_per_class": 13}
        run_evaluate(tiny_evaluation(run, digits, classifier, retrained=str(first.record_path), **more))
    with pytest.raises(ConfigError, match=r"measured with judge\.relearn = False, here it is True"):
        run_evaluate(tiny_evaluation(run, digits, classifier, retrained=str(first.record_path), relearn=True))
    other_seed = dataclasses.replace(sampling, seed=1)
    with pytest.raises(ConfigError, match=r"with judge\.sampling = .*'seed': 0, 'batch_size': 64\}, here it is"):
        run_evaluate(tiny_evaluation(run, digits, classifier, retrained=str(first.record_path), sampling=other_seed))
    # its integrity is the distance to the images of that original
    for other_base in ({"weights_sha256": "0" * 64}, {"frozen_sha256": {"vae": "0" * 64}}):
        values = json.loads(first.record_path.read_text())
        assert [*values["models"]["unscrubbed"]["frozen_sha256"]] == ["schedule"], "it has no other part"
        assert "features_sha256" not in values, "the judge's"
        values["models"]["unscrubbed"] |= other_base
        (tmp_path / "elsewhere.json").write_text(json.dumps(values))
        with pytest.raises(ConfigError, match="was measured beside another unscrubbed model"):
            run_evaluate(tiny_evaluation(run, digits, classifier, retrained=str(tmp_path / "elsewhere.json")))
    for changed, said in (
        ({"asked_sha256": "0" * 64}, "was asked for by other prompts or captions"),
        ({"factor_classifier": values["classifier"]}, r"was judged by another judge\.factor_classifier"),
    ):
        (tmp_path / "elsewhere.json").write_text(json.dumps(json.loads(first.record_path.read_text()) | changed))
        with pytest.raises(ConfigError, match=said):
            run_evaluate(tiny_evaluation(run, digits, classifier, retrained=str(tmp_path / "elsewhere.json")))


def test_what_an_older_record_does_not_know_was_as_it_is_by_default(
    digits: Path, run: Path, classifier: Path, tmp_path: Path
) -> None:
    other = tiny.make_pipeline(tmp_path / "other", seed=2)
    relearning = RelearnConfig(num_images=4, num_steps=1, num_points=1, num_samples=2)
    asked = tiny_evaluation(run, digits, classifier, retrained=str(other), relearn=True, relearning=relearning)
    first = run_evaluate(asked, output=tmp_path)
    values = json.loads(first.record_path.read_text())
    del values["judge"]["relearning"]["optimizer"]
    (tmp_path / "old.json").write_text(json.dumps(values))

    def again(relearning: RelearnConfig) -> Record:
        judge = dataclasses.replace(asked.judge, retrained=str(tmp_path / "old.json"), relearning=relearning)
        return run_evaluate(dataclasses.replace(asked, judge=judge)).record

    assert again(relearning).models["retrained"] == entry_of(first.record)
    with pytest.raises(ConfigError, match=r"judge\.relearning = .*'optimizer': 'adamw'.*, here it is .*'sgd'"):
        again(dataclasses.replace(relearning, optimizer="sgd"))


def test_figures_by_other_data_or_features_do_not_compare(
    digits: Path, run: Path, classifier: Path, tmp_path: Path
) -> None:
    """Behind the same paths; the same data elsewhere do."""
    other, source, lines = tiny.make_pipeline(tmp_path / "other", seed=2), Dataset.open(digits / "data"), []
    for i in np.flatnonzero(source.labels == 3)[:4]:
        (tmp_path / f"{i}.png").write_bytes(source.read_bytes(i) + b"\0")
        lines.append(json.dumps({"path": f"{i}.png", "key": f"unseen-{i}", "label": "3"}))
    (tmp_path / "unseen.jsonl").write_text("\n".join(lines))
    (tmp_path / "fewer.jsonl").write_text("\n".join(lines[1:]))
    held_out, clip = tmp_path / "unseen", tmp_path / "clip"
    build(tmp_path / "unseen.jsonl", held_out, classes=source.classes)
    make_clip(clip)
    judged = tiny_evaluation(run, digits, classifier, retrained=str(other), held_out=str(held_out), features=str(clip))
    first = run_evaluate(judged, output=tmp_path)
    assert first.record.features_sha256 == json.loads(first.record_path.read_text())["features_sha256"] is not None

    def again(where: Path = held_out, **options: object) -> Record:
        given = {"retrained": str(first.record_path), "held_out": str(where), "features": str(clip)}
        return run_evaluate(tiny_evaluation(run, digits, classifier, **given | options)).record

    shutil.copytree(held_out, tmp_path / "moved")
    assert again(tmp_path / "moved").models["retrained"] == entry_of(first.record)
    shutil.rmtree(held_out)
    build(tmp_path / "fewer.jsonl", held_out, classes=source.classes)
    with pytest.raises(ConfigError, match=r"or weights behind judge\.held_out \(.{12}… there, .{12}… here"):
        again()
    with pytest.raises(ConfigError, match=r"behind judge\.held_out \(.{12}… there, none… here\)"):
        again(held_out=None)
    make_clip(clip, seed=1)
    with pytest.raises(ConfigError, match=r"with other samples or weights behind judge\.features"):
        again(tmp_path / "moved")


def test_a_retrained_model_is_trained_with_the_same_settings(digits: Path, classifier: Path, tmp_path: Path) -> None:
    pretrain = PretrainConfig(
        data=str(digits / "data"),
        output=str(tmp_path / "base"),
        unet=UNetConfig(block_out_channels=(8, 8), norm_num_groups=4),
        train=TrainConfig(max_train_steps=2, train_batch_size=4, seed=7),
        optimizer=OptimizerConfig(learning_rate=2e-3),
        engine=EngineConfig(device="cpu"),
    )
    base = run_pretrain(pretrain)
    run = make_run(digits, base, tmp_path / "run")
    record = run_evaluate(tiny_evaluation(run, digits, classifier, with_retrained=True)).record
    assert record.models["retrained"].metrics["p_psi"].n == 12
    settings = read_toml(run / "retrained" / "config.toml")
    assert settings["data"] == str(digits / "split" / "remain")
    assert settings | {"data": "", "output": ""} == as_dict(pretrain) | {"data": "", "output": ""}
    with pytest.raises(ConfigError, match="is the model before scrubbing, which saw the forget set"):
        run_evaluate(tiny_evaluation(run, digits, classifier, retrained=str(base)))
