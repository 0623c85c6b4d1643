"""Has the model forgotten, and does it still know the rest: on generated samples, beside the model it came from."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import torch

from ..shards.dataset import Dataset
from . import models
from .checks import labels_of
from .classifier import Classifier, train_classifier
from .config import EvaluateConfig, ModelConfig, ScrubConfig
from .errors import ConfigError
from .sampling import sample
from .settings import decode, read_toml


@dataclass(frozen=True)
class Forgetting:
    """What a classifier sees in a model's samples."""

    p_psi: float
    """Mean probability of the forgotten class on samples asked to be of it, P_psi(y = c_f | x_f)."""
    entropy: float
    """Mean entropy in nats of the classifier on the same samples."""
    num_forget: int
    """Samples of forgotten classes."""
    accuracy_remaining: float
    """Share of samples of the remaining classes that the classifier puts into the class asked for."""
    num_remain: int
    """Samples of remaining classes."""
    num_non_finite: int
    """Samples with a NaN or Inf; they count as wrong and as not forgotten."""


def evaluate_model(
    folder: Path, classifier: Classifier, forget_labels: list[int], remain_labels: list[int], config: EvaluateConfig
) -> Forgetting:
    """Generates `config`'s numbers of samples, spread evenly over the labels, and classifies them."""

    def classify(labels: list[int], count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        wanted = [labels[i % len(labels)] for i in range(count)]
        images = sample(
            folder,
            wanted,
            seed=seed,
            null_class=config.null_class,
            guidance_scale=config.guidance_scale,
            num_inference_steps=config.num_inference_steps,
        )
        finite = images.isfinite().flatten(1).all(1)
        return classifier.probabilities(images.nan_to_num()), torch.tensor(wanted), finite

    probabilities, wanted, finite_f = classify(forget_labels, config.num_forget_samples, config.seed)
    of_forgotten = probabilities.gather(1, wanted[:, None]).squeeze(1)
    p_psi = torch.where(finite_f, of_forgotten, 1.0).mean().item()
    entropy = -(probabilities * probabilities.clamp(min=1e-12).log()).sum(1)[finite_f].mean().item()
    probabilities, wanted, finite_r = classify(remain_labels, config.num_remain_samples, config.seed + 1)
    correct = (probabilities.argmax(1) == wanted) & finite_r
    return Forgetting(
        p_psi=p_psi,
        entropy=entropy,
        num_forget=len(finite_f),
        accuracy_remaining=correct.float().mean().item(),
        num_remain=len(finite_r),
        num_non_finite=int((~finite_f).sum() + (~finite_r).sum()),
    )
