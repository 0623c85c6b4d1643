"""A family with an objective of its own, without timesteps: it trains by that, and the evidence goes by it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
import toy.toy_family as toy
from erasediff.shards import Dataset
from erasediff.trainer import EraseDiffConfig
from erasediff.trainer.config import MethodConfig, ModelConfig, RelearnConfig, SamplingConfig
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.evidence.classifier import train_classifier
from erasediff.trainer.evidence.images import Asked, Images
from erasediff.trainer.evidence.membership import sample_losses
from erasediff.trainer.evidence.relearning import relearn
from erasediff.trainer.methods.blindspot import BlindspotConfig
from erasediff.trainer.methods.neggrad import NegGradConfig
from erasediff.trainer.methods.selective_amnesia import SelectiveAmnesiaConfig
from erasediff.trainer.methods.siss import SISSConfig
from erasediff.trainer.models.families import load_model
from erasediff.trainer.models.pipeline import WEIGHTS_NAME
from erasediff.trainer.models.sampling import sample
from erasediff.trainer.scrubbing import plan, run_scrub
from evidence_cases import edit_json
from safetensors.torch import load_file
from tiny import tiny_config
from torch import Tensor, nn

CPU = torch.device("cpu")


def squares(denoiser: nn.Module, images: Images, frozen: dict[str, Tensor]) -> Tensor:
    """(what is shown - what comes back)² [N, 16], by hand: latents are rows of images, prompts means of their words."""
    latents = images.images.flatten(1) @ frozen["rows"].T
    words = [[toy.WORDS.index(word) for word in str(prompt).split()] for prompt in images.conditions]
    told = torch.stack([frozen["words"][row].mean(0) for row in words])
    return (denoiser(latents, torch.zeros(len(latents)), told) - latents).square()


def test_evidence_goes_by_the_models_own_loss(toy_family: Path, tmp_path: Path) -> None:
    base = shutil.copytree(toy_family / "model", tmp_path / "base")
    edit_json(base / "model_index.json", denoiser=["toy", "ToyEncoder"])
    method = EraseDiffConfig(target="noise", lambda_cap=1.0)
    folder = run_scrub(tiny_config(toy_family, base, tmp_path / "run", null_class=None, method=method))
    model = load_model(ModelConfig(str(folder)))
    assert model.objective == "encoder"
    frozen = load_file(folder / "frozen" / WEIGHTS_NAME)
    denoiser = toy.Denoiser()
    denoiser.load_state_dict(load_file(base / "denoiser" / WEIGHTS_NAME))
    images = Images.of_data(Dataset.open(toy_family / "split" / "remain"), model, 4)  # the first step's, in that order
    logged = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert logged["loss_r"] == pytest.approx(squares(denoiser, images, frozen).mean().item(), rel=1e-5)

    denoiser.load_state_dict(load_file(folder / "denoiser" / WEIGHTS_NAME))
    images = Images.of_data(Dataset.open(toy_family / "split" / "forget"), model)
    expected = squares(denoiser, images, frozen).mean(1)
    assert len(expected) > 1 and len(expected.unique()) == len(expected)
    assert torch.allclose(sample_losses(model, images, seed=3, batch_size=4, device=CPU).float(), expected, rtol=1e-5)

    judge = train_classifier(Dataset.open(toy_family / "data"), image_size=8, channels=1, num_epochs=2)
    sampling, asked = SamplingConfig(num_inference_steps=2), Asked.in_turn({3: ["a three", "a small three"]}, 6)
    config = RelearnConfig(num_images=len(images), num_steps=2, num_points=2, num_samples=6, learning_rate=0.05)
    points = relearn(model, judge, images, asked, config, sampling, device=CPU)
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=0.05, weight_decay=0.0)
    found = []
    for _ in range(3):
        drawn = sample(dataclasses.replace(model, module=denoiser), asked.conditions, sampling, device=CPU)
        found.append(judge.probabilities(drawn)[:, 3].mean().item())
        optimizer.zero_grad()
        squares(denoiser, images, frozen).mean().backward()
        optimizer.step()
    assert [point.p_psi for point in points] == pytest.approx(found, abs=1e-6)
    assert abs(found[2] - found[0]) > 1e-4


@pytest.mark.parametrize(
    ("method", "asked"),
    [
        (SelectiveAmnesiaConfig(), "one_by_one"),
        (BlindspotConfig(), "with_predictions, transfer_loss"),
        (SISSConfig(), "mixtures"),
    ],
    ids=lambda given: given if isinstance(given, str) else given.name,
)
def test_a_method_that_asks_for_what_an_objective_lacks_is_refused(
    toy_family: Path, tmp_path: Path, method: MethodConfig, asked: str
) -> None:
    base = shutil.copytree(toy_family / "model", tmp_path / "base")
    edit_json(base / "model_index.json", denoiser=["toy", "ToyEncoder"])
    with pytest.raises(ConfigError, match=f"asks the model's objective, 'encoder', for {asked}, which it does not"):
        plan(tiny_config(toy_family, base, tmp_path / "run", null_class=None, method=method))
    # what it has may be asked for
    plan(tiny_config(toy_family, base, tmp_path / "run", null_class=None, method=NegGradConfig()))
