"""neighbours: ε_f = (x_t - γ_t Σ_k w_k x_k) / σ_t, x_k the remaining samples that are nearest to the forgotten x_0.

w = softmax_k(-½ ‖(x_t - γ_t x_k) / σ_t‖²): the best prediction where these samples are all there is, and nearly that of
a model trained on D_r. Of ReTrack, arXiv 2509.13007, whose loss Σ_k w_k ‖ε_k - ε_θ‖² has the gradient of
‖Σ_k w_k ε_k - ε_θ‖², since the weights sum to 1. For models that predict v it is the v of the same mean.

Its released code looks for neighbours among all remaining samples and tells the model nothing of them, or one prompt;
here neighbours are told what the sample is told, where enough such remain. ε_θ is told what the sample is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from ....shards.streaming.neighbours import nearest_rows, neighbours_path, open_neighbours, write_neighbours
from ....shards.streaming.rows import Rows
from ...config import OptimizerConfig, TargetedConfig, TrainConfig
from . import Noised, Predict, Samples

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ....shards.dataset import Dataset
    from ...models.conditions import Condition, Conditions
    from ...models.model import Model


class Target:
    num_forwards: ClassVar[int] = 0
    weights: ClassVar[Literal["none"]] = "none"
    eta: ClassVar[float] = 0.5

    @staticmethod
    def default_sections() -> dict[str, TrainConfig | OptimizerConfig]:
        return {"train": TrainConfig(), "optimizer": OptimizerConfig()}

    def __init__(self, config: TargetedConfig, others: Sequence[Condition], conditions: Conditions):
        self._count = config.num_neighbours

    @staticmethod
    def check(config: TargetedConfig, model: Model, forget: Sequence[Condition], remain: Sequence[Condition]) -> None:
        pass

    def look_at(self, samples: Samples, model: Model) -> None:
        """Finds the neighbours of all of D_f, each rank those of a part, where no earlier start of the run has."""
        from ...ranks import collectives

        forget, remain = samples.forget, samples.remain
        # near in what is noised, as far as that lies there
        has_latents = all(data.manifest.latents is not None for data in (forget, remain))
        asked, others = (_rows(data, model, has_latents) for data in (forget, remain))
        what = (asked, others, min(self._count, len(remain)), *_groups(samples, model))
        path = collectives.together(lambda: neighbours_path(samples.folder, *what))
        if not collectives.agree(path.exists()):
            rank, num_ranks = collectives.rank(), collectives.world_size()
            mine = np.arange(rank, len(forget), num_ranks)
            parts = collectives.gather(collectives.together(lambda: nearest_rows(mine, *what)))
            found = np.empty((len(forget), what[2]), dtype=np.int64)
            for number, part in enumerate(parts):
                found[number::num_ranks] = part
            collectives.on_main(lambda: write_neighbours(path, found))
        self._neighbours = collectives.together(lambda: open_neighbours(path, len(forget), len(remain)))
        self._row = {key: row for row, key in enumerate(forget.keys)}
        self._remain = _rows(remain, model, remain.manifest.latents is not None)

    def draw(self, condition: Condition, shape: tuple[int, ...], generator: np.random.Generator) -> None:
        pass

    def prepare(self, drawn: Sequence[None], batch: Noised, model: Model, device: torch.device) -> Tensor:
        """ε_f itself: no weights decide it."""
        import torch

        from ...side_stream import to_device

        rows_BK = self._neighbours[[self._row[key] for key in batch.keys]]
        needed, places_BK = np.unique(rows_BK, return_inverse=True)
        contents = torch.from_numpy(self._remain.read(needed))
        places_KB = torch.from_numpy(places_BK.reshape(rows_BK.shape)).T
        # a neighbour of each sample at a time: no more is encoded at once than a micro-batch
        x_K = [_encoded(to_device(contents[places_B], device), model) for places_B in places_KB]
        schedule, t = model.schedule, batch.timesteps
        nothing = torch.zeros_like(batch.x_0)
        sigma = schedule.noised(nothing, torch.ones_like(batch.x_0), t)

        def epsilon(x_k: Tensor) -> Tensor:
            """The noise that leads from x_k to x_t."""
            return (batch.x_t - schedule.noised(x_k, nothing, t)) / sigma

        # sums of squares over σ² are large beside their differences
        logits_KB = torch.stack([epsilon(x_k).double().square().flatten(1).sum(1) / -2 for x_k in x_K])
        weights_KB = logits_KB.softmax(0).float().view(len(x_K), -1, *[1] * (batch.x_0.ndim - 1))
        mean = sum((w_k * x_k for w_k, x_k in zip(weights_KB, x_K, strict=True)), start=nothing)
        return schedule.target(mean, epsilon(mean), t)

    def compute(self, prepared: Tensor, batch: Noised, predict: Predict) -> Tensor:
        return prepared


def _rows(data: Dataset, model: Model, latents: bool) -> Rows:
    return Rows(data, image_size=model.image_size, channels=model.channels, latents=latents)


def _groups(samples: Samples, model: Model) -> list[np.ndarray]:
    """A number for what each sample of D_f and of D_r is told."""
    from ...models.conditions import told_alike

    numbers: dict[Condition, int] = {}
    told = [model.conditions.of_dataset(data) for data in (samples.forget, samples.remain)]
    return [np.array([numbers.setdefault(told_alike(one), len(numbers)) for one in conditions]) for conditions in told]


def _encoded(contents: Tensor, model: Model) -> Tensor:
    """x_0 of what is stored: pixels, or moments, of which it is the most probable."""
    from ...models.pictures import from_pixels

    if contents.is_floating_point():
        return model.from_moments(contents)
    return model.encode(from_pixels(contents))
