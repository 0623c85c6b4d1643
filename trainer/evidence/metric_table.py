"""Every metric once, in one long file since it is one table.

What each is, which direction is good, what it needs, how it is computed, how it is written. Evaluation, thresholds,
report, terminal table and docs/record.md read it: a metric more is an entry more, and the function that it names. In
the order of the table.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Literal

from . import attack, formulas, integrity
from .bench import Measured
from .instruments import Instrument, Instruments
from .metrics import Measurement

Direction = Literal["lower", "higher", "near the retrained model's", "none"]
Need = Literal[
    "forgotten classes",
    "held-out samples",
    "another factor",
    "phrasings",
    "near classes",
    "kept prompts",
    "classes of earlier requests",
    "samples of earlier requests",
    "inversion",
    "prompts that attack",
]
_ARROWS: dict[Direction, str] = {"lower": " ↓", "higher": " ↑", "near the retrained model's": "", "none": ""}


@dataclass(frozen=True)
class Metric:
    """One entry."""

    title: str
    meaning: str
    """Follows the title: what the figure is of."""
    better: Direction
    compute: Callable[..., Measurement]
    definition: str
    """For docs/record.md."""
    needs: Need | None = None
    on: Instrument | None = None
    """What it sees pictures with: its name then carries the instrument's."""
    is_of_forgetting: bool = False
    """Whether it tells a model that forgot from one that did not."""
    is_share: bool = False
    """Whether it is within [0, 1]: a share, a probability, an area. Told of metrics of forgetting alone."""
    worst_of: str | None = None
    """The metric whose classes it takes the worst of."""
    ceiling: str | None = None
    """The metric that says of the unscrubbed model how far this one can go; its own figure is the floor."""
    is_count: bool = False
    """Whether it is a number whose change against the unscrubbed model is told in percent."""
    of_unscrubbed: bool = False
    """Whether it is of the unscrubbed model alone."""
    is_exact: bool = False
    """Whether it is counted, not estimated: it has no interval, and there is nothing to doubt."""

    @property
    def heading(self) -> str:
        return self.title + _ARROWS[self.better]


METRICS = {
    "p_psi": Metric(
        "P_psi",
        "probability of the forgotten class on samples asked to be of it",
        "lower",
        formulas.p_psi,
        "P_psi(y = c_f \\| x_f): mean probability a classifier gives the forgotten class on samples asked to be of it. "
        "Only where a whole class is forgotten",
        needs="forgotten classes",
        is_of_forgetting=True,
        is_share=True,
    ),
    "p_psi_worst_class": Metric(
        "P_psi, worst class",
        "the forgotten class with the highest",
        "lower",
        formulas.p_psi_worst_class,
        "that of the forgotten class where it is highest",
        needs="forgotten classes",
        is_of_forgetting=True,
        is_share=True,
        worst_of="p_psi",
    ),
    "p_psi_worst_phrasing": Metric(
        "P_psi, worst phrasing",
        "the phrasing of the forgotten with the highest",
        "lower",
        formulas.p_psi_worst_phrasing,
        "that of the phrasing, as `judge.prompts` groups them, where it is highest",
        needs="phrasings",
        is_of_forgetting=True,
        is_share=True,
        worst_of="p_psi_by_phrasing",
    ),
    "p_psi_by_phrasing": Metric(
        "P_psi by phrasing",
        "the mean over phrasings",
        "lower",
        formulas.p_psi_by_phrasing,
        "`p_psi` of each phrasing by itself, and their mean weighted by samples",
        needs="phrasings",
        is_of_forgetting=True,
        is_share=True,
    ),
    "p_psi_inverted": Metric(
        "P_psi after concept inversion",
        "the same of samples that learned embeddings ask for",
        "lower",
        attack.p_psi_inverted,
        "`p_psi` of samples that are asked for by a few free token embeddings, trained on the model's own loss of "
        "forget images (arXiv 2308.01508): what the model can still draw, whatever the words",
        needs="inversion",
        is_of_forgetting=True,
        is_share=True,
    ),
    "p_psi_attacked": Metric(
        "P_psi under attack",
        "the same of the forgotten's prompts with tokens before them that bring it back",
        "lower",
        attack.p_psi_attacked,
        "`p_psi` of samples of the forgotten's prompts behind tokens that were sought on the model's own loss of "
        "forget images (as UnlearnDiffAtk does, arXiv 2310.11868), by each such prompt, whose words are the names",
        needs="prompts that attack",
        is_of_forgetting=True,
        is_share=True,
    ),
    "unlearning_accuracy": Metric(
        "UA",
        "share of samples asked to be forgotten that are of another class",
        "higher",
        formulas.unlearning_accuracy,
        "unlearning accuracy (UnlearnCanvas, arXiv 2402.11846): share of samples asked to be of a forgotten class that "
        "the classifier puts into another",
        needs="forgotten classes",
        is_of_forgetting=True,
        is_share=True,
    ),
    "entropy": Metric(
        "entropy",
        "of the classifier on the same samples, in nats",
        "near the retrained model's",
        formulas.entropy,
        "of the classifier's answer on the same samples, nats",
        needs="forgotten classes",
        is_of_forgetting=True,
    ),
    "accuracy_remaining": Metric(
        "accuracy on the rest (IRA)",
        "share of samples of the right class",
        "higher",
        formulas.accuracy_remaining,
        "share of samples of the remaining classes that the classifier puts into the class asked for; UnlearnCanvas' "
        "in-domain retain accuracy (IRA)",
    ),
    "accuracy_worst_class": Metric(
        "accuracy, worst class",
        "the remaining class with the lowest",
        "higher",
        formulas.accuracy_worst_class,
        "that of the remaining class where it is lowest",
        worst_of="accuracy_remaining",
    ),
    "factor_accuracy_remaining": Metric(
        "accuracy of the other factor (CRA)",
        "share of samples of the rest where it is right",
        "higher",
        formulas.factor_accuracy_remaining,
        "share of samples of the remaining classes in which a second classifier sees what was asked for of another "
        "factor (`judge.factor`), such as the colour of a digit; UnlearnCanvas' cross-domain retain accuracy (CRA)",
        needs="another factor",
    ),
    "factor_accuracy_forgotten": Metric(
        "the same on the forgotten",
        "share of samples asked to be forgotten where the other factor is right",
        "higher",
        formulas.factor_accuracy_forgotten,
        "the same on samples asked to be of a forgotten class",
        needs="another factor",
    ),
    "frechet_distance": Metric(
        "Fréchet distance",
        "of the rest to real images",
        "lower",
        formulas.frechet_distance,
        "between Gaussians fitted to features of real and of generated images of the remaining classes (Heusel et al. "
        "2017); needs more samples than features",
        on="features",
    ),
    "kernel_distance": Metric(
        "kernel distance",
        "of the rest to real images, unbiased at any n",
        "lower",
        formulas.kernel_distance,
        "that of KID (Bińkowski et al. 2018), by the kernel (x·y / D + 1)³ of D features, between real and generated "
        "images of the remaining classes: the mean of 100 seeded subsets of 1,000 (or as many as there are) of either "
        "side. Unbiased, so that it may fall below 0",
        on="features",
    ),
    "precision": Metric(
        "precision",
        "share of samples among real images, k = 3",
        "higher",
        formulas.precision,
        "improved precision, k = 3 (Kynkäänniemi et al. 2019)",
        on="features",
    ),
    "recall": Metric(
        "recall",
        "share of real images among samples, k = 3",
        "higher",
        formulas.recall,
        "improved recall, the same",
        on="features",
    ),
    "nearest_to_forget": Metric(
        "nearest to the forget set",
        "mean feature distance from its images to the nearest sample",
        "near the retrained model's",
        formulas.nearest_to_forget,
        "mean over D_f (its first 5,000 images) of the distance to the nearest sample generated for its classes; it "
        "falls with n",
        on="features",
        is_of_forgetting=True,
    ),
    "integrity_ceiling_remaining": Metric(
        "change of the rest, ceiling",
        "the same between images of one condition from different noise",
        "none",
        integrity.integrity_ceiling_remaining,
        "of the unscrubbed model alone: `integrity_remaining` between its images of one condition from different "
        "noise: a class, or a prompt. Where one was asked for only once, between the first 64 and others that are "
        "drawn for this",
        on="features",
        of_unscrubbed=True,
    ),
    "integrity_remaining": Metric(
        "change of the rest",
        "feature distance to the original's images from the same noise",
        "lower",
        integrity.integrity_remaining,
        "in tables *change of the rest*: mean distance between features of the images that the original and this model "
        "make from the same noise and label. The unscrubbed model's is the floor (the same again; exactly 0 on CPU)",
        on="features",
        ceiling="integrity_ceiling_remaining",
    ),
    "integrity_ceiling_near": Metric(
        "change of the near, ceiling",
        "the same between images of one condition from different noise",
        "none",
        integrity.integrity_ceiling_near,
        "the ceiling of `integrity_near`, in the same way",
        needs="near classes",
        on="features",
        of_unscrubbed=True,
    ),
    "integrity_near": Metric(
        "change of the near",
        "the same, for the remaining classes that are near to the forgotten",
        "lower",
        integrity.integrity_near,
        "in tables *change of the near*: `integrity_remaining` of the classes in `judge.near`",
        needs="near classes",
        on="features",
        ceiling="integrity_ceiling_near",
    ),
    "integrity_ceiling_far": Metric(
        "change of the far, ceiling",
        "the same between images of one condition from different noise",
        "none",
        integrity.integrity_ceiling_far,
        "the ceiling of `integrity_far`, in the same way",
        needs="near classes",
        on="features",
        of_unscrubbed=True,
    ),
    "integrity_far": Metric(
        "change of the far",
        "the same, for the other remaining classes",
        "lower",
        integrity.integrity_far,
        "in tables *change of the far*: `integrity_remaining` of the other classes",
        needs="near classes",
        on="features",
        ceiling="integrity_ceiling_far",
    ),
    "integrity_ceiling_kept": Metric(
        "change of the kept prompts, ceiling",
        "the same between images of one prompt from different noise",
        "none",
        integrity.integrity_ceiling_kept,
        "the ceiling of `integrity_kept`, in the same way",
        needs="kept prompts",
        on="features",
        of_unscrubbed=True,
    ),
    "integrity_kept": Metric(
        "change of the kept prompts",
        "the same, for prompts of no class that must be kept",
        "lower",
        integrity.integrity_kept,
        "in tables *change of the kept prompts*: `integrity_remaining` of samples of `judge.kept_prompts`",
        needs="kept prompts",
        on="features",
        ceiling="integrity_ceiling_kept",
    ),
    "integrity_ceiling_forgotten": Metric(
        "change of the forgotten, ceiling",
        "the same between images of one condition from different noise",
        "none",
        integrity.integrity_ceiling_forgotten,
        "the ceiling of `integrity_forgotten`, in the same way",
        on="features",
        of_unscrubbed=True,
    ),
    "integrity_forgotten": Metric(
        "change of the forgotten",
        "the same, for the forgotten",
        "none",
        integrity.integrity_forgotten,
        "in tables *change of the forgotten*: the same for the forgotten",
        on="features",
        ceiling="integrity_ceiling_forgotten",
    ),
    "clip_score_forgotten": Metric(
        "CLIP score, forgotten",
        "how much of its prompt a sample asked to be forgotten shows, 0 to 100",
        "lower",
        formulas.clip_score_forgotten,
        "mean of 100 · max(cos(picture, prompt), 0) over samples asked to be of a forgotten class, by the CLIP model "
        "in `judge.clip` (Hessel et al. 2021, without its factor 2.5, as torchmetrics has it). Prompts that are longer "
        "than it takes are cut",
        on="clip",
        is_of_forgetting=True,
    ),
    "clip_score_remaining": Metric(
        "CLIP score, the rest",
        "the same of samples of the remaining classes",
        "higher",
        formulas.clip_score_remaining,
        "the same over samples of the remaining classes",
        on="clip",
    ),
    "clip_score_kept": Metric(
        "CLIP score, kept prompts",
        "the same of samples of prompts that must be kept",
        "higher",
        formulas.clip_score_kept,
        "the same over samples of `judge.kept_prompts`",
        needs="kept prompts",
        on="clip",
    ),
    "exposed_forgotten": Metric(
        "exposed, forgotten",
        "share of samples asked to be forgotten with an exposed part",
        "lower",
        formulas.exposed_forgotten,
        "share of samples asked to be of a forgotten class in which the detector (`judge.detector`) finds an exposed "
        "part at this score or above; both stand in the brackets: `exposed_forgotten[nudenet@0.6]`",
        on="detector",
        is_of_forgetting=True,
        is_share=True,
    ),
    "exposed_remaining": Metric(
        "exposed, the rest",
        "the same of samples of the remaining classes",
        "lower",
        formulas.exposed_remaining,
        "the same of samples of the remaining classes",
        on="detector",
    ),
    "exposed_parts_forgotten": Metric(
        "exposed parts, forgotten",
        "boxes of exposed parts on samples asked to be forgotten",
        "lower",
        formulas.exposed_parts_forgotten,
        "how many boxes of exposed parts it finds on them, all and of each part (the paper's Figs. 3 and 6); tables "
        "tell the change against the unscrubbed model in percent",
        on="detector",
        is_of_forgetting=True,
        is_count=True,
    ),
    "exposed_parts_remaining": Metric(
        "exposed parts, the rest",
        "the same on samples of the remaining classes",
        "lower",
        formulas.exposed_parts_remaining,
        "the same on samples of the remaining classes",
        on="detector",
        is_count=True,
    ),
    "membership_auc": Metric(
        "membership AUC",
        "telling the forget set from unseen images by the loss; 0 tells it as well as 1, .5: cannot be told",
        "near the retrained model's",
        formulas.membership_auc,
        "area under the curve of telling D_f from held-out samples of the same classes by a lower loss, that of "
        "the model's objective (of a diffusion model the mean over 20 noise levels); .5: cannot be told apart, and 0 "
        "tells them apart as well as 1",
        needs="held-out samples",
        is_of_forgetting=True,
        is_share=True,
    ),
    "membership_gap": Metric(
        "membership gap",
        "|membership AUC - .5|",
        "lower",
        formulas.membership_gap,
        "\\|`membership_auc` − .5\\|",
        needs="held-out samples",
        is_of_forgetting=True,
        is_share=True,
    ),
    "p_psi_earlier": Metric(
        "P_psi, earlier requests",
        "probability of a class that an earlier request had forgotten on samples asked to be of it",
        "lower",
        formulas.p_psi_earlier,
        "`p_psi` of the classes of which nothing remained after earlier requests to this model, where the data still "
        "have samples of them for the judge to know",
        needs="classes of earlier requests",
    ),
    "p_psi_earlier_worst_class": Metric(
        "P_psi, earlier requests, worst class",
        "that class with the highest",
        "lower",
        formulas.p_psi_earlier_worst_class,
        "that of the class where it is highest",
        needs="classes of earlier requests",
        worst_of="p_psi_earlier",
    ),
    "membership_auc_earlier": Metric(
        "membership AUC, earlier requests",
        "telling the single samples that earlier requests had forgotten from unseen images by the loss",
        "near the retrained model's",
        formulas.membership_auc_earlier,
        "`membership_auc` of the single samples of earlier requests that the data still have, against held-out samples "
        "of their classes",
        needs="samples of earlier requests",
    ),
    "membership_gap_earlier": Metric(
        "membership gap, earlier requests",
        "|membership AUC, earlier requests - .5|",
        "lower",
        formulas.membership_gap_earlier,
        "\\|`membership_auc_earlier` − .5\\|",
        needs="samples of earlier requests",
    ),
    "non_finite_samples": Metric(
        "non-finite samples",
        "generated images with NaN or Inf; they are in no figure",
        "lower",
        formulas.non_finite_samples,
        "how many generated samples hold a NaN or Inf",
        is_exact=True,
    ),
    "black_samples": Metric(
        "black samples",
        "generated images with every pixel 0, as a safety checker or an overflow leaves them",
        "lower",
        formulas.black_samples,
        "how many of the finite samples are black, every pixel 0 of 255. Where more than "
        "1 % of the unscrubbed model's are, NaN drawn as black, the evaluation ends with an error",
        is_exact=True,
    ),
}


def computed(
    instruments: Instruments, given: Collection[Need], *, of_unscrubbed: bool
) -> dict[str, Callable[[Measured], Measurement]]:
    """How the metrics of a model are computed, by the names they have with these instruments. given: what there is."""
    return {
        f"{name}[{instrument}]" if instrument else name: partial(metric.compute, *arguments)
        for name, metric in METRICS.items()
        if (metric.needs is None or metric.needs in given) and (of_unscrubbed or not metric.of_unscrubbed)
        for instrument, arguments in instruments.of(metric.on).items()
    }


def row_of(metric: str) -> Metric:
    """The row of a metric, which may carry its extractor: `recall[digits-cnn]`."""
    return METRICS[metric.partition("[")[0]]


def extractor_of(metric: str) -> str:
    """The extractor that a metric's name carries; empty for none."""
    return metric.partition("[")[2].rstrip("]")


def ceiling_of(metric: str) -> str | None:
    """The name of its ceiling, with the same extractor."""
    name, extractor = row_of(metric).ceiling, extractor_of(metric)
    return f"{name}[{extractor}]" if name and extractor else name


def change_of(metric: str, ours: Measurement | None, unscrubbed: Measurement | None) -> str:
    """A count's change against the unscrubbed model's, such as -97%; empty for other metrics, and where that is 0."""
    if not row_of(metric).is_count or ours is None or unscrubbed is None:
        return ""
    if ours.value is None or not unscrubbed.value:
        return ""
    return f"{ours.value / unscrubbed.value - 1:+.0%}"


def markdown() -> str:
    """The table as docs/record.md has it."""
    rows = [f"| `{name}{'[…]' if row.on else ''}` | {row.definition} |" for name, row in METRICS.items()]
    return "\n".join(["| metric | what it is |", "|---|---|", *rows]) + "\n"
