"""Which class of the model is scrubbed: the one that the data's class is called, wherever it stands in the data."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from erasediff.launch.cli import main
from erasediff.shards.dataset import Dataset
from erasediff.shards.requests.split import split
from erasediff.shards.writing.build import build
from erasediff.trainer.config import (
    EngineConfig,
    ModelConfig,
    OptimizerConfig,
    PretrainConfig,
    ScrubConfig,
    TrainConfig,
    UNetConfig,
)
from erasediff.trainer.config.toml import decode, read_toml
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.evidence.classifier import read_images
from erasediff.trainer.evidence.collect import run_evaluate
from erasediff.trainer.evidence.held_out import open_held_out
from erasediff.trainer.models.class_names import match_classes
from erasediff.trainer.models.families import load_model
from erasediff.trainer.models.fitting import fit
from erasediff.trainer.pretrain import run_pretrain
from erasediff.trainer.scrubbing import plan, run_scrub
from evidence_cases import edit_json, tiny_evaluation
from safetensors.torch import load_file
from tiny import make_pipeline, tiny_config

NAMES = [str(digit) for digit in range(10)]


def weights(pipeline: Path) -> dict[str, torch.Tensor]:
    return load_file(pipeline / "unet" / "diffusion_pytorch_model.safetensors")


@pytest.fixture(scope="module")
def named_model(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained here for two steps: its folder names the ten digits in order, and the null class."""
    config = PretrainConfig(
        data=str(digits / "data"),
        output=str(tmp_path_factory.mktemp("named") / "base"),
        unet=UNetConfig(block_out_channels=(8, 8), norm_num_groups=4),
        train=TrainConfig(max_train_steps=2, train_batch_size=4),
        optimizer=OptimizerConfig(learning_rate=2e-3),
        engine=EngineConfig(device="cpu"),
    )
    return run_pretrain(config)


@pytest.fixture(scope="module")
def reversed_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits whose label 0 is the 9, label 1 the 8 …; split/forget holds the 3s."""
    folder = tmp_path_factory.mktemp("reversed")
    build("digits", folder / "data", classes=NAMES[::-1])
    split(folder / "data", folder / "split", ["3"])
    return folder


def test_data_that_count_their_classes_otherwise_change_nothing(
    digits: Path, reversed_digits: Path, named_model: Path, classifier: Path, tmp_path: Path
) -> None:
    """From the split to the retrained model: to the bit what data in the model's own order give."""
    data = {"own": digits, "other": reversed_digits}
    labels = [Dataset.open(folder / "split" / "forget").labels[0] for folder in data.values()]
    assert labels == [3, 6]
    records = {}
    for name, folder in data.items():
        run_scrub(tiny_config(folder, named_model, tmp_path / name))
        judged = tiny_evaluation(tmp_path / name, folder, classifier, relearn=True, with_retrained=True)
        records[name] = run_evaluate(judged).record
    judged_by = [
        fit(Dataset.open(folder / "data"), load_model(ModelConfig(str(named_model)))) for folder in data.values()
    ]
    assert (read_images(judged_by[0].data, 8, 1).labels == read_images(judged_by[1].data, 8, 1).labels).all()
    for model in ("model", "retrained/model"):
        own, other = (weights(tmp_path / name / model) for name in data)
        assert all(torch.equal(own[key], other[key]) for key in own), model
    before, after = weights(named_model), weights(tmp_path / "other" / "model")
    rows = (before["class_embedding.weight"] - after["class_embedding.weight"]).abs().sum(1)
    assert rows[3] > 0, "the 3 is the class that was scrubbed"
    own, other = records["own"], records["other"]
    assert own.forgotten_classes == other.forgotten_classes == ["3"]
    assert own.class_map == other.class_map == {name: int(name) for name in NAMES}
    assert list(other.class_map) == NAMES[::-1]
    for name in ("unscrubbed", "scrubbed", "retrained"):
        assert own.models[name].metrics == other.models[name].metrics, name
        assert own.models[name].relearning == other.models[name].relearning, name


def test_held_out_samples_are_found_by_name(digits: Path, reversed_digits: Path, named_model: Path) -> None:
    model = load_model(ModelConfig(str(named_model)))
    remain = fit(Dataset.open(digits / "split" / "remain"), model).data
    held_out = open_held_out(str(reversed_digits / "split" / "forget"), model, [remain], [3])
    assert set(held_out.labels) == {3}


def test_a_part_of_the_models_classes(named_model: Path, digits: Path, tmp_path: Path) -> None:
    """The case that once destroyed the 2: folders 6 to 9, of which the 8 is the third."""
    original = Dataset.open(digits / "data")
    for i in range(len(original)):
        if original.labels[i] >= 6:
            image = tmp_path / "pictures" / original.classes[original.labels[i]] / f"{i}.png"
            image.parent.mkdir(parents=True, exist_ok=True)
            image.write_bytes(original.read_bytes(i))
    build(tmp_path / "pictures", tmp_path / "data")
    split(tmp_path / "data", tmp_path / "split", ["8"])
    config = tiny_config(tmp_path, named_model, tmp_path / "run", null_class=None)
    planned = plan(config)
    assert set(planned.forget.labels) == {8} and set(planned.remain.labels) == {6, 7, 9}
    said = planned.describe()
    assert "174 samples of 8" in said
    assert "\nclasses     8 → 8, 6 → 6, 7 → 7, 9 → 9\n" in said
    # a null class that the model's own folder names need not be named again
    assert planned.model.null_class == 10
    # the same data for a model that names nothing
    unnamed = make_pipeline(tmp_path / "unnamed")
    with pytest.raises(
        ConfigError, match=r"has 4 classes \(6, 7, 8, 9\), the model 11.* without names: .* in model\.classes"
    ):
        plan(tiny_config(tmp_path, unnamed, tmp_path / "run"))
    by_hand = dataclasses.replace(config, model=ModelConfig(str(unnamed), null_class=10, classes=tuple(NAMES)))
    assert set(plan(by_hand).forget.labels) == {8}
    # a null class in the middle takes no name
    middle = dataclasses.replace(config, model=ModelConfig(str(unnamed), null_class=7, classes=tuple(NAMES)))
    assert set(plan(middle).forget.labels) == {9} and set(plan(middle).remain.labels) == {6, 8, 10}


def test_positions_are_taken_aloud(
    digits: Path, base_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = plan(tiny_config(digits, base_model, tmp_path / "run")).describe()
    assert "classes     3 → 3, 0 → 0, 1 → 1" in said
    assert "(by position, as they are: the model names none; model.classes would)" in said
    # the scrubbed model has the names that its data gave it
    model = run_scrub(tiny_config(digits, base_model, tmp_path / "run"))
    assert "(by position, as they are" in capsys.readouterr().out
    named = plan(tiny_config(digits, model, tmp_path / "again"))
    assert not any(line.startswith("classes") for line in named.notes()), "names that match are no news"
    assert "\nclasses     3 → 3, 0 → 0" in named.describe()
    assert json.loads((model / "erasediff.json").read_text())["classes"] == [*NAMES, None]
    assert load_model(ModelConfig(str(model))).class_names == (*NAMES, None)


def test_names_of_diffusers_and_by_hand(digits: Path, tmp_path: Path) -> None:
    base = make_pipeline(tmp_path / "base", num_classes=10)
    labels = {str(number): name for number, name in enumerate(NAMES[::-1])}
    edit_json(base / "model_index.json", id2label=labels | {"0": "9, nine"})
    config = tiny_config(digits, base, tmp_path / "run", null_class=None)
    assert set(plan(config).forget.labels) == {6}
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    by_file = ModelConfig(str(base), classes=(str(tmp_path / "names.txt"),))
    assert by_file.classes == tuple(NAMES), "what the run was started with stays in its config"
    planned = plan(dataclasses.replace(config, model=by_file))
    assert set(planned.forget.labels) == {3}
    line = "classes     model.classes counts: class 0 is '0', in model_index.json it is '9, nine', and 9 more"
    assert planned.notes()[0] == line
    same = ModelConfig(str(base), classes=("9", *NAMES[-2::-1]))
    assert not any("model.classes" in line for line in plan(dataclasses.replace(config, model=same)).notes())
    words = ["scrub", "--model.path", str(base), "--forget", config.forget, "--remain", config.remain, "--dry-run"]
    assert main([*words, "--output", str(tmp_path / "run"), "--model.classes", *NAMES[1:], "0"]) == 0
    assert not (tmp_path / "run").exists()


def test_names_that_beat_the_models_own_are_told(
    digits: Path, named_model: Path, classifier: Path, tmp_path: Path
) -> None:
    base = shutil.copytree(named_model, tmp_path / "base")
    config = tiny_config(digits, base, tmp_path / "run", train=TrainConfig(1, 4))
    config = dataclasses.replace(config, model=ModelConfig(str(base), classes=tuple(NAMES)))
    assert not any("model.classes" in line for line in plan(config).notes()), "they say the same"
    edit_json(base / "erasediff.json", classes=[*NAMES[:8], "eight", "nine", None])
    line = "classes     model.classes counts: class 8 is '8', in erasediff.json it is 'eight', and 1 more"
    assert plan(config).notes()[0] == line
    judged = tiny_evaluation(run_scrub(config).parent, digits, classifier)
    assert run_evaluate(judged).record.notes[0] == line


def test_names_that_do_not_fit_are_refused(digits: Path, named_model: Path, tmp_path: Path) -> None:
    base = shutil.copytree(named_model, tmp_path / "base")

    def message(**model: object) -> str:
        config = tiny_config(digits, base, tmp_path / "run")
        with pytest.raises(ConfigError) as error:
            run_scrub(dataclasses.replace(config, model=ModelConfig(str(base), **model)))  # pyright: ignore
        assert not (tmp_path / "run").exists() and "\n" not in str(error.value)
        return str(error.value)

    assert "has class 3, and the model's are" in message(classes=("three", *NAMES[:3], *NAMES[4:]))
    # the null class is never one of the data, whatever it is called
    named_three = (*NAMES[:3], "three", *NAMES[4:], "3")
    assert "has class 3, and the model's are" in message(classes=named_three, null_class=10)
    assert "model.classes names 3 classes, the model has 11" in message(classes=("a", "b", "c"))
    assert "null_class = 4: the null class of" in message(null_class=4)
    edit_json(base / "erasediff.json", classes=["a", "b"])
    assert "erasediff.json names 2 classes, the model has 11" in message()
    edit_json(base / "erasediff.json", colour="red")
    assert "erasediff.json: colour: Unexpected" in message()
    edit_json(base / "erasediff.json", format="erasediff-model-9")
    assert "format 'erasediff-model-9', this erasediff reads 'erasediff-model-1'" in message()
    unconditional = make_pipeline(tmp_path / "unconditional", num_classes=None)
    with pytest.raises(ConfigError, match="the model is unconditional: leave it out"):
        load_model(ModelConfig(str(unconditional), classes=("a",)))


def test_two_names_of_one_class() -> None:
    def match(*data: str) -> dict[str, int]:
        names = ("crane, bird", "crane, machine", "tench, Tinca tinca")
        return match_classes(data, data, names, num_classes=3, null_class=None, where="data").labels

    assert match("Tinca tinca", "machine") == {"Tinca tinca": 2, "machine": 1}
    with pytest.raises(ConfigError, match="has class crane"):
        match("crane")
    with pytest.raises(ConfigError, match="classes tench and Tinca tinca, which both are the model's"):
        match("tench", "Tinca tinca")


def test_a_name_that_two_classes_have_means_neither() -> None:
    """As ImageNet's cranes, of which diffusers' id2label names two alike."""
    names = ("crane", "tench, Tinca tinca", "crane", "crane, bird")

    def match(name: str) -> dict[str, int]:
        return match_classes([name], [name], names, num_classes=4, null_class=None, where="data").labels

    assert match("tench") == {"tench": 1} and match("bird") == {"bird": 3}
    with pytest.raises(ConfigError, match=r"has class crane, and the model's are .* in model\.classes"):
        match("crane")


def test_a_class_less_than_an_unnamed_model_has_is_no_position() -> None:
    """Folders 1 to 9 for a model of ten digits: each would be taken for the digit before it."""
    nine = [str(digit) for digit in range(1, 10)]
    with pytest.raises(ConfigError, match=r"has 9 classes .* if its class 9 stands for 'no class', set"):
        match_classes(nine, nine, (), num_classes=10, null_class=None, where="data")
    found = match_classes(nine, nine, (), num_classes=10, null_class=9, where="data")
    assert found.labels["1"] == 0 and not found.by_name


def test_a_model_with_classes_that_its_data_lack(digits: Path, tmp_path: Path) -> None:
    config = PretrainConfig(
        data=str(digits / "split" / "remain"),
        output=str(tmp_path / "run"),
        classes=("ten", *NAMES[::-1]),
        unet=UNetConfig(block_out_channels=(8, 8), norm_num_groups=4),
        train=TrainConfig(max_train_steps=1, train_batch_size=4),
        optimizer=OptimizerConfig(),
        engine=EngineConfig(device="cpu"),
    )
    model = load_model(ModelConfig(str(run_pretrain(config))))
    assert (model.num_classes, model.null_class) == (12, 11)
    assert model.class_names == ("ten", *NAMES[::-1], None)
    assert decode(PretrainConfig, read_toml(tmp_path / "run" / "config.toml"), "here") == config
    with pytest.raises(ConfigError, match="classes has no 9, which data = "):
        run_pretrain(dataclasses.replace(config, classes=tuple(NAMES[:9]), output=str(tmp_path / "other")))


def test_the_card_names_the_classes_too(named_model: Path) -> None:
    card = (named_model / "README.md").read_text()
    assert "Classes: 0: 0, 1: 1, 2: 2, 3: 3" in card and "10 stands for no class" in card
    assert "Trained on: digits (1,797 samples, " in card


def test_a_scrub_without_names_in_its_config_reads_back(tmp_path: Path) -> None:
    """A run that an older erasediff began has no model.classes."""
    values = {"model": {"path": "m"}, "forget": "f", "remain": "r", "output": "o"}
    assert decode(ScrubConfig, values, "here").model.classes == ()
