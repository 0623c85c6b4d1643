"""What a model draws for a request of words: whose pictures, which latents, again after a kill, on any ranks."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from concept_cases import REQUEST, SAMPLING, config_of
from erasediff.launch.cli import main
from erasediff.shards import Dataset
from erasediff.shards.checking.verify import verify
from erasediff.trainer.concepts import generate
from erasediff.trainer.concepts.generate import check, run_generate
from erasediff.trainer.concepts.pictures import pictures_of
from erasediff.trainer.concepts.request import ConceptRequest
from erasediff.trainer.config import (
    GenerateConfig,
    ModelConfig,
)
from erasediff.trainer.config.toml import dump_toml
from erasediff.trainer.errors import ConfigError, Interrupted, TrainingError
from erasediff.trainer.randomness import sample_generator
from PIL import Image
from ranks import check as check_ranks
from ranks import run_ranks
from safetensors.torch import load_file, save_file
from tiny_text import make_pipeline

# whose annotations are narrower than what they take
LIBRARY: Any = diffusers


def test_the_pictures_are_the_models(given: Path, drawn: Path) -> None:
    data = Dataset.open(drawn / "data")
    asked = [*["a red three", "an image of a three"] * 2]
    asked += ["a red one", "a red two", "an image of a one", "an image of a two"] * 2 + ["a red one"]
    rows = {data.key(i): i for i in range(len(data))}
    keys = sorted(rows)
    numbers = [("forget", f"{i:06d}") for i in range(4)] + [("remain", f"{i:06d}") for i in range(9)]
    assert [tuple(key.split("-")[::2]) for key in keys] == numbers and data.classes == ("three", "one", "two")
    noise = [sample_generator(5, "concept", i).standard_normal((4, 8, 8), dtype=np.float32) for i in range(13)]
    pipeline = LIBRARY.StableDiffusionPipeline.from_pretrained(given / "model", low_cpu_mem_usage=False)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        asked,
        height=16,
        width=16,
        latents=torch.from_numpy(np.stack(noise)),
        num_inference_steps=3,
        guidance_scale=2.0,
        output_type="np",
    ).images
    for number, (key, prompt) in enumerate(zip(keys, asked, strict=True)):
        sample = data.read(rows[key])
        assert sample.text == prompt and data.classes[sample.label or 0] == prompt.split()[-1]
        # rounded to a level; the last bits of a batch's arithmetic depend on its size
        assert np.abs(sample.image - theirs[number] * 255).max() <= 0.51
        file = drawn / "images" / key.partition("-")[0] / f"{key}.png"
        assert np.array_equal(np.asarray(Image.open(file)), sample.image)
        about = data.metadata(rows[key])
        assert (about["seed"], about["number"], about["guidance_scale"]) == (5, number, 2.0)
        assert prompt == about["phrasing"].replace("{}", prompt.split()[-1]) and about["num_inference_steps"] == 3
        posterior: Any = pipeline.vae.encode(torch.from_numpy(sample.image / 127.5 - 1).permute(2, 0, 1)[None].float())
        expected = torch.cat([posterior.latent_dist.mean, posterior.latent_dist.logvar], dim=1)[0].detach()
        torch.testing.assert_close(torch.from_numpy(data.latents(rows[key]).copy()), expected, rtol=0, atol=1e-5)
    assert verify(drawn / "split") == [] and not (drawn / "latents").exists()
    forget = Dataset.open(drawn / "split" / "forget")
    assert {forget.text(i) for i in range(len(forget))} == set(asked[:4]) and len(forget) == 4
    assert len(Dataset.open(drawn / "split" / "remain")) == 9


def test_a_dry_run_says_what_would_be_drawn(given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "concept.toml").write_text(dump_toml(config_of(given, tmp_path / "out")))
    assert main(["concept", "generate", str(tmp_path / "concept.toml"), "--dry-run"]) == 0
    forget, remain = capsys.readouterr().out.splitlines()[-2:]
    assert forget == "forget      4 pictures to be drawn, by 2 prompts: a red three, an image of a three"
    assert remain.startswith("remain      9 pictures to be drawn, by 4 prompts: a red one, a red two, ")
    assert not (tmp_path / "out").exists()


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("config.toml", "lock")
    }


def test_it_goes_on_where_it_was_ended(
    given: Path, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[str]] = []
    draw_chunk = generate._draw_chunk  # pyright: ignore[reportPrivateUsage]

    def ended(model: Any, chunk: Any, *rest: Any) -> None:
        if len(calls) == 2:
            raise Interrupted("enough")
        calls.append([one.key for one in chunk])
        draw_chunk(model, chunk, *rest)

    monkeypatch.setattr(generate, "_draw_chunk", ended)
    with pytest.raises(Interrupted):
        run_generate(config_of(given, tmp_path / "out"))
    assert not (tmp_path / "out" / "data").exists()
    # of a picture whose writing was cut off
    forget = calls[0][0].removesuffix("-000000")
    (tmp_path / "out" / "images" / "forget" / f"{forget}-000001.png").unlink()
    (tmp_path / "out" / "images" / "forget" / f"{forget}-000001.png.partial").write_bytes(b"half")
    calls.append([])
    run_generate(config_of(given, tmp_path / "out"))
    remain = forget.replace("forget", "remain")
    assert [chunk[0] for chunk in calls[3:]] == [f"{forget}-000000", *(f"{remain}-00000{i}" for i in (2, 5, 8))]
    assert content(tmp_path / "out" / "data") == content(drawn / "data")
    assert content(tmp_path / "out" / "images") == content(drawn / "images")
    # a kill between the dataset and its split, its latents half gone
    shutil.rmtree(tmp_path / "out" / "split")
    (tmp_path / "out" / "latents").mkdir()
    (tmp_path / "out" / "latents" / f"{forget}-000000.npy").write_bytes(b"")
    run_generate(config_of(given, tmp_path / "out"))
    assert not (tmp_path / "out" / "latents").exists() and len(calls) == 7
    again = content(tmp_path / "out")
    run_generate(config_of(given, tmp_path / "out"))
    assert content(tmp_path / "out") == again and len(calls) == 7, "finished: nothing is done again"


def test_two_ranks_draw_what_one_does(given: Path, drawn: Path, tmp_path: Path) -> None:
    words = ["concept", "generate", "--request", str(given / "request.toml"), "--model.path", str(given / "model")]
    words += ["--generate.num-forget-images", "4", "--generate.num-remain-images", "9", "--device", "cpu"]
    words += ["--generate.sampling.num-inference-steps", "3", "--generate.sampling.guidance-scale", "2"]
    words += ["--generate.sampling.seed", "5", "--generate.sampling.batch-size", "3"]
    finished = run_ranks(2, ["-m", "erasediff.launch", *words, "--output", str(tmp_path / "out")])
    check_ranks(finished)
    assert content(tmp_path / "out" / "data") == content(drawn / "data")
    assert f"forget: {tmp_path / 'out' / 'split' / 'forget'}" in finished[0].stdout and not finished[1].stdout
    # the launcher knows the command by its two words
    assert main(["launch", "local", "-n", "1", *words, "--output", str(tmp_path / "out")]) == 0


def test_no_two_requests_pictures_share_a_key() -> None:
    """A model's record knows by them what was forgotten before."""
    one = ConceptRequest("three", ("one", "two"), phrasings=("a red {}", "an image of a {}"))
    requests = [one, dataclasses.replace(one, concept="seven"), dataclasses.replace(one, phrasings=("{}", "a {}"))]
    small = GenerateConfig(num_forget_images=4, num_remain_images=9)
    other_seed = dataclasses.replace(small, sampling=dataclasses.replace(small.sampling, seed=6))
    drawn = [{one.key for one in pictures_of(request, small)} for request in requests]
    drawn.append({one.key for one in pictures_of(requests[0], other_seed)})
    assert [len(keys) for keys in drawn] == [13] * 4 and len(set.union(*drawn)) == 4 * 13
    in_batches = dataclasses.replace(small, sampling=dataclasses.replace(small.sampling, batch_size=2))
    assert {one.key for one in pictures_of(requests[0], in_batches)} == drawn[0]


def test_black_pictures_are_an_error(given: Path, tmp_path: Path) -> None:
    broken = make_pipeline(tmp_path / "model")
    file = broken / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["decoder.conv_out.weight"].zero_()
    weights["decoder.conv_out.bias"].fill_(-9)
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(TrainingError, match=r"13 of 13 pictures are black, '.*forget-\w+-000000.png' for one"):
        run_generate(config_of(given, tmp_path / "out", model=ModelConfig(str(broken))))
    assert not (tmp_path / "out" / "data").exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"classes": ("three", "one")}, "classes has no two, for which"),
        (
            {"generate": GenerateConfig(num_remain_images=3, sampling=SAMPLING)},
            "num_remain_images = 3: .* has 4 prompts",
        ),
        ({"generate": GenerateConfig(sampling=dataclasses.replace(SAMPLING, num_inference_steps=2000))}, "from 1 to"),
    ],
)
def test_what_is_refused(given: Path, tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        check(config_of(given, tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


def test_prompts_and_models_that_do_not_go_together(given: Path, base_model: Path, tmp_path: Path) -> None:
    (tmp_path / "long.toml").write_text(REQUEST.replace("a red {}", "a {}" + " image" * 20))
    with pytest.raises(ConfigError, match=r"long.toml: the prompt = .* tokens, the model takes 14"):
        check(config_of(given, tmp_path / "out", request=str(tmp_path / "long.toml")))
    with pytest.raises(ConfigError, match="is told a class"):
        check(config_of(given, tmp_path / "out", model=ModelConfig(str(base_model), null_class=10)))


def test_what_was_begun_with_others_is_refused(given: Path, drawn: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(config_of(given, drawn), request=str(tmp_path / "request.toml"))
    (tmp_path / "request.toml").write_text(REQUEST.replace("two", "four"))
    with pytest.raises(ConfigError, match="holds another run: request"):
        run_generate(config)
    before = (given / "request.toml").read_text()
    try:
        (given / "request.toml").write_text(before.replace("two", "four"))
        with pytest.raises(ConfigError, match="was begun with other words of request"):
            run_generate(config_of(given, drawn))
    finally:
        (given / "request.toml").write_text(before)


def test_the_classes_are_the_judges(given: Path, tmp_path: Path) -> None:
    """In its order, more than are drawn."""
    generating = GenerateConfig(num_forget_images=2, num_remain_images=4, sampling=SAMPLING)
    config = config_of(given, tmp_path / "out", classes=("one", "two", "three", "four"), generate=generating)
    data = Dataset.open(run_generate(config) / "data")
    assert data.classes == ("one", "two", "three", "four")
    assert {data.text(i).split()[-1]: data.classes[data.labels[i]] for i in range(6)} == {
        word: word for word in ("one", "two", "three")
    }


def test_a_few_black_pictures_are_left_out(
    given: Path, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One on either side: of the same bytes, they would be in D_f and in D_r."""
    output = tmp_path / "out"
    shutil.copytree(drawn, output)
    for name in ("data", "split"):
        shutil.rmtree(output / name)
    shutil.copytree(drawn / "images", output / "images", dirs_exist_ok=True)
    black = [next((output / "images" / side).glob("*-000001.png")) for side in ("forget", "remain")]
    for file in black:
        Image.new("RGB", (16, 16)).save(file)
    data = Dataset.open(drawn / "data")
    (output / "latents").mkdir()
    for i in range(len(data)):
        (output / "latents" / f"{data.key(i)}.npy").write_bytes(data.latents_bytes(i))
    # of thirteen pictures none may be
    monkeypatch.setattr(generate, "MAX_BLACK_SHARE", 2 / 13)
    shutil.copyfile(drawn / "config.toml", output / "config.toml")
    run_generate(config_of(given, output))
    kept = Dataset.open(output / "data")
    assert {data.key(i) for i in range(len(data))} - {kept.key(i) for i in range(len(kept))} == {f.stem for f in black}
    assert f"left out    2 pictures that are black, '{black[0]}' for one" in capsys.readouterr().out
    assert len(Dataset.open(output / "split" / "forget")) == 3 and len(Dataset.open(output / "split" / "remain")) == 8
