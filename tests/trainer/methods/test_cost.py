"""What a step is said to cost is what it costs: passes counted in the model, publications in the engine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from erasediff.trainer import EraseDiffConfig, FinetuneConfig, MOOConfig
from erasediff.trainer.config import EngineConfig, MethodConfig, Precision, TrainConfig
from erasediff.trainer.config.cost import Cost
from erasediff.trainer.engine.sharded_model import ShardedModel
from erasediff.trainer.methods.blindspot import BlindspotConfig
from erasediff.trainer.methods.esd import ESDConfig
from erasediff.trainer.methods.meta_erasediff import MetaEraseDiffConfig
from erasediff.trainer.methods.munba import MUNBaConfig
from erasediff.trainer.methods.neggrad import NegGradConfig
from erasediff.trainer.methods.restricted_gradient import RestrictedGradientConfig
from erasediff.trainer.methods.salun import SalUnConfig
from erasediff.trainer.methods.selective_amnesia import SelectiveAmnesiaConfig
from erasediff.trainer.methods.siss import SISSConfig
from erasediff.trainer.scrubbing import run_scrub
from tiny import tiny_config
from vector_counts import count_vectors


@pytest.mark.parametrize(
    ("method", "precision", "expected"),
    [
        (EraseDiffConfig(), "fp32", Cost(2, 1)),
        (EraseDiffConfig(target="noise"), "bf16-autocast", Cost(2, 0)),
        (EraseDiffConfig(barrier="value"), "fp32", Cost(2, 2, publications=2, forward_gathers=1)),
        (EraseDiffConfig(barrier="value", num_inner_steps=3), "fp32", Cost(4, 2, publications=4, forward_gathers=1)),
        (
            EraseDiffConfig(barrier="value", num_inner_steps=3),
            "bf16-autocast",
            Cost(4, 3, exact_forwards=2, publications=4, forward_gathers=2),
        ),
        (
            EraseDiffConfig(barrier="value"),
            "tf32",
            Cost(2, 3, exact_forwards=2, publications=2, forward_gathers=2),
        ),
        (EraseDiffConfig(gradient_of_g="first_order"), "tf32", Cost(3, 1, exact_gradients=2, publications=2)),
        (EraseDiffConfig(gradient_of_g="first_order", num_inner_steps=2), "fp32", Cost(4, 1, publications=3)),
        (
            EraseDiffConfig(gradient_of_g="first_order", num_inner_steps=2),
            "bf16-autocast",
            Cost(4, 1, 2, publications=3),
        ),
        (EraseDiffConfig(gradient_of_g="first_order", num_inner_steps=0), "bf16-autocast", Cost(2, 1)),
        (EraseDiffConfig(barrier="value", teacher="frozen"), "fp32", Cost(2, 2, publications=3, forward_gathers=2)),
        (MOOConfig(), "fp32", Cost(2, 1)),
        (MUNBaConfig(target="noise"), "fp32", Cost(2)),
        (RestrictedGradientConfig(target="noise"), "fp32", Cost(2)),
        (NegGradConfig(), "fp32", Cost(1, 1)),
        (NegGradConfig(remain_weight=1.0), "fp32", Cost(2)),
        (MetaEraseDiffConfig(num_relearning_steps=2), "fp32", Cost(5, 1, publications=4)),
        (MetaEraseDiffConfig(num_relearning_steps=1, holds_theta=False), "fp32", Cost(3, 1, publications=2)),
        (MOOConfig(teacher="frozen"), "fp32", Cost(2, 1, publications=2, forward_gathers=1)),
        (FinetuneConfig(), "fp32", Cost(1, 0)),
        (SISSConfig(), "fp32", Cost(2)),
        (ESDConfig(), "fp32", Cost(1, 3, publications=2, forward_gathers=1)),
        (MUNBaConfig(teacher="frozen"), "fp32", Cost(2, 1, publications=2, forward_gathers=1)),
    ],
)
def test_the_stated_cost_is_the_cost(
    single_digits: Path,
    base_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: MethodConfig,
    precision: Precision,
    expected: Cost,
) -> None:
    passes: list[tuple[bool, str]] = []  # whether a graph was built, and the arithmetic
    order = ""  # g: a pass with a graph, f: one without, p: a publication
    forward = UNet2DModel.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal order
        output = forward(*args, **kwargs)
        order += "g" if output[0].requires_grad else "f"
        arithmetic = "bf16" if output[0].dtype == torch.bfloat16 else "fp32"
        passes.append((output[0].requires_grad, "tf32" if torch.backends.cudnn.allow_tf32 else arithmetic))
        return output

    publish = ShardedModel._write_working_copy  # pyright: ignore[reportPrivateUsage]

    def noted(*args: Any) -> None:
        nonlocal order
        order += "p"  # the vectors that it is given are to be free
        publish(*args)

    monkeypatch.setattr(UNet2DModel, "forward", counted)
    monkeypatch.setattr(ShardedModel, "_write_working_copy", noted)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    most_held = count_vectors(monkeypatch)
    train = TrainConfig(max_train_steps=2, train_batch_size=4, descent_every=0)
    engine = EngineConfig(device="cpu", precision=precision)
    config = tiny_config(single_digits, base_model, tmp_path / "run", method=method, train=train, engine=engine)
    run_scrub(config, watch=most_held.watch)
    assert most_held.by_step[1] == method.num_gradients_held
    assert method.cost(precision) == expected
    assert order.count("p") == 2 * expected.publications
    assert len(re.findall("f+(?:p|$)", order)) == 2 * expected.forward_gathers
    assert sum(has_graph for has_graph, _ in passes) == 2 * expected.gradients
    assert sum(not has_graph for has_graph, _ in passes) == 2 * expected.forwards
    in_fp32 = [has_graph for has_graph, arithmetic in passes if arithmetic == "fp32"]
    if precision != "fp32":
        assert in_fp32.count(True) == 2 * expected.exact_gradients
        assert in_fp32.count(False) == 2 * expected.exact_forwards


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (SalUnConfig(num_mask_batches=3), 3),
        # of each of 4 samples one at 2 levels, and so of the next batch: as many samples as in 4 batches
        (SelectiveAmnesiaConfig(num_fisher_batches=2, num_fisher_levels=2), 4),
        (BlindspotConfig(num_proxy_steps=3), 3),
        (MOOConfig(), 0),
    ],
)
def test_what_comes_before_the_first_step_is_counted(
    digits: Path,
    base_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: MethodConfig,
    expected: int,
) -> None:
    samples: list[int] = []
    forward = UNet2DModel.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        samples.append(len(output[0]) if output[0].requires_grad else 0)
        return output

    monkeypatch.setattr(UNet2DModel, "forward", counted)
    train = TrainConfig(max_train_steps=2, train_batch_size=4, descent_every=0)
    config = tiny_config(digits, base_model, tmp_path / "run", method=method, train=train)
    run_scrub(config, watch=(most_held := count_vectors(monkeypatch)).watch)
    assert most_held.by_step[1] == method.num_gradients_held
    assert method.num_preparing_gradients == expected
    assert sum(samples) == 4 * (expected + 2 * method.cost("fp32").gradients)
