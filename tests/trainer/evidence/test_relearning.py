"""The relearning curve."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch
from erasediff.trainer.config import (
    RelearnConfig,
    SamplingConfig,
)
from erasediff.trainer.evidence import relearning
from erasediff.trainer.evidence.classifier import load_classifier
from erasediff.trainer.evidence.evaluation import evaluate
from erasediff.trainer.evidence.finished import FinishedScrub
from erasediff.trainer.evidence.images import Asked, Images
from erasediff.trainer.evidence.making import make_bench
from erasediff.trainer.evidence.relearning import relearn
from erasediff.trainer.models.hashing import weights_sha256
from erasediff.trainer.models.model import Model
from erasediff.trainer.objectives.objective import objective_of
from erasediff.trainer.randomness import sample_generator
from evidence_cases import tiny_evaluation
from torch import nn

CPU = torch.device("cpu")


def test_relearning_leaves_the_model_alone_and_starts_at_its_p_psi(digits: Path, run: Path, classifier: Path) -> None:
    scrubbed = FinishedScrub.open(run)
    judge = load_classifier(classifier)
    images = Images.of_data(scrubbed.forget, scrubbed.unscrubbed, 8)
    before = weights_sha256(scrubbed.scrubbed.module.state_dict())
    config = RelearnConfig(num_images=8, num_steps=30, num_points=3, num_samples=12, learning_rate=1e-3)
    sampling = SamplingConfig(num_inference_steps=2)
    points = relearn(scrubbed.scrubbed, judge, images, Asked.in_turn({3: [3]}, 12), config, sampling, device=CPU)
    assert [point.step for point in points] == [0, 10, 20, 30]
    assert weights_sha256(scrubbed.scrubbed.module.state_dict()) == before
    bench = make_bench(tiny_evaluation(run, digits, classifier), scrubbed, CPU)
    assert points[0].p_psi == evaluate(scrubbed.scrubbed, bench).metrics["p_psi"].value
    assert points[3].p_psi != points[0].p_psi


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_its_steps_are_those_of_the_optimizer_that_was_asked_for(
    run: Path, classifier: Path, monkeypatch: pytest.MonkeyPatch, optimizer: Literal["adamw", "sgd"]
) -> None:
    """Two steps, by hand: of Adam's without its division by ε's share, of momentum's."""
    scrubbed = FinishedScrub.open(run).scrubbed
    images = Images.of_data(FinishedScrub.open(run).forget, FinishedScrub.open(run).unscrubbed, 4)
    seen: list[dict[str, torch.Tensor]] = []

    def weights(model: Model, *_: object, **__: object) -> torch.Tensor:
        seen.append({name: weight.detach().clone() for name, weight in model.module.named_parameters()})
        return torch.zeros(1, 1, 8, 8)

    monkeypatch.setattr(relearning, "sample", weights)
    config = RelearnConfig(4, num_steps=2, num_points=2, num_samples=1, optimizer=optimizer, learning_rate=1e-3)
    wanted = Asked.in_turn({3: [3]}, 1)
    relearn(scrubbed, load_classifier(classifier), images, wanted, config, SamplingConfig(seed=5), device=CPU)

    model, first, second = scrubbed.copied(), {}, {}
    for step, taken in enumerate((first, second)):
        generators = [sample_generator(5, "relearn", step * 4 + i) for i in range(4)]
        objective_of(model).training_loss(model, images.images, images.conditions, generators).backward()
        for name, weight in model.module.named_parameters():
            assert weight.grad is not None
            taken[name], weight.grad = weight.grad, None
            if optimizer == "sgd":
                moved = taken[name] if step == 0 else second[name] + 0.9 * first[name]
            else:
                means = [taken[name]] if step == 0 else [first[name], second[name]]
                mean = means[0] if step == 0 else (0.9 * 0.1 * means[0] + 0.1 * means[1]) / (1 - 0.9**2)
                square = means[0] ** 2
                if step == 1:
                    square = (0.999 * 0.001 * means[0] ** 2 + 0.001 * means[1] ** 2) / (1 - 0.999**2)
                moved = mean / (square.sqrt() + 1e-8)
            weight.data.sub_(1e-3 * moved)
            torch.testing.assert_close(seen[step + 1][name], weight.detach(), rtol=0, atol=1e-6)


def test_a_model_with_dropout_relearns_without(run: Path, classifier: Path) -> None:
    scrubbed = FinishedScrub.open(run)
    images = Images.of_data(scrubbed.forget, scrubbed.unscrubbed, 4)
    config = RelearnConfig(num_images=4, num_steps=3, num_points=1, num_samples=6, learning_rate=1e-2)
    dropping = scrubbed.scrubbed.copied()
    for part in dropping.module.train().modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.5
    plain, other = (
        relearn(
            model,
            load_classifier(classifier),
            images,
            Asked.in_turn({3: [3]}, 6),
            config,
            SamplingConfig(num_inference_steps=2),
            device=CPU,
        )
        for model in (scrubbed.scrubbed, dropping)
    )
    assert plain == other and plain[0].p_psi != plain[1].p_psi
