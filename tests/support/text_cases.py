"""Steps on small Stable Diffusion pipelines, through the engine and by diffusers and autograd alone, fp32."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoPipelineForText2Image
from diffusers.models.attention_processor import AttnProcessor
from engine_reference import Tensors, distance, dot, norm
from erasediff.shards import SampleBatch
from erasediff.trainer import EraseDiffConfig
from erasediff.trainer.config import EngineConfig, ModelConfig, OptimizerConfig
from erasediff.trainer.engine.sharded_model import ShardedModel
from erasediff.trainer.methods.forget_me_not import ForgetMeNotConfig
from erasediff.trainer.models.families import load_model
from erasediff.trainer.models.layers import train_only
from erasediff.trainer.objectives.diffusion import DiffusionObjective
from erasediff.trainer.randomness import sample_generator
from tiny_text import make_pipeline, make_xl_pipeline
from torch import Tensor

BATCH_SIZE, SEED, XI, ETA = 4, 7, 0.05, 0.5
ANCHOR = "an image of a blue two"
PROMPTS = {
    "remain": ["a red one", "a blue two", "an image of a green five", "a photo of a red one"],
    "forget": ["a red three", "a blue three", "an image of a green three", "a red three"],
}


@dataclass(frozen=True)
class Case:
    layers: str
    zero_stage: int
    activation_checkpointing: str = "off"
    forward_batch_size: int = BATCH_SIZE
    pipeline: str = "sd"
    method: str = "erasediff"

    def __str__(self) -> str:
        values = (self.method, self.pipeline, self.layers, f"zero{self.zero_stage}", self.activation_checkpointing)
        return "-".join([*values, f"micro{self.forward_batch_size}"])

    @property
    def num_runs(self) -> int:
        """Of a block with a graph, of each micro-batch: what checkpointing makes again comes on top."""
        num_gradients, again = {"off": (2, 0), "inner": (3, 1), "all": (3, 3)}[self.activation_checkpointing]
        if self.method == "forget_me_not":
            num_gradients, again = 1, int(self.activation_checkpointing == "all")
        return num_gradients + again


_OF_LAYERS = [Case(layers, stage) for layers, stage in itertools.product(("full", "xattn", "noxattn"), (1, 2, 3))]
_ONE_BY_ONE = [Case("full", stage, forward_batch_size=1) for stage in (2, 3)]
_OF_CHECKPOINTING = [Case("full", stage, where) for stage in (1, 2, 3) for where in ("inner", "all")]
_ATTENDED = [
    Case("full", 2, "all", method="forget_me_not"),
    Case("xattn", 3, forward_batch_size=1, method="forget_me_not"),
    Case("full", 3, "all", method="forget_me_not"),
    Case("full", 2, pipeline="xl", method="forget_me_not"),
]
_OTHERS = [Case("selfattn", 2), Case("notime", 2), Case("conv_in.*", 3, "all"), Case("full", 2, pipeline="xl")]


def text_cases(world_size: int) -> list[Case]:
    of_ranks = {
        1: _OF_LAYERS[:1] + _OF_CHECKPOINTING + _ATTENDED[:1],
        2: _OF_LAYERS + _ONE_BY_ONE + _ATTENDED + _OTHERS,
    }
    return of_ranks.get(world_size, [])


def make_pipelines(folder: Path) -> None:
    make_pipeline(folder / "sd")
    make_xl_pipeline(folder / "xl")


def samples(purpose: str, rows: Sequence[int]) -> SampleBatch:
    """Rows of a global batch: noise for images."""
    generator = np.random.default_rng(len(purpose))
    images = generator.integers(0, 256, (BATCH_SIZE, 3, 16, 16), dtype=np.uint8)
    return SampleBatch(
        images=images[list(rows)],
        labels=np.full(len(rows), -1),
        weights=np.ones(len(rows), np.float32),
        positions=np.array(rows),
        keys=tuple(f"{purpose}-{row}" for row in rows),
        texts=tuple(PROMPTS[purpose][row] for row in rows),
    )


def method_of(case: Case) -> EraseDiffConfig | ForgetMeNotConfig:
    """With checkpointing one that has gradients in the inner loop; else one that takes no small difference."""
    if case.method == "forget_me_not":
        return ForgetMeNotConfig(concept=("three", "blue"))
    reading = "envelope" if case.activation_checkpointing == "off" else "first_order"
    return EraseDiffConfig(gradient_of_g=reading, anchor=ANCHOR, xi=XI, eta=ETA, lambda_cap=None)


def errors(case: Case, folder: Path, device: torch.device, rank: int, world_size: int) -> dict[str, Any]:
    """Of δ against the reference, and how often a block ran that checkpointing runs again."""
    model: Any = load_model(ModelConfig(str(folder / case.pipeline)))
    train_only(model.module, [case.layers], "train.layers")
    engine: Any = EngineConfig(
        device="cpu",
        zero_stage=case.zero_stage,  # pyright: ignore[reportArgumentType]
        activation_checkpointing=case.activation_checkpointing,  # pyright: ignore[reportArgumentType]
        persistence_threshold=100,
    )
    objective = DiffusionObjective(
        model, device, seed=SEED, label_drop=0.5, method=method_of(case), forward_batch_size=case.forward_batch_size
    )
    sharded = ShardedModel(model.module, engine, OptimizerConfig(), device, max_train_steps=3)
    num_runs = 0

    def count(*_: Any) -> None:
        nonlocal num_runs
        num_runs += torch.is_grad_enabled()

    model.module.down_blocks[0].resnets[0].register_forward_pre_hook(count)
    num_rows = BATCH_SIZE // world_size
    rows = range(rank * num_rows, (rank + 1) * num_rows)
    method = method_of(case).make(objective)
    remain, forget = (
        objective.remain_batches(samples("remain", rows)),
        objective.forget_batches(samples("forget", rows)),
    )
    update = method.step(sharded, forget, remain, 0, diagnose=False)
    delta = sharded.gather(update.delta)
    if rank != 0:
        return {}
    if case.method == "forget_me_not":
        expected, amplification = attention_reference(folder / case.pipeline, set(delta)), 1.0
    else:
        reading = "envelope" if case.activation_checkpointing == "off" else "first_order"
        expected, amplification = reference(folder / case.pipeline, set(delta), reading)
    return {
        "delta": distance(delta, expected) / norm(expected) / amplification,
        "num_tensors": len(delta),
        "num_runs": num_runs,
    }


def reference(folder: Path, trained: set[str], gradient_of_g: str) -> tuple[Tensors, float]:
    """δ of one step with one inner step, by whole tensors in one process.

    And how rounding of ∇L_f shows in it, where λ_t times a small difference of two of them is most of it.
    """
    pipeline: Any = AutoPipelineForText2Image.from_pretrained(folder, low_cpu_mem_usage=False)
    theta = {name: value for name, value in pipeline.unet.named_parameters() if name in trained}
    forget, remain = _Batch(pipeline, "forget"), _Batch(pipeline, "remain")
    grad_r, grad_f = remain.gradient(theta), forget.gradient(theta)
    grad_g = grad_f
    if gradient_of_g == "first_order":
        with torch.no_grad():
            for name, value in theta.items():
                value -= XI * grad_f[name]
        grad_phi = forget.gradient(theta)
        grad_g = {name: grad_f[name] - grad_phi[name] for name in theta}
    lambda_t = max(0.0, ETA - dot(grad_g, grad_r) / dot(grad_g, grad_g))
    delta = {name: grad_r[name] + lambda_t * grad_g[name] for name in theta}
    return delta, max(1.0, lambda_t * norm(grad_f) / norm(delta))


def attention_reference(folder: Path, trained: set[str]) -> Tensors:
    """∇ of the mean norm of what plain attention of diffusers gives to the words and to the prompt's end."""
    pipeline: Any = AutoPipelineForText2Image.from_pretrained(folder, low_cpu_mem_usage=False)
    of_layers: list[Tensor] = []

    def recording(scores: Any) -> Any:
        def recorded(*given: Any) -> Tensor:
            of_layers.append(scores(*given))
            return of_layers[-1]

        return recorded

    for name, layer in pipeline.unet.named_modules():
        if name.endswith("attn2"):
            layer.set_processor(AttnProcessor())
            layer.get_attention_scores = recording(layer.get_attention_scores)
    forget = _Batch(pipeline, "forget")
    of_layers.clear()
    forget.output()
    norms = []
    for i, prompt in enumerate(PROMPTS["forget"]):
        # by the letters that each token stands for, the last one ending the prompt
        spans = pipeline.tokenizer(prompt, return_offsets_mapping=True).offset_mapping
        sought = {letter for found in re.finditer("three|blue", prompt) for letter in range(*found.span())}
        places = [place for place, span in enumerate(spans) if sought & {*range(*span)}] + [len(spans) - 1]
        own = [layer.unflatten(0, (BATCH_SIZE, -1))[i][..., places].flatten() for layer in of_layers]
        norms.append(torch.cat(own).norm())
    torch.stack(norms).mean().backward()
    named = {name: value for name, value in pipeline.unet.named_parameters() if name in trained}
    return {name: torch.zeros_like(value) if value.grad is None else value.grad for name, value in named.items()}


class _Batch:
    """Latents, noise and targets by diffusers, drawn as documented: a generator a sample, the timestep first."""

    def __init__(self, pipeline: Any, purpose: str):
        self._unet = pipeline.unet
        given = samples(purpose, range(BATCH_SIZE))
        draws = [sample_generator(SEED, purpose, i) for i in range(BATCH_SIZE)]
        self._t = torch.tensor([int(draw.integers(1000)) for draw in draws])
        noise = torch.from_numpy(np.stack([draw.standard_normal((4, 8, 8), dtype=np.float32) for draw in draws]))
        is_dropped = [purpose == "remain" and draw.random() < 0.5 for draw in draws]
        with torch.no_grad():
            posterior = pipeline.vae.encode((torch.from_numpy(given.images).float() - 127.5) / 127.5).latent_dist
            draws = [sample_generator(SEED, f"{purpose}-encode", i) for i in range(BATCH_SIZE)]
            drawn = np.stack([draw.standard_normal((4, 8, 8), dtype=np.float32) for draw in draws])
            latents = pipeline.vae.config.scaling_factor * (posterior.mean + posterior.std * torch.from_numpy(drawn))
            self._x_t = pipeline.scheduler.add_noise(latents, noise, self._t)
            dropped = ["" if gone else prompt for gone, prompt in zip(is_dropped, given.texts, strict=True)]
            self._told = _told(pipeline, dropped)
            self._target = noise
            if purpose == "forget":
                self._target = self._unet(self._x_t, self._t, **_told(pipeline, [ANCHOR] * BATCH_SIZE)).sample

    def output(self) -> Tensor:
        return self._unet(self._x_t, self._t, **self._told).sample

    def gradient(self, theta: dict[str, Any]) -> Tensors:
        self._unet.zero_grad()
        (self._target - self.output()).square().mean().backward()
        return {name: value.grad.clone() for name, value in theta.items()}


def _told(pipeline: Any, prompts: list[str]) -> dict[str, Any]:
    told: list[dict[str, Any]] = [_told_one(pipeline, prompt) for prompt in prompts]
    if "added_cond_kwargs" not in told[0]:
        return {"encoder_hidden_states": torch.cat([one["encoder_hidden_states"] for one in told])}
    beside = [one["added_cond_kwargs"] for one in told]
    return {
        "encoder_hidden_states": torch.cat([one["encoder_hidden_states"] for one in told]),
        "added_cond_kwargs": {name: torch.cat([one[name] for one in beside]) for name in beside[0]},
    }


def _told_one(pipeline: Any, prompt: str) -> dict[str, Any]:
    if not hasattr(pipeline, "text_encoder_2"):
        return {"encoder_hidden_states": pipeline.encode_prompt(prompt, "cpu", 1, False)[0]}
    hidden, null, pooled, null_pooled = pipeline.encode_prompt(prompt)
    size: Tensor = torch.tensor([[16.0, 16, 0, 0, 16, 16]])
    hidden, pooled = (hidden, pooled) if prompt else (null, null_pooled)
    return {"encoder_hidden_states": hidden, "added_cond_kwargs": {"text_embeds": pooled, "time_ids": size}}
