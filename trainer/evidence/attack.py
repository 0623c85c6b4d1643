"""Attacks on a scrubbed text-to-image model: what asks it for the forgotten, if its own words no longer do?

Both train token embeddings, and no weight, on the model's own loss of forget images, with the model alone as the guide:

- *Concept inversion* (arXiv 2308.01508, by way of textual inversion, arXiv 2208.01618): a few free embeddings, no words
  beside them. It tells whether the model can still draw the forgotten at all.
- *Prompts* (UnlearnDiffAtk, arXiv 2310.11868): tokens of the vocabulary before the forgotten's own prompts, found by
  gradients at the nearest vocabulary embeddings (arXiv 2302.03668). A user could type them.

Of each the figure is P_psi of what the model then draws. Every model is attacked with the same images and noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from ..config import AttackConfig, SamplingConfig
from ..models.conditions import Condition
from ..models.families.stable_diffusion import StableDiffusion
from ..models.model import Model, Told
from ..models.sampling import sample
from ..models.text_to_image.tokenizer import unknown_words
from ..objectives.diffusion import training_loss
from ..randomness import sample_generator
from . import metrics
from .bench import Measured
from .images import Images
from .means import mean_by, mean_by_class
from .metrics import Measurement, alone

# other noise than the judge's samples have
_SEED_OFFSET = 101
# of noise, that a search for prompts compares by
_NUM_DRAWS = 10


def p_psi_inverted(of: Measured) -> Measurement:
    """By class: of samples that the embeddings found for it ask for."""
    model, config = _attacked(of), of.bench.config.attacking
    values, labels = [], []
    for label in of.bench.forget_labels:
        vectors = invert(model, _targets(of, label), config, of.seed, of.bench.device)
        images = _drawn(model, [_Vectors(vectors)] * config.num_samples, of)
        values.append(_p_psi(of, images, label))
        labels.append(torch.full((len(values[-1]),), label))
    # by itself: what asks for the samples is another model's another
    return alone(mean_by_class(of, torch.cat(values), torch.cat(labels), of.bench.forget_labels, _seed(of)))


def p_psi_attacked(of: Measured) -> Measurement:
    """By prompt, the tokens that were found before it."""
    model, config = _attacked(of), of.bench.config.attacking
    values, groups = [], []
    for label in of.bench.forget_labels:
        own = [str(prompt) for prompt in of.bench.forget_conditions[label][: config.num_prompts]]
        found = [find_prompt(model, _targets(of, label), prompt, config, of.seed, of.bench.device) for prompt in own]
        asked = [found[i % len(found)] for i in range(config.num_samples)]
        images = _drawn(model, asked, of)
        finite = images.isfinite().flatten(1).all(1)
        values.append(_p_psi(of, images, label))
        groups += [prompt for prompt, is_finite in zip(asked, finite.tolist(), strict=True) if is_finite]
    return alone(mean_by(torch.cat(values), groups, sorted(set(groups)), _seed(of)))


def invert(model: StableDiffusion, targets: Images, config: AttackConfig, seed: int, device: torch.device) -> Tensor:
    """Token embeddings [k, features] by which the model's loss of the images is least."""
    vectors, optimizer = _begun(model, _vocabulary(model), config, seed, device)
    for step in range(config.num_steps):
        loss = _loss(model, targets, "", vectors, seed, step, device)
        (vectors.grad,) = torch.autograd.grad(loss, [vectors])
        optimizer.step()
    return vectors.detach()


def find_prompt(
    model: StableDiffusion, targets: Images, prompt: str, config: AttackConfig, seed: int, device: torch.device
) -> str:
    """The prompt with tokens before it by which the loss is least.

    Noise comes in ten draws, by turns. Losses of one draw can be compared, and those of two cannot: the best of those
    met at each draw are measured at all ten, and the one of the least mean is taken.
    """
    words = _vocabulary(model)
    vectors, optimizer = _begun(model, words, config, seed, device)
    best: dict[int, tuple[float, Tensor]] = {}
    for step in range(config.num_steps):
        draw = step % _NUM_DRAWS
        rows = _nearest(vectors.detach(), words)
        there = words.embeddings[rows].clone().requires_grad_()
        loss = _loss(model, targets, prompt, there, seed, draw, device)
        (vectors.grad,) = torch.autograd.grad(loss, [there])
        if draw not in best or loss.item() < best[draw][0]:
            best[draw] = loss.item(), rows
        optimizer.step()
    finalists = [list(rows) for rows in dict.fromkeys(tuple(rows.tolist()) for _, rows in best.values())]
    found = min(finalists, key=lambda rows: _mean_loss(model, targets, prompt, words.embeddings[rows], seed, device))
    ((tokenizer, _),) = model.texts.values()
    return " ".join([*(tokenizer.decode([i]).strip() for i in words.ids[found].tolist()), prompt]).strip()


@torch.no_grad()
def _mean_loss(
    model: StableDiffusion, targets: Images, prompt: str, vectors: Tensor, seed: int, device: torch.device
) -> float:
    losses = [_loss(model, targets, prompt, vectors, seed, draw, device).item() for draw in range(_NUM_DRAWS)]
    return sum(losses) / _NUM_DRAWS


def _loss(
    model: StableDiffusion, targets: Images, prompt: str, vectors: Tensor, seed: int, step: int, device: torch.device
) -> Tensor:
    """Eq. (1) of the images, at noise that is a function of (seed, step, image)."""
    first = step * len(targets)
    generators = [sample_generator(seed, "attack", first + i) for i in range(len(targets))]
    told = {
        name: value[None].expand(len(targets), *value.shape)
        for name, value in model.spliced(prompt, vectors, device).items()
    }
    return training_loss(model, targets.images.to(device), targets.conditions, generators, told)


def _begun(
    model: StableDiffusion, words: _Vocabulary, config: AttackConfig, seed: int, device: torch.device
) -> tuple[Tensor, torch.optim.Optimizer]:
    """(embeddings of random words [k, features], what moves them)."""
    chosen = sample_generator(seed, "attack", 1 << 40).integers(0, len(words.ids), config.num_tokens)
    vectors = words.embeddings[torch.from_numpy(chosen)].clone().to(device).requires_grad_()
    size = words.embeddings.std().item()
    return vectors, torch.optim.AdamW([vectors], lr=config.learning_rate * size, weight_decay=0.0)


@dataclass(frozen=True)
class _Vocabulary:
    """Tokens that are a word each, which is read as itself between others and which the tokenizer knows."""

    ids: Tensor
    embeddings: Tensor


def _vocabulary(model: StableDiffusion) -> _Vocabulary:
    ((tokenizer, encoder),) = model.texts.values()
    table: Tensor = encoder.get_input_embeddings().weight  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue, reportAssignmentType]
    special = set(tokenizer.all_special_ids)
    others = [i for i in range(len(tokenizer)) if i not in special]
    written = [tokenizer.decode([i]).strip() for i in others]
    read = tokenizer(written, add_special_tokens=False).input_ids
    known = [
        i
        for i, word, back in zip(others, written, read, strict=True)
        if back == [i] and not unknown_words(tokenizer, word)
    ]
    ids = torch.tensor(known, device=table.device)
    return _Vocabulary(ids, table[ids].detach())


def _nearest(vectors: Tensor, words: _Vocabulary) -> Tensor:
    """Rows [k] of the nearest words."""
    return torch.cdist(vectors, words.embeddings).argmin(1)


def _attacked(of: Measured) -> StableDiffusion:
    model = cast(StableDiffusion, of.model)
    model.to(of.bench.device).module.eval()
    return model


def _targets(of: Measured, label: int) -> Images:
    rows = (of.bench.real_forget.labels == label).nonzero().squeeze(1)
    return of.bench.real_forget.where(rows[: of.bench.config.attacking.num_images])


def _seed(of: Measured) -> int:
    return of.seed + _SEED_OFFSET


def _p_psi(of: Measured, images: Tensor, label: int) -> Tensor:
    """Of the finite ones."""
    finite = images[images.isfinite().flatten(1).all(1)]
    return metrics.p_psi(of.bench.classifier.probabilities(finite), torch.full((len(finite),), label))


class _Vectors:
    """A condition that is no prompt."""

    def __init__(self, vectors: Tensor):
        self.vectors = vectors


class _ToldVectors:
    """The model, which can also be told such conditions."""

    def __init__(self, model: StableDiffusion):
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    @torch.no_grad()
    def told(self, conditions: Sequence[Condition], device: torch.device) -> Told:
        found = [
            self._model.spliced("", one.vectors, device)
            if isinstance(one, _Vectors)
            else {name: value[0] for name, value in self._model.told([one], device).items()}
            for one in conditions
        ]
        return {name: torch.stack([one[name] for one in found]) for name in found[0]}


def _drawn(model: StableDiffusion, conditions: Sequence[Condition], of: Measured) -> Tensor:
    sampling: SamplingConfig = of.bench.config.sampling
    told = cast(Model, _ToldVectors(model))
    other = SamplingConfig(sampling.guidance_scale, sampling.num_inference_steps, _seed(of), sampling.batch_size)
    return sample(told, conditions, other, device=of.bench.device)
