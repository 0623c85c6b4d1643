"""How much of a step is issued beside its passes: that does not grow with the number of layers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from erasediff.trainer import EraseDiffConfig, engine
from erasediff.trainer.config import EngineConfig, OptimizerConfig
from erasediff.trainer.engine import optimizer, sharded_model, vector
from erasediff.trainer.engine.sharded_model import ShardedModel
from erasediff.trainer.ranks import collectives
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

KERNELS = ((sharded_model, "inner_products_by_parameter"), (sharded_model, "displace"), (vector, "combine_"))


@dataclass(frozen=True)
class Batch:
    weights: Tensor


class Losses:
    """What these methods ask of an objective."""

    def with_forget_targets(self, model: ShardedModel, batches: list[Batch]) -> list[Batch]:
        return batches

    def loss(self, model: ShardedModel, batch: Batch) -> Tensor:
        return model.predict(torch.ones(len(batch.weights), 3)).square().mean(1)


class Issued(TorchDispatchMode):
    """Counts what is issued while it `counts`: torch's operations but views, and calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        super().__init__()
        self.found: Counter[str] = Counter()
        self.counts = True
        self._monkeypatch = monkeypatch

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        is_work = func.namespace != "profiler" and not func.is_view
        self.found[func._schema.name] += self.counts and is_work
        return func(*args, **(kwargs or {}))

    def leave_out(self, place: object, name: str, *, but: int = 1) -> None:
        """Of a call to place.name, count that alone, so many times."""
        call = getattr(place, name)

        def noted(*args: Any, **kwargs: Any) -> Any:
            self.found[name] += but * self.counts
            before, self.counts = self.counts, False
            try:
                return call(*args, **kwargs)
            finally:
                self.counts = before

        self._monkeypatch.setattr(place, name, noted)


def issued(num_layers: int, method: EraseDiffConfig, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """By a second step with all that is logged of it, beside its passes."""
    config = EngineConfig(device="cpu")
    device = collectives.set_up(config)
    module = nn.Sequential(*(nn.Linear(3, 3) for _ in range(num_layers)))
    model = ShardedModel(module, config, OptimizerConfig(), device, max_train_steps=9)
    losses: Any = Losses()
    chosen, batch = method.make(losses), [Batch(torch.ones(2))]

    def step(number: int) -> None:
        update = chosen.step(model, batch, batch, number, diagnose=True)
        model.step(update.delta, number, update.skip)
        update.packet.extend(skipped=update.skip).to_host()

    step(0)
    with monkeypatch.context() as patched:
        mode = Issued(patched)
        for place, name in (*KERNELS, (engine, "multiplier")):
            mode.leave_out(place, name)
        for place, name in ((model, "gradient"), (model, "loss"), (optimizer, "learning_rate")):
            mode.leave_out(place, name, but=0)
        with mode:
            step(1)
    return +mode.found


@pytest.mark.parametrize(
    ("method", "most"),
    [
        (EraseDiffConfig(lambda_cap=None), 35),
        (EraseDiffConfig(lambda_cap=None, gradient_of_g="first_order", barrier="value"), 37),
    ],
    ids=["K = 0", "K = 1"],
)
def test_a_step_issues_no_more_for_more_layers(
    method: EraseDiffConfig, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, many = (issued(num_layers, method, monkeypatch) for num_layers in (2, 40))
    assert few == many
    assert few["inner_products_by_parameter"] == few["combine_"] == few["multiplier"] == 1
    assert 10 < few.total() <= most, few
