"""The engine in one process: a known constrained optimum, the outer optimizers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from erasediff.trainer import EraseDiffConfig
from erasediff.trainer.config import EngineConfig, OptimizerConfig
from erasediff.trainer.engine.optimizer import learning_rate
from erasediff.trainer.engine.sharded_model import ShardedModel
from erasediff.trainer.methods.selective_amnesia import SelectiveAmnesiaConfig
from erasediff.trainer.objectives.objective import Batches
from erasediff.trainer.ranks import collectives
from torch import Tensor, nn

NO_SKIP = torch.zeros((), dtype=torch.float64)


class Point(nn.Module):
    """Its parameters are the point that two quadratics pull at."""

    def __init__(self, *coordinates: float):
        super().__init__()
        self.x = nn.Parameter(torch.tensor(coordinates))

    def forward(self, ones: Tensor) -> Tensor:
        return ones * self.x


@dataclass(frozen=True)
class Quadratic:
    """Σ (a · (x - centre))² for the rows a of `directions`."""

    directions: Tensor
    centre: Tensor
    weights: Tensor


class Quadratics:
    """What these methods ask of an objective."""

    def with_own_targets(self, batches: list[Quadratic]) -> list[Quadratic]:
        return batches

    def with_forget_targets(self, model: ShardedModel, batches: list[Quadratic]) -> list[Quadratic]:
        return batches

    def loss(self, model: ShardedModel, batch: Quadratic) -> Tensor:
        x = model.predict(torch.ones(2))
        return (batch.directions @ (x - batch.centre)).square().sum().reshape(1)


_QUADRATICS: Any = Quadratics()


def make_model(module: nn.Module, optimizer: OptimizerConfig, stage: int = 2) -> ShardedModel:
    config = EngineConfig(device="cpu", zero_stage=stage)  # pyright: ignore[reportArgumentType]
    device = collectives.set_up(config)
    return ShardedModel(module, config, optimizer, device, max_train_steps=100)


@pytest.mark.parametrize(("barrier", "eta"), [("norm", 0.5), ("value", 2.0)])
def test_iterates_reach_the_constrained_optimum(barrier: Any, eta: float) -> None:
    """BOME's toy: min ‖x - r‖² over the line where L_f = (x₁ + x₂ - 1)² is least; the answer is r's projection."""
    one = torch.ones(1)
    remain: Any = [Quadratic(torch.eye(2), torch.tensor([2.0, 1.0]), one)]
    forget: Any = [Quadratic(torch.tensor([[1.0, 1.0]]), torch.tensor([0.5, 0.5]), one)]
    model = make_model(Point(-1.0, 3.0), OptimizerConfig(name="sgd", learning_rate=0.1))
    assert model.original is None, "nobody has asked for one"
    config = EraseDiffConfig(barrier=barrier, eta=eta, lambda_cap=None, num_inner_steps=10, xi=0.1)
    method = config.make(_QUADRATICS)
    for step in range(120):
        update = method.step(model, forget, remain, step, diagnose=False)
        model.step(update.delta, step, update.skip)
    # (2, 1) less half of its excess 2 along (1, 1)
    assert torch.allclose(model.gather(model.theta)["x"], torch.tensor([1.0, 0.0]), atol=1e-3)


def test_what_a_failed_pass_leaves_is_not_added_to_the_next_gradient() -> None:
    model = make_model(Point(1.0, 2.0), OptimizerConfig())
    batch = Quadratic(torch.eye(2), torch.zeros(2), torch.ones(1))
    expected = model.gradient(Quadratics().loss, [batch])[1].data.clone()
    losses = iter([Quadratics().loss])

    def fails_at_the_second(model: ShardedModel, batch: Quadratic) -> Tensor:
        return next(losses)(model, batch)

    with pytest.raises(StopIteration):
        model.gradient(fails_at_the_second, [batch, batch])
    assert torch.equal(model.gradient(Quadratics().loss, [batch])[1].data, expected)


def test_a_batch_of_which_nothing_could_be_read_has_no_loss_and_no_gradient() -> None:
    model = make_model(Point(1.0, 2.0), OptimizerConfig())
    loss, gradient = model.gradient(Quadratics().loss, [Quadratic(torch.eye(2), torch.zeros(2), torch.zeros(1))])
    assert float(loss) == 0 and torch.equal(gradient.data, torch.zeros_like(gradient.data))


def test_weights_that_were_half_written_are_written_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(Point(1.0, 2.0), OptimizerConfig())
    before = model.predict(torch.ones(2)).detach().clone()
    zero: Any = model._zero

    def fail() -> None:
        raise MemoryError

    with monkeypatch.context() as patched, pytest.raises(MemoryError):
        patched.setattr(zero, "publish", fail)
        with model.displaced(model.theta, 1.0):
            pass
    assert torch.equal(model.predict(torch.ones(2)), before)


def test_fishers_information_is_the_mean_of_squared_gradients() -> None:
    class OneByOne(Quadratics):
        def one_by_one(self, batches: list[Quadratic], num_levels: int) -> list[list[Quadratic]]:
            return [[batch] for batch in batches for _ in range(num_levels)]

    centres = torch.tensor([[3.0, 1.0], [-1.0, 5.0], [0.5, 0.5]])
    samples = [Quadratic(torch.eye(2), centre, torch.ones(1)) for centre in centres]
    read = [Batches(remain=samples[:1], forget=[], bad_samples=()), Batches(samples[1:], [], ())]
    losses: Any = OneByOne()
    method = SelectiveAmnesiaConfig(num_fisher_batches=2, num_fisher_levels=3).make(losses)
    model = make_model(Point(1.0, 2.0), OptimizerConfig())
    method.prepare(model, read.__getitem__)
    expected = (2 * (torch.tensor([1.0, 2.0]) - centres)).square().mean(0)
    assert torch.allclose(model.gather(method.state["fisher"])["x"], expected, rtol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_quantile_of_a_vector_without_padding(share: float) -> None:
    module = nn.Linear(4, 4)  # 20 elements, padded to 24
    whole = nn.Sequential(module, nn.Linear(3, 1))  # 24
    model = make_model(whole, OptimizerConfig())
    values = torch.arange(1.0, 25)
    model.theta.data.copy_(-values)
    assert float(model.theta.abs_quantile(share)) == {0.0: 0.0, 0.5: 12.0, 1.0: 24.0}[share]


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize("skipped", [0, 1])
def test_a_skipped_step_leaves_no_trace(name: Any, skipped: int) -> None:
    """Three steps of which one, the first or a later one, is a NaN to be skipped, against the other two alone."""
    optimizer = OptimizerConfig(name=name, learning_rate=0.1, momentum=0.9, ema_decay=0.5)
    with_skip, without = make_model(Point(1.0, 2.0), optimizer), make_model(Point(1.0, 2.0), optimizer)
    for step in range(3):
        delta = with_skip.theta.clone()
        if step == skipped:
            delta.data.fill_(torch.nan)
            with_skip.step(delta, step, torch.ones((), dtype=torch.float64))
        else:
            with_skip.step(delta, step, NO_SKIP)
            without.step(without.theta.clone(), step, NO_SKIP)
    ours = {"theta": with_skip.theta} | with_skip.optimizer.vectors()
    theirs = {"theta": without.theta} | without.optimizer.vectors()
    assert len(ours) == (3 if name == "sgd" else 4)
    assert all(torch.equal(ours[key].data, theirs[key].data) for key in ours)
    assert with_skip.optimizer.num_updates() == without.optimizer.num_updates()


def test_the_average_is_that_of_diffusers() -> None:
    from diffusers.training_utils import EMAModel

    theirs = EMAModel([nn.Parameter(torch.tensor([1.0, 2.0]))], decay=0.9)
    model = make_model(Point(1.0, 2.0), OptimizerConfig(name="sgd", learning_rate=0.1, ema_decay=0.9))
    followed = nn.Parameter(torch.tensor([1.0, 2.0]))
    assert model.optimizer.ema is not None
    for step in range(20):
        model.step(model.theta.clone(), step, NO_SKIP)
        followed.data.mul_(1 - 0.1)
        theirs.step([followed])
        assert torch.allclose(model.optimizer.ema.data[:2], theirs.shadow_params[0], rtol=1e-6), step


def test_the_schedule_is_a_pure_function() -> None:
    config = OptimizerConfig(learning_rate=2.0, lr_scheduler="cosine", lr_warmup_steps=10)
    rates = [learning_rate(config, step, 110) for step in range(111)]
    assert rates[0] == 0
    assert rates[5] == 1.0
    assert rates[10] == 2.0
    assert rates[60] == pytest.approx(1.0)
    assert rates[110] == pytest.approx(0.0, abs=1e-12)


class Noting(ShardedModel):
    """Counts the gradients at displaced weights."""

    num_inner = 0

    def gradient(self, *args: Any, **options: Any) -> Any:
        self.num_inner += self._is_displaced
        return super().gradient(*args, **options)


@pytest.mark.parametrize("num_inner_steps", [0, 1, 2])
@pytest.mark.parametrize(
    "reading",
    [{}, {"inner_every": 1}, {"barrier": "value"}, {"gradient_of_g": "first_order"}],
    ids=lambda reading: "-".join(map(str, reading.values())),
)
def test_a_method_knows_whether_it_takes_inner_gradients(reading: dict[str, Any], num_inner_steps: int) -> None:
    method = EraseDiffConfig(num_inner_steps=num_inner_steps, **reading)
    config = EngineConfig(device="cpu")
    model = Noting(Point(-1.0, 3.0), config, OptimizerConfig(), collectives.set_up(config), max_train_steps=1)
    batch: Any = [Quadratic(torch.eye(2), torch.tensor([2.0, 1.0]), torch.ones(1))]
    method.make(_QUADRATICS).step(model, batch, batch, 0, diagnose=False)
    assert method.takes_inner_gradients == (model.num_inner > 0)
