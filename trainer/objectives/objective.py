"""What methods and the loop ask of an objective. With timesteps or without, of noise predictors or of encoders."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

import numpy as np
from torch import Tensor

from ...shards.streaming.stream import SampleBatch
from .. import plugins
from ..engine.sharded_model import LossFn, ShardedModel, Weighted
from ..models.conditions import Condition
from ..models.model import Model

BatchT = TypeVar("BatchT", bound=Weighted)


class Losses(Protocol[BatchT]):
    """What a method minimises: L_r over D_r's micro-batches, L_f over D_f's.

    An objective has `loss` and `with_forget_targets`. The rest are asked for by the methods whose `asks_objective_for`
    names them: without them these are refused, and no others.
    """

    def with_forget_targets(self, model: ShardedModel, batches: list[BatchT]) -> list[BatchT]:
        """D_f's micro-batches with what they are pulled towards, computed at the model's weights of now."""
        ...

    def with_own_targets(self, batches: list[BatchT]) -> list[BatchT]:
        """D_f's micro-batches, before `with_forget_targets`, with what eq. (1) compares them with."""
        ...

    def with_predictions(self, model: ShardedModel, batches: list[BatchT], *, with_maps: bool = False) -> list[BatchT]:
        """D_f's micro-batches with what the model's weights of now say of them, told what they are told.

        with_maps: and with where its blocks are active as they say it, for `transfer_loss`.
        """
        ...

    def transfer_loss(self, weight: float) -> LossFn[BatchT]:
        """A loss of D_f's micro-batches `with_maps`: `loss` + weight × the distance of activation maps from those."""
        ...

    def one_by_one(self, batches: list[BatchT], num_levels: int) -> Iterable[list[BatchT]]:
        """Each of the batches' samples by itself, in micro-batches: `num_levels` times, at as many levels of noise."""
        ...

    def mixtures(
        self, remain: list[BatchT], forget: list[BatchT], forget_chance: float
    ) -> tuple[list[BatchT], list[BatchT]]:
        """Pairs of a remaining and a forgotten sample: one of the two noised, by chance the forgotten one.

        The same inputs twice, with the target of eq. (1) as the remaining and as the forgotten sample have it. Their
        losses are weighted by importance, so that the expected means are those of `remain` and of `forget` themselves.
        """
        ...

    def attention_loss(self) -> AbstractContextManager[LossFn[BatchT]]:
        """Inside, a loss of D_f's micro-batches: the norm of what is attended to at the tokens the method has `sought`.

        Gradients of it are taken inside, too.
        """
        ...

    def loss(self, model: ShardedModel, batch: BatchT) -> Tensor:
        """Of each sample, fp32 [B]: eq. (1) for D_r's batches, eq. (2) for D_f's."""
        ...


class Objective(Losses[BatchT], Protocol[BatchT]):
    """The same, and where the micro-batches come from. Threads call both of these, ahead of the step."""

    def remain_batches(self, samples: SampleBatch) -> list[BatchT]: ...

    def forget_batches(self, samples: SampleBatch) -> list[BatchT]:
        """`with_forget_targets` completes them."""
        ...


class ObjectiveFile(Protocol):
    """What an objective's file has: the class, and the same loss by a model's own weights, for the evidence.

    images: [B, channels, image_size, image_size] in [-1, 1] on the model's device. generators: one an image; all that
    is random is drawn from them, so that two models see the same.
    """

    @property
    def Objective(self) -> Callable[..., Objective[Any]]: ...

    def losses_of(
        self,
        model: Model,
        images: Tensor,
        conditions: Sequence[Condition],
        generators: Sequence[np.random.Generator],
    ) -> Tensor:
        """Of each image fp64 [B], averaged over what is random as far as that tells members: no gradient."""
        ...

    def training_loss(
        self,
        model: Model,
        images: Tensor,
        conditions: Sequence[Condition],
        generators: Sequence[np.random.Generator],
    ) -> Tensor:
        """Their mean as one step of training on them has it, 0-dim, with its gradient."""
        ...


def objective_of(model: Model) -> ObjectiveFile:
    """The file that the model names."""
    return cast(ObjectiveFile, plugins.load("objectives", model.objective))


@dataclass(frozen=True)
class Batches:
    """What one step works on: micro-batches of D_r and, where the method needs them, of D_f."""

    remain: list[Any]
    forget: list[Any]
    bad_samples: tuple[tuple[str, str], ...]  # (key, what is wrong)
