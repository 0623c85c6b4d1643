"""The objectives against diffusers' own noise schedules, and what is drawn against what was asked for."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy.toy_family as toy
from diffusers import DDPMScheduler
from erasediff.shards import Dataset, SampleBatch, Stream
from erasediff.trainer import EraseDiffConfig
from erasediff.trainer.config import EngineConfig, MethodConfig, ModelConfig, OptimizerConfig
from erasediff.trainer.engine.sharded_model import ShardedModel
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.methods.esd import ESDConfig
from erasediff.trainer.models.families import load_model
from erasediff.trainer.models.model import Model
from erasediff.trainer.objectives.diffusion import DiffusionBatch, DiffusionObjective
from erasediff.trainer.objectives.targets.rl import Target
from erasediff.trainer.ranks import collectives
from erasediff.trainer.scrubbing import plan
from tiny import make_pipeline, tiny_config

CPU = torch.device("cpu")
NULL_CLASS = 10
TOY_INDEX = {"scheduler": ["diffusers", "DDPMScheduler"]}
REMAIN_LABELS = [label for label in range(10) if label != 3]


def load(folder: Path, null_class: int | None = NULL_CLASS) -> Model:
    return load_model(ModelConfig(path=str(folder), null_class=null_class))


def objective(model: Model, method: MethodConfig | None = None, **options: Any) -> DiffusionObjective:
    settings: dict[str, Any] = {"seed": 5, "label_drop": 0.0, "others": REMAIN_LABELS} | options
    return DiffusionObjective(model, CPU, method=method, **settings)


def samples(digits: Path, part: str, batch_size: int = 64, b: int = 0, rank: int = 0, world: int = 1) -> SampleBatch:
    stream = Stream(Dataset.open(digits / "split" / part), seed=0, batch_size=batch_size)
    return stream.batch(b, rank, world)


def joined(batches: list[DiffusionBatch], field: str) -> torch.Tensor:
    """`x_t` and so on, "c" for what the model is told, "c_m" for what its teacher is."""
    if field in ("c", "c_m"):
        told = [batch.noised.told if field == "c" else batch.prepared.told for batch in batches]
        return torch.cat([one["class_labels"] for one in told])
    return torch.cat([getattr(batch.noised, field) for batch in batches])


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_x_t_and_the_remain_target_are_those_of_diffusers(digits: Path, tmp_path: Path, prediction_type: Any) -> None:
    model = load(make_pipeline(tmp_path / "model", prediction_type=prediction_type))
    given = samples(digits, "remain")
    (batch,) = objective(model).remain_batches(given)
    assert batch.target is not None
    scheduler: Any = DDPMScheduler(num_train_timesteps=1000, prediction_type=prediction_type)
    x_0 = torch.from_numpy(given.images)
    # solve for ε where the model predicts v: x_t = √ᾱ x_0 + √(1-ᾱ) ε
    signal = scheduler.alphas_cumprod[batch.noised.timesteps].sqrt().view(-1, 1, 1, 1)
    noise = (1 - scheduler.alphas_cumprod[batch.noised.timesteps]).sqrt().view(-1, 1, 1, 1)
    epsilon = (batch.noised.x_t - signal * x_0) / noise
    expected = epsilon if prediction_type == "epsilon" else scheduler.get_velocity(x_0, epsilon, batch.noised.timesteps)
    # t = 0 divides rounding by √(1-ᾱ) = .01
    assert torch.allclose(batch.target, expected, atol=2e-4)
    assert torch.allclose(scheduler.add_noise(x_0, epsilon, batch.noised.timesteps), batch.noised.x_t, atol=1e-5)
    assert abs(epsilon.mean()) < 0.05
    assert abs(epsilon.std() - 1) < 0.05


def test_every_sample_has_its_own_draws_whatever_the_ranks_and_micro_batches(digits: Path, base_model: Path) -> None:
    model = load(base_model)
    method = EraseDiffConfig()
    whole = objective(model, method, label_drop=0.3).forget_batches(samples(digits, "forget", batch_size=12))
    assert len(whole) == 1
    for world in (2, 3):
        parts = []
        for rank in range(world):
            rows = samples(digits, "forget", batch_size=12, rank=rank, world=world)
            parts += objective(model, method, label_drop=0.3, forward_batch_size=3).forget_batches(rows)
        for field in ("x_t", "timesteps", "c", "c_m"):
            assert torch.equal(joined(parts, field), joined(whole, field)), field


def test_pixels_scaled_on_the_device_are_those_the_stream_scales(digits: Path, base_model: Path) -> None:
    pixels = Stream(Dataset.open(digits / "data"), seed=0, batch_size=64, dtype="uint8").batch(0)
    scaled = Stream(Dataset.open(digits / "data"), seed=0, batch_size=64).batch(0)
    assert pixels.images.dtype == np.uint8 and scaled.images.dtype == np.float32
    model = load(base_model)
    theirs, ours = (objective(model).remain_batches(batch) for batch in (scaled, pixels))
    assert torch.equal(joined(ours, "x_t"), joined(theirs, "x_t"))


def test_draws_change_with_step_seed_and_purpose_but_not_with_the_target(digits: Path, base_model: Path) -> None:
    model = load(base_model)
    given = samples(digits, "forget")
    rl = objective(model, EraseDiffConfig()).forget_batches(given)[0]
    noise = objective(model, EraseDiffConfig(target="noise")).forget_batches(given)[0]
    assert torch.equal(rl.noised.x_t, noise.noised.x_t)
    later = objective(model, EraseDiffConfig()).forget_batches(samples(digits, "forget", b=1))[0]
    other = objective(model, EraseDiffConfig(), seed=6).forget_batches(given)[0]
    remain = objective(model).remain_batches(given)[0]
    for different in (later, other, remain):
        assert not torch.equal(rl.noised.timesteps, different.noised.timesteps)


def test_rl_draws_another_remaining_class_for_each_sample(digits: Path, base_model: Path) -> None:
    given = samples(digits, "forget", batch_size=600)
    (batch,) = objective(load(base_model), EraseDiffConfig()).forget_batches(given)
    assert batch.target is None
    counts = torch.bincount(joined([batch], "c_m"), minlength=11)
    assert counts[3] == counts[NULL_CLASS] == 0
    assert (counts[REMAIN_LABELS] > 600 / 9 / 2).all()
    # where the sample's own class remains (single samples are erased, not a class) it is still never its own c_m
    mixed = samples(digits, "remain", batch_size=600)
    (batch,) = objective(load(base_model), EraseDiffConfig()).forget_batches(mixed)
    assert (joined([batch], "c_m").numpy() != mixed.labels).all()


def test_an_anchor_is_the_only_other_class(digits: Path, base_model: Path) -> None:
    (batch,) = objective(load(base_model), EraseDiffConfig(anchor=7)).forget_batches(samples(digits, "forget"))
    assert (joined([batch], "c_m") == 7).all()


def test_negative_guidance_leads_away_from_a_samples_own_class(digits: Path, base_model: Path) -> None:
    """By the original weights, whatever has been trained since, and for labels that are dropped, too."""
    model, original = load(base_model), load(base_model).module
    made = objective(model, ESDConfig(negative_guidance=0.7), forget_label_drop=1.0)
    engine = EngineConfig(device="cpu")
    collectives.set_up(engine)
    sharded = ShardedModel(model.module, engine, OptimizerConfig(), CPU, max_train_steps=1, keep_original=True)
    sharded.theta.data.mul_(1.1)
    (batch,) = made.with_forget_targets(sharded, made.forget_batches(samples(digits, "forget", batch_size=4)))

    @torch.no_grad()
    def predicted(label: int) -> torch.Tensor:
        labels = torch.full((4,), label)
        return original(batch.noised.x_t, batch.noised.timesteps, class_labels=labels, return_dict=False)[0]

    expected = predicted(NULL_CLASS) - 0.7 * (predicted(3) - predicted(NULL_CLASS))
    assert batch.target is not None and (batch.noised.told["class_labels"] == NULL_CLASS).all()
    assert (batch.target - expected).abs().max() < 1e-5 < (expected - predicted(NULL_CLASS)).abs().max()


def test_negative_guidance_needs_a_null_class(base_model: Path) -> None:
    with pytest.raises(ConfigError, match=r"this one has no null class: set model\.null_class"):
        ESDConfig().check_conditions(load(base_model, null_class=None), [3], [1, 2])


def test_the_noise_target_is_uniform(digits: Path, base_model: Path) -> None:
    method = EraseDiffConfig(target="noise")
    (batch,) = objective(load(base_model), method).forget_batches(samples(digits, "forget", batch_size=600))
    values = np.sort(batch.prepared.numpy().ravel())
    assert values[0] >= 0
    assert values[-1] < 1
    # Kolmogorov's distance to U(0, 1): 1.63/√n at the 1 % level
    assert np.abs(values - np.linspace(0, 1, len(values))).max() < 1.63 / len(values) ** 0.5


def test_labels_are_dropped_at_the_rate_asked_for_for_the_trained_model_alone(digits: Path, base_model: Path) -> None:
    model = load(base_model)
    dropping = objective(model, EraseDiffConfig(), label_drop=0.25, forget_label_drop=0.5)
    remain = joined(dropping.remain_batches(samples(digits, "remain", batch_size=1200)), "c")
    forget = dropping.forget_batches(samples(digits, "forget", batch_size=1200))
    assert abs((remain == NULL_CLASS).float().mean() - 0.25) < 0.05
    assert abs((joined(forget, "c") == NULL_CLASS).float().mean() - 0.5) < 0.06
    assert not (joined(forget, "c_m") == NULL_CLASS).any()


def test_unconditional_models_are_told_no_class(digits: Path, tmp_path: Path) -> None:
    model = load(make_pipeline(tmp_path / "model", num_classes=None), null_class=None)
    (batch,) = objective(model, EraseDiffConfig(target="noise")).forget_batches(samples(digits, "forget"))
    assert not batch.noised.told


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_forget_samples_own_targets_are_those_of_training_on_them(
    digits: Path, tmp_path: Path, prediction_type: Any
) -> None:
    model = load(make_pipeline(tmp_path / "model", prediction_type=prediction_type))
    asked = objective(model, EraseDiffConfig())
    (batch,) = asked.with_own_targets(asked.forget_batches(samples(digits, "forget")))
    noised, scheduler = batch.noised, DDPMScheduler(num_train_timesteps=1000, prediction_type=prediction_type)
    velocity = scheduler.get_velocity(noised.x_0, noised.epsilon, noised.timesteps)  # pyright: ignore[reportArgumentType]
    expected = noised.epsilon if prediction_type == "epsilon" else velocity
    assert batch.target is not None and torch.allclose(batch.target, expected, atol=1e-6)


class Numbered(toy.Prompts):
    """Prompts that may be given by their digit."""

    def parse(self, given: int | str, option: str) -> str:
        return f"a {toy.WORDS[int(given) + 3]}"


def test_an_anchor_is_what_the_models_conditions_make_of_it(toy_family: Path, tmp_path: Path) -> None:
    given = toy.load(ModelConfig(str(toy_family / "model")), toy_family / "model", TOY_INDEX)
    model = dataclasses.replace(given, conditions=Numbered())
    found = DiffusionObjective(model, CPU, seed=5, label_drop=0.0, method=EraseDiffConfig(anchor=9), others=["a one"])
    forget = Stream(Dataset.open(toy_family / "split" / "forget"), seed=0, batch_size=4, channels=1).batch(0)
    (batch,) = found.forget_batches(forget)
    assert batch.prepared.conditions == ["a nine"] * 4
    words = given.frozen["words"][[1, 12]].mean(0)
    assert torch.equal(batch.prepared.told["words"], words.expand(4, -1))
    scrub = tiny_config(toy_family, toy_family / "model", tmp_path / "run", null_class=None)
    for anchor in (8, "a dog"):
        with pytest.raises(ConfigError, match=rf"method\.anchor = {anchor!r}: the model knows no (8|dog)"):
            plan(dataclasses.replace(scrub, method=EraseDiffConfig(anchor=anchor)))


def test_rl_draws_no_prompt_that_is_told_alike(toy_family: Path) -> None:
    """Neither case nor spaces tell prompts apart: the target would be the model's own prediction."""
    given = toy.load(ModelConfig(str(toy_family / "model")), toy_family / "model", TOY_INDEX)
    alike = ["A Three", "a  three"]
    with pytest.raises(ConfigError, match="needs another class in the remain set to relabel to"):
        Target.check(EraseDiffConfig(), given, ["a three"], alike)
    others = [alike[0], "a one", alike[1], "a nine"]
    Target.check(EraseDiffConfig(), given, ["a three"], others)
    target, generator = Target(EraseDiffConfig(), others, given.conditions), np.random.default_rng(0)
    drawn = Counter(str(target.draw("a three", (1,), generator)) for _ in range(200))
    assert drawn.keys() == {"a one", "a nine"} and min(drawn.values()) > 70
    drawn = Counter(str(target.draw("a two", (1,), generator)) for _ in range(400))
    assert drawn.keys() == set(others) and min(drawn.values()) > 70


def _relabelled(given: Any, forget: SampleBatch, method: EraseDiffConfig) -> list[list[str]]:
    """c and c_m of each sample."""
    made = DiffusionObjective(given, CPU, seed=5, label_drop=0.0, method=method, others=["a one"])
    (batch,) = made.forget_batches(forget)
    for prompt, row in zip(batch.prepared.conditions, batch.prepared.told["words"], strict=True):
        words = given.frozen["words"][[toy.WORDS.index(word) for word in prompt.split()]]
        assert torch.equal(row, words.mean(0)), "what is told is c_m"
    return [list(pair) for pair in zip(forget.texts, batch.prepared.conditions, strict=True)]


def test_several_anchors_are_drawn_by_sample(toy_family: Path) -> None:
    given = toy.load(ModelConfig(str(toy_family / "model")), toy_family / "model", TOY_INDEX)
    forget = Stream(Dataset.open(toy_family / "split" / "forget"), seed=0, batch_size=60, channels=1).batch(0)
    pairs = _relabelled(given, forget, EraseDiffConfig(anchor=("a one", "a small nine")))
    counts = [sum(c_m == anchor for _, c_m in pairs) for anchor in ("a one", "a small nine")]
    assert sum(counts) == 60 and min(counts) >= 15


def test_an_anchor_takes_the_concepts_place_in_a_prompt(toy_family: Path) -> None:
    given = toy.load(ModelConfig(str(toy_family / "model")), toy_family / "model", TOY_INDEX)
    forget = Stream(Dataset.open(toy_family / "split" / "forget"), seed=0, batch_size=60, channels=1).batch(0)
    forget = dataclasses.replace(forget, texts=("a three", "a small three") * 30)
    method = EraseDiffConfig(anchor=("one", "nine"), concept=("three",))
    pairs = _relabelled(given, forget, method)
    assert {tuple(pair) for pair in pairs} == {
        (f"a {size}three", f"a {size}{word}") for size in ("", "small ") for word in ("one", "nine")
    }
    longest = EraseDiffConfig(anchor="one", concept=("small", "small three"))
    small = dataclasses.replace(forget, texts=("a small three",) * 60)
    assert {c_m for _, c_m in _relabelled(given, small, longest)} == {"a one"}
    # upper and lower case are told alike
    capital = EraseDiffConfig(anchor="one", concept=("Three",))
    assert {c_m for _, c_m in _relabelled(given, small, capital)} == {"a small one"}


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (
            EraseDiffConfig(concept=("three",)),
            "method.concept names words to be replaced: say by what in method.anchor",
        ),
        (
            EraseDiffConfig(anchor="", concept=("three",)),
            "method.anchor = '' is the null prompt, .*: leave method.concept out",
        ),
        (
            EraseDiffConfig(anchor="small Three", concept=("three",)),
            "method.anchor = 'small Three' holds what it takes the place of",
        ),
        (EraseDiffConfig(anchor="one", concept=("thre",)), "the prompt 'a (small )?three' .* holds none of its words"),
        (EraseDiffConfig(anchor="three", concept=("three",)), "anchor = 'three' holds what it takes the place of"),
        (EraseDiffConfig(anchor=("one", "dog"), concept=("three",)), "the model knows no dog"),
        (EraseDiffConfig(anchor=("a one", "a small three")), "is a prompt that is to be forgotten: choose another"),
    ],
)
def test_anchors_that_cannot_be_told_are_refused(
    toy_family: Path, tmp_path: Path, method: EraseDiffConfig, said: str
) -> None:
    scrub = tiny_config(toy_family, toy_family / "model", tmp_path / "run", null_class=None)
    with pytest.raises(ConfigError, match=said):
        plan(dataclasses.replace(scrub, method=method))
