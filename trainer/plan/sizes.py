"""A model's sizes, as a plan counts with them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from ..config import EngineConfig
from ..engine.buckets import cut, padded
from ..models.model import Model


@dataclass(frozen=True)
class Sizes:
    """Counts are elements, of one sample where nothing else is said."""

    trained: tuple[int, ...]
    """Of each parameter that trains, in the module's order."""
    num_frozen: int
    """Of the module's other parameters and its buffers."""
    frozen_bytes: int
    """Of what encodes, decodes and tells, in fp32."""
    sample_bytes: int
    """Of what is noised, in fp32."""
    told_bytes: int

    @property
    def num_trained(self) -> int:
        return sum(self.trained)

    def num_persistent(self, engine: EngineConfig) -> int:
        """Of the trained elements, those that stage 3 keeps whole on every rank."""
        return sum(numel for numel in self.trained if numel <= engine.persistence_threshold)

    def buckets(self, engine: EngineConfig) -> list[list[int]]:
        """Parameters, by their number, that stages 1 and 2 reduce and publish together."""
        return cut(self.trained, engine.reduce_bucket_size)

    def bucket_numels(self, engine: EngineConfig, num_ranks: int) -> list[int]:
        """With their padding."""
        return [padded(sum(self.trained[i] for i in bucket), num_ranks) for bucket in self.buckets(engine)]

    def padded_numel(self, engine: EngineConfig, num_ranks: int) -> int:
        """Of the trained elements with the padding of all partitions."""
        if engine.zero_stage < 3:
            return sum(self.bucket_numels(engine, num_ranks))
        return sum(-(-numel // num_ranks) * num_ranks for numel in self.trained)

    def partition_numel(self, engine: EngineConfig, num_ranks: int) -> int:
        """Elements of a rank's part of a vector as long as θ."""
        return self.padded_numel(engine, num_ranks) // num_ranks


def sizes_of(model: Model) -> Sizes:
    """Of a model on `meta`; its parameters that require no gradient count as frozen."""
    module = model.module
    trained = tuple(value.numel() for value in module.parameters() if value.requires_grad)
    *_, told = model.blank_pass(1)
    return Sizes(
        trained=trained,
        num_frozen=_num_elements(module) - sum(trained),
        frozen_bytes=4 * sum(_num_elements(part) for part in model.frozen_parts.values()),
        sample_bytes=4 * math.prod(model.latent_shape),
        told_bytes=sum(_num_bytes(value) for value in told.values()),
    )


def _num_elements(module: nn.Module) -> int:
    return sum(value.numel() for value in (*module.parameters(), *module.buffers()))


def _num_bytes(value: Tensor) -> int:
    return value.numel() * value.element_size()
