"""An erasure request, from its file to a published model or to none."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from diffusers import DDPMPipeline
from erasediff.launch.cli import main
from erasediff.shards.dataset import Dataset
from erasediff.shards.errors import DataError
from erasediff.shards.writing.build import build
from erasediff.trainer import EraseDiffConfig, erase
from erasediff.trainer.config import (
    EngineConfig,
    EraseConfig,
    ModelConfig,
    OptimizerConfig,
    RelearnConfig,
    SamplingConfig,
    TrainConfig,
)
from erasediff.trainer.config.toml import dump_toml
from erasediff.trainer.erase import run_erase
from erasediff.trainer.errors import ConfigError, ThresholdError, TrainingError
from erasediff.trainer.evidence.classifier import train_classifier
from erasediff.trainer.evidence.collect import Evidence
from erasediff.trainer.evidence.record import Record, read_record
from erasediff.trainer.models.lineage import Lineage, TrainedOn, write_lineage
from erasediff.trainer.ranks import meeting
from erasediff.trainer.run.folder import is_finished
from evidence_cases import make_classifier, sha256_of_file, tiny_judge
from PIL import Image

TWENTY = [f"digit-{i:05d}" for i in range(7, 1797, 90)]


@pytest.fixture(scope="module")
def classifier(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_classifier(digits, tmp_path_factory.mktemp("judge") / "classifier.safetensors")


@pytest.fixture
def config(digits: Path, base_model: Path, classifier: Path, tmp_path: Path) -> EraseConfig:
    """Erases the class 3 in three steps."""
    (tmp_path / "request.toml").write_text('id = "r-1"\ndate = 2026-11-20\n[[selectors]]\nlabels = ["3"]\n')
    return EraseConfig(
        request=str(tmp_path / "request.toml"),
        model=ModelConfig(str(base_model), null_class=10),
        data=str(digits / "data"),
        output=str(tmp_path / "erased"),
        train=TrainConfig(max_train_steps=3, train_batch_size=4),
        engine=EngineConfig(device="cpu"),
        judge=tiny_judge(classifier),
        # three steps of a tiny model show nothing
        publish="within-limits",
    )


def test_a_class_is_erased_and_published(config: EraseConfig, capfd: pytest.CaptureFixture[str]) -> None:
    erasure = run_erase(config)
    output = Path(config.output)
    record = read_record(output / "record.json")
    assert record.verdict == "not shown" and record.request.id == "r-1" and record.request.date == "2026-11-20"
    assert record.forgotten_classes == ["3"]
    # what is published is what was evaluated, and loads with diffusers alone
    assert sha256_of_file(erasure.model) == record.models["scrubbed"].weights_sha256
    DDPMPipeline.from_pretrained(erasure.model)
    assert "forgetting **not shown**" in (erasure.model / "README.md").read_text()

    # the same call again does no stage again
    stamps = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}
    run_erase(config)
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()} == stamps

    # asked for more than is shown, it does not say that nothing is published
    (output / "erase.toml").write_text(dump_toml(dataclasses.replace(config, publish="shown")))
    assert main(["erase", str(output / "erase.toml")]) == 3
    assert f"{output}/model is what an earlier call published" in capfd.readouterr().err


def test_it_continues_after_each_stage(config: EraseConfig) -> None:
    class Killed(Exception):
        pass

    def kill() -> None:
        raise Killed

    with pytest.raises(Killed):
        run_erase(config, watch=lambda step, model: kill() if step == 2 else None)
    output = Path(config.output)
    assert (output / "split").exists() and not (output / "scrub" / "model").exists()
    with pytest.raises(Killed):
        run_erase(config, before_evaluation=kill)
    assert (output / "scrub" / "model").exists() and not (output / "record.json").exists()
    record = run_erase(config).evidence.record
    # the scrub was started twice, and its second start was the last
    assert record.run.interruptions == 1 and record.run.num_steps == 3
    assert (output / "model").exists()


def test_nothing_is_published_when_a_threshold_fails(config: EraseConfig, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["erase", "--request", config.request, "--model", config.model.path, "--model.null-class", "10"]
    words += ["--data", config.data, "--output", config.output, "--engine.device", "cpu", "--judge.device", "cpu"]
    words += ["--train.max-train-steps", "3", "--train.train-batch-size", "4"]
    words += ["--judge.classifier", str(config.judge.classifier), "--judge.sampling.num-inference-steps", "2"]
    words += ["--judge.num-forget-samples-per-class", "12", "--judge.num-remain-samples-per-class", "3"]
    for _ in range(2):  # and no second call gets round it
        assert main([*words, "--judge.thresholds", "p_psi >= 2", "accuracy_remaining >= 0"]) == 1
        last = capfd.readouterr().err.strip().splitlines()[-1]
        assert last.startswith("erasediff: 1 of 2 thresholds fail: p_psi >= 2 (it is ")
        assert "no model is published" in last
    output = Path(config.output)
    assert not (output / "model").exists()
    verdicts = json.loads((output / "record.json").read_text())["thresholds"]
    assert [verdict["passed"] for verdict in verdicts] == [False, True]
    assert (output / "report.html").exists()


def test_nothing_is_published_where_forgetting_is_not_shown(
    config: EraseConfig, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """One step of 1e-9: whatever figures are asked for, the model is the one that it was."""
    idle = dataclasses.replace(
        config,
        train=TrainConfig(max_train_steps=1, train_batch_size=4),
        optimizer=OptimizerConfig(learning_rate=1e-9),
        judge=dataclasses.replace(config.judge, thresholds=("p_psi <= 1", "accuracy_remaining >= 0")),
        publish="shown",
    )
    (tmp_path / "erase.toml").write_text(dump_toml(idle))
    assert main(["erase", str(tmp_path / "erase.toml")]) == 3
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("erasediff: forgetting is not shown: no threshold on forgetting holds that the unscrubbed")
    assert "no model is published" in last
    output = Path(config.output)
    assert json.loads((output / "record.json").read_text())["verdict"] == "not shown"
    assert not (output / "model").exists()
    # the option that says what it does, on the same run
    stamp = (output / "record.json").stat().st_mtime_ns
    assert main(["erase", str(tmp_path / "erase.toml"), "--publish", "within-limits"]) == 0
    assert (output / "model").exists() and (output / "record.json").stat().st_mtime_ns == stamp
    # evaluated by itself it has the same exit code
    words = ["--run", str(output / "scrub"), "--data", config.data, "--judge.classifier", str(config.judge.classifier)]
    words += ["--judge.num-forget-samples-per-class", "12", "--judge.num-remain-samples-per-class", "3"]
    words += ["--judge.sampling.num-inference-steps", "2", "--judge.thresholds", "p_psi <= 1"]
    assert main(["evaluate", *words]) == 3


def test_a_record_is_not_taken_for_another_judge_or_held_out_set(config: EraseConfig, tmp_path: Path) -> None:
    """Behind the same paths: each is evaluated anew."""
    judge_path, unseen = tmp_path / "judge.safetensors", tmp_path / "unseen"
    shutil.copyfile(str(config.judge.classifier), judge_path)
    _unseen_digits(Path(config.data), unseen, 0)
    yardstick = tiny.make_pipeline(tmp_path / "yardstick", seed=2)
    judge = dataclasses.replace(
        config.judge, classifier=str(judge_path), held_out=str(unseen), retrained=str(yardstick)
    )
    config = dataclasses.replace(config, judge=judge)

    def evaluated() -> Record:
        run_erase(config)
        return read_record(Path(config.output) / "record.json")

    first = evaluated()
    record_path = Path(config.output) / "record.json"
    stamp = record_path.stat().st_mtime_ns
    assert evaluated() == first and record_path.stat().st_mtime_ns == stamp

    shutil.rmtree(unseen)
    _unseen_digits(Path(config.data), unseen, 100)
    second = evaluated()
    assert second.held_out != first.held_out and second.held_out is not None
    assert second.held_out.fingerprint == Dataset.open(unseen).fingerprint

    other = train_classifier(Dataset.open(config.data), image_size=8, channels=1, num_epochs=1, seed=5)
    other.save(judge_path)
    third = evaluated()
    assert third.classifier.weights_sha256 == other.card.weights_sha256 != second.classifier.weights_sha256

    shutil.rmtree(yardstick)
    tiny.make_pipeline(yardstick, seed=3)
    assert evaluated().models["retrained"].weights_sha256 == sha256_of_file(yardstick)


def _unseen_digits(data: Path, folder: Path, first: int) -> None:
    """Thirty digits with one pixel changed, as a dataset of the same classes under keys of their own."""
    source, images = Dataset.open(data), folder.with_name(f"{folder.name}-{first}-images")
    for i in range(first, first + 30):
        pixels = source.read(i).image[:, :, 0].copy()
        pixels[0, 0] = 77
        path = images / source.classes[source.labels[i]] / f"new-{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    build(str(images), folder)


def test_twenty_single_digits_are_erased(
    config: EraseConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(config.request).write_text(f"[[selectors]]\nkeys = {json.dumps(TWENTY)}\n")
    config = dataclasses.replace(config, judge=dataclasses.replace(config.judge, relearn=True))
    record = run_erase(config).evidence.record
    assert "no effect   judge.relearn = True: it measures a class" in capsys.readouterr().out
    assert record.models["scrubbed"].relearning == []
    assert record.forget.num_samples == 20 and record.remain.num_samples == 1777
    assert record.forgotten_classes == []
    assert sorted(Dataset.open(tmp_path / "erased" / "split" / "forget").keys) == TWENTY
    assert "nearest_to_forget[digits-cnn]" in record.models["scrubbed"].metrics
    assert "p_psi" not in record.models["scrubbed"].metrics


def test_other_weights_than_those_evaluated_are_not_published(config: EraseConfig) -> None:
    output = Path(config.output)
    failing = dataclasses.replace(config, judge=dataclasses.replace(config.judge, thresholds=("p_psi >= 2",)))
    with pytest.raises(ThresholdError):
        run_erase(failing)
    record = json.loads((output / "record.json").read_text())
    weights = output / "scrub" / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    evidence = Evidence(read_record(output / "record.json"), output / "record.json", output / "report.html")
    with pytest.raises(TrainingError, match="nothing is published"):
        erase._copy(output / "scrub" / "model", output / "model.partial", failing, evidence)
    # its record is of other weights: it is evaluated anew, not trusted
    with pytest.raises(ThresholdError):
        run_erase(failing)
    again = json.loads((output / "record.json").read_text())
    assert again["models"]["scrubbed"]["weights_sha256"] != record["models"]["scrubbed"]["weights_sha256"]


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
        broken = dataclasses.replace(config, judge=tiny_judge(Path(str(config.judge.classifier)), **options))
        with pytest.raises((ConfigError, DataError), match=message):
            run_erase(broken)
        assert not Path(config.output).exists()

    def test_held_out_samples_under_other_keys(self, config: EraseConfig, tmp_path: Path) -> None:
        data = Dataset.open(config.data)
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

    def test_a_yardstick_that_saw_other_samples_is_refused_before_the_scrub(
        self, config: EraseConfig, tmp_path: Path
    ) -> None:
        yardstick = tiny.make_pipeline(tmp_path / "yardstick", seed=2)
        write_lineage(Lineage(trained_on=(TrainedOn("all", "f" * 64, 1797),)), yardstick)
        judge = dataclasses.replace(config.judge, retrained=str(yardstick))
        with pytest.raises(ConfigError, match="was trained on 'all', which is not this run's remain set"):
            run_erase(dataclasses.replace(config, judge=judge))
        assert not (Path(config.output) / "scrub").exists()


def inside(function: str) -> bool:
    """Whether the main thread is in a function of that name."""
    frame = sys._current_frames()[threading.main_thread().ident or 0]
    while frame is not None:
        if frame.f_code.co_name == function:
            return True
        frame = frame.f_back
    return False


def stopped_by(number: signal.Signals, reached: Callable[[], bool], words: list[str]) -> int:
    """Runs the command here and sends this process the signal once `reached`; returns its exit status."""

    def watch() -> None:
        while not over.is_set():
            if reached():
                os.kill(os.getpid(), number)
                return
            time.sleep(0.001)

    over = threading.Event()
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        return main(words)
    finally:
        over.set()
        watcher.join()
        for each, handler in before.items():
            signal.signal(each, handler)
        meeting._signalled_at = None


def test_a_stop_in_any_stage_leaves_with_75_and_the_same_command_continues(
    config: EraseConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = dataclasses.replace(config, train=TrainConfig(max_train_steps=30, train_batch_size=4))
    (tmp_path / "erase.toml").write_text(dump_toml(config))
    words, output = ["erase", str(tmp_path / "erase.toml")], Path(config.output)

    assert stopped_by(signal.SIGTERM, lambda: inside("as_completed"), words) == os.EX_TEMPFAIL
    assert not (output / "split").exists() and (output / ".split.partial").exists(), "what was written is kept"
    assert "stopped, what was done is kept; the same command continues" in capfd.readouterr().err

    metrics = output / "scrub" / "attempt-0001" / "metrics.jsonl"
    status = stopped_by(signal.SIGINT, lambda: metrics.exists(), words)
    assert status == os.EX_TEMPFAIL, capfd.readouterr().err
    assert "checkpoint saved; the same command continues" in capfd.readouterr().err
    assert list(metrics.parent.glob("checkpoint-*/manifest.json")) and not meeting.is_asked()

    # too late for the last step's packet: the scrub is done, and the evaluation does not begin
    assert stopped_by(signal.SIGTERM, lambda: inside("publish_model"), words) == os.EX_TEMPFAIL
    assert is_finished(output / "scrub") and not meeting.is_asked()

    assert stopped_by(signal.SIGTERM, lambda: inside("evaluate"), words) == os.EX_TEMPFAIL
    assert not (output / "record.json").exists()
    assert capfd.readouterr().err.count("the same command continues") == 2

    assert main(words) == 0
    starts = read_record(output / "record.json").run.starts
    assert [start["attempt"] for start in starts] == ["attempt-0001", "attempt-0002"]
    assert "checkpoint saved" in starts[0]["ended"] and starts[1]["ended"] == "finished"
    assert (output / "model").exists()


def test_the_launcher_carries_a_request_out_on_two_ranks_and_is_stopped_in_between(
    config: EraseConfig, tmp_path: Path
) -> None:
    (tmp_path / "erase.toml").write_text(dump_toml(config))
    words = ["launch", "local", "-n", "2", "erase", str(tmp_path / "erase.toml")]
    command, output = [sys.executable, "-m", "erasediff.launch", *words], Path(config.output)
    launcher = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not (output / "scrub" / "model").exists():
        assert launcher.poll() is None
        time.sleep(0.001)
    launcher.send_signal(signal.SIGTERM)
    _, said = launcher.communicate(timeout=100)
    assert launcher.returncode == os.EX_TEMPFAIL, said
    assert "Traceback" not in said and not (output / "record.json").exists()
    launched = subprocess.run(command, capture_output=True, text=True)
    assert launched.returncode == 0, launched.stderr
    record = read_record(output / "record.json")
    assert record.verdict == "not shown" and record.run.starts[0]["world_size"] == 2
    assert len(record.run.starts) == 1
    DDPMPipeline.from_pretrained(output / "model")
