"""A family of models and a method of another package, scrubbed, sampled, judged and continued through the seams."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy.toy_family as toy
from diffusers import DDIMScheduler
from erasediff.shards import Dataset
from erasediff.trainer.config import ModelConfig, SamplingConfig
from erasediff.trainer.evidence.classifier import train_classifier
from erasediff.trainer.models.pipeline import WEIGHTS_NAME
from erasediff.trainer.models.sampling import sample
from erasediff.trainer.randomness import sample_generator
from PIL import Image
from ranks import check, run_ranks
from safetensors.torch import load_file
from toy import made

ROOT = Path(__file__).parents[2]
WORKER = Path(__file__).with_name("toy_worker.py")
TOY = ROOT / "tests" / "support" / "toy"


@pytest.fixture(scope="module")
def data(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/, split/ and model/, a classifier, and the package that brings the family and the methods."""
    folder = tmp_path_factory.mktemp("toy")
    made.make_data(digits, folder)
    train_classifier(Dataset.open(folder / "data"), image_size=8, channels=1, num_epochs=2).save(
        folder / "classifier.safetensors"
    )
    made.make_pipeline(folder / "model")
    made.make_package(folder / "package")
    return folder


@pytest.fixture(scope="module")
def results(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Of one and of two ranks."""
    found = {}
    for world_size in (1, 2):
        found[world_size] = tmp_path_factory.mktemp(f"ranks-{world_size}")
        command = [str(WORKER), str(data), str(found[world_size])]
        places = [str(data / "package"), str(ROOT / "tests" / "support"), os.environ.get("PYTHONPATH", "")]
        check(run_ranks(world_size, command, environment={"PYTHONPATH": os.pathsep.join(places)}))
    return found


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "denoiser" / WEIGHTS_NAME)


def test_the_family_is_under_120_lines() -> None:
    assert len((TOY / "toy_family.py").read_text().splitlines()) < 120


@pytest.mark.parametrize("name", ["rl", "frozen", "neighbours", "siss", "rounded"])
def test_two_ranks_scrub_as_one_does(results: dict[int, Path], data: Path, name: str) -> None:
    one, two, base = (
        weights(results[1] / name),
        weights(results[2] / name),
        load_file(data / "model" / "denoiser" / WEIGHTS_NAME),
    )
    moved = sum((one[key] - base[key]).square().sum() for key in base) ** 0.5
    apart = sum((one[key] - two[key]).square().sum() for key in base) ** 0.5
    # Adam's first steps; bf16 rounds what each rank predicts
    assert moved > 0 and apart <= (0.3 if name == "rounded" else 1e-3) * moved
    for part in ("frozen/" + WEIGHTS_NAME, "model_index.json"):
        assert (results[1] / name / "model" / part).read_bytes() == (data / "model" / part).read_bytes()


def test_two_ranks_find_the_neighbours_that_one_finds(results: dict[int, Path]) -> None:
    (one,), (two,) = ([*(results[n] / "neighbours").glob("neighbours-*.npy")] for n in (1, 2))
    assert one.name == two.name and one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("world_size", [1, 2])
def test_it_is_judged_relearned_and_drawn(results: dict[int, Path], world_size: int) -> None:
    told = json.loads((results[world_size] / "told.json").read_text())
    # seven pictures from black to white, looked at by turns: from .25 on, from .75 on
    assert told.pop("parts") == [[[i >= 2, i >= 5] for i in range(7)]] * world_size
    assert told == {
        "trains": True,
        "family": "Toy",
        "stopped": True,
        "raised": ["KeyError", "TrainingError"][:world_size],
    }
    record = json.loads((results[world_size] / "rl" / "record.json").read_text())
    for name in ("unscrubbed", "scrubbed"):
        assert [*record["models"][name]["frozen_sha256"]] == ["frozen", "schedule"]
        figures = record["models"][name]["metrics"]
        assert figures["p_psi"]["n"] == 8 and figures["accuracy_remaining"]["n"] == 9 * 15
        assert [point["step"] for point in record["models"][name]["relearning"]] == [0, 1, 2]
    picture = Image.open(results[world_size] / "grid.png")
    # each row's prompt stands at its left
    left = picture.width - 8 * 8
    assert left > 0 and picture.height == 8 * (10 * 9 - 1)
    drawn = {picture.crop((left, 72 * row, left + 64, 72 * row + 64)).tobytes() for row in range(10)}
    assert len(drawn) == 10, "each prompt has its own picture"
    card = (results[world_size] / "rl" / "model" / "README.md").read_text()
    assert "Told: a prompt." in card


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_methods_state_outlives_a_stop(results: dict[int, Path], world_size: int) -> None:
    whole, killed = weights(results[world_size] / "whole"), weights(results[world_size] / "killed")
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    (manifest, *_) = sorted((results[world_size] / "killed").glob("attempt-*/checkpoint-*/manifest.json"))
    assert "method.average" in json.loads(manifest.read_text())["state"]["vectors"]
    assert len(list((results[world_size] / "killed").glob("attempt-*"))) == 2


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_method_may_read_before_its_first_step(results: dict[int, Path], world_size: int) -> None:
    """The first step's own batch: the average of its gradient with itself is that gradient."""
    logged = {}
    for name in ("whole", "started"):
        lines = (results[world_size] / name / "metrics.jsonl").read_text().splitlines()
        logged[name] = [json.loads(line) for line in lines]
    (first, second, *_), (started,) = logged["whole"], logged["started"]
    assert started["dot_rr"] == pytest.approx(first["dot_rr"], rel=1e-6) and first["dot_rr"] > 0
    assert started["dot_aa"] == pytest.approx(started["dot_rr"], rel=1e-6)
    assert first["dot_aa"] == 0 and second["dot_aa"] == pytest.approx(0.25 * first["dot_rr"], rel=1e-6)


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_step_that_is_left_out_leaves_a_methods_state(results: dict[int, Path], world_size: int) -> None:
    lines = (results[world_size] / "overflowing" / "metrics.jsonl").read_text().splitlines()
    first, *later = [json.loads(line) for line in lines]
    assert [line["skipped"] for line in (first, *later)] == [0, 1, 1]
    assert [line["dot_aa"] for line in later] == [pytest.approx(0.25 * first["dot_rr"], rel=1e-6)] * 2


def test_two_ranks_find_what_one_finds(results: dict[int, Path]) -> None:
    """To the bit, of the same model: its samples are made in batches, which the ranks share."""
    records = [json.loads((results[n] / "rl" / "record.json").read_text()) for n in (1, 2)]
    one, two = (record["models"]["unscrubbed"] for record in records)
    assert one["metrics"]["accuracy_remaining"]["n"] > 2 * records[0]["judge"]["sampling"]["batch_size"]
    assert one["metrics"] == two["metrics"]
    assert one["relearning"] == two["relearning"]


def test_a_sample_is_what_the_family_makes_of_its_prompt(data: Path) -> None:
    """By hand: DDIM on the latents, the denoiser told the mean of the prompt's words, the rows transposed."""
    given = toy.load(ModelConfig(str(data / "model")), data / "model", {"scheduler": ["diffusers", "DDPMScheduler"]})
    found = sample(given, ["a small three", "a nine"], SamplingConfig(guidance_scale=1.0, num_inference_steps=2))
    scheduler: Any = DDIMScheduler.from_pretrained(data / "model" / "scheduler")
    scheduler.set_timesteps(2)
    noise = [sample_generator(0, "sample", i).standard_normal((16, 1, 1), dtype=np.float32) for i in range(2)]
    x = torch.from_numpy(np.stack(noise))
    table = load_file(data / "model" / "frozen" / WEIGHTS_NAME)
    told = torch.stack([table["words"][[1, 2, 6]].mean(0), table["words"][[1, 12]].mean(0)])
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(given.module(x, t, told), int(t), x, return_dict=False)[0]
    expected = (x.flatten(1) @ table["rows"]).view(-1, 1, 8, 8).clamp(-1, 1)
    assert torch.allclose(found, expected, atol=1e-5)
    assert (found[0] - found[1]).abs().max() > 1e-3
