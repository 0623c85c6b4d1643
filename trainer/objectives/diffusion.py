"""The diffusion objective: eq. (1) on D_r, eq. (2) on D_f, for whatever a model is told.

The losses are means over elements of (target - output)², in the model's own output space: ε for epsilon models, v for
v-prediction models.

Shapes: B samples of a micro-batch, each of the model's latent shape, C × H × W for pixels.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ...shards.streaming.stream import SampleBatch
from ..config import MethodConfig, Sought, TargetedConfig
from ..engine.attention import cross_attention, watched
from ..engine.sharded_model import LossFn, ShardedModel
from ..models.conditions import Condition
from ..models.model import Model, Told
from ..models.pictures import from_pixels
from ..randomness import sample_generator
from ..side_stream import to_device
from ._activations import activation_maps, distance
from ._alone import losses_of, training_loss
from ._mixture import are_told_same, importance, mixed
from .targets import LooksAtSamples, Noised, Replaces, Samples

Purpose = Literal["remain", "forget"]


@dataclass(frozen=True)
class DiffusionBatch:
    """A micro-batch of noised samples on the model's device, everything random in it drawn."""

    noised: Noised
    target: Tensor | None  # what the output is compared with, as x_t; None until `with_forget_targets`
    weights: Tensor  # [B]
    prepared: Any = None  # what the forget target made of its draws, or where what the method has sought is
    chance: Tensor | None = None  # [B], of forget batches: uniform in [0, 1), for a choice between samples
    importance: Tensor | None = None  # [B], what each sample's loss is multiplied by; None: 1
    maps: Any = None  # of `with_predictions`: the activation maps that came with the target


class DiffusionObjective:
    """Turns samples into noised micro-batches, and those into per-sample losses."""

    def __init__(
        self,
        model: Model,
        device: torch.device,
        *,
        seed: int,
        label_drop: float,
        forget_label_drop: float = 0.0,
        method: MethodConfig | None = None,
        others: Sequence[Condition] = (),
        samples: Samples | None = None,
        forward_batch_size: int | None = None,
    ):
        """others: what D_r's samples are told, each once; samples: D_f and D_r, for a target that looks at them."""
        self._model = model
        self._device = device
        self._seed = seed
        self._drop = {"remain": label_drop, "forget": forget_label_drop}
        kind = None if method is None else method.target_kind()
        self._target = None if method is None or kind is None else kind(method, others, model.conditions)
        if isinstance(self._target, LooksAtSamples):
            assert samples is not None, "a target that looks at samples is given them"
            self._target.look_at(samples, model)
        self._sought = None if method is None else method.sought
        self._asks_original = isinstance(method, TargetedConfig) and method.asks_original
        self._forward_batch_size = forward_batch_size

    def remain_batches(self, samples: SampleBatch) -> list[DiffusionBatch]:
        """Micro-batches of D_r: x_t, t, and the target of eq. (1)."""
        return self._batches(samples, "remain")

    def forget_batches(self, samples: SampleBatch) -> list[DiffusionBatch]:
        """Micro-batches of D_f; `with_forget_targets` completes them."""
        return self._batches(samples, "forget")

    @torch.no_grad()
    def _batches(self, samples: SampleBatch, purpose: Purpose) -> list[DiffusionBatch]:
        num_samples = len(samples.labels)
        size = self._forward_batch_size or num_samples
        conditions = self._model.conditions.of_samples(samples)
        return [
            self._noised(samples, conditions, slice(start, start + size), purpose)
            for start in range(0, num_samples, size)
        ]

    def _noised(
        self, samples: SampleBatch, all_conditions: Sequence[Condition], rows: slice, purpose: Purpose
    ) -> DiffusionBatch:
        model, schedule, null = self._model, self._model.schedule, self._model.conditions.null
        conditions, positions = all_conditions[rows], samples.positions[rows]
        timesteps_B = np.empty(len(positions), dtype=schedule.timestep_type)
        epsilon = np.empty((len(positions), *model.latent_shape), dtype=np.float32)
        forget_target = self._target if purpose == "forget" else None
        told: list[Condition] = []
        drawn: list[Any] = []
        chance_B = np.empty(len(positions), dtype=np.float32)
        for i, (position, condition) in enumerate(zip(positions.tolist(), conditions, strict=True)):
            # one generator a sample, always drawn from in this order: no setting changes another's draws
            generator = sample_generator(self._seed, purpose, position)
            timesteps_B[i] = schedule.draw(generator)
            generator.standard_normal(dtype=np.float32, out=epsilon[i])
            is_dropped = generator.random() < self._drop[purpose]
            if forget_target is not None:
                drawn.append(forget_target.draw(condition, model.latent_shape, generator))
            chance_B[i] = generator.random(dtype=np.float32)
            told.append(null if is_dropped else condition)

        def on_device(array: np.ndarray) -> Tensor:
            return to_device(array, self._device)

        t, noise = on_device(timesteps_B), on_device(epsilon)
        encoder_draws = self._encoder_draws(purpose, positions)
        if samples.latents is None:
            images = on_device(samples.images[rows])
            x_0 = model.encode(from_pixels(images) if images.dtype == torch.uint8 else images, encoder_draws)
        else:
            x_0 = model.from_moments(on_device(samples.latents[rows]), encoder_draws)
        x_t = schedule.noised(x_0, noise, t)
        noised = Noised(x_0, noise, x_t, t, conditions, model.told(told, self._device), samples.keys[rows])
        weights = on_device(samples.weights[rows])
        if purpose == "remain":
            return DiffusionBatch(noised, schedule.target(x_0, noise, t), weights)
        chance = on_device(chance_B)
        if forget_target is None:
            marks = None if self._sought is None else on_device(self._marks(told, self._sought))
            return DiffusionBatch(noised, schedule.target(x_0, noise, t), weights, marks, chance)
        prepared = forget_target.prepare(drawn, noised, model, self._device)
        return DiffusionBatch(noised, None, weights, prepared, chance)

    def _marks(self, prompts: Sequence[Condition], sought: Sought) -> np.ndarray:
        """Where in what each sample is told its words are, bool [B, tokens]; nowhere where it was dropped."""
        find = self._model.tokens_of_words
        return np.stack([find(str(prompt), sought.words, with_end=sought.with_end) for prompt in prompts])

    def _encoder_draws(self, purpose: Purpose, positions: np.ndarray) -> list[np.random.Generator] | None:
        """Generators of their own: what else is drawn for a sample changes nothing here."""
        if not self._model.encoder_draws:
            return None
        return [sample_generator(self._seed, f"{purpose}-encode", position) for position in positions.tolist()]

    def with_own_targets(self, batches: list[DiffusionBatch]) -> list[DiffusionBatch]:
        """Forget batches with the target of eq. (1): what training on them was."""
        schedule = self._model.schedule
        return [
            replace(batch, target=schedule.target(batch.noised.x_0, batch.noised.epsilon, batch.noised.timesteps))
            for batch in batches
        ]

    @torch.no_grad()
    def with_forget_targets(self, model: ShardedModel, batches: list[DiffusionBatch]) -> list[DiffusionBatch]:
        """ε_f of eq. (2), computed once at θ_t and held through φ^K."""
        target = self._target
        if target is None:
            return batches

        def predict(x_t: Tensor, t: Tensor, told: Told) -> Tensor:
            return self._predict(model, x_t, t, told)

        with model.at_original() if self._asks_original else nullcontext():
            return [
                replace(
                    batch,
                    noised=self._replaced(batch),
                    target=target.compute(batch.prepared, batch.noised, predict),
                )
                for batch in batches
            ]

    def _replaced(self, batch: DiffusionBatch) -> Noised:
        """What the trained model sees of the batch."""
        noised = batch.noised
        if not isinstance(self._target, Replaces):
            return noised
        x_0 = self._target.x_0(batch.prepared)
        return replace(noised, x_0=x_0, x_t=self._model.schedule.noised(x_0, noised.epsilon, noised.timesteps))

    @torch.no_grad()
    def with_predictions(
        self, model: ShardedModel, batches: list[DiffusionBatch], *, with_maps: bool = False
    ) -> list[DiffusionBatch]:
        """Forget batches with the model's own prediction as their target, and its activation maps."""
        return [self._with_prediction(model, batch, with_maps) for batch in batches]

    def _with_prediction(self, model: ShardedModel, batch: DiffusionBatch, with_maps: bool) -> DiffusionBatch:
        if not with_maps:
            return replace(batch, target=self._output(model, batch))
        with activation_maps(self._model.module) as maps:
            target = self._output(model, batch)
        return replace(batch, target=target, maps=maps)

    def one_by_one(self, batches: list[DiffusionBatch], num_levels: int) -> Iterator[list[DiffusionBatch]]:
        """At evenly spread timesteps with the target of eq. (1); the noise is a function of seed and key alone."""
        return (self._alone(batch, i, num_levels) for batch in batches for i in range(len(batch.weights)))

    @torch.no_grad()
    def _alone(self, batch: DiffusionBatch, i: int, num_levels: int) -> list[DiffusionBatch]:
        model, schedule, noised = self._model, self._model.schedule, batch.noised
        generator = sample_generator(self._seed, "levels", zlib.crc32(noised.keys[i].encode()))
        noise = generator.standard_normal((num_levels, *model.latent_shape), dtype=np.float32)
        levels = np.array(schedule.levels(num_levels), dtype=schedule.timestep_type)
        made = []
        for start in range(0, num_levels, self._forward_batch_size or num_levels):
            rows = slice(start, start + (self._forward_batch_size or num_levels))
            epsilon, t = (torch.from_numpy(array[rows]).to(self._device) for array in (noise, levels))
            conditions, x_0 = [noised.conditions[i]] * len(t), noised.x_0[i].expand(epsilon.shape)
            x_t, told = schedule.noised(x_0, epsilon, t), model.told(conditions, self._device)
            every = Noised(x_0, epsilon, x_t, t, conditions, told, [noised.keys[i]] * len(t))
            made.append(DiffusionBatch(every, schedule.target(x_0, epsilon, t), batch.weights[i].expand(len(t))))
        return made

    def mixtures(
        self, remain: list[DiffusionBatch], forget: list[DiffusionBatch], forget_chance: float
    ) -> tuple[list[DiffusionBatch], list[DiffusionBatch]]:
        """By place in the batch, at the forgotten sample's timestep and noise, told what the one that is noised is.

        Where the two are told the same, importance is by the densities of both; where not, what it is told says which
        of them an input is of, and for the other one it counts nothing.
        """
        pairs = [self._mixed(*pair, forget_chance) for pair in zip(remain, forget, strict=True)]
        return [as_remain for as_remain, _ in pairs], [as_forget for _, as_forget in pairs]

    @torch.no_grad()
    def _mixed(
        self, remain: DiffusionBatch, forget: DiffusionBatch, forget_chance: float
    ) -> tuple[DiffusionBatch, DiffusionBatch]:
        assert forget.chance is not None, "these are forget batches"
        from_forget, weights = forget.chance < forget_chance, remain.weights * forget.weights
        is_told_same = are_told_same(remain.noised.told, forget.noised.told, len(weights), weights.device)
        sides = mixed(self._model.schedule, remain.noised, forget.noised, from_forget)
        counts = importance(*sides, from_forget, is_told_same, forget_chance)
        as_remain, as_forget = (
            DiffusionBatch(
                noised, self._model.schedule.target(noised.x_0, noised.epsilon, noised.timesteps), weights, importance=w
            )
            for noised, w in zip(sides, counts, strict=True)
        )
        return as_remain, as_forget

    def _output(self, model: ShardedModel, batch: DiffusionBatch) -> Tensor:
        return self._predict(model, batch.noised.x_t, batch.noised.timesteps, batch.noised.told)

    def _predict(self, model: ShardedModel, x_t: Tensor, t: Tensor, told: Told) -> Tensor:
        return self._model.predict(model.predict, x_t, t, told, model.working_dtype)

    @contextmanager
    def attention_loss(self) -> Iterator[LossFn[DiffusionBatch]]:
        """‖A‖_F of each sample: A has the probabilities at its tokens, of all layers, heads and places."""
        with watched(cross_attention(self._model.module)) as attention:

            def loss(model: ShardedModel, batch: DiffusionBatch) -> Tensor:
                with attention.in_pass() as of_layers:
                    self._output(model, batch)
                squares_BT = torch.stack([layer.float().square().sum((1, 2)) for layer in of_layers]).sum(0)
                squares_B = (squares_BT * batch.prepared).sum(1)
                # where a sample has none of the words there is nothing to lower, and no slope at 0
                return torch.where(squares_B > 0, squares_B, 1).sqrt() * (squares_B > 0)

            yield loss

    def transfer_loss(self, weight: float) -> LossFn[DiffusionBatch]:
        """`loss` and, so much of it, the distance of the activation maps from those that are the batch's."""

        def loss(model: ShardedModel, batch: DiffusionBatch) -> Tensor:
            with activation_maps(self._model.module) as maps:
                losses = self.loss(model, batch)
            return losses + weight * distance(maps, batch.maps)

        return loss

    def loss(self, model: ShardedModel, batch: DiffusionBatch) -> Tensor:
        """‖target - output‖² / numel of each sample [B]: eq. (1) for remain batches, eq. (2) for forget batches.

        Times its importance, where the batch has one.
        """
        assert batch.target is not None, "with_forget_targets comes first"
        losses = (batch.target - self._output(model, batch)).square().flatten(1).mean(1)
        return losses if batch.importance is None else losses * batch.importance


Objective = DiffusionObjective  # what the file is asked for by name
__all__ = ["DiffusionBatch", "DiffusionObjective", "Objective", "losses_of", "training_loss"]
