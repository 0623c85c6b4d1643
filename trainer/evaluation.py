"""Has the model forgotten, and does it still know the rest: on generated samples, beside the model it came from."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.table import Table
from torch import Tensor

from ..shards.dataset import Dataset
from . import models
from .checks import labels_of
from .classifier import Classifier, train_classifier
from .config import EvaluateConfig, SamplingConfig, ScrubConfig
from .errors import ConfigError
from .models import DiffusionModel
from .sampling import sample, to_grid
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
    model: DiffusionModel,
    classifier: Classifier,
    forget_labels: list[int],
    remain_labels: list[int],
    config: EvaluateConfig,
) -> Forgetting:
    """Generates `config`'s numbers of samples, spread evenly over the labels, and classifies them."""

    def classify(labels: list[int], count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        wanted = [labels[i % len(labels)] for i in range(count)]
        images = sample(model, wanted, dataclasses.replace(config.sampling, seed=seed))
        is_finite = images.isfinite().flatten(1).all(1)
        return classifier.probabilities(images.nan_to_num()), torch.tensor(wanted), is_finite

    seed = config.sampling.seed
    probabilities, wanted, forget_is_finite = classify(forget_labels, config.num_forget_samples, seed)
    p_forgotten = probabilities.gather(1, wanted[:, None]).squeeze(1)
    entropy = -(probabilities * probabilities.clamp(min=1e-12).log()).sum(1)
    remain_probabilities, wanted, remain_is_finite = classify(remain_labels, config.num_remain_samples, seed + 1)
    correct = (remain_probabilities.argmax(1) == wanted) & remain_is_finite
    return Forgetting(
        p_psi=p_forgotten.where(forget_is_finite, 1.0).mean().item(),
        entropy=entropy[forget_is_finite].mean().item(),
        num_forget=len(forget_is_finite),
        accuracy_remaining=correct.float().mean().item(),
        num_remain=len(remain_is_finite),
        num_non_finite=int((~forget_is_finite).sum() + (~remain_is_finite).sum()),
    )


@dataclass(frozen=True)
class Evaluation:
    """The models side by side, and the classifier that judged them."""

    forgotten: list[str]
    """Names of the forgotten classes."""
    models: dict[str, Forgetting]
    """unscrubbed and scrubbed."""
    classifier_accuracy: float
    """On held-out real images."""
    num_classifier_images: int
    """Held-out real images."""

    def table(self) -> Table:
        """For a terminal."""
        table = Table(title=f"forgotten: {', '.join(self.forgotten)}", title_justify="left")
        for column in ("", "P_psi ↓", "entropy", "accuracy on the rest ↑", "n forgotten", "n rest"):
            table.add_column(column, justify="left" if not column else "right")
        for name, row in self.models.items():
            table.add_row(
                name,
                f"{row.p_psi:.3f}",
                f"{row.entropy:.2f}",
                f"{row.accuracy_remaining:.3f}",
                str(row.num_forget),
                str(row.num_remain),
            )
        return table


def run_evaluate(config: EvaluateConfig) -> Evaluation:
    """Evaluates a finished scrub beside its base model; also written to the run's evaluation.json."""
    run = Path(config.run)
    if not (run / "config.toml").exists():
        raise ConfigError(f"run = '{run}' is no run folder: it holds no config.toml")
    scrubbed = decode(ScrubConfig, read_toml(run / "config.toml"), str(run / "config.toml"))
    if not (run / "model").exists():
        raise ConfigError(f"run = '{run}' holds no model/: the scrub has not finished; run it again to continue")
    for name in ("num_forget_samples", "num_remain_samples"):
        if getattr(config, name) < 1:
            raise ConfigError(f"{name} = {getattr(config, name)}: at least 1")
    data, forget, remain = (Dataset.open(path) for path in (config.data, scrubbed.forget, scrubbed.remain))
    forget_labels = labels_of(forget)
    remain_labels = [label for label in labels_of(remain) if label not in forget_labels]
    if data.classes != remain.classes:
        raise ConfigError(f"data = '{config.data}' has other classes than the run's remain set, '{scrubbed.remain}'")
    missing = sorted({*forget_labels, *remain_labels} - set(labels_of(data)))
    if missing:
        raise ConfigError(
            f"data = '{config.data}' has no sample of class {data.classes[missing[0]]}: the classifier must know all"
        )
    unscrubbed = models.load(scrubbed.model)
    if not unscrubbed.num_classes:
        raise ConfigError("this evaluation asks for samples by class, and the model is unconditional")
    after = models.load(dataclasses.replace(scrubbed.model, path=str(run / "model"), revision=None))
    classifier = train_classifier(data, image_size=unscrubbed.image_size, channels=unscrubbed.channels)
    evaluation = Evaluation(
        forgotten=[data.classes[label] for label in forget_labels],
        models={
            name: evaluate_model(model, classifier, forget_labels, remain_labels, config)
            for name, model in (("unscrubbed", unscrubbed), ("scrubbed", after))
        },
        classifier_accuracy=classifier.held_out_accuracy,
        num_classifier_images=classifier.num_held_out,
    )
    temporary = run / "evaluation.json.partial"
    temporary.write_text(json.dumps(dataclasses.asdict(evaluation), indent=2) + "\n")
    temporary.rename(run / "evaluation.json")
    return evaluation


def before_after(config: ScrubConfig, output: Path, num_images: int = 8) -> Path:
    """A picture of both models' samples from the same noise, before on the left, a row for each class."""
    before = models.load(config.model)
    after = models.load(dataclasses.replace(config.model, path=str(Path(config.output) / "model"), revision=None))
    labels = [label for label in range(before.num_classes) if label != before.null_class]
    wanted = [label for label in labels for _ in range(num_images)]
    left, right = (
        sample(model, wanted, SamplingConfig()).unflatten(0, (len(labels), num_images)) for model in (before, after)
    )
    gap = torch.ones_like(left[:, :1])
    pairs = torch.cat([left, gap, right], dim=1).flatten(0, 1)
    to_grid(pairs, 2 * num_images + 1, scale=6).save(output, format="PNG")
    return output
