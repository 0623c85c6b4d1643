"""Images of another shape than the model's: what is said, what is refused, and what then goes into the model."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from erasediff.shards.dataset import Dataset
from erasediff.shards.requests.split import split
from erasediff.shards.writing.build import build
from erasediff.trainer.config import ModelConfig, TrainConfig
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.evidence.collect import run_evaluate
from erasediff.trainer.models.families import load_model
from erasediff.trainer.models.families.unet2d import UNet2D
from erasediff.trainer.models.fitting import fit
from erasediff.trainer.scrubbing import dry_run, plan, run_scrub
from evidence_cases import tiny_evaluation
from PIL import Image
from tiny import make_pipeline, tiny_config

Shape = tuple[int, ...]


def make_data(folder: Path, *shapes: Shape) -> Path:
    """Twelve pictures of two classes, of these shapes in turn ([H, W] or [H, W, 3]); data/ and split/ in the folder."""
    random = np.random.default_rng(0)
    for i in range(12):
        pixels = random.integers(0, 256, shapes[i % len(shapes)], dtype=np.uint8)
        image = folder / "pictures" / ("cat", "dog")[i // 6] / f"{i}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(image)
    build(folder / "pictures", folder / "data")
    split(folder / "data", folder / "split", ["cat"])
    return folder


@pytest.mark.parametrize(
    ("shape", "channels", "done"),
    [
        ((32, 32), 1, "resized 32 → 8"),
        ((32, 32, 3), 3, "resized 32 → 8"),
        ((8, 8), 1, None),
    ],
)
def test_larger_squares_are_made_smaller_aloud(tmp_path: Path, shape: Shape, channels: int, done: str | None) -> None:
    data = make_data(tmp_path, shape)
    model = make_pipeline(tmp_path / "model", num_classes=2, channels=channels)
    config = tiny_config(data, model, tmp_path / "run", null_class=None)
    lines = [line for line in dry_run(config).splitlines() if line.startswith("images ")]
    assert lines == [f"images      {done}, in {tmp_path}/split/{name}" for name in ("forget", "remain") if done]


@pytest.mark.parametrize(
    ("shapes", "channels", "found", "done"),
    [
        (
            [(32, 32, 3)],
            1,
            "images of 32 × 32 pixels in colour, the model makes 8 × 8 in grey",
            "resized 32 → 8, made grey",
        ),
        ([(8, 8)], 3, "images of 8 × 8 pixels in grey, the model makes 8 × 8 in colour", "made colour"),
        ([(4, 4)], 1, "images of 4 × 4 pixels in grey", "enlarged 4 → 8"),
        ([(8, 12)], 1, "images of 12 × 8 pixels in grey", "cut to the middle square"),
        ([(12, 20)], 1, "images of 20 × 12 pixels", "cut to the middle square, resized 12 → 8"),
        ([(12, 12), (10, 10)], 1, "images of several shapes", "cut to the middle square, resized to 8 and made grey"),
    ],
)
def test_what_changes_more_than_the_size_is_asked_for(
    tmp_path: Path, shapes: list[Shape], channels: int, found: str, done: str
) -> None:
    data = make_data(tmp_path, *shapes)
    base = make_pipeline(tmp_path / "model", num_classes=2, channels=channels)
    config = tiny_config(data, base, tmp_path / "run", null_class=None, train=TrainConfig(1, 4))
    with pytest.raises(ConfigError) as error:
        run_scrub(config)
    assert found in str(error.value) and f"set model.convert_images to have them {done}" in str(error.value)
    assert not (tmp_path / "run").exists() and "\n" not in str(error.value)
    asked = dataclasses.replace(config, model=ModelConfig(str(base), convert_images=True))
    assert f"images      {done}, in {tmp_path}/split/remain" in plan(asked).describe()


def test_an_evaluation_takes_other_shapes_as_the_scrub_did(
    base_model: Path, digits: Path, classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The judge's data, the held-out and the real images too; the record says so."""
    original = Dataset.open(digits / "data")
    for i in range(0, len(original), 4):
        image = tmp_path / "pictures" / original.classes[original.labels[i]] / f"{i}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(original.read(i).image[..., 0]).resize((16, 16)).save(image)
    build(tmp_path / "pictures", tmp_path / "data")
    split(tmp_path / "data", tmp_path / "split", ["3"])
    run = run_scrub(tiny_config(tmp_path, base_model, tmp_path / "run")).parent
    capsys.readouterr()
    record = run_evaluate(tiny_evaluation(run, tmp_path, classifier)).record
    notes = [f"images      resized 16 → 8, in {tmp_path}/{name}" for name in ("split/forget", "split/remain", "data")]
    assert [note for note in record.notes if note.startswith("images")] == notes
    assert set(notes) <= set(capsys.readouterr().out.splitlines())
    for other, message in (((32, 32, 3), "in colour, the model makes 8 × 8 in grey"),):
        foreign = make_data(tmp_path / "foreign", other)
        with pytest.raises(ConfigError, match=message):
            run_evaluate(tiny_evaluation(run, foreign, classifier))
        with pytest.raises(ConfigError, match=message):
            run_evaluate(tiny_evaluation(run, tmp_path, classifier, held_out=str(foreign / "data")))


class Painted(UNet2D):
    """Of a family whose channels are other things."""

    @property
    def takes(self) -> dict[int, str]:
        return {3: "paint", 4: "paint and varnish"}


def test_the_model_says_which_images_it_takes(tmp_path: Path) -> None:
    given = load_model(ModelConfig(str(make_pipeline(tmp_path / "model", num_classes=2))))
    fields = {field.name: getattr(given, field.name) for field in dataclasses.fields(given)}
    model = dataclasses.replace(Painted(**fields), channels=4)
    paint = Dataset.open(make_data(tmp_path / "paint", (8, 8, 3)) / "data")
    with pytest.raises(ConfigError, match="8 × 8 pixels in paint, the model makes 8 × 8 in paint and varnish"):
        fit(paint, model)
    ink = Dataset.open(make_data(tmp_path / "ink", (8, 8)) / "data")
    refused = r"'.*' holds images of 1 channels, the model takes 3 \(paint\) or 4 \(paint and varnish\)"
    with pytest.raises(ConfigError, match=refused):
        fit(ink, dataclasses.replace(model, converts_images=True))


def test_arrays_are_no_images(tmp_path: Path) -> None:
    np.save(tmp_path / "0.npy", np.zeros((1, 8, 8), np.float32))
    (tmp_path / "t.jsonl").write_text('{"path": "0.npy", "label": "cat"}\n')
    model = load_model(ModelConfig(str(make_pipeline(tmp_path / "model", num_classes=1))))
    with pytest.raises(ConfigError, match=r"holds \.npy arrays; the model works on images"):
        fit(build(tmp_path / "t.jsonl", tmp_path / "data"), model)
