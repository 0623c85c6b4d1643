"""The relearning curve."""

from __future__ import annotations

from pathlib import Path

import torch
from erasediff.trainer.config import (
    RelearnConfig,
    SamplingConfig,
)
from erasediff.trainer.evidence.classifier import load_classifier
from erasediff.trainer.evidence.evaluation import evaluate
from erasediff.trainer.evidence.finished import FinishedScrub
from erasediff.trainer.evidence.images import Asked, Images
from erasediff.trainer.evidence.making import make_bench
from erasediff.trainer.evidence.relearning import relearn
from erasediff.trainer.models.hashing import weights_sha256
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
