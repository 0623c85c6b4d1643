"""Every method's steps: clipped, SGD moves θ by lr · max_grad_norm; docs/methods.md has what is logged of them."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from erasediff.trainer.config import OptimizerConfig, TrainConfig
from erasediff.trainer.config.methods import method_kind, method_names
from erasediff.trainer.engine import ShardedModel, ShardedVector
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.run.loop import Loop
from erasediff.trainer.scrubbing import run_scrub
from tiny import tiny_config

# such that every term of δ counts
OPTIONS: dict[str, dict[str, Any]] = {
    "blindspot": {"alpha": 0.3, "num_proxy_steps": 2},
    "erasediff": {"eta": 2.0},
    "meta_erasediff": {"eta": 2.0, "num_relearning_steps": 1, "lambda_cap": 0.7},
    "moo": {"weight": 0.7},
    "neggrad": {"remain_weight": 0.7, "max_loss": 100.0},
    "salun": {"remain_weight": 0.7, "num_mask_batches": 1},
    "selective_amnesia": {"remain_weight": 0.7, "num_fisher_levels": 2, "penalty": 1e3},
}
CASES = [(name, OPTIONS.get(name, {})) for name in method_names()]
CASES += [
    ("erasediff", {"eta": 2.0, "gradient_of_g": "first_order", "xi": 0.1, "target": "noise"}),
    ("meta_erasediff", OPTIONS["meta_erasediff"] | {"holds_theta": False}),
    ("neggrad", {"max_loss": 100.0}),
]
LEARNING_RATE, MAX_NORM = 0.5, 0.03
DOCS = Path(__file__).parents[3] / "docs" / "methods.md"


def documented_keys() -> set[str]:
    """Of a line of metrics.jsonl, by the table."""
    section = DOCS.read_text(encoding="utf-8").partition("## What a run logs")[2].partition("\n## ")[0]
    rows = (line.split("|") for line in section.splitlines() if line.startswith("| `"))
    return {key for row in rows for key in re.findall(r"`(\w+)`", row[1])}


@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_clipped_step_is_as_long_as_it_may_be(
    single_digits: Path, base_model: Path, tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    passed: list[ShardedVector] = []

    def watch(step: int, model: ShardedModel) -> None:
        passed.append(model.theta.clone())

    method = method_kind(name)(name=name, **options)
    train = TrainConfig(max_train_steps=3, train_batch_size=4, max_loss_r_ratio=None)
    optimizer = OptimizerConfig(name="sgd", learning_rate=LEARNING_RATE, max_grad_norm=MAX_NORM)
    config = tiny_config(single_digits, base_model, tmp_path / "run", method=method, train=train, optimizer=optimizer)
    try:
        run_scrub(config, watch=watch)
    except ConfigError as error:
        if "prompt" not in str(error):
            raise
        pytest.skip("for models that are told prompts")
    moved = [float((after.data - before.data).norm()) for before, after in itertools.pairwise(passed)]
    assert moved == pytest.approx([LEARNING_RATE * MAX_NORM] * 3, rel=1e-4)
    logged = {key for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines() for key in json.loads(line)}
    # of inner products the table has some, and the letters of all
    assert {key for key in logged if not re.fullmatch("dot_[rfgpd]{2}", key)} <= documented_keys()
    assert {"step", "loss_r", "clip", "seconds"} <= logged


def test_every_key_that_the_table_has_is_logged_somewhere() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in (DOCS.parents[1] / "trainer").rglob("*.py"))
    keys = documented_keys()
    assert len(keys) > 25
    assert not [key for key in keys if not re.search(rf"\b{key}\b", code)]


@pytest.mark.parametrize(("norm_squared", "clip"), [(-1e-9, 1.0), (0.0, 1.0), (4.0, 0.25), (0.04, 1.0)])
def test_an_update_that_vanishes_is_clipped_as_none(norm_squared: float, clip: float) -> None:
    """Whose square, added up of products, rounding may have taken below zero."""
    layout: Any = SimpleNamespace(partition_numel=1)
    delta, said = ShardedVector(layout, torch.ones(1)), {}
    packet = SimpleNamespace(extend=said.update)
    loop: Any = SimpleNamespace(_optimizer=OptimizerConfig(max_grad_norm=0.5))
    update: Any = SimpleNamespace(norm_squared=lambda: torch.tensor(norm_squared).double(), delta=delta, packet=packet)
    Loop._clip(loop, update)  # pyright: ignore[reportPrivateUsage]
    assert delta.data.item() == said["clip"].item() == clip


def test_a_step_that_takes_no_time_has_no_rate() -> None:
    config, streams = TrainConfig(train_batch_size=8), SimpleNamespace(forget=None)
    model = SimpleNamespace(device=torch.device("cpu"))
    loop: Any = SimpleNamespace(_train=config, _streams=streams, _optimizer=OptimizerConfig(), _model=model)
    assert Loop._use(loop, 0, 0.0)["samples_per_second"] == 0.0  # pyright: ignore[reportPrivateUsage]
    assert Loop._use(loop, 0, 0.5)["samples_per_second"] == 16.0  # pyright: ignore[reportPrivateUsage]
