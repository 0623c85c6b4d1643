"""What benchmarks put beside an iteration does the passes that it says it does, on the models that it names."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmark_modules import load
from erasediff.trainer import EraseDiffConfig, FinetuneConfig
from erasediff.trainer.config import EngineConfig, MethodConfig, ModelConfig
from erasediff.trainer.models.families import outline_model
from erasediff.trainer.ranks import collectives
from torch import Tensor

CPU = torch.device("cpu")


PIPELINES = load("pipelines")
PEERS = load("peers")
UPDATES = load("updates")
load("rows")
THROUGHPUT = load("throughput")


@pytest.mark.parametrize(
    ("name", "num_parameters", "latent_shape"),
    [
        ("ddpm-cifar10", 35_746_307, (3, 32, 32)),
        ("sd1", 859_520_964, (4, 64, 64)),
        ("sdxl", 2_567_463_684, (4, 128, 128)),
    ],
)
def test_the_models_are_those_that_were_published(
    tmp_path: Path, name: str, num_parameters: int, latent_shape: tuple[int, ...]
) -> None:
    model = outline_model(ModelConfig(str(PIPELINES.write_pipeline(name, tmp_path / name))))
    # the published DDPM counts no classes: 11 · 512 more
    more = 11 * 512 if name == "ddpm-cifar10" else 0
    assert sum(value.numel() for value in model.module.parameters()) == num_parameters + more
    assert model.latent_shape == latent_shape


def passes_of(peer: Any) -> list[tuple[bool, torch.dtype]]:
    """Of one step: whether it has a gradient, and the type that it computes in."""
    found: list[tuple[bool, torch.dtype]] = []

    def note(_: Any, given: Any, output: tuple[Tensor, ...]) -> None:
        found.append((output[0].requires_grad, output[0].dtype))

    peer.module.register_forward_hook(note)
    peer.step()
    return found


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(PIPELINES.write_pipeline("digits", tmp_path_factory.mktemp("digits") / "model"))


VALUE = EraseDiffConfig(barrier="value", lambda_cap=None)
FIRST_ORDER = EraseDiffConfig(gradient_of_g="first_order", lambda_cap=None, xi=0.1)


@pytest.mark.parametrize("method", [FinetuneConfig(), EraseDiffConfig(), VALUE, FIRST_ORDER])
@pytest.mark.parametrize("precision", ["fp32", "bf16-autocast"])
def test_plain_training_does_the_passes_of_an_iteration(digits: str, method: MethodConfig, precision: Any) -> None:
    config = EngineConfig(device="cpu", precision=precision)
    cost = method.cost(precision)
    peer = PEERS.Plain(digits, cost, config, 2, collectives.set_up(config), None)
    before = [value.detach().clone() for value in peer.module.parameters()]
    passes = passes_of(peer)
    assert sum(has_gradient for has_gradient, _ in passes) == cost.gradients
    assert len(passes) == cost.gradients + cost.forwards
    if precision == "bf16-autocast":
        exact = [has_gradient for has_gradient, dtype in passes if dtype == torch.float32]
        assert (exact.count(True), exact.count(False)) == (cost.exact_gradients, cost.exact_forwards)
    assert any((value != was).any() for value, was in zip(peer.module.parameters(), before, strict=True))


def gradients_of(peer: Any) -> list[Tensor]:
    """That a step leaves in the module, which SGD has moved by them."""
    values: list[Tensor] = [*peer.module.parameters()]
    before = [value.detach().clone() for value in values]
    peer.step()
    gradients = [value.grad for value in values if value.grad is not None]
    for value, was, gradient in zip(values, before, gradients, strict=True):
        torch.testing.assert_close(value, was - PEERS.LEARNING_RATE * gradient)
    return gradients


@pytest.fixture
def environment() -> Iterator[None]:
    """accelerate notes ranks and addresses in it, which processes that later tests start would take for theirs."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize("precision", ["fp32", "bf16-autocast"])
@pytest.mark.parametrize("scale", [1.0, 1e-2])
def test_accelerate_takes_plain_trainings_step_clipped(
    digits: str, environment: None, precision: Any, scale: float
) -> None:
    state = pytest.importorskip("accelerate.state")
    config = EngineConfig(device="cpu", precision=precision, forward_batch_size=2)
    given = (digits, EraseDiffConfig().cost(precision), config, 4, collectives.set_up(config), None, "sgd")
    found = []
    for kind in (PEERS.Plain, PEERS.Accelerated):
        state.AcceleratorState._reset_state(reset_partial_state=True)
        torch.manual_seed(0)
        peer = kind(*given)
        # of the loss, and so of the gradient
        loss = peer._loss
        peer._loss = lambda batch, exact, loss=loss: scale * loss(batch, exact=exact)
        found.append(gradients_of(peer))
    plain, clipped = found
    norm = torch.stack([gradient.double().square().sum() for gradient in plain]).sum().sqrt()
    assert (norm > 1) == (scale == 1.0)
    for ours, theirs in zip(plain, clipped, strict=True):
        torch.testing.assert_close(theirs, (ours / norm.clamp(min=1)).float())


def test_peers_are_left_out_where_they_would_do_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def why(provider: str, method: MethodConfig, forward_batch_size: int | None = None) -> str:
        return THROUGHPUT.why_not(
            provider, Namespace(forward_batch_size=forward_batch_size), method.cost("bf16-autocast")
        )

    monkeypatch.setattr(THROUGHPUT, "find_spec", lambda name: name)
    assert not why("accelerate", EraseDiffConfig(), 1) and not why("released", VALUE) and not why("plain", VALUE, 1)
    assert (
        why("accelerate", VALUE) == why("accelerate", FIRST_ORDER) == "left out: it has one process and one precision"
    )
    assert why("released", VALUE, 1) == "left out: it has one process and no micro-batches"
    monkeypatch.setattr(THROUGHPUT, "find_spec", lambda name: None)
    assert why("accelerate", EraseDiffConfig()) == "left out: accelerate is not installed"


@pytest.mark.parametrize(("kind", "num_passes", "num_again"), [("Plain", 3, 2), ("Released", 3, 4)])
def test_peers_make_activations_again_as_ours_do(digits: str, kind: str, num_passes: int, num_again: int) -> None:
    """For each loss that goes backward: those of the research code go twice."""
    config = EngineConfig(device="cpu", activation_checkpointing="all")
    peer = getattr(PEERS, kind)(digits, EraseDiffConfig().cost("fp32"), config, 2, collectives.set_up(config), None)
    calls: list[None] = []
    peer.module.down_blocks[0].resnets[0].register_forward_pre_hook(lambda *_: calls.append(None))
    peer.step()
    assert len(calls) == num_passes + num_again


def test_micro_batches_are_passes_of_their_own(digits: str) -> None:
    config = EngineConfig(device="cpu", forward_batch_size=2)
    peer = PEERS.Plain(digits, VALUE.cost("fp32"), config, 5, collectives.set_up(config), None)
    assert len(passes_of(peer)) == 3 * (2 + 2)
    values = [*peer.module.parameters()]
    losses = [(peer._output(batch) - batch.target).square().mean() for batch in peer._forget]
    expected = torch.autograd.grad(torch.stack(losses).mean(), values)
    peer._gradient(peer._forget, exact=True)
    for value, gradient in zip(values, expected, strict=True):
        torch.testing.assert_close(value.grad, gradient)


@pytest.mark.parametrize(("method", "inner"), [(EraseDiffConfig(), 0), (VALUE, 1)])
def test_the_released_step_keeps_the_targets_graph(digits: str, method: MethodConfig, inner: int) -> None:
    """∇L_r's pass, the target's and ∇L_f's, all with a gradient; and the same two in the inner step."""
    config = EngineConfig(device="cpu")
    peer = PEERS.Released(digits, method.cost("fp32"), config, 2, collectives.set_up(config), None)
    assert [has_gradient for has_gradient, _ in passes_of(peer)] == [True] * (3 + 2 * inner)


@pytest.mark.parametrize("method", [FinetuneConfig(), EraseDiffConfig(lambda_cap=None), VALUE, FIRST_ORDER])
def test_no_reading_is_off(method: MethodConfig) -> None:
    assert UPDATES.error_of(method, collectives.set_up(EngineConfig(device="cpu")), 2) <= 1e-5


def test_an_update_that_is_off_is_seen() -> None:
    """A capped λ is not the reference's."""
    config = EraseDiffConfig(lambda_cap=0.0, eta=2.0)
    assert UPDATES.error_of(config, collectives.set_up(EngineConfig(device="cpu")), 2) > 1e-3
