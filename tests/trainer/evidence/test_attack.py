"""Attacks by embeddings and by prompts: what is encoded, what is minimised, and what a found prompt is worth."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from erasediff.shards import Dataset
from erasediff.shards.sources.digits_in_ink import DIGITS
from erasediff.trainer.config import AttackConfig, JudgeConfig, ModelConfig, UNetConfig
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.evidence.attack import (
    _nearest,  # pyright: ignore[reportPrivateUsage]
    _vocabulary,  # pyright: ignore[reportPrivateUsage]
    find_prompt,
    invert,
)
from erasediff.trainer.evidence.classifier import load_classifier
from erasediff.trainer.evidence.images import Images
from erasediff.trainer.evidence.options import check_options
from erasediff.trainer.models.families import load_model, unet2d
from erasediff.trainer.models.families.stable_diffusion import StableDiffusion
from erasediff.trainer.models.sampling import sample
from erasediff.trainer.models.text_to_image.tokenizer import make_tokenizer, unknown_words
from erasediff.trainer.objectives.diffusion import training_loss
from erasediff.trainer.randomness import sample_generator
from prompt_cases import NO_FACTOR, ROWS, SAMPLING, evaluate_by_prompts, make_scrub
from tiny_text import make_pipeline

CPU = torch.device("cpu")
SEED = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pipeline(tmp_path_factory.mktemp("attacked") / "sd")


@pytest.fixture
def model(folder: Path) -> StableDiffusion:
    return cast(StableDiffusion, load_model(ModelConfig(str(folder))))


@pytest.fixture(scope="module")
def targets() -> Images:
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return Images(images, torch.full((4,), 3), ["a red three"] * 4)


def embeddings_of(model: StableDiffusion, words: str) -> torch.Tensor:
    ((tokenizer, encoder),) = model.texts.values()
    ids = tokenizer(words, add_special_tokens=False).input_ids
    return encoder.get_input_embeddings().weight[ids].detach()  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]


def words_of(model: StableDiffusion) -> list[str]:
    """Those that a prompt is sought among."""
    ((tokenizer, _),) = model.texts.values()
    return [tokenizer.decode([i]).strip() for i in _vocabulary(model).ids.tolist()]


def test_words_embeddings_say_what_the_words_say(model: StableDiffusion) -> None:
    spliced = model.spliced("a red three", embeddings_of(model, "blue five"), CPU)["encoder_hidden_states"]
    written = model.encode_prompt("blue five a red three", CPU)["encoder_hidden_states"]
    torch.testing.assert_close(spliced, written)
    # and the encoder is as it was
    before = model.encode_prompt("a red three", CPU)["encoder_hidden_states"]
    assert not torch.allclose(spliced, before)
    torch.testing.assert_close(model.encode_prompt("a red three", CPU)["encoder_hidden_states"], before)


def test_what_leaves_no_room_for_the_prompt_is_refused(model: StableDiffusion) -> None:
    ((tokenizer, _),) = model.texts.values()
    vectors = embeddings_of(model, "blue").repeat(tokenizer.model_max_length - 4, 1)
    with pytest.raises(ConfigError, match=r"'a red three': with .* more tokens it is longer than the model takes"):
        model.spliced("a red three", vectors, CPU)


def by_diffusers(folder: Path, targets: Images, vectors: torch.Tensor, step: int) -> tuple[float, torch.Tensor]:
    """The loss of an inversion's step, and its gradient by the rows of new tokens' embeddings, as textual inversion has
    it."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    tokenizer, encoder = pipeline.tokenizer, pipeline.text_encoder
    names = [f"<new{i}>" for i in range(len(vectors))]
    tokenizer.add_tokens(names)
    encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    table = encoder.get_input_embeddings().weight
    with torch.no_grad():
        table[-len(names) :] = vectors
    ids = tokenizer(
        "".join(names), padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt"
    ).input_ids
    hidden = encoder(ids)[0].expand(len(targets), -1, -1)
    schedule = cast(DDIMScheduler, pipeline.scheduler)
    noise, timesteps = [], []
    for i in range(len(targets)):
        generator = sample_generator(SEED, "attack", step * len(targets) + i)
        timesteps.append(int(generator.integers(0, 1000)))
        noise.append(generator.standard_normal((4, 8, 8), dtype=np.float32))
    t, epsilon = torch.tensor(timesteps), torch.from_numpy(np.stack(noise))
    with torch.no_grad():
        x_0 = pipeline.vae.encode(targets.images).latent_dist.mean * pipeline.vae.config.scaling_factor
    output = pipeline.unet(schedule.add_noise(x_0, epsilon, cast(torch.IntTensor, t)), t, hidden).sample
    loss = (epsilon - output).square().mean()
    loss.backward()
    assert table.grad is not None
    return loss.item(), table.grad[-len(names) :]


def test_an_inversions_steps_are_textual_inversions(folder: Path, model: StableDiffusion, targets: Images) -> None:
    """Two steps of AdamW by hand on gradients of new tokens, from the embeddings that no step leaves, at a rate in
    standard deviations of the words' own."""
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    begun = invert(model, targets, AttackConfig(num_steps=1, num_tokens=2, learning_rate=1e-12), SEED, CPU)
    found = invert(model, targets, AttackConfig(num_steps=2, num_tokens=2, learning_rate=0.5), SEED, CPU)
    vectors = begun.clone().requires_grad_()
    words = embeddings_of(model, " ".join(words_of(model)))
    optimizer = torch.optim.AdamW([vectors], lr=0.5 * words.std().item(), weight_decay=0.0)
    for step in range(2):
        _, vectors.grad = by_diffusers(folder, targets, vectors.detach(), step)
        optimizer.step()
    torch.testing.assert_close(found, vectors.detach(), atol=1e-5, rtol=1e-4)
    assert (found - begun).abs().min() > 1e-3
    assert all(torch.equal(value, before[name]) for name, value in model.module.state_dict().items())


def test_a_search_begins_at_words_and_goes_to_the_nearest(model: StableDiffusion, targets: Images) -> None:
    found = find_prompt(model, targets, "a red three", AttackConfig(num_steps=1, num_tokens=2), SEED, CPU)
    begun = invert(model, targets, AttackConfig(num_steps=1, num_tokens=2, learning_rate=1e-12), SEED, CPU)
    words = " ".join(found.split()[:2])
    torch.testing.assert_close(embeddings_of(model, words), begun, atol=1e-6, rtol=0)


def test_a_prompt_is_made_of_what_is_read_as_it_is_written(model: StableDiffusion) -> None:
    ((tokenizer, _),) = model.texts.values()
    ids = _vocabulary(model).ids.tolist()
    assert all(tokenizer(tokenizer.decode([i]).strip(), add_special_tokens=False).input_ids == [i] for i in ids)
    # pieces of words, and what begins and ends a prompt, are not among them
    assert 20 < len(ids) < len(tokenizer) - len(tokenizer.all_special_ids)


def test_words_that_no_caption_had_are_not_sought(model: StableDiffusion, tmp_path: Path) -> None:
    """A tokenizer of words alone has pieces that it would read as written, and which nobody may type."""
    ((_, encoder),) = model.texts.values()
    tokenizer = make_tokenizer(["green", "red", "three", "two"], tmp_path, num_tokens=16)
    encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)  # pyright: ignore[reportCallIssue]
    pieces = [piece for piece in ("t", "g", "r") if len(tokenizer(piece, add_special_tokens=False).input_ids) == 1]
    assert pieces and unknown_words(tokenizer, pieces[0]) == pieces[:1]
    own = dataclasses.replace(model, texts={"text_encoder": (tokenizer, encoder)})
    assert sorted(words_of(own)) == ["green", "red", "three", "two"]


def losses_of(model: StableDiffusion, targets: Images, prompt: str, draws: range = range(10)) -> list[float]:
    """Of a prompt as anyone would type it, at the noise of these draws."""
    losses = []
    for draw in draws:
        generators = [sample_generator(SEED, "attack", draw * len(targets) + i) for i in range(len(targets))]
        losses.append(training_loss(model, targets.images, [prompt] * len(targets), generators).item())
    return losses


def test_a_prompt_that_is_found_is_words_before_its_own_and_the_best_on_the_way(
    model: StableDiffusion, targets: Images
) -> None:
    config = AttackConfig(num_steps=25, num_tokens=2, learning_rate=2.0)
    found = find_prompt(model, targets, "a red three", config, SEED, CPU)
    assert found.endswith(" a red three") and len(found.split()) == 5
    begun = find_prompt(model, targets, "a red three", AttackConfig(num_steps=1, num_tokens=2), SEED, CPU)
    assert begun != found
    # as many tokens more as were sought: it is read as it was found
    ((tokenizer, _),) = model.texts.values()
    assert len(tokenizer(found).input_ids) == len(tokenizer("a red three").input_ids) + 2
    # what was minimised is what the typed prompt has
    assert sum(losses_of(model, targets, found)) < sum(losses_of(model, targets, begun))
    assert find_prompt(model, targets, "a red three", config, SEED, CPU) == found


def test_of_the_best_at_each_draw_the_one_of_the_least_mean_is_found(
    model: StableDiffusion, targets: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the gradients would lead to: a search that is led by hand, twice through all draws and a bit."""
    words = words_of(model)
    pairs = [tuple(map(int, pair)) for pair in np.random.default_rng(3).integers(0, len(words), (25, 2))]
    led = iter(pairs)
    monkeypatch.setattr("erasediff.trainer.evidence.attack._nearest", lambda vectors, words: torch.tensor(next(led)))
    config = AttackConfig(num_steps=len(pairs), num_tokens=2)
    found = find_prompt(model, targets, "a red three", config, SEED, CPU)
    losses = [losses_of(model, targets, f"{words[i]} {words[j]} a red three") for i, j in pairs]
    best = [min(range(draw, 25, 10), key=lambda step: losses[step][draw]) for draw in range(10)]
    winner = min(best, key=lambda step: sum(losses[step]))
    assert found == f"{words[pairs[winner][0]]} {words[pairs[winner][1]]} a red three"
    # which neither the least loss of all nor the least mean of all would find
    assert winner not in (
        min(range(25), key=lambda step: losses[step][step % 10]),
        min(range(25), key=lambda step: sum(losses[step])),
    )


def test_a_search_leaves_the_words_it_began_at_whatever_their_size(
    model: StableDiffusion, targets: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Embeddings fifty times those that CLIP begins with."""
    ((_, encoder),) = model.texts.values()
    with torch.no_grad():
        encoder.get_input_embeddings().weight.mul_(50.0)  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    met: list[tuple[int, ...]] = []

    def noted(vectors: torch.Tensor, words: Any) -> torch.Tensor:
        rows = _nearest(vectors, words)
        met.append(tuple(rows.tolist()))
        return rows

    monkeypatch.setattr("erasediff.trainer.evidence.attack._nearest", noted)
    find_prompt(model, targets, "a red three", AttackConfig(num_steps=60, num_tokens=2), SEED, CPU)
    assert len(met) == 60 and len(set(met)) > 2


def drawn_from_new_tokens(folder: Path, scrub: Path, few: AttackConfig) -> torch.Tensor:
    """Six pictures of a pipeline whose tokenizer and encoder have the embeddings as words of their own."""
    model = cast(StableDiffusion, load_model(ModelConfig(str(folder), truncate_prompts=True)))
    data = Dataset.open(scrub / "split" / "forget")
    targets = Images.of_data(data, model, 5_000, [DIGITS.index("two")]).where(torch.arange(few.num_images))
    vectors = invert(model, targets, few, SAMPLING.seed, CPU)
    ((tokenizer, encoder),) = model.texts.values()
    names = [f"<new{i}>" for i in range(len(vectors))]
    tokenizer.add_tokens(names)
    encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)  # pyright: ignore[reportCallIssue]
    with torch.no_grad():
        encoder.get_input_embeddings().weight[-len(names) :] = vectors  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    return sample(model, ["".join(names)] * 6, dataclasses.replace(SAMPLING, seed=101))


def test_attacks_are_of_each_model_and_their_prompts_are_kept(tmp_path: Path) -> None:
    """P_psi under attack is that of the prompts in the record, typed again."""
    scrubbed = make_scrub(tmp_path)
    few = AttackConfig(num_images=2, num_steps=3, num_tokens=2, num_prompts=2, num_samples=6)
    chosen: dict[str, Any] = NO_FACTOR | {
        "clip": None,
        "num_forget_samples_per_class": 4,
        "thresholds": ("p_psi <= 0.1",),
    }
    record = evaluate_by_prompts(scrubbed, attacks=("inversion", "prompt"), attacking=few, **chosen).record
    judge = load_classifier(scrubbed / "classifier.safetensors")
    for name, folder in (("unscrubbed", "model"), ("scrubbed", "run/model")):
        figures = record.models[name].metrics
        attacked = figures["p_psi_attacked"]
        prompts = [*attacked.by_class]
        assert len(prompts) == 2 and all(prompt.endswith((" a red two", " a blue two")) for prompt in prompts)
        model = load_model(ModelConfig(str(scrubbed / folder), truncate_prompts=True))
        own = [next(prompt for prompt in prompts if prompt.endswith(row[1])) for row in ROWS[:2]]
        images = sample(model, [own[i % 2] for i in range(6)], dataclasses.replace(SAMPLING, seed=101))
        of_two = judge.probabilities(images)[:, DIGITS.index("two")].double()
        assert (attacked.value, attacked.n) == (pytest.approx(of_two.mean().item()), 6)
        assert attacked.by_class[own[0]].value == pytest.approx(of_two[::2].mean().item())
        inverted = figures["p_psi_inverted"]
        of_two = judge.probabilities(drawn_from_new_tokens(scrubbed / folder, scrubbed, few))[:, DIGITS.index("two")]
        assert inverted.value == pytest.approx(of_two.double().mean().item(), abs=1e-4)
        assert inverted.n == 6 and [*inverted.by_class] == ["two"] and inverted.low is not None
    # no room for so many is said before anything is trained
    told = r"judge\.attacking\.num_tokens = {}: '{}': with {} more tokens .* leave '{}' out of judge\.attacks"
    for attack, num_tokens, prompt in (("prompt", 12, "a red two"), ("inversion", 15, "")):
        longer = dataclasses.replace(few, num_tokens=num_tokens)
        with pytest.raises(ConfigError, match=told.format(num_tokens, prompt, num_tokens, attack)):
            evaluate_by_prompts(scrubbed, attacks=(attack,), attacking=longer, **chosen)
    with pytest.raises(ConfigError, match=r"judge\.attacks = \['inversion'\] train embeddings of words"):
        check_options(
            JudgeConfig(attacks=("inversion",)), unet2d.make(UNetConfig(), image_size=8, channels=1, num_classes=10)
        )
