"""What a model's folder says of its past: the data it was trained on, and what it must not be trained on again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from diffusers import DDPMPipeline
from erasediff.launch.cli import main
from erasediff.shards.dataset import Dataset
from erasediff.shards.requests.split import split
from erasediff.shards.writing.build import build
from erasediff.trainer import EraseDiffConfig
from erasediff.trainer.config import ModelConfig, ScrubConfig
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.evidence.held_out import open_held_out
from erasediff.trainer.models.class_names import rows_forgotten_by
from erasediff.trainer.models.families import load_model
from erasediff.trainer.models.fitting import fit
from erasediff.trainer.models.lineage import Forgotten, Lineage, forgotten_rows, write_lineage
from erasediff.trainer.scrubbing import plan, run_scrub, scrub
from evidence_cases import TWELVE, forget_twelve
from tiny import tiny_config


@pytest.fixture(scope="module")
def without_twelve(digits: Path, base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return forget_twelve(digits, base_model, tmp_path_factory.mktemp("twelve"))


def lineage_of(model: Path) -> dict:
    return json.loads((model / "erasediff.json").read_text())


def test_what_was_forgotten_is_kept_as_keys_and_hashes(digits: Path, without_twelve: Path) -> None:
    (one,) = lineage_of(without_twelve)["forgotten"]
    assert [*one] == ["id", "date", "classes", "keys", "content_hashes"]
    assert (one["id"], one["date"], one["classes"]) == ("r-1", "2026-11-20", {})
    assert sorted(one["keys"]) == TWELVE
    data = Dataset.open(digits / "data")
    for key, found in zip(one["keys"], one["content_hashes"], strict=True):
        content = data.read_bytes(data.keys.index(key))
        assert found == hashlib.sha256(content).hexdigest()[:32]
    assert "secret" not in (without_twelve / "erasediff.json").read_text()
    card = (without_twelve / "README.md").read_text()
    assert "Asked to forget: 12 samples (request r-1, 2026-11-20)." in card
    assert "What it was trained on first is not known." in card


class TestARemainSet:
    """Given to `scrub` as it is: it must hold nothing that the model has forgotten."""

    def config(self, folder: Path, model: Path, output: Path) -> ScrubConfig:
        return tiny_config(folder, model, output, null_class=None)

    def test_forgotten_samples_in_it_are_refused(
        self, digits: Path, without_twelve: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(ConfigError) as error:
            run_scrub(self.config(digits, without_twelve, tmp_path / "run"))
        said = str(error.value)
        held = set(Dataset.open(digits / "split" / "remain").keys) & set(TWELVE)
        assert f"holds {len(held)} samples that '{without_twelve}' has forgotten (request r-1): " in said
        assert any(key in said for key in held) and "\n" not in said and not (tmp_path / "run").exists()
        # the way out that it names
        words = ["shards", "split", str(digits / "data"), str(tmp_path / "split"), "--forget-label", "3"]
        for more in (["--dry-run"], []):
            assert main([*words, "--model", str(without_twelve), *more]) == 0
            assert f"left out: {len(held)} samples" in capsys.readouterr().out
        plan(self.config(tmp_path, without_twelve, tmp_path / "run"))

    @pytest.mark.parametrize("same", ["content", "key"])
    def test_a_sample_is_known_by_its_content_and_by_its_key(
        self, digits: Path, without_twelve: Path, tmp_path: Path, same: str
    ) -> None:
        data = Dataset.open(digits / "data")
        rows = [i for i, key in enumerate(data.keys[:60]) if key not in TWELVE]
        if same == "content":
            rows[0] = data.keys.index(TWELVE[0])
        lines = []
        for i, row in enumerate(rows):
            (tmp_path / f"{i}.png").write_bytes(data.read_bytes(row))
            key = TWELVE[0] if i == 0 and same == "key" else f"other-{i}"
            label = data.classes[data.labels[row]]
            lines.append(json.dumps({"path": f"{i}.png", "key": key, "label": label}))
        (tmp_path / "t.jsonl").write_text("\n".join(lines))
        build(tmp_path / "t.jsonl", tmp_path / "data")
        split(tmp_path / "data", tmp_path / "split", ["3"])
        with pytest.raises(ConfigError, match=r"holds 1 samples that .* has forgotten"):
            plan(self.config(tmp_path, without_twelve, tmp_path / "run"))

    def test_new_samples_of_a_class_that_is_gone(self, digits: Path, base_model: Path, tmp_path: Path) -> None:
        gone = run_scrub(tiny_config(digits, base_model, tmp_path / "gone"))
        data = Dataset.open(digits / "data")
        for i in range(60):
            image = tmp_path / "pictures" / data.classes[data.labels[i]] / f"{i}.png"
            image.parent.mkdir(parents=True, exist_ok=True)
            # other bytes, the same class
            image.write_bytes(data.read_bytes(i) + b"\0")
        build(tmp_path / "pictures", tmp_path / "data", classes=[str(9 - i) for i in range(10)])
        split(tmp_path / "data", tmp_path / "split", ["5"])
        with pytest.raises(ConfigError, match=r"holds \d+ samples that .* has forgotten \(an earlier scrub\): 3/"):
            plan(self.config(tmp_path, gone, tmp_path / "run"))
        words = ["shards", "split", str(tmp_path / "data"), str(tmp_path / "other"), "--forget-label", "5"]
        assert main([*words, "--model", str(gone)]) == 0
        remain = Dataset.open(tmp_path / "other" / "remain")
        assert "3" not in {remain.classes[label] for label in remain.labels}

    def test_a_class_that_the_model_calls_by_several_names(self, digits: Path, tmp_path: Path) -> None:
        """What the way out leaves out is what a scrub refuses."""
        names = ["zero, 0", "one", "two", "three, 3", *"456789"]
        forgotten = Forgotten("r-1", None, {"three, 3": 3}, (), ())
        write_lineage(Lineage(classes=tuple(names), forgotten=(forgotten,)), tmp_path)
        data = Dataset.open(digits / "data")
        assert np.array_equal(rows_forgotten_by(tmp_path, data), data.labels == 3)

    def test_a_model_whose_past_is_not_known(self, digits: Path, base_model: Path, tmp_path: Path) -> None:
        words = ["shards", "split", str(digits / "data"), str(tmp_path / "split"), "--forget-label", "3"]
        assert main([*words, "--model", str(base_model)]) == 2
        assert not (tmp_path / "split").exists()


class TestPrompts:
    """Of a model that is told prompts: one of which nothing remains is gone as a class is."""

    @pytest.fixture
    def gone(self, toy_family: Path, tmp_path: Path) -> Path:
        """A model without its threes."""
        method = EraseDiffConfig(target="noise")
        return run_scrub(
            tiny_config(toy_family, toy_family / "model", tmp_path / "gone", null_class=None, method=method)
        )

    def new_data(self, toy_family: Path, folder: Path) -> Dataset:
        """Twenty new pictures, one without a caption, every fourth told "a small three", whatever its label and in
        letters of two kinds."""
        given, lines = Dataset.open(toy_family / "data"), []
        for i in range(20):
            (folder / f"{i}.png").write_bytes(given.read_bytes(i) + b"\0")
            caption = "" if i == 0 else ("a small three", "A  small Three")[i // 4 % 2] if i % 4 == 3 else given.text(i)
            label = given.classes[given.labels[i]]
            lines.append(json.dumps({"path": f"{i}.png", "key": f"new-{i}", "label": label, "caption": caption}))
        (folder / "new.jsonl").write_text("\n".join(lines))
        return build(folder / "new.jsonl", folder / "data", classes=given.classes)

    def test_they_are_kept_as_hashes(self, toy_family: Path, gone: Path, tmp_path: Path) -> None:
        forget = Dataset.open(toy_family / "split" / "forget")
        prompts = sorted({forget.text(i) for i in range(len(forget))})
        (one,) = lineage_of(gone)["forgotten"]
        assert one["prompts"] == [hashlib.sha256(prompt.encode()).hexdigest()[:32] for prompt in prompts]
        assert "three" not in (gone / "erasediff.json").read_text()
        card = (gone / "README.md").read_text()
        assert f"all that were told one of {len(prompts)} prompts" in card

    def test_one_that_others_are_told_too_is_not_gone(self, toy_family: Path, tmp_path: Path) -> None:
        """In other letters, as here: it is the same to the model. Nor is having no caption."""
        data = self.new_data(toy_family, tmp_path)
        told = {data.key(i): data.text(i) for i in range(len(data))}
        assert (told["new-0"], told["new-3"], told["new-7"]) == ("", "a small three", "A  small Three")
        keys = [key for key, text in told.items() if text in ("", "a small three")]
        (tmp_path / "request.toml").write_text(f"[[selectors]]\nkeys = {json.dumps(keys)}\n")
        split(data, tmp_path / "split", request=tmp_path / "request.toml")
        planned = plan(tiny_config(tmp_path, toy_family / "model", tmp_path / "run", null_class=None))
        assert planned.lineage().forgotten[0].prompts == ()

    def test_no_later_remain_set_has_them(
        self, toy_family: Path, gone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        data = self.new_data(toy_family, tmp_path)
        told_three = {data.key(i) for i in range(20) if data.text(i).lower().split() == ["a", "small", "three"]}
        split(data, tmp_path / "split", ["5"])
        config = tiny_config(tmp_path, gone, tmp_path / "run", null_class=None)
        num_held = len(told_three & set(Dataset.open(config.remain).keys))
        assert num_held > 1
        with pytest.raises(
            ConfigError, match=rf"holds {num_held} samples that .* has forgotten \(an earlier scrub\): new"
        ):
            plan(config)
        words = ["shards", "split", str(data.path), str(tmp_path / "other" / "split"), "--forget-label", "5"]
        assert main([*words, "--model", str(gone)]) == 0
        assert f"left out: {num_held} samples" in capsys.readouterr().out
        remain = Dataset.open(tmp_path / "other" / "split" / "remain")
        assert set(remain.keys) == {data.key(int(i)) for i in np.flatnonzero(data.labels != 5)} - told_three
        planned = plan(tiny_config(tmp_path / "other", gone, tmp_path / "run", null_class=None))
        (one,) = planned.model.lineage.forgotten
        assert planned.lineage().forgotten[0] == one
        by_key_too = dataclasses.replace(one, keys=("new-5",))
        rows = forgotten_rows([by_key_too], data, planned.model.conditions.of_dataset)
        assert {data.key(int(i)) for i in np.flatnonzero(rows)} == told_three | {"new-5"}
        with pytest.raises(ConfigError, match="= 'a small three' is a prompt that the model has forgotten"):
            plan(dataclasses.replace(planned.config, method=EraseDiffConfig(anchor="a small three")))

    def test_a_record_of_an_earlier_version_is_known(self) -> None:
        """It kept the hash of a prompt as it was written."""
        prompt = "A photo of a  Van Gogh painting"
        earlier = Forgotten("r-1", None, {}, (), (), (hashlib.sha256(prompt.encode()).hexdigest()[:32],))
        assert earlier.is_gone(prompt) and not earlier.is_gone("a photo of a van gogh painting")

    def test_others_that_are_told_them_may_be_unseen(self, toy_family: Path, gone: Path, tmp_path: Path) -> None:
        data, model = self.new_data(toy_family, tmp_path), load_model(ModelConfig(str(gone)))
        trained_on = [Dataset.open(toy_family / "split" / name) for name in ("forget", "remain")]
        assert open_held_out(str(data.path), model, trained_on, [3]).keys == data.keys


def test_what_was_forgotten_is_not_unseen(digits: Path, without_twelve: Path, tmp_path: Path) -> None:
    """A model before this one was trained on it: membership cannot compare with it."""
    model = load_model(ModelConfig(str(without_twelve)))
    request = tmp_path / "request.toml"
    request.write_text(f"[[selectors]]\nkeys = {json.dumps(TWELVE)}\n")
    split(digits / "data", tmp_path / "split", request=request)
    label = int(Dataset.open(tmp_path / "split" / "forget").labels[0])
    trained_on = fit(Dataset.open(digits / "split" / "forget"), model).data
    trained_on = trained_on.only(~np.isin(trained_on.keys, TWELVE))
    with pytest.raises(ConfigError, match="which the model has forgotten before"):
        open_held_out(str(tmp_path / "split" / "forget"), model, [trained_on], [label])


def test_a_loaded_pipeline_keeps_its_past(digits: Path, without_twelve: Path, tmp_path: Path) -> None:
    pipeline = DDPMPipeline.from_pretrained(without_twelve)
    forget, remain = (digits / "split" / name for name in ("forget", "remain"))
    with pytest.raises(ConfigError, match="has forgotten"):
        scrub(pipeline, forget=forget, remain=remain, output=tmp_path / "run", null_class=10)


def test_a_damaged_past_is_no_empty_one(digits: Path, without_twelve: Path, tmp_path: Path) -> None:
    model = shutil.copytree(without_twelve, tmp_path / "model")
    (model / "erasediff.json").write_text("{")
    with pytest.raises(ConfigError, match=r"erasediff\.json cannot be read"):
        run_scrub(tiny_config(digits, model, tmp_path / "run"))
