"""SISS's mixtures against densities in float64, and whole scrubs; its steps are compared in tests/distributed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from erasediff.shards import Dataset, SampleBatch, Stream
from erasediff.trainer.config import EngineConfig, ModelConfig, OptimizerConfig, TrainConfig
from erasediff.trainer.engine.sharded_model import ShardedModel
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.methods.siss import SISSConfig
from erasediff.trainer.models.families import load_model
from erasediff.trainer.objectives._mixture import are_told_same
from erasediff.trainer.objectives.diffusion import DiffusionBatch, DiffusionObjective
from erasediff.trainer.ranks import collectives
from erasediff.trainer.scrubbing import run_scrub
from tiny import make_pipeline, tiny_config

CPU = torch.device("cpu")
CHANCE = 0.3
NUM_PAIRS = 600


def samples(digits: Path, seed: int) -> SampleBatch:
    """Of all classes but the 3, in either part: what a pair is told differs in nine of ten."""
    data = Dataset.open(digits / "split" / "remain")
    return Stream(data, seed=seed, batch_size=NUM_PAIRS, dtype="uint8").batch(0)


def batches(folder: Path, digits: Path, size: int | None = None) -> tuple[list[DiffusionBatch], list[DiffusionBatch]]:
    """Of D_r, labels dropped, and of D_f."""
    model = load_model(ModelConfig(str(folder), null_class=10))
    made = DiffusionObjective(
        model, CPU, seed=5, label_drop=0.2, forget_label_drop=0.2, method=SISSConfig(), forward_batch_size=size
    )
    return made.remain_batches(samples(digits, 0)), made.forget_batches(samples(digits, 1))


def mixtures(folder: Path, remain: Any, forget: Any) -> tuple[list[DiffusionBatch], list[DiffusionBatch]]:
    model = load_model(ModelConfig(str(folder), null_class=10))
    return DiffusionObjective(model, CPU, seed=5, label_drop=0.0).mixtures(remain, forget, CHANCE)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_importance_is_the_ratio_of_densities(digits: Path, tmp_path: Path, prediction_type: Any) -> None:
    folder = make_pipeline(tmp_path / "model", prediction_type=prediction_type)
    (remain,), (forget,) = batches(folder, digits)
    remain.weights[1], forget.weights[2] = 0, 0
    (as_remain,), (as_forget,) = mixtures(folder, [remain], [forget])
    assert forget.chance is not None
    from_forget = forget.chance < CHANCE
    # 3.3 standard deviations
    assert abs(from_forget.float().mean() - CHANCE) < 3.3 * (CHANCE * (1 - CHANCE) / NUM_PAIRS) ** 0.5
    scheduler: Any = DDPMScheduler(num_train_timesteps=1000, prediction_type=prediction_type)
    t, epsilon = forget.noised.timesteps, forget.noised.epsilon
    m_t = scheduler.add_noise(remain.noised.x_0, epsilon, t)
    m_t[from_forget] = forget.noised.x_t[from_forget]
    gamma = scheduler.alphas_cumprod[t].double().sqrt().view(-1, 1, 1, 1)
    sigma = (1 - scheduler.alphas_cumprod[t].double()).sqrt().view(-1, 1, 1, 1)
    density, labels = {}, torch.where(from_forget, *(one.noised.told["class_labels"] for one in (forget, remain)))
    for name, one, mixed in (("x", remain, as_remain), ("a", forget, as_forget)):
        assert torch.allclose(mixed.noised.x_t, m_t, atol=1e-6)
        assert torch.equal(mixed.noised.timesteps, t) and torch.equal(mixed.noised.told["class_labels"], labels)
        assert mixed.weights.tolist() == [float(i not in (1, 2)) for i in range(NUM_PAIRS)]
        x_0 = one.noised.x_0
        density[name] = torch.distributions.Normal(gamma * x_0, sigma).log_prob(m_t.double()).flatten(1).sum(1)
        noise = (m_t - gamma * x_0) / sigma
        expected = noise if prediction_type == "epsilon" else gamma * noise - sigma * x_0
        # t = 0 divides rounding by σ = .01
        assert mixed.target is not None and torch.allclose(mixed.target.double(), expected, atol=2e-4)
    told_same = remain.noised.told["class_labels"] == forget.noised.told["class_labels"]
    whole = torch.logaddexp(density["x"] + math.log(1 - CHANCE), density["a"] + math.log(CHANCE))
    certain = {"x": ~from_forget / (1 - CHANCE), "a": from_forget / CHANCE}
    for name, mixed in (("x", as_remain), ("a", as_forget)):
        expected = torch.where(told_same, (density[name] - whole).exp(), certain[name])
        assert mixed.importance is not None and torch.allclose(mixed.importance.double(), expected, atol=1e-3)
        several = told_same & (expected > 0.1) & (expected < 1.2)
        assert several.sum() > 5, "pairs of which neither is certain"


def test_expectations_are_those_of_each_side(digits: Path, tmp_path: Path) -> None:
    """Of a model that answers 0 the loss is the mean square of the noise, 1; and so it is on the mixtures."""
    for folder in (
        make_pipeline(tmp_path / "classes"),
        make_pipeline(tmp_path / "nothing", num_classes=None),
    ):
        null_class = 10 if folder.name == "classes" else None
        model = load_model(ModelConfig(str(folder), null_class=null_class))
        made = DiffusionObjective(model, CPU, seed=5, label_drop=0.0, method=SISSConfig())
        pairs = made.remain_batches(samples(digits, 0)), made.forget_batches(samples(digits, 1))
        for (mixed,) in made.mixtures(*pairs, CHANCE):
            assert mixed.target is not None and mixed.importance is not None
            assert abs((mixed.importance * mixed.target.square().flatten(1).mean(1)).mean() - 1) < 0.15
            assert mixed.target.square().mean() > 3, "which is what the importance mends"


def test_pairs_do_not_depend_on_micro_batches(digits: Path, base_model: Path) -> None:
    whole, cut = (mixtures(base_model, *batches(base_model, digits, size)) for size in (None, 100))
    for one, several in zip(whole, cut, strict=True):
        assert len(several) == NUM_PAIRS / 100
        for get in (
            lambda batch: batch.noised.x_t,
            lambda batch: batch.importance,
            lambda batch: batch.noised.told["class_labels"],
        ):
            assert torch.equal(get(one[0]), torch.cat([get(batch) for batch in several]))


def test_what_is_told_is_the_same_where_all_of_it_is() -> None:
    one = {"words": torch.zeros(4, 2, 3), "label": torch.arange(4)}
    other = {"words": torch.zeros(4, 2, 3), "label": torch.arange(4)}
    other["words"][1, 1, 2], other["label"][3] = 1, 0
    assert are_told_same(one, other, 4, CPU).tolist() == [True, False, True, False]
    assert are_told_same({}, {}, 2, CPU).tolist() == [True, True]


def test_a_loss_counts_by_its_importance(digits: Path, base_model: Path) -> None:
    model = load_model(ModelConfig(str(base_model), null_class=10))
    made = DiffusionObjective(model, CPU, seed=5, label_drop=0.0, method=SISSConfig(), forward_batch_size=8)
    remain, forget = made.remain_batches(samples(digits, 0))[:1], made.forget_batches(samples(digits, 1))[:1]
    engine = EngineConfig(device="cpu")
    collectives.set_up(engine)
    sharded = ShardedModel(model.module, engine, OptimizerConfig(), CPU, max_train_steps=1)
    for (mixed,) in made.mixtures(remain, forget, CHANCE):
        with torch.no_grad():
            output = model.module(mixed.noised.x_t, mixed.noised.timesteps, **mixed.noised.told).sample
            losses = made.loss(sharded, mixed)
        assert mixed.target is not None and mixed.importance is not None
        squares = (output - mixed.target).square().flatten(1).mean(1)
        assert torch.allclose(losses, squares * mixed.importance, rtol=1e-5) and losses.std() > 0


def scrub(sets: Path, base: Path, output: Path, **options: Any) -> list[dict[str, Any]]:
    train = TrainConfig(max_train_steps=12, train_batch_size=16, max_loss_r_ratio=None)
    optimizer = OptimizerConfig(name="sgd", learning_rate=0.01)
    run_scrub(tiny_config(sets, base, output, method=SISSConfig(**options), train=train, optimizer=optimizer))
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def test_a_scrub_leads_away_from_the_forgotten(single_digits: Path, base_model: Path, tmp_path: Path) -> None:
    away, not_away = (scrub(single_digits, base_model, tmp_path / str(norm), forget_norm=norm) for norm in (1.0, 0.0))
    for line in away:
        assert line["weight_r"] == 1
        assert line["weight_f"] == pytest.approx(-((line["dot_rr"] / line["dot_gg"]) ** 0.5))
    # of the same pairs at the same steps
    assert sum(line["loss_f"] for line in away[-4:]) > 1.3 * sum(line["loss_f"] for line in not_away[-4:])


def test_a_forgotten_class_is_refused(digits: Path, base_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing remains that is told 3: .* use method.name = 'neggrad'"):
        run_scrub(tiny_config(digits, base_model, tmp_path / "run", method=SISSConfig()))
    assert not (tmp_path / "run").exists()
    # a class of several, too
    SISSConfig().check_conditions(None, [1, 2], [0, 2, 1])
    with pytest.raises(ConfigError, match=r"nothing remains that is told 2: "):
        SISSConfig().check_conditions(None, [1, 2], [0, 1])


def test_prompts_that_are_told_alike_are_the_same() -> None:
    SISSConfig().check_conditions(None, ["a Cat"], ["a  cat", "a dog"])
    with pytest.raises(ConfigError, match="nothing remains that is told 'a bird'"):
        SISSConfig().check_conditions(None, ["a Cat", "a bird"], ["a  cat", "a dog"])
