"""The model and the sets that all rows of a comparison share."""

from __future__ import annotations

from dataclasses import dataclass

from ...shards.dataset import Dataset
from ..config import CompareConfig, ScrubConfig
from ..evidence.retrained import check_trained_without, load_retrained, retrained_config
from ..models.families import load_model
from ..models.fitting import Fitted, fit
from ..models.model import Model
from ..run.provenance import DataStamp


@dataclass(frozen=True)
class Sides:
    """What `make_bench` asks for."""

    config: ScrubConfig
    unscrubbed: Model
    fitted_forget: Fitted
    fitted_remain: Fitted

    @classmethod
    def of(cls, config: ScrubConfig) -> Sides:
        model = load_model(config.model)
        return cls(config, model, *(fit(Dataset.open(path), model) for path in (config.forget, config.remain)))

    @property
    def forget(self) -> Dataset:
        return self.fitted_forget.data

    @property
    def remain(self) -> Dataset:
        return self.fitted_remain.data


def named_retrained(config: CompareConfig, sides: Sides) -> Model | None:
    if config.judge.retrained is None:
        return None
    named = retrained_config(config.judge.retrained, config.model, sides.unscrubbed)
    model = load_retrained(named, sides.unscrubbed)
    check_trained_without(model, DataStamp.of(sides.remain))
    return model
