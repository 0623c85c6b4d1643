"""What `erase` refuses, before anything is written."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import tiny
from erasediff.launch.cli import main
from erasediff.shards.dataset import Dataset
from erasediff.shards.errors import DataError
from erasediff.shards.writing.build import build
from erasediff.trainer import EraseDiffConfig
from erasediff.trainer.config import (
    EraseConfig,
    RelearnConfig,
    SamplingConfig,
)
from erasediff.trainer.erase import run_erase
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.models.lineage import Lineage, TrainedOn, write_lineage
from evidence_cases import tiny_judge

TWENTY = [f"digit-{i:05d}" for i in range(7, 1797, 90)]


class TestRefusals:
    def test_an_unknown_selector(self, config: EraseConfig, capfd: pytest.CaptureFixture[str]) -> None:
        Path(config.request).write_text('[[selectors]]\ncolour = "red"\n')
        words = ["erase", "--request", config.request, "--model", config.model.path, "--data", config.data]
        assert main([*words, "--output", config.output]) == 2
        (line,) = capfd.readouterr().err.strip().splitlines()
        assert config.request in line and "colour" in line
        assert not Path(config.output).exists()

    def test_a_request_that_changed(self, config: EraseConfig) -> None:
        with pytest.raises(ZeroDivisionError):
            run_erase(config, watch=lambda step, model: 1 / 0)  # pyright: ignore[reportArgumentType]
        Path(config.request).write_text('[[selectors]]\nlabels = ["4"]\n')
        with pytest.raises(ConfigError, match="was begun with another request than"):
            run_erase(config)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"thresholds": ("p_psi < 1",)}, "'p_psi < 1' is none"),
            ({"thresholds": ("membership_auc <= 1",)}, "'membership_auc <= 1' is on a metric that is not computed"),
            ({"thresholds": ("p_psi <= retrained",)}, r"set judge\.with_retrained"),
            ({"with_retrained": True}, "is not the model/ of an `erasediff pretrain` run"),
            ({"num_forget_samples_per_class": 0}, r"judge\.num_forget_samples_per_class = 0: at least 1"),
            ({"num_threads": 0}, r"judge\.num_threads = 0: at least 1"),
            ({"sampling": SamplingConfig(seed=-1)}, r"judge\.sampling\.seed = -1: at least 0"),
            (
                {"sampling": SamplingConfig(num_inference_steps=0)},
                r"num_inference_steps = 0: at least 1",
            ),
            ({"sampling": SamplingConfig(guidance_scale=math.nan)}, r"guidance_scale = nan: a finite number"),
            ({"relearning": RelearnConfig(learning_rate=-1)}, r"learning_rate = -1: more than 0"),
            ({"features": "inception"}, "needs torch-fidelity"),
            ({"features": "nowhere"}, "classifier, inception, or the folder of a CLIP model"),
            ({"held_out": "nowhere"}, "nowhere: no such dataset folder"),
            ({"retrained": "nowhere"}, "judge.retrained = 'nowhere': no such folder"),
            ({"retrained": "nowhere.json"}, "nowhere.json: no such record"),
        ],
    )
    def test_a_judge_that_cannot_work_is_refused_before_anything_is_written(
        self, config: EraseConfig, options: dict[str, object], message: str
    ) -> None:
        classifier = Path(str(config.judge.classifier))
        with pytest.raises((ConfigError, DataError), match=message):
            run_erase(dataclasses.replace(config, judge=tiny_judge(classifier, **options)))
        assert not Path(config.output).exists()

    def test_held_out_samples_under_other_keys(self, config: EraseConfig, tmp_path: Path) -> None:
        data = Dataset.open(str(config.data))
        folder = tmp_path / "renamed"
        for i in range(20):
            image = folder / data.classes[data.labels[i]] / f"other-{i}.png"
            image.parent.mkdir(parents=True, exist_ok=True)
            image.write_bytes(data.read_bytes(i))
        build(str(folder), tmp_path / "unseen")
        judge = dataclasses.replace(config.judge, held_out=str(tmp_path / "unseen"))
        with pytest.raises(ConfigError, match="held-out samples are those that no model was trained on"):
            run_erase(dataclasses.replace(config, judge=judge))
        assert not Path(config.output).exists()

    def test_single_samples_with_nothing_to_say_whether_they_are_forgotten(self, config: EraseConfig) -> None:
        Path(config.request).write_text(f"[[selectors]]\nkeys = {json.dumps(TWENTY)}\n")
        for judge in (
            dataclasses.replace(config.judge, thresholds=()),
            dataclasses.replace(config.judge, thresholds=(), retrained="somewhere"),
        ):
            with pytest.raises(ConfigError, match="nothing would say whether single samples are forgotten"):
                run_erase(dataclasses.replace(config, judge=judge))
        assert not Path(config.output).exists()

    def test_a_class_and_single_samples_at_once(self, config: EraseConfig) -> None:
        Path(config.request).write_text('[[selectors]]\nlabels = ["3"]\n[[selectors]]\nkeys = ["digit-00006"]\n')
        with pytest.raises(ConfigError, match="holds all of class 3 and a part of class 6"):
            run_erase(config)
        assert not Path(config.output).exists()

    def test_a_scrub_that_cannot_work_is_refused_before_anything_is_written(self, config: EraseConfig) -> None:
        with pytest.raises(ConfigError, match=r"method\.eta = -1"):
            run_erase(dataclasses.replace(config, method=EraseDiffConfig(eta=-1)))
        assert not Path(config.output).exists()

    def test_a_retrained_model_that_saw_other_samples_is_refused_before_the_scrub(
        self, config: EraseConfig, tmp_path: Path
    ) -> None:
        retrained = tiny.make_pipeline(tmp_path / "retrained", seed=2)
        write_lineage(Lineage(trained_on=(TrainedOn("all", "f" * 64, 1797),)), retrained)
        judge = dataclasses.replace(config.judge, retrained=str(retrained))
        with pytest.raises(ConfigError, match="was trained on 'all', which is not this run's remain set"):
            run_erase(dataclasses.replace(config, judge=judge))
        assert not (Path(config.output) / "scrub").exists()
