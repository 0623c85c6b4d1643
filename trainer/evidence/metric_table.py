"""Every metric once: what it is called, what it says, which direction is good. Tables, report and verdict read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Direction = Literal["lower", "higher", "near the retrained model's", "none"]
_ARROWS: dict[Direction, str] = {"lower": " ↓", "higher": " ↑", "near the retrained model's": "", "none": ""}


@dataclass(frozen=True)
class Metric:
    """One row of the table."""

    title: str
    meaning: str
    """Follows the title: what the figure is of."""
    better: Direction
    is_of_forgetting: bool = False
    """Whether it tells a model that forgot from one that did not."""
    worst_of: str | None = None
    """The metric whose classes it takes the worst of."""

    @property
    def heading(self) -> str:
        return self.title + _ARROWS[self.better]


# by name, without the extractor of the features
METRICS = {
    "p_psi": Metric("P_psi", "probability of the forgotten class on samples asked to be of it", "lower", True),
    "p_psi_worst_class": Metric("P_psi, worst class", "the forgotten class with the highest", "lower", True, "p_psi"),
    "entropy": Metric(
        "entropy", "of the classifier on the same samples, in nats", "near the retrained model's", is_of_forgetting=True
    ),
    "accuracy_remaining": Metric("accuracy on the rest", "share of samples of the right class", "higher"),
    "accuracy_worst_class": Metric(
        "accuracy, worst class", "the remaining class with the lowest", "higher", worst_of="accuracy_remaining"
    ),
    "frechet_distance": Metric("Fréchet distance", "of the rest to real images", "lower"),
    "precision": Metric("precision", "share of samples among real images, k = 3", "higher"),
    "recall": Metric("recall", "share of real images among samples, k = 3", "higher"),
    "integrity_remaining": Metric(
        "change of the rest", "feature distance to the original's images from the same noise", "lower"
    ),
    "integrity_forgotten": Metric("change of the forgotten", "the same, for the forgotten", "none"),
    "nearest_to_forget": Metric(
        "nearest to the forget set",
        "mean feature distance from its images to the nearest sample",
        "near the retrained model's",
        is_of_forgetting=True,
    ),
    "membership_auc": Metric(
        "membership AUC",
        "telling the forget set from unseen images by the loss; 0 tells it as well as 1, .5: cannot be told",
        "near the retrained model's",
        is_of_forgetting=True,
    ),
    "membership_gap": Metric("membership gap", "|membership AUC - .5|", "lower", True),
    "non_finite_samples": Metric(
        "non-finite samples", "generated images with NaN or Inf; they are in no figure", "lower"
    ),
}


def row_of(metric: str) -> Metric:
    """The row of a metric, which may carry its extractor: `recall[digits-cnn]`."""
    return METRICS[metric.partition("[")[0]]


def extractor_of(metric: str) -> str:
    """The extractor that a metric's name carries; empty for none."""
    return metric.partition("[")[2].rstrip("]")
