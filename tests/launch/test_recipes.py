"""The shipped recipes: each is read, checked and described on a tiny model of its kind; requests mean what they say."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest
from erasediff.launch.cli import main
from erasediff.launch.slurm.sweep import Sweep
from erasediff.shards import Dataset, build
from erasediff.shards.requests.request import read_request
from erasediff.shards.requests.select import select
from PIL import Image
from tiny import make_pipeline as make_pixel_pipeline
from tiny_text import make_pipeline as make_text_pipeline

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "docs" / "recipes"
CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
IMAGENETTE = [
    *("tench", "English springer", "cassette player", "chain saw", "church"),
    *("French horn", "garbage truck", "gas pump", "golf ball", "parachute"),
]


# pictures of each class: as few as a Fréchet distance by the judge's features can be of
NUM_PICTURES = {"cifar10": 57, "imagenette": 15}


def make_classes(folder: Path, names: list[str], size: int) -> Path:
    """Pictures of noise of each."""
    generator = np.random.default_rng(0)
    for name in names:
        (folder / "pictures" / name).mkdir(parents=True)
        for i in range(NUM_PICTURES[folder.name]):
            pixels = generator.integers(0, 256, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "pictures" / name / f"{i}.png")
    build(folder / "pictures", folder / "data")
    return folder / "data"


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Options that give each family of recipes a model, and data."""
    folder = tmp_path_factory.mktemp("recipes")
    cifar = make_classes(folder / "cifar10", CIFAR10, 32)
    imagenette = make_classes(folder / "imagenette", IMAGENETTE, 16)
    pixels = make_pixel_pipeline(folder / "pixels", num_classes=10, channels=3, size=32)
    text = make_text_pipeline(folder / "text", max_tokens=77)
    return {
        "cifar10": ["--model", str(pixels), "--data", str(cifar)],
        "imagenette": ["--model", str(text), "--data", str(imagenette)],
        "nudity": ["--model", str(text)],
    }


@pytest.mark.parametrize("recipe", sorted(path.stem for path in RECIPES.glob("*.toml") if "sweep" not in path.stem))
def test_a_recipe_can_be_run(
    recipe: str,
    parts: dict[str, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(ROOT)
    family = recipe.partition("-")[0]
    words = ["erase", f"docs/recipes/{recipe}.toml", *parts[family], "--output", str(tmp_path / "out"), "--dry-run"]
    assert main(words) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    if family == "nudity":
        assert "forget      400 pictures to be drawn, by 4 prompts: nudity, naked, erotic, sexual" in said
        anchor = "a photo of pokemon" if "pokemon" in recipe else "a person wearing clothes"
        stays = ", ".join(dict.fromkeys(["a person wearing clothes", anchor]))
        assert f"remain      400 pictures to be drawn, by {1 + ('pokemon' in recipe)} prompts: {stays}\n" in said
        assert tomllib.loads(said.partition("\n\nforget")[0])["method"]["anchor"] == [anchor]
    else:
        n = NUM_PICTURES[family]
        assert f"forget      {n} of {10 * n} samples" in said and f"remain      {9 * n} of {10 * n} samples" in said
    given = tomllib.loads((RECIPES / f"{recipe}.toml").read_text())
    resolved = tomllib.loads(said.partition("\n\nforget")[0])
    assert ("architecture" in given.get("judge", {})) == (family == "cifar10")
    for section in ("method", "train", "optimizer"):
        assert resolved[section] | given[section] == resolved[section]
    assert resolved["judge"]["blur"] == ("forgotten" if family == "nudity" else "flagged")
    assert resolved["judge"]["architecture"] == given.get("judge", {}).get("architecture", "cnn")
    # a form beside each whose inner loop counts
    inner = given["method"].get("barrier") == "value" or given["method"].get("gradient_of_g") == "first_order"
    assert inner == recipe.endswith(("-value", "-first-order"))
    assert ("inner loop  skipped" in said) == (not inner)
    beside = [path for path in RECIPES.glob(f"{recipe}-*.toml") if path.stem != "imagenette-sweep"]
    assert len(beside) == (0 if inner else 1)
    assert all(tomllib.loads(path.read_text())["request"] == given["request"] for path in beside)


def test_a_base_model_can_be_made(
    parts: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    words = ["pretrain", "docs/recipes/pretrain/cifar10.toml", *parts["cifar10"][2:], "--output", str(tmp_path / "out")]
    assert main([*words, "--dry-run"]) == 0, capsys.readouterr().err
    # google/ddpm-cifar10-32's, and 512 for each of ten classes and none
    assert f"UNet2DModel, {35_746_307 + 11 * 512:,} parameters" in capsys.readouterr().out


def test_every_class_of_imagenette_has_its_run(
    parts: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (RECIPES / "imagenette-sweep.toml").read_text()
    model, data = parts["imagenette"][1], parts["imagenette"][3]
    shared = (RECIPES / "imagenette.toml").read_text()
    shared = shared.replace("[model]", f'data = "{data}"\n[model]\npath = "{model}"')
    (tmp_path / "imagenette.toml").write_text(shared)
    (tmp_path / "sweep.toml").write_text(text.replace('output = "imagenette"', f'output = "{tmp_path / "out"}"'))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    jobs = Sweep.read(["sweep.toml"], "launch sweep").jobs
    dataset = Dataset.open(data)
    erased = []
    for job in jobs.values():
        chosen = select(dataset, read_request(Path(job.config.request)))
        assert chosen.sum() == NUM_PICTURES["imagenette"]
        erased.append(dataset.classes[dataset.labels[chosen][0]])
    assert sorted(erased) == sorted(IMAGENETTE)
