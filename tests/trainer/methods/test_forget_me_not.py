"""Forget-Me-Not's tokens, refusals and scrubs; its gradient is compared with plain diffusers in tests/distributed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from erasediff.shards import build, split
from erasediff.trainer.config import EngineConfig, ModelConfig, OptimizerConfig, ScrubConfig, TrainConfig
from erasediff.trainer.config.cost import Cost
from erasediff.trainer.engine.attention import cross_attention, watched
from erasediff.trainer.engine.sharded_model import ShardedModel
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.methods.forget_me_not import ForgetMeNotConfig
from erasediff.trainer.models.families import load_model
from erasediff.trainer.models.text_to_image.tokenizer import make_tokenizer
from erasediff.trainer.objectives.diffusion import DiffusionObjective
from erasediff.trainer.ranks import collectives
from erasediff.trainer.scrubbing import plan, run_scrub
from PIL import Image
from text_cases import samples
from tiny import tiny_config
from tiny_text import MAX_TOKENS, make_pipeline, make_xl_pipeline
from vector_counts import count_vectors

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model/, xl/ and split/, with threes to be forgotten."""
    folder = tmp_path_factory.mktemp("text")
    make_pipeline(folder / "model")
    make_xl_pipeline(folder / "xl")
    draw, lines = np.random.default_rng(0), []
    for i in range(12):
        digit, ink = ("three", "two", "one")[i % 3], ("red", "blue")[i % 2]
        Image.fromarray(draw.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        lines.append(json.dumps({"path": f"{i}.png", "caption": f"a {ink} {digit}", "label": digit}))
    (folder / "table.jsonl").write_text("\n".join(lines) + "\n")
    build(folder / "table.jsonl", folder / "data")
    split(folder / "data", folder / "split", ["three"])
    return folder


def load(folder: Path) -> Any:
    return load_model(ModelConfig(str(folder)))


def scrub(given: Path, output: Path, method: ForgetMeNotConfig, **engine: Any) -> ScrubConfig:
    return ScrubConfig(
        model=ModelConfig(str(given / "model")),
        forget=str(given / "split" / "forget"),
        remain=str(given / "split" / "remain"),
        output=str(output),
        method=method,
        train=TrainConfig(max_train_steps=8, train_batch_size=4, max_loss_r_ratio=None),
        optimizer=OptimizerConfig(learning_rate=1e-2),
        engine=EngineConfig(device="cpu", **engine),
    )


@pytest.mark.parametrize(
    ("prompt", "words", "places"),
    [
        # th re e
        ("a red three", ["three"], [3, 4, 5]),
        ("three of three", ["three", "six"], [1, 2, 3, 5, 6, 7]),
        ("A Red  ONE", ["One"], [3]),
        ("a blue one", ["blue one", "two"], [2, 3]),
        # c a t, and the same letters at the end of another word
        ("a cat of red", ["cat"], [2, 3, 4]),
        ("a redcat", ["cat"], []),
        ("a red two", ["three", ""], []),
        # what is cut off is not seen
        ("a " * 13 + "one", ["one"], [14]),
        ("a " * 14 + "one", ["one"], []),
    ],
)
@pytest.mark.parametrize("kind", ["model", "xl"])
def test_tokens_of_words(given: Path, kind: str, prompt: str, words: list[str], places: list[int]) -> None:
    model = load(given / kind)
    found = model.tokens_of_words(prompt, words, with_end=False)
    assert found.shape == (MAX_TOKENS,) == model.told([prompt], CPU)["encoder_hidden_states"].shape[1:2]
    assert np.flatnonzero(found).tolist() == places
    (tokenizer, _), *_ = model.texts.values()
    end = tokenizer(prompt, truncation=True).input_ids.index(tokenizer.eos_token_id)
    with_end = model.tokens_of_words(prompt, words, with_end=True)
    assert np.flatnonzero(with_end).tolist() == (sorted({*places, end}) if places else [])


def test_tokenizers_that_disagree_are_refused(given: Path, tmp_path: Path) -> None:
    model = load(given / "xl")
    (first, encoder), (_, second) = model.texts.values()
    letters = make_tokenizer(["a", "red"], tmp_path / "words", num_tokens=MAX_TOKENS)
    other = dataclasses.replace(model, texts={"one": (first, encoder), "two": (letters, second)})
    with pytest.raises(ConfigError, match="'a red three': the model's tokenizers cut it differently"):
        other.tokens_of_words("a red three", ["three"], with_end=False)


def test_a_dropped_sample_counts_nothing(given: Path) -> None:
    """Nor does it make the gradient NaN."""
    model = load(given / "model")
    made = DiffusionObjective(
        model, CPU, seed=7, label_drop=0.0, forget_label_drop=0.5, method=ForgetMeNotConfig(concept=("three",))
    )
    (batch,) = made.forget_batches(samples("forget", range(4)))
    dropped = (batch.noised.told["encoder_hidden_states"] == model.told([""], CPU)["encoder_hidden_states"]).all(2)
    assert 0 < dropped.all(1).sum() < 4
    engine = EngineConfig(device="cpu")
    collectives.set_up(engine)
    sharded = ShardedModel(model.module, engine, OptimizerConfig(), CPU, max_train_steps=1)
    with made.attention_loss() as attention:
        losses = attention(sharded, batch)
        _, gradient = sharded.gradient(attention, [batch])
    assert torch.equal(losses == 0, dropped.all(1))
    assert gradient.data.isfinite().all() and gradient.data.any()


def test_layers_attend_as_before_when_nobody_looks(given: Path) -> None:
    module = load(given / "model").module
    layers = cross_attention(module)
    assert len(layers) == 4 and all(layer.cross_attention_dim == 16 for layer in layers)
    before = [layer.processor for layer in layers]
    x, told = torch.randn(2, 4, 8, 8), torch.randn(2, MAX_TOKENS, 16)
    with torch.no_grad():
        expected = module(x, 5, told).sample
        with watched(layers) as attention:
            with attention.in_pass() as of_layers:
                found = module(x, 5, told).sample
            module(x, 5, told)
    assert torch.allclose(found, expected, atol=1e-6)
    assert len(of_layers) == 4
    for probabilities in of_layers:
        assert torch.allclose(probabilities.sum(-1), torch.ones(()), atol=1e-6)
    assert all(layer.processor is one for layer, one in zip(layers, before, strict=True))


def test_a_scrub_turns_attention_away(given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    most_held, method = count_vectors(monkeypatch), ForgetMeNotConfig(concept=("three",))
    forward, passes = UNet2DConditionModel.forward, []

    def counted(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        passes.append(output[0].requires_grad)
        return output

    monkeypatch.setattr(UNet2DConditionModel, "forward", counted)
    config = scrub(given, tmp_path / "run", method, activation_checkpointing="all")
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, descent_every=0))
    run_scrub(config, watch=most_held.watch)
    # L_r is looked at without a gradient
    assert method.cost("fp32") == Cost(1, 1)
    steps = config.train.max_train_steps
    assert passes == [False, True] * steps
    assert {*most_held.by_step} == {method.num_gradients_held}
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss_f"] < 0.8 * lines[0]["loss_f"] and lines[0]["loss_r"] > 0


@pytest.mark.parametrize(
    ("options", "engine", "message"),
    [
        ({}, {}, "needs the words that name the concept: set method.concept"),
        ({"concept": ("red",)}, {}, "the prompt 'a blue three' of a sample to be forgotten holds none of its words"),
        ({"concept": ("three",)}, {"compile": True}, "looks inside the blocks that it compiles: leave it out"),
    ],
)
def test_refusals(given: Path, tmp_path: Path, options: Any, engine: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(scrub(given, tmp_path / "run", ForgetMeNotConfig(**options), **engine))


def test_models_without_prompts_are_refused(given: Path, digits: Path, base_model: Path, tmp_path: Path) -> None:
    method = ForgetMeNotConfig(concept=("three",))
    with pytest.raises(
        ConfigError, match="'forget_me_not' is about the words of prompts, and this model is told a cla"
    ):
        plan(tiny_config(digits, base_model, tmp_path / "run", method=method))
    sliced = load(given / "model")
    sliced.module.set_attention_slice("auto")
    with pytest.raises(ConfigError, match="needs diffusers' SlicedAttnProcessor: use another method"):
        method.check_conditions(sliced, ["a three"], ["a two"])
