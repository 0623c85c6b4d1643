"""The sharded engine: gradients of separate losses, displaced weights and the outer step, on ZeRO partitions.

Methods are written in these operations and never see DeepSpeed. Every operation is collective: all ranks call it, in
the same order, with the same number of micro-batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ...kernels.displace import displace
from ...kernels.inner_products import inner_products_by_parameter
from ..config import EngineConfig, OptimizerConfig
from ..ranks import collectives
from .arithmetic import Arithmetic
from .attention import set_attention
from .buckets import BucketPartition
from .dropout import Dropout
from .optimizer import OuterOptimizer
from .packet import Layers
from .partition import Partition
from .recomputing import Recomputing
from .switches import set_switches
from .vector import ShardedVector


class Weighted(Protocol):
    """A micro-batch: anything with a weight for each of its samples, fp32 [B] on the model's device."""

    @property
    def weights(self) -> Tensor: ...


Batch = TypeVar("Batch", bound=Weighted)
LossFn = Callable[["ShardedModel", Batch], Tensor]  # -> the loss of each sample [B]


class ShardedModel:
    """A module whose trained weights θ live in ZeRO partitions.

    `theta` is this rank's fp32 partition of θ and changes in `step` alone. The weights that forward passes read are a
    working copy: cast(θ), or cast(θ + α·v) inside `displaced`.
    """

    def __init__(
        self,
        module: nn.Module,
        engine: EngineConfig,
        optimizer: OptimizerConfig,
        device: torch.device,
        *,
        max_train_steps: int,
        keep_original: bool = False,
        fresh: Callable[[], Mapping[str, Tensor]] | None = None,
        dropout_seed: int | None = None,
    ):
        """fresh: whole weights by parameter name, for `fresh_weights`; the same on every rank.

        dropout_seed: gradients are taken with the module's dropout, masks by this seed; None: without.
        """
        self.device = device
        _set_frozen_apart(module)
        set_attention(module, engine.attention)
        self._recomputing = Recomputing(
            module, engine.activation_checkpointing, share=engine.activation_checkpointing_share
        )
        set_switches(module, engine, device)
        self._dropout = Dropout(module, dropout_seed, device, collectives.rank())
        self._zero = _partition(module, engine, device)
        self._arithmetic = Arithmetic(self._zero, engine.precision)
        self.theta = ShardedVector(self._zero.layout, self._zero.theta)
        self.original = self.theta.clone() if keep_original else None
        self._fresh = fresh
        self._parameter_table = self.theta.layout.parameter_table()
        self.layers = Layers(self.parameter_names, device)
        self.optimizer = OuterOptimizer(self.theta, optimizer, max_train_steps)
        # whose cast the working copy is; None: out of date, rewritten before the next forward pass
        self._working_copy_of: object | None = None
        self._is_displaced = False

    @property
    def working_dtype(self) -> torch.dtype:
        """The type of the weights that forward passes read, and of a forward pass's floating-point inputs."""
        return self._zero.working_dtype

    @property
    def rounds_passes(self) -> bool:
        """Whether passes that are not `exact` run in coarser arithmetic than that of the weights."""
        return self._arithmetic.rounds

    @property
    def parameter_names(self) -> list[str]:
        """Names of the trained parameters, in the module's order."""
        return list(self.theta.layout.shapes)

    @property
    def has_dropout(self) -> bool:
        """Whether gradients are taken with dropout."""
        return self._dropout.drops

    def begin(self, step: int) -> None:
        """From now on gradients are of this step: it decides what dropout drops."""
        self._dropout.step = step

    def _write_working_copy(self, base: ShardedVector, v: ShardedVector | None, alpha: float, owner: object) -> None:
        self._working_copy_of = None  # whatever becomes of this
        self._zero.before_write()
        for piece in self._zero.pieces:
            displace(piece.weights, base.data[piece.place], None if v is None else v.data[piece.place], alpha)
        self._zero.publish()
        self._working_copy_of = owner

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """A forward pass of the module with the current working copy."""
        if self._working_copy_of is None:
            self._write_working_copy(self.theta, None, 0.0, self.theta)
        with self._arithmetic.of_passes():
            return self._zero.forward(*args, **kwargs)

    def _share_of_mean(self, loss_fn: LossFn[Batch], batch: Batch, total_weight: Tensor) -> Tensor:
        """This micro-batch's share of the sample-weighted mean over the global batch."""
        return (loss_fn(self, batch) * batch.weights).sum() / total_weight

    def _total_weight(self, micro_batches: Sequence[Weighted]) -> Tensor:
        total = collectives.sum_(torch.stack([batch.weights.sum() for batch in micro_batches]).sum())
        return torch.where(total > 0, total, 1)  # a batch that nobody could read has loss 0, not NaN

    def close(self) -> None:
        """Ends it, and the module with it: their memory goes with the last reference. Vectors stay what they are."""
        self._zero.close()

    def gradient(
        self, loss_fn: LossFn[Batch], micro_batches: Sequence[Batch], *, exact: bool = False
    ) -> tuple[Tensor, ShardedVector]:
        """The gradient of the sample-weighted mean of `loss_fn` over the global batch, at the working copy's weights.

        exact: in the weights' own arithmetic, for a difference to another point's, which a coarser one rounds away.
        Returns this rank's share of that mean (0-dim; the shares of all ranks add up to it) and the gradient, fp32,
        reduced over ranks; nothing else keeps it. A rank that has no sample passes one of weight 0.
        """
        assert micro_batches, "a loss needs at least one micro-batch on every rank"
        total_weight = self._total_weight(micro_batches)
        loss = torch.zeros((), dtype=torch.float64, device=self.device)
        for number, batch in enumerate(micro_batches, start=1):
            recomputing = self._recomputing.at(inner=self._is_displaced)
            dropout = self._dropout.of_micro_batch(number)
            with recomputing, dropout, self._arithmetic.of_passes(exact=exact):
                share = self._share_of_mean(loss_fn, batch, total_weight)
                self._zero.backward(share, is_first=number == 1, is_last=number == len(micro_batches))
            loss += share.detach()
        return loss, ShardedVector(self.theta.layout, self._zero.take_gradient())

    @torch.no_grad()
    def loss(self, loss_fn: LossFn[Batch], micro_batches: Sequence[Batch], *, exact: bool = False) -> Tensor:
        """`gradient` without the gradient: this rank's share of the mean loss."""
        total_weight = self._total_weight(micro_batches)
        with self._arithmetic.of_passes(exact=exact):
            shares = [self._share_of_mean(loss_fn, batch, total_weight) for batch in micro_batches]
        return torch.stack(shares).to(torch.float64).sum()

    def squared_gradients(self, loss_fn: LossFn[Batch], micro_batches: Sequence[Batch]) -> tuple[Tensor, ShardedVector]:
        """Of each rank's micro-batches, dataclasses, alone: the gradient's elements squared, summed over ranks.

        Also how many ranks had a sample, 0-dim. One rank after the other: the others pass theirs with weight 0.
        """
        squares = ShardedVector(self.theta.layout, torch.zeros_like(self.theta.data))
        given: list[Any] = [*micro_batches]
        for turn in range(self._zero.world_size):
            own = float(turn == self._zero.rank)
            _, gradient = self.gradient(loss_fn, [replace(batch, weights=batch.weights * own) for batch in given])
            squares.data.addcmul_(gradient.data, gradient.data)
        has_sample = torch.stack([batch.weights.sum() for batch in micro_batches]).sum() > 0
        return collectives.sum_(has_sample.double()), squares

    def displaced(self, v: ShardedVector, alpha: float) -> AbstractContextManager[None]:
        """Inside, forward passes and gradients are those of θ + α·v. θ is not written, so nothing is restored."""
        return self._elsewhere(self.theta, v, alpha, v)

    def at(self, weights: ShardedVector) -> AbstractContextManager[None]:
        """Inside, forward passes and gradients are those of other weights, whole ones; θ is not written."""
        return self._elsewhere(weights, None, 0.0, weights)

    @contextmanager
    def _elsewhere(
        self, weights: ShardedVector, v: ShardedVector | None, alpha: float, of: ShardedVector
    ) -> Iterator[None]:
        self._write_working_copy(weights, v, alpha, of)
        self._is_displaced = True
        try:
            yield
        finally:
            self._working_copy_of, self._is_displaced = None, False

    @contextmanager
    def at_original(self) -> Iterator[None]:
        """Inside, forward passes are those of the original, frozen model (made with `keep_original`); no gradient."""
        assert self.original is not None, "made without keep_original"
        with self.at(self.original), torch.no_grad():
            yield

    def fresh_weights(self) -> ShardedVector:
        """Weights that nobody has trained, a vector of their own (made with `fresh`)."""
        assert self._fresh is not None, "made without fresh"
        whole, found = self._fresh(), self.theta.clone()
        for piece in self.theta.layout.segments:
            there = slice(piece.parameter_offset, piece.parameter_offset + piece.length)
            here = slice(piece.partition_offset, piece.partition_offset + piece.length)
            found.data[here] = whole[piece.name].detach().reshape(-1)[there].to(self.device)
        return found

    def inner_products(
        self, u: ShardedVector, v: ShardedVector, w: ShardedVector | None = None
    ) -> tuple[Tensor, Tensor]:
        """This rank's share of the sums of `kernels.inner_products`: in all [3 or 6], and by parameter [P, 3 or 6].

        From one pass over memory. The packet adds them up over ranks; parameters come in the order of `layout.shapes`.
        """
        return inner_products_by_parameter(u.data, v.data, None if w is None else w.data, table=self._parameter_table)

    def step(self, delta: ShardedVector, step: int, skip: Tensor) -> None:
        """The outer optimizer applies δ to θ, unless `skip` (0-dim, 0 or 1, on the device) is 1."""
        self.optimizer.step(delta, step, skip)
        self._working_copy_of = None

    def restore(self, vectors: dict[str, Tensor], num_updates: float) -> None:
        """Puts back θ and the optimizer's state: this rank's partitions of what a checkpoint holds, flat, by name."""
        self.theta.data.copy_(vectors["theta"])
        moments = {name: value.to(self.device) for name, value in vectors.items() if name != "theta"}
        self.optimizer.restore(moments, num_updates)
        self._working_copy_of = None

    def gather(self, vector: ShardedVector) -> dict[str, Tensor]:
        """The whole vector as fp32 CPU tensors by parameter name: on rank 0; other ranks take part and get {}."""
        whole: dict[str, Tensor] = {}
        if self._zero.rank == 0:
            whole = {name: torch.empty(shape).reshape(-1) for name, shape in vector.layout.shapes.items()}
        for rank in range(self._zero.world_size):
            data = vector.data if rank == self._zero.rank else torch.empty_like(vector.data)
            if self._zero.world_size > 1:
                data = data.contiguous()
                dist.broadcast(data, src=rank)
            if self._zero.rank == 0:
                data = data.cpu()
                for piece in self._zero.layout_of(rank).segments:
                    there = slice(piece.parameter_offset, piece.parameter_offset + piece.length)
                    whole[piece.name][there] = data[piece.partition_offset : piece.partition_offset + piece.length]
        return {name: flat.reshape(vector.layout.shapes[name]) for name, flat in whole.items()}


def _partition(module: nn.Module, config: EngineConfig, device: torch.device) -> Partition:
    """`module`'s trained parameters over all ranks. All ranks call it with the same module."""
    # DeepSpeed takes seconds to import
    if config.zero_stage == 3:
        from .stage3 import Stage3Partition

        return Stage3Partition(module, config, device)
    return BucketPartition(module, config, device)


def _set_frozen_apart(module: nn.Module) -> None:
    """Parameters that do not train become buffers: whole on every rank, never sent."""
    for part in module.modules():
        frozen = [name for name, value in part.named_parameters(recurse=False) if not value.requires_grad]
        for name in frozen:
            value = getattr(part, name)
            delattr(part, name)
            part.register_buffer(name, value.detach())
