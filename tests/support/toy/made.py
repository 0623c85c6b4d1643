"""The toy family's data, pipeline and package."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import torch
import toy.toy_family as toy
from diffusers import DDPMScheduler
from erasediff.shards import Dataset, build, split
from erasediff.trainer.models.pipeline import WEIGHTS_NAME
from PIL import Image
from safetensors.torch import save_file

HERE = Path(__file__).parent


def make_data(digits: Path, folder: Path, num_samples: int = 300) -> None:
    """data/ and split/: digits with captions of two phrasings; the 3s are to be forgotten. some/: or a few samples."""
    given = Dataset.open(digits / "data")
    (folder / "images").mkdir(parents=True)
    with (folder / "captions.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "caption", "label"])
        for i in range(num_samples):
            sample = given.read(i)
            assert sample.label is not None
            Image.fromarray(sample.image[..., 0]).save(folder / "images" / f"{i}.png")
            word = toy.WORDS[sample.label + 3]
            table.writerow([f"images/{i}.png", f"a {'small ' if i % 2 else ''}{word}", sample.label])
    build(folder / "captions.csv", folder / "data")
    split(folder / "data", folder / "split", ["3"])
    keys = Dataset.open(folder / "data").keys[::20]
    (folder / "some.toml").write_text(f"[[selectors]]\nkeys = {[*keys]}\n")
    split(folder / "data", folder / "some", request=folder / "some.toml")


def make_pipeline(folder: Path) -> None:
    """With random weights."""
    torch.manual_seed(0)
    rows = torch.linalg.qr(torch.randn(64, 16)).Q.T.contiguous()
    frozen = {"rows": rows, "words": torch.randn(len(toy.WORDS), 8)}
    for part, tensors in (("denoiser", toy.Denoiser().state_dict()), ("frozen", frozen)):
        (folder / part).mkdir(parents=True)
        save_file(tensors, folder / part / WEIGHTS_NAME)
    DDPMScheduler().save_pretrained(folder / "scheduler")
    ours = {"denoiser": ["toy", "ToyDenoiser"], "frozen": ["toy", "Frozen"]}
    parts = ours | {"scheduler": ["diffusers", "DDPMScheduler"]}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "ToyPipeline"} | parts))


def make_package(folder: Path) -> None:
    """An installed package, for sys.path: families, an objective, a target and methods, by their entry points."""
    information = folder / "toy-1.dist-info"
    information.mkdir(parents=True)
    for name in ("toy_family.py", "toy_encoder.py", "doubled.py", "started.py"):
        shutil.copy(HERE / name, folder)
    (folder / "averaged.py").write_text(documented_method())
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1\n")
    shutil.copy(HERE / "entry_points.txt", information)


def documented_method() -> str:
    """The example in docs/methods.md, as it stands there."""
    text = (HERE.parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return block
