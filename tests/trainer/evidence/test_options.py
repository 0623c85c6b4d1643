"""What an evaluation refuses, before anything is computed."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from erasediff.launch.cli import main
from erasediff.shards.dataset import Dataset
from erasediff.shards.errors import DataError
from erasediff.shards.requests.split import split
from erasediff.trainer.config import ModelConfig
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.evidence.classifier import load_classifier, train_classifier
from erasediff.trainer.evidence.collect import run_evaluate
from erasediff.trainer.evidence.dry_run import dry_run
from erasediff.trainer.evidence.features import make_features
from erasediff.trainer.evidence.options import check_judge
from erasediff.trainer.models.families import load_model
from evidence_cases import edit_json, make_run, tiny_evaluation, tiny_judge
from safetensors import safe_open
from safetensors.torch import load_file, save_file


def test_a_dry_run_says_what_would_be_asked_and_held_to(
    digits: Path, run: Path, classifier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    words = ["evaluate", "--run", str(run), "--data", str(digits / "data"), "--judge.classifier", str(classifier)]
    assert main([*words, "--dry-run", "--judge.num-forget-samples-per-class", "30"]) == 0
    told = capsys.readouterr().out
    assert "samples     30 of each of 1 forgotten classes, 200 of each of 9 remaining classes: 1,830 a model" in told
    assert "threshold   p_psi_worst_class <= 0.1\n" in told and f"writes      an entry in {run / 'records'}" in told
    assert "retrained   none: nothing says what forgetting this ends at" in told
    assert main([*words, "--dry-run", "--judge.thresholds", "fid <= 3"]) == 2
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


class TestRefusals:
    def test_another_base_model(self, digits: Path, run: Path, classifier: Path, tmp_path: Path) -> None:
        copy = tmp_path / "run"
        shutil.copytree(run, copy)
        edit_json(copy / "inputs.json", base_weights_sha256="0" * 64)
        with pytest.raises(ConfigError, match=r"is not the model that .* scrubbed: its weights have SHA-256"):
            run_evaluate(tiny_evaluation(copy, digits, classifier))

    def test_a_threshold_on_a_metric_that_is_not_computed(
        self, digits: Path, run: Path, classifier: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        words = ["evaluate", "--run", str(run), "--data", str(digits / "data"), "--judge.classifier", str(classifier)]
        assert main([*words, "--judge.thresholds", "fid <= 3"]) == 2
        (line,) = capfd.readouterr().err.strip().splitlines()
        assert line.startswith("erasediff: judge.thresholds: 'fid <= 3' is on a metric that is not computed")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"thresholds": ("fid <= 3",)}, "on a metric that is not computed"),
            (
                {"thresholds": ("frechet_distance[digits-cnn] <= 9",), "num_remain_samples_per_class": 14},
                r"needs 129 samples, and judge\.num_remain_samples_per_class = 14 of 9 classes makes 126: raise it",
            ),
            ({"near": ("8", "3")}, r"judge\.near: '3' is no class that remains: those are 0, 1, 2, 4, 5 and 4 more"),
            ({"near": tuple("012456789")}, r"judge\.near names every class that remains, and none is far"),
            ({"features": "nowhere"}, r"judge.features = 'nowhere': classifier, inception"),
            ({"held_out": "nowhere"}, "nowhere: no such dataset folder"),
            ({"retrained": "nowhere"}, r"judge.retrained = 'nowhere': no such folder"),
        ],
    )
    def test_nothing_is_trained_for_what_cannot_be_evaluated(
        self, digits: Path, run: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
    ) -> None:
        monkeypatch.setattr("erasediff.trainer.evidence.making.train_classifier", lambda *_, **__: pytest.fail())
        with pytest.raises((ConfigError, DataError), match=message):
            run_evaluate(tiny_evaluation(run, digits, None, **options))

    def test_too_few_real_images_for_the_distance(
        self, digits: Path, base_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The judge has 128 features: 129 of what remains are enough, by default, too."""
        data, model = Dataset.open(digits / "data"), load_model(ModelConfig(str(base_model), null_class=10))
        chosen = data.labels == 3
        rest = np.flatnonzero(~chosen)

        def check(num: int) -> None:
            check_judge(
                tiny_judge(None, thresholds=()), model, data, chosen, np.isin(np.arange(len(data)), rest[:num]), "r"
            )

        few = r"unscrubbed' needs 129 real images that remain, and 128 of {} are compared with \(at most {}\): name a "
        with pytest.raises(
            ConfigError, match=few.format(128, "5,000") + r"network of fewer features in judge\.features"
        ):
            check(128)
        check(129)
        monkeypatch.setattr("erasediff.trainer.evidence.options.MAX_REAL_IMAGES", 128)
        with pytest.raises(ConfigError, match=few.format(200, 128)):
            check(200)
        monkeypatch.undo()
        monkeypatch.setattr("erasediff.trainer.evidence.making.train_classifier", lambda *_, **__: pytest.fail())
        split(digits / "data", tmp_path / "split", ["3"], left_out=np.isin(np.arange(len(data)), rest[128:]))
        scrubbed = make_run(tmp_path, base_model, tmp_path / "run")
        for refuse in (run_evaluate, dry_run):
            with pytest.raises(ConfigError, match=few.format(128, "5,000")):
                refuse(tiny_evaluation(scrubbed, digits, None, thresholds=()))

    def test_what_cannot_be_written(
        self, digits: Path, run: Path, classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(OSError, match=r"judge.safetensors' cannot be written: "):
            load_classifier(classifier).save(tmp_path / "nowhere" / "judge.safetensors")
        # tests may run as root, who may write everywhere
        monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)
        with pytest.raises(ConfigError, match=r"may not be written: record.json and report.html go there"):
            run_evaluate(tiny_evaluation(run, digits, classifier), output=tmp_path)

    def test_features_of_another_resolution(self, digits: Path, run: Path, tmp_path: Path) -> None:
        other = tmp_path / "classifier.safetensors"
        train_classifier(Dataset.open(digits / "data"), image_size=16, channels=1, num_epochs=1).save(other)
        with pytest.raises(ConfigError, match="takes images of 16 pixels and 1 channels, the model makes 8 pixels"):
            run_evaluate(tiny_evaluation(run, digits, other))

    def test_a_retrained_model_of_another_size(self, digits: Path, run: Path, classifier: Path, tmp_path: Path) -> None:
        other = tiny.make_pipeline(tmp_path / "other", size=16)
        with pytest.raises(ConfigError, match="makes images of 16 pixels, 1 channels and 11 classes"):
            run_evaluate(tiny_evaluation(run, digits, classifier, retrained=str(other)))

    def test_the_unscrubbed_model_as_the_retrained_one(
        self, digits: Path, run: Path, base_model: Path, classifier: Path, tmp_path: Path
    ) -> None:
        copy = tmp_path / "copy"
        shutil.copytree(base_model, copy)
        with pytest.raises(ConfigError, match="is the model before scrubbing, which saw the forget set"):
            run_evaluate(tiny_evaluation(run, digits, classifier, retrained=str(copy)))

    def test_a_damaged_classifier(self, digits: Path, run: Path, classifier: Path, tmp_path: Path) -> None:
        weights, about = load_file(classifier), safe_open(classifier, "pt").metadata()
        for name, fewer, card in (
            ("no-card", weights, {"format": about["format"]}),
            ("other-card", weights, about | {"card": "{}"}),
            ("no-head", {key: value for key, value in weights.items() if key != "head.weight"}, about),
        ):
            save_file(fewer, tmp_path / name, card)
            with pytest.raises(ConfigError, match=f"{name}' is damaged: leave it out"):
                run_evaluate(tiny_evaluation(run, digits, tmp_path / name))

    def test_retraining_without_known_settings(self, digits: Path, run: Path, classifier: Path) -> None:
        with pytest.raises(ConfigError, match="is not the model/ of an `erasediff pretrain` run"):
            run_evaluate(tiny_evaluation(run, digits, classifier, with_retrained=True))

    def test_an_unfinished_scrub(self, digits: Path, run: Path, classifier: Path, tmp_path: Path) -> None:
        copy = tmp_path / "run"
        shutil.copytree(run, copy)
        (copy / "attempt-0002").mkdir()  # a later start: the model of the one before it is void
        with pytest.raises(ConfigError, match="is not finished: give the scrub's command again"):
            run_evaluate(tiny_evaluation(copy, digits, classifier))
        shutil.rmtree(copy / "attempt-0002")
        shutil.rmtree(copy / "model")
        with pytest.raises(ConfigError, match="is not finished: give the scrub's command again"):
            run_evaluate(tiny_evaluation(copy, digits, classifier))

    def test_extractors_that_are_not_there(self, classifier: Path, tmp_path: Path) -> None:
        judge = load_classifier(classifier)
        with pytest.raises(ConfigError, match=r"needs torch-fidelity \(No module named 'torch_fidelity'\)"):
            make_features("inception", judge)
        with pytest.raises(ConfigError, match="classifier, inception, or the folder of a CLIP model"):
            make_features(str(tmp_path), judge)
        (tmp_path / "config.json").write_text('{"model_type": "clip"')
        (tmp_path / "model.safetensors").write_bytes(b"")
        with pytest.raises(ConfigError, match="cannot be loaded: Expecting"):
            make_features(str(tmp_path), judge)
        (tmp_path / "model.safetensors").unlink()
        (tmp_path / "config.json").write_text('{"model_type": "clip"}')
        (tmp_path / "pytorch_model.bin").write_bytes(b"\x80")
        with pytest.raises(ConfigError, match=r"holds no \.safetensors weights: pickled ones are not read"):
            make_features(str(tmp_path), judge)

    def test_inception_without_its_weights_or_with_code_in_them(
        self, classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "torch_fidelity", ModuleType("torch_fidelity"))
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
        judge = load_classifier(classifier)
        with pytest.raises(ConfigError, match=r"its weights are not at .*weights-inception-2015-12-05-6726825d\.pth"):
            make_features("inception", judge)
        (tmp_path / "checkpoints").mkdir()
        torch.save({"weight": tmp_path}, tmp_path / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth")
        with pytest.raises(ConfigError, match="holds more than weights"):
            make_features("inception", judge)
