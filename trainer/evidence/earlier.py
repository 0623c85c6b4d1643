"""What a model was asked to forget by earlier requests, as far as the data still have it: it is measured again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...shards.dataset import Dataset
from ..models.class_names import labels_of
from ..models.conditions import Condition
from ..models.lineage import forgotten_rows
from ..models.model import Model


@dataclass(frozen=True)
class Earlier:
    """Neither in D_f nor in D_r."""

    conditions: dict[int, list[Condition]]
    """What asks for each class of which nothing remained, by its label."""
    samples: Dataset | None
    """Those of classes that stay; None: there are none."""
    num_measured: list[int]
    """Samples of each earlier request that the data still have, the oldest request first; in D_f again, too."""

    def notes(self, *, has_held_out: bool) -> list[str]:
        """Lines to say of what is not measured again."""
        found = []
        if self.samples is not None and not has_held_out:
            found.append(
                f"earlier     {len(self.samples):,} single samples of earlier requests are not measured again: name "
                "unseen ones in judge.held_out"
            )
        missing = self.num_measured.count(0)
        if missing:
            found.append(f"earlier     of {missing} earlier request(s) the data have no sample to measure again")
        return found

    @classmethod
    def of(cls, model: Model, data: Dataset, forgotten: np.ndarray, remaining: Sequence[int]) -> Earlier:
        """data: as fitted to the model. forgotten: bool [N], D_f. remaining: the classes of D_r."""
        told = model.conditions.of_dataset
        of_each = [forgotten_rows([one], data, told) for one in model.lineage.forgotten]
        rows = np.any(of_each, axis=0) & ~forgotten if of_each else np.zeros(len(data), dtype=bool)
        stays = {*remaining, *labels_of(data, forgotten)}
        gone = [label for label in labels_of(data, rows) if label not in stays]
        single = rows & np.isin(data.labels, [*stays])
        return cls(
            {label: model.conditions.of_class(label, data) for label in gone},
            data.only(single) if single.any() else None,
            [int(np.count_nonzero(found)) for found in of_each],
        )

    @classmethod
    def beside(cls, model: Model, data: Dataset, forget: Dataset, remaining: Sequence[int]) -> Earlier:
        """The same, of the dataset that D_f is."""
        return cls.of(model, data, np.isin(data.index["key"], forget.index["key"]), remaining)
