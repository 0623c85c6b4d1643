"""A run goes on, or is called finished, only on the weights and samples it was begun with."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import toy.toy_family as toy
from diffusers import DDPMPipeline
from erasediff.launch.cli import main
from erasediff.shards import Dataset, build, split
from erasediff.trainer.config import (
    EngineConfig,
    ModelConfig,
    OptimizerConfig,
    PretrainConfig,
    ScrubConfig,
    TrainConfig,
    UNetConfig,
)
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.evidence.finished import FinishedScrub
from erasediff.trainer.models.families import load_model
from erasediff.trainer.models.lineage import Lineage, write_lineage
from erasediff.trainer.models.pipeline import WEIGHTS_NAME
from erasediff.trainer.pretrain import run_pretrain
from erasediff.trainer.run.provenance import Inputs, PretrainInputs, differing, frozen_sha256, versions
from erasediff.trainer.scrubbing import dry_run, run_scrub
from evidence_cases import edit_json
from safetensors.numpy import load_file, save_file
from tiny import make_pipeline, tiny_config


@pytest.fixture
def own(digits: Path, base_model: Path, tmp_path: Path) -> ScrubConfig:
    """A scrub of one step whose model and sets may be changed."""
    shutil.copytree(base_model, tmp_path / "base")
    split(digits / "data", tmp_path / "split", ["3"])
    train = TrainConfig(max_train_steps=1, train_batch_size=4)
    return tiny_config(tmp_path, tmp_path / "base", tmp_path / "run", train=train)


def test_the_commit_is_that_of_the_checkout() -> None:
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        pytest.skip("not a git checkout")
    described = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    assert versions()["commit"] == subprocess.run(described, capture_output=True, text=True).stdout.strip()


def words_of(config: ScrubConfig) -> list[str]:
    words = ["scrub", "--model.path", config.model.path, "--model.null-class", "10", "--forget", config.forget]
    words += ["--remain", config.remain, "--output", config.output, "--engine.device", "cpu"]
    return [*words, "--train.max-train-steps", "1", "--train.train-batch-size", "4"]


def split_again(digits: Path, config: ScrubConfig) -> None:
    shutil.rmtree(Path(config.forget).parent)
    split(digits / "data", Path(config.forget).parent, ["3", "5"])


def snapshot(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_finished_scrub_is_not_the_answer_for_other_samples(
    own: ScrubConfig, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words_of(own)) == 0
    before = snapshot(Path(own.output))
    assert main(words_of(own)) == 0, "the same inputs: finished"
    written = json.loads((Path(own.output) / "inputs.json").read_text())
    assert [*written] == ["noted_sha256", "base_weights_sha256", "forget", "remain", "base_frozen_sha256"]
    assert main([*words_of(own), "--dry-run"]) == 0
    assert f"finished    already: {own.output}/model" in capsys.readouterr().out
    theirs = Dataset.open(own.forget).fingerprint
    split_again(digits, own)
    ours = Dataset.open(own.forget).fingerprint
    for words in (words_of(own), [*words_of(own), "--dry-run"]):
        assert main(words) == 2
        captured = capsys.readouterr()
        (line,) = captured.err.strip().splitlines()
        assert f"other samples of forget ({theirs[:12]}… there, {ours[:12]}… now)" in line
        assert "other samples of remain" in line and "other weights" not in line
        assert "put back what it was begun with, or choose another output" in line
        assert "model:" not in captured.out
    assert snapshot(Path(own.output)) == before


def test_a_finished_scrub_is_not_the_answer_for_other_weights(own: ScrubConfig, tmp_path: Path) -> None:
    run_scrub(own)
    shutil.rmtree(own.model.path)
    make_pipeline(Path(own.model.path), seed=2)
    with pytest.raises(ConfigError, match=r"begun with other weights of model\.path \(.{12}… there, .{12}… now\): put"):
        run_scrub(own)
    with pytest.raises(ConfigError, match=r"begun with other weights of model\.path"):
        dry_run(own)
    # another file with the same weights is the same model
    shutil.rmtree(own.model.path)
    DDPMPipeline.from_pretrained(make_pipeline(tmp_path / "again")).save_pretrained(own.model.path)
    assert run_scrub(own) == Path(own.output) / "model"


def hash_of(weights: Mapping[str, np.ndarray]) -> str:
    """As docs/record.md defines it."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {value.shape}\n".encode() + value.astype("<f4").tobytes())
    return digest.hexdigest()


def test_a_part_that_was_exchanged_is_named(toy_family: Path, tmp_path: Path) -> None:
    """An autoencoder that does not train decides what is noised, shown and judged."""
    shutil.copytree(toy_family / "model", tmp_path / "base")
    train = TrainConfig(max_train_steps=1, train_batch_size=4)
    own = tiny_config(toy_family, tmp_path / "base", tmp_path / "run", null_class=None, train=train)
    run_scrub(own)
    file = tmp_path / "base" / "frozen" / WEIGHTS_NAME
    weights = load_file(file)
    theirs = hash_of(weights)
    inputs = json.loads((tmp_path / "run" / "inputs.json").read_text())
    assert inputs["base_frozen_sha256"].pop("schedule") and inputs["base_frozen_sha256"] == {"frozen": theirs}
    assert run_scrub(own) == tmp_path / "run" / "model"

    other = {"rows": -weights["rows"], "words": weights["words"]}
    save_file(other, file)
    hashes = rf"\({theirs[:12]}… there, {hash_of(other)[:12]}… now\)"
    for again in (run_scrub, dry_run):
        with pytest.raises(ConfigError, match=rf"other weights or settings of 'frozen' of model\.path {hashes}"):
            again(own)
    with pytest.raises(ConfigError, match=r"is not the model that .*: its weights or settings of 'frozen' have"):
        FinishedScrub.open(tmp_path / "run")

    save_file(weights, file)
    FinishedScrub.open(tmp_path / "run")
    save_file(other, tmp_path / "run" / "model" / "frozen" / WEIGHTS_NAME)
    with pytest.raises(ConfigError, match=r"run/model' has another 'frozen' than the model it was made from \("):
        FinishedScrub.open(tmp_path / "run")


class Scaled(toy.Toy):
    @property
    def frozen_settings(self) -> Mapping[str, object]:
        return {"frozen": {"scale": 0.5, "bias": 0}, "tokenizer": ["a", "b"]}


def test_a_parts_settings_count(toy_family: Path) -> None:
    given = load_model(ModelConfig(str(toy_family / "model")))
    fields = {field.name: getattr(given, field.name) for field in dataclasses.fields(given)}
    weights = hash_of(load_file(toy_family / "model" / "frozen" / WEIGHTS_NAME))
    found = frozen_sha256(Scaled(**fields))
    del found["schedule"]
    assert found == {
        "frozen": hashlib.sha256((weights + '{"bias": 0, "scale": 0.5}').encode()).hexdigest(),
        "tokenizer": hashlib.sha256((hash_of({}) + '["a", "b"]').encode()).hexdigest(),
    }


def test_another_noise_schedule_is_another_model(own: ScrubConfig) -> None:
    run_scrub(own)
    file = Path(own.model.path) / "scheduler" / "scheduler_config.json"
    for name, value in {"prediction_type": "v_prediction", "beta_schedule": "squaredcos_cap_v2"}.items():
        edit_json(file, **{name: value})
        with pytest.raises(ConfigError, match="other weights or settings of 'schedule' of model"):
            run_scrub(own)
        edit_json(file, **json.loads((Path(own.output) / "model" / "scheduler" / file.name).read_text()))
    # how it is sampled is no part of its training
    edit_json(file, clip_sample=False)
    assert run_scrub(own) == Path(own.output) / "model"


def test_other_class_names_another_null_class_and_another_unet_are_another_model(own: ScrubConfig) -> None:
    names = [str(label) for label in range(10)]
    base = Path(own.model.path)
    own = dataclasses.replace(own, model=dataclasses.replace(own.model, null_class=None))
    given = Lineage(classes=(*names, None), null_class=10)
    write_lineage(given, base)
    with pytest.raises(ZeroDivisionError):
        run_scrub(own, watch=lambda step, model: 1 / 0)  # pyright: ignore[reportArgumentType]
    swapped = (*names[:3], "8", *names[4:8], "3", "9", None)
    for changed, what in (
        (Lineage(classes=swapped, null_class=10), "class names"),
        (Lineage(classes=(*names, None)), "null class"),
    ):
        write_lineage(changed, base)
        with pytest.raises(ConfigError, match=rf"begun with other {what} of model\.path \(.{{12}}… there"):
            run_scrub(own)
    write_lineage(given, base)
    edit_json(base / "unet" / "config.json", act_fn="gelu")
    with pytest.raises(ConfigError, match=r"begun with other settings of 'unet' of model\.path"):
        run_scrub(own)
    edit_json(base / "unet" / "config.json", act_fn="silu")
    assert run_scrub(own) == Path(own.output) / "model"


def test_other_captions_are_other_samples_to_a_model_that_is_told_prompts(toy_family: Path, tmp_path: Path) -> None:
    """The fingerprint is of pictures and labels."""
    train = TrainConfig(max_train_steps=1, train_batch_size=4)
    data = {name: Dataset.open(toy_family / "split" / name) for name in ("forget", "remain")}
    model = load_model(ModelConfig(str(toy_family / "model")))
    own = Inputs.of(model, data["forget"], data["remain"])
    assert own == Inputs.of(model, data["forget"], data["remain"])
    other = Inputs.of(model, data["forget"], data["remain"].captioned("a {}"))
    assert differing(other.hashes(), own.hashes())[0][0] == "captions of remain"
    assert PretrainInputs.of(data["forget"], by_prompts=True) != PretrainInputs.of(
        data["forget"].captioned("a {}"), by_prompts=True
    )
    config = tiny_config(toy_family, toy_family / "model", tmp_path / "run", null_class=None, train=train)
    run_scrub(config)
    values = json.loads((tmp_path / "run" / "inputs.json").read_text())["captions_sha256"]
    edit_json(tmp_path / "run" / "inputs.json", captions_sha256=values | {"forget": "0" * 64})
    with pytest.raises(ConfigError, match="begun with other captions of forget"):
        run_scrub(config)


def test_a_scrub_that_was_begun_is_not_continued_with_other_samples(own: ScrubConfig, digits: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        run_scrub(own, watch=lambda step, model: 1 / 0)  # pyright: ignore[reportArgumentType]
    split_again(digits, own)
    with pytest.raises(ConfigError, match="begun with other samples of forget"):
        run_scrub(own)


def test_a_scrub_that_was_begun_is_not_continued_with_shards_of_other_sizes(own: ScrubConfig, tmp_path: Path) -> None:
    """They decide the order of samples, and the fingerprint does not know them."""
    with pytest.raises(ZeroDivisionError):
        run_scrub(own, watch=lambda step, model: 1 / 0)  # pyright: ignore[reportArgumentType]
    before = Dataset.open(own.remain).fingerprint
    build("digits", tmp_path / "again", max_shard_samples=100)
    shutil.rmtree(tmp_path / "split")
    split(tmp_path / "again", tmp_path / "split", ["3"])
    assert Dataset.open(own.remain).fingerprint == before
    with pytest.raises(ConfigError, match=r"begun with .*other shard sizes of remain"):
        run_scrub(own)
    # one that an older erasediff began
    file = tmp_path / "run" / "inputs.json"
    values = json.loads(file.read_text())
    del values["noted_sha256"]
    file.write_text(json.dumps(values))
    assert run_scrub(own) == Path(own.output) / "model"


def test_what_only_one_side_has_differs() -> None:
    assert differing({"a": "1"}, {"a": "1", "b": "2"}) == [("b", "none", "2")]
    assert differing({"a": "1", "b": "2"}, {"a": "1"}) == [("b", "2", "none")]


def test_a_dry_run_says_finished_only_of_a_finished_run(own: ScrubConfig) -> None:
    assert "finished    already" not in dry_run(own)
    with pytest.raises(ZeroDivisionError):
        run_scrub(own, watch=lambda step, model: 1 / 0)  # pyright: ignore[reportArgumentType]
    assert "finished    already" not in dry_run(own)


def test_a_finished_pretrain_is_not_the_answer_for_other_samples(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(digits / "split" / "forget", tmp_path / "data")
    config = PretrainConfig(
        data=str(tmp_path / "data"),
        output=str(tmp_path / "run"),
        unet=UNetConfig(block_out_channels=(8, 8), norm_num_groups=4),
        train=TrainConfig(max_train_steps=1, train_batch_size=4),
        optimizer=OptimizerConfig(),
        engine=EngineConfig(device="cpu"),
    )
    model = run_pretrain(config)
    before = snapshot(Path(config.output))
    assert run_pretrain(config) == model
    assert snapshot(Path(config.output)) == before
    shutil.rmtree(tmp_path / "data")
    shutil.copytree(digits / "data", tmp_path / "data")
    with pytest.raises(ConfigError, match="begun with other samples of data"):
        run_pretrain(config)

    # one of before there were inputs.json counts as finished, with a word
    (tmp_path / "run" / "inputs.json").unlink()
    capsys.readouterr()
    assert run_pretrain(config) == model
    assert "did not note its inputs" in capsys.readouterr().err
    assert not (tmp_path / "run" / "inputs.json").exists()


def test_damaged_inputs_are_named(own: ScrubConfig) -> None:
    run_scrub(own)
    (Path(own.output) / "inputs.json").write_text('{"base_weights_sha256": 3}')
    with pytest.raises(ConfigError, match=r"run/inputs\.json is damaged: put it back, or choose another output"):
        run_scrub(own)
