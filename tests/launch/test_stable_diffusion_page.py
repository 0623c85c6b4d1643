"""docs/stable-diffusion.md: its commands, run in its order on a tiny pipeline, with its request."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoPipelineForText2Image
from erasediff.launch.cli import main
from erasediff.shards.sources.digits_in_ink import prompts
from erasediff.trainer.concepts.request import read_concept_request
from safetensors.torch import load_file
from tiny_text import make_pipeline

PAGE = Path(__file__).resolve().parents[2] / "docs" / "stable-diffusion.md"
# half an hour on real weights, seconds here
FEW = {
    "generate": ["--generate.num-forget-images", "6", "--generate.num-remain-images", "6"],
    "drawing": ["--generate.sampling.num-inference-steps", "2"],
    "train": ["--train.max-train-steps", "2", "--train.train-batch-size", "4", "--train.max-loss-r-ratio", "none"],
    "judge": [
        *("--judge.num-forget-samples-per-class", "6", "--judge.num-remain-samples-per-class", "4"),
        *("--judge.sampling.num-inference-steps", "2", "--judge.thresholds", "accuracy_remaining >= 0"),
    ],
}
SHORTER = {
    "erase": [*FEW["generate"], *FEW["drawing"], *FEW["train"], *FEW["judge"], "--publish", "within-limits"],
    "concept": [*FEW["generate"], *FEW["drawing"]],
    "scrub": FEW["train"],
    "evaluate": FEW["judge"],
    "sample": ["--sampling.num-inference-steps", "2", "--num-images", "2"],
}
# what has a test of its own
ELSEWHERE = ("demo",)


def commands() -> list[list[str]]:
    text = PAGE.read_text().replace("\\\n", " ")
    found = [shlex.split(line.strip()) for line in re.findall(r"^    (erasediff .*)$", text, re.MULTILINE)]
    return [words[1:] for words in found if words[1] not in ELSEWHERE]


def test_its_request_can_be_made_of_the_demos_model(tmp_path: Path) -> None:
    """Whose tokenizer knows the words of its own prompts and no others."""
    (request,) = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "words.toml").write_text(request)
    asked = read_concept_request(tmp_path / "words.toml")
    known = set(" ".join(prompt.text for prompt in prompts()).split())
    phrasings = [*asked.phrasings, *asked.held_out_phrasings]
    assert len(phrasings) == 3 and {*asked.words, *asked.remaining, *asked.anchors} <= known
    assert set(" ".join(phrasings).replace("{}", "").split()) <= known


def test_every_command_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_pipeline(tmp_path / "base" / "model", max_tokens=32)
    (request,) = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "words.toml").write_text(request)
    monkeypatch.chdir(tmp_path)
    done = []
    for words in commands():
        status = main([*words, *SHORTER.get(words[0], [])])
        # random weights forget nothing: an evaluation that says so has done its work
        assert status == 0 or (words[0] == "evaluate" and status == 3), words
        done.append(words[0])
    assert done == ["erase", "erase", "concept", "shards", "scrub", "evaluate", "sample", "delta"]
    for path in ("erased/record.json", "erased/report.html", "drawn/sheet.png", "run/record.json", "after.png"):
        assert (tmp_path / path).exists(), path
    AutoPipelineForText2Image.from_pretrained("erased/model", low_cpu_mem_usage=False)
    (lines,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(lines, names)
    scrubbed = load_file("run/model/unet/diffusion_pytorch_model.safetensors")
    loaded = names["pipeline"].unet.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in scrubbed.items())
    assert all(".attn2." in name for name in load_file("delta.safetensors"))
