"""The arithmetic of the metrics, on probabilities and features. No model, no file, no rank here.

Shapes: N and M samples, D features, K classes. Features are fp64 inside, whatever they come as. Intervals are in
`intervals`.
"""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

_ROWS = 1024  # of a matrix of distances at a time


@dataclass(frozen=True)
class Measurement:
    """One figure with what it rests on; `value` is None, and `reason` says why, where the samples cannot bear it."""

    value: float | None
    n: int
    """Samples it is computed from, those that are not finite left out."""
    seed: int | None = None
    """Of the samples, where they are generated."""
    features: str | None = None
    """Whose features, where it rests on some."""
    reason: str | None = None
    low: float | None = None
    """Lower end of the 95 % interval, where there is an estimator of it; `high` is the upper."""
    high: float | None = None
    of_class: str | None = None
    """The class a worst class's figure is of."""
    by_class: dict[str, Measurement] = field(default_factory=dict)
    """The same of each class, phrasing or part by its name, where the figure is a mean or a sum over some."""
    correlation: dict[str, float] = field(default_factory=dict)
    """With the same figure of other models, by their names, from the same noise (`pairing.correlation`)."""
    num_independent: int | None = None
    """How many samples its chance error goes by, where that is not n: those of D_f, or the smaller of two sides."""


@dataclass(frozen=True)
class Estimate(Measurement):
    """A figure as it was computed, with what became of which sample."""

    influences_N: Tensor | None = field(default=None, repr=False, compare=False)
    """How far each sample, in their order, took the figure from what it would be on average, to first order."""


def estimated(figure: Measurement, influences_N: Tensor) -> Estimate:
    """The figure with its samples' influences, which are centred here."""
    return Estimate(**_fields(figure), influences_N=influences_N.double() - influences_N.double().mean())


def alone(figure: Measurement) -> Measurement:
    """Without its samples' influences and what it has to do with other models', and so of its classes."""
    by_class = {name: alone(one) for name, one in figure.by_class.items()}
    return Measurement(**_fields(figure) | {"by_class": by_class, "correlation": {}})


def _fields(figure: Measurement) -> dict[str, Any]:
    return {one.name: getattr(figure, one.name) for one in dataclasses.fields(Measurement)}


def measured(value: Tensor | float, n: int, *, why_not: str = "", **about: object) -> Measurement:
    """A figure, or none where it came out NaN or infinite; `why_not` is the reason then, where it is known."""
    number = float(value)
    if not torch.isfinite(torch.tensor(number)):
        return Measurement(None, n, reason=why_not or f"came out {number}", **about)  # pyright: ignore[reportArgumentType]
    return Measurement(number, n, **about)  # pyright: ignore[reportArgumentType]


def p_psi(probabilities_NK: Tensor, labels_N: Tensor) -> Tensor:
    """P_psi(y = c_f | x_f) of each sample [N]: the probability that a classifier gives the class that was asked for."""
    return probabilities_NK.double().gather(1, labels_N[:, None]).squeeze(1)


def entropy(probabilities_NK: Tensor) -> Tensor:
    """Of a classifier's answer to each sample [N], in nats."""
    return torch.special.entr(probabilities_NK.double()).sum(1)


def accuracy(probabilities_NK: Tensor, labels_N: Tensor) -> Tensor:
    """Of each sample [N], 1 where its most probable class is the one that was asked for, else 0."""
    return (probabilities_NK.argmax(1) == labels_N).double()


class _AsGiven(nn.Module):
    """What torchmetrics takes for an extractor: the features are there already."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features

    def forward(self, features_ND: Tensor) -> Tensor:
        return features_ND


def frechet_distance(real_ND: Tensor, generated_MD: Tensor) -> Tensor:
    """‖μ - μ'‖² + tr(Σ + Σ' - 2 (Σ Σ')^½) of the Gaussians fitted to two sets of features (Heusel et al. 2017)."""
    # every rank has all the samples: without this torchmetrics would add the ranks' copies up
    distance = FrechetInceptionDistance(feature=_AsGiven(real_ND.shape[1]), sync_on_compute=False)
    distance.update(real_ND.double(), real=True)
    distance.update(generated_MD.double(), real=False)
    return distance.compute()


def kernel_distance(real_ND: Tensor, generated_MD: Tensor, *, seed: int) -> Tensor:
    """Mean of the unbiased MMD² with the kernel (x·y / D + 1)³ over 100 random subsets (Bińkowski et al. 2018).

    Subsets of 1,000 of either side, or as many as the smaller side has, which must be 2 at least; drawn by the seed.
    """
    size = min(1000, len(real_ND), len(generated_MD))
    with warnings.catch_warnings():  # of the memory that features take
        warnings.simplefilter("ignore", UserWarning)
        distance = KernelInceptionDistance(
            feature=_AsGiven(real_ND.shape[1]), subsets=100, subset_size=size, sync_on_compute=False
        )
    distance.update(real_ND.double(), real=True)
    distance.update(generated_MD.double(), real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mean, _ = distance.compute()
    return mean


def min_frechet_samples(num_features: int) -> int:
    """With no more samples than features the covariance is singular, and the distance says little."""
    return num_features + 1


def precision_recall(real_ND: Tensor, generated_MD: Tensor, k: int = 3) -> tuple[Tensor, Tensor]:
    """Improved precision and recall (Kynkäänniemi et al. 2019, k = 3 there).

    A set's manifold is the union of balls around its members that reach their k-th nearest neighbour. Precision: share
    of the generated inside the real manifold; recall: share of the real inside the generated one. Each set needs more
    than k members.
    """
    real, generated = real_ND.double(), generated_MD.double()
    real_radii_N, generated_radii_M = _radii(real, k), _radii(generated, k)
    is_inside_M = torch.zeros(len(generated), dtype=torch.bool)
    is_covered = []
    for rows_ND, radii_N in zip(real.split(_ROWS), real_radii_N.split(_ROWS), strict=True):
        between_NM = _distances(rows_ND, generated)
        is_inside_M |= (between_NM <= radii_N[:, None]).any(0)
        is_covered.append((between_NM <= generated_radii_M[None, :]).any(1))
    return is_inside_M.double().mean(), torch.cat(is_covered).double().mean()


def _radii(members_ND: Tensor, k: int) -> Tensor:
    """Of each member to its k-th nearest among the others [N]."""
    # the nearest of all is the member itself
    return torch.cat([_distances(rows, members_ND).kthvalue(k + 1, dim=1).values for rows in members_ND.split(_ROWS)])


def _distances(a_ND: Tensor, b_MD: Tensor) -> Tensor:
    # by differences: through products, two equal rows can be 1e-7 apart
    return torch.cdist(a_ND, b_MD, compute_mode="donot_use_mm_for_euclid_dist")


def paired_distance(a_ND: Tensor, b_ND: Tensor) -> Tensor:
    """Euclidean distance [N] between features of images made by two models from the same noise and labels."""
    return (a_ND.double() - b_ND.double()).norm(dim=1)


def other_seed_distance(features_ND: Tensor, groups_N: Tensor) -> Tensor:
    """The same between images of one model and one group, from different noise: what integrity is at the worst.

    Each image is paired with the next one of its group, which has two at least, so that each is in two pairs.
    """
    partner_N = torch.empty_like(groups_N)
    for group in groups_N.unique():
        rows = (groups_N == group).nonzero().squeeze(1)
        partner_N[rows] = rows.roll(-1)
    return paired_distance(features_ND, features_ND[partner_N])


def nearest_distance(from_ND: Tensor, to_MD: Tensor) -> Tensor:
    """Distance of each of the first set [N] to its nearest neighbour in the second."""
    return _distances(from_ND.double(), to_MD.double()).amin(1)


def auc(members_N: Tensor, others_M: Tensor) -> tuple[Tensor, Tensor]:
    """Area under the ROC curve of telling members by a higher score, P(member > other) + ½ P(equal), and its variance.

    The variance is that of DeLong et al. (1988), which needs two samples on either side; NaN with fewer.
    """
    above = _above(members_N, others_M)
    if min(above.shape) < 2:
        return above.mean(), torch.tensor(torch.nan)
    by_member, by_other = above.mean(1), above.mean(0)
    return above.mean(), by_member.var() / len(by_member) + by_other.var() / len(by_other)


def auc_influences(members_N: Tensor, others_M: Tensor) -> Tensor:
    """Of each member, then of each other sample, on `auc` [N + M]: what DeLong et al. (1988) compare two AUCs by."""
    above_NM = _above(members_N, others_M)
    parts = above_NM.mean(1), above_NM.mean(0)
    return torch.cat([(part - part.mean()) / len(part) for part in parts])


def _above(members_N: Tensor, others_M: Tensor) -> Tensor:
    """Of each pair [N, M]: 1 where the member's score is higher, ½ where they are equal."""
    above = (members_N[:, None] > others_M[None, :]).double()
    return above + (members_N[:, None] == others_M[None, :]).double() / 2
