"""From a request to a published model, or to a record of why not."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import pytest
import tiny
import torch
from diffusers import DDPMPipeline
from erasediff.launch.cli import main
from erasediff.shards.dataset import Dataset
from erasediff.shards.requests.request import Request, Selector
from erasediff.shards.requests.select import select
from erasediff.shards.writing.build import build
from erasediff.trainer.config import (
    EraseConfig,
    GenerateConfig,
    OptimizerConfig,
    TrainConfig,
)
from erasediff.trainer.config.toml import dump_toml
from erasediff.trainer.erase import _request_entry, dry_run, run_erase
from erasediff.trainer.errors import ThresholdError, TrainingError
from erasediff.trainer.evidence import publication
from erasediff.trainer.evidence.classifier import train_classifier
from erasediff.trainer.evidence.collect import Evidence
from erasediff.trainer.evidence.deletion import known
from erasediff.trainer.evidence.ledger import Publication, Withdrawal, read_entries
from erasediff.trainer.evidence.publication import Candidate
from erasediff.trainer.evidence.record import Record, read_record
from erasediff.trainer.models.families import load_model
from evidence_cases import sha256_of_file
from PIL import Image

TWENTY = [f"digit-{i:05d}" for i in range(7, 1797, 90)]


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

    # the same call again does no stage again, whatever the samples of a forward pass
    stamps = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}
    sampling = dataclasses.replace(config.judge.sampling, batch_size=8)
    run_erase(dataclasses.replace(config, judge=dataclasses.replace(config.judge, sampling=sampling)))
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

    # another evaluation in between has nothing to advise: what is said is of the one that failed
    other = ["evaluate", "--run", config.output, "--data", str(config.data), "--judge.device", "cpu"]
    other += words[words.index("--judge.classifier") :]
    assert main([*other, "--judge.thresholds", "accuracy_remaining >= 0"]) == 3
    assert read_record(output / "record.json").advice == []
    capfd.readouterr()
    assert main([*words, "--judge.thresholds", "p_psi >= 2", "accuracy_remaining >= 0"]) == 1
    assert "next     " in capfd.readouterr().out


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


def test_a_record_is_not_taken_for_another_judge_or_held_out_set(
    config: EraseConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind the same paths: each is evaluated anew."""
    judge_path, unseen = tmp_path / "judge.safetensors", tmp_path / "unseen"
    first_judge = config.judge.classifier
    shutil.copyfile(str(first_judge), judge_path)
    _unseen_digits(Path(str(config.data)), unseen, 0)
    retrained = tiny.make_pipeline(tmp_path / "retrained", seed=2)
    judge = dataclasses.replace(
        config.judge,
        classifier=str(judge_path),
        held_out=str(unseen),
        retrained=str(retrained),
        thresholds=("accuracy_remaining >= 0.01",),
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
    _unseen_digits(Path(str(config.data)), unseen, 100)
    second = evaluated()
    assert second.held_out != first.held_out and second.held_out is not None
    assert second.held_out.fingerprint == Dataset.open(unseen).fingerprint

    other = train_classifier(Dataset.open(str(config.data)), image_size=8, channels=1, num_epochs=1, seed=5)
    other.save(judge_path)
    third = evaluated()
    assert third.classifier.weights_sha256 == other.card.weights_sha256 != second.classifier.weights_sha256

    shutil.rmtree(retrained)
    tiny.make_pipeline(retrained, seed=3)
    assert evaluated().models["retrained"].weights_sha256 == sha256_of_file(retrained)

    # a judge by whom it fails: what was published on the evidence before is withdrawn
    published = sha256_of_file(Path(config.output) / "model")
    constant = {name: torch.zeros_like(value) for name, value in other.network.state_dict().items()}
    other.network.load_state_dict(constant | {"head.bias": torch.eye(10)[3] * 50})
    dataclasses.replace(other, card=dataclasses.replace(other.card, held_out_accuracy=0.1)).save(judge_path)
    withdrawn, output = Path(config.output) / "model.withdrawn", Path(config.output)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    # by a kill before it is said, too; the same command says it
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(publication, "append", killed)
        evaluated()
    assert not (output / "model").exists() and sha256_of_file(withdrawn) == published
    # not of a model that is another
    card = withdrawn / "erasediff.json"
    said = card.read_bytes()
    for content, num in ((said + b" ", 0), (said, 1), (said, 1)):
        card.write_bytes(content)
        with pytest.raises(ThresholdError):
            evaluated()
        assert sum(isinstance(entry, Withdrawal) for entry in read_entries(output)) == num
    assert not (output / "model").exists() and sha256_of_file(withdrawn) == published

    # published once more on a judge that lets it pass: what is known of it is no longer what the one before said
    failing = judge_path.read_bytes()
    shutil.copyfile(str(first_judge), judge_path)
    evaluated()
    entries = read_entries(output)
    (entry,) = [entry for entry in entries[-1:] if isinstance(entry, Publication)]
    failed, _ = [entry for entry in entries if isinstance(entry, Record)][-2:]
    (before,) = [copy for copy in failed.copies if copy.path == str(output / "model")]
    (copy,) = [one.copy for one in known(output) if one.is_published]
    assert before.holds.endswith("forgetting is failed")
    assert copy.holds == f"the published model: forgetting is {entry.verdict}" != before.holds

    # killed between what was said of it and its appearance: it is withdrawn all the same
    (output / "model").rename(output / "model.partial")
    judge_path.write_bytes(failing)
    with pytest.raises(ThresholdError):
        evaluated()
    assert not (output / "model.partial").exists() and sha256_of_file(withdrawn) == published
    assert sum(isinstance(entry, Withdrawal) for entry in read_entries(output)) == 2


def test_what_of_a_requests_keys_is_found(config: EraseConfig) -> None:
    """Of a selector that asks for more than the keys, not all are."""
    data = Dataset.open(str(config.data))
    threes = [key for key, label in zip(data.keys, data.labels, strict=True) if data.classes[label] == "3"][:2]
    others = [key for key, label in zip(data.keys, data.labels, strict=True) if data.classes[label] == "5"][:3]
    request = Request((Selector(keys=(*threes, *others), labels=("3",)), Selector(labels=("7",))), id="r-9")
    entry = _request_entry(config, request, data, select(data, request))
    assert (entry.id, entry.keys_asked, entry.keys_found, entry.date) == ("r-9", 5, 2, None)
    assert entry.sha256 == hashlib.sha256(Path(config.request).read_bytes()).hexdigest()


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
    config = dataclasses.replace(config, generate=GenerateConfig(num_forget_images=7))
    config = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, momentum=0.5))
    assert "no effect   optimizer.momentum = 0.5: it is sgd's" in dry_run(config)
    note = f"no effect   generate: request = '{config.request}' names samples, and none are drawn\n"
    assert note in f"{dry_run(config)}\n"
    record = run_erase(config).evidence.record
    told = capsys.readouterr().out
    assert "no effect   judge.relearn = True: it measures a class" in told and told.count(note) == 1
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
        Candidate("scrubbed", output / "scrub" / "model", failing).copy(
            output / "model.partial", output / "model", load_model(failing.model), evidence.record.remain, evidence
        )
    # its record is of other weights: it is evaluated anew, not trusted
    with pytest.raises(ThresholdError):
        run_erase(failing)
    again = json.loads((output / "record.json").read_text())
    assert again["models"]["scrubbed"]["weights_sha256"] != record["models"]["scrubbed"]["weights_sha256"]
