"""How long a step takes: floating-point operations, bytes over the network, and passes over vectors. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import ScrubConfig
from ..config.cost import Cost
from .devices import Device
from .memory import Situation, Traces, types_of_gradients
from .traffic import Wire

# of memory bandwidth, what arithmetic on long vectors reaches
_OF_BANDWIDTH = 0.85


@dataclass(frozen=True)
class Seconds:
    """Of a step. Reading data and the host's own work are not in it."""

    passes: float
    """Forward and backward, at the share of the peak that was assumed."""
    encoding: float
    """Images, where no latents are stored, at that share."""
    communication: float
    """What of it nothing hides."""
    vectors: float
    """Inner products, λ_t's update, displacements and the optimizer."""

    @property
    def total(self) -> float:
        return self.passes + self.encoding + self.communication + self.vectors


def seconds(situation: Situation, traces: Traces, device: Device, wire: Wire, mfu: float) -> Seconds:
    """mfu: share of the device's dense peak, in the pass's arithmetic, that passes reach."""
    config, num_samples = situation.config, situation.num_samples
    engine, method = config.engine, config.method
    cost = method.cost(engine.precision)
    in_fp32 = mfu * device.fp32_flops
    usual = mfu * {"fp32": device.fp32_flops, "tf32": device.tf32_flops}.get(engine.precision, device.bf16_flops)
    forward_flops, backward_flops, again_flops = _flops(situation, traces)
    exact, others = cost.exact_gradients, cost.gradients - cost.exact_gradients
    backward = num_samples * (backward_flops + again_flops) * (others / usual + exact / in_fp32)
    forwards = (others + cost.forwards - cost.exact_forwards) / usual + (exact + cost.exact_forwards) / in_fp32
    passes = backward + num_samples * forward_flops * forwards
    # in fp32, whatever the passes are in
    images = num_samples * (1 + method.needs_forget) * situation.encodes
    encoding = images * traces.encoding.forward_flops / in_fp32
    bandwidth = device.bus_bandwidth(situation.num_ranks)
    # stages 1 and 2 reduce beside the last micro-batch's backward pass, stage 3 beside each
    beside = backward if engine.zero_stage == 3 else backward / situation.num_micro_batches
    hidden = min(wire.reductions / bandwidth, beside) if engine.overlap_communication else 0.0
    vectors = _vector_bytes(config, cost, situation) / (_OF_BANDWIDTH * device.memory_bandwidth)
    return Seconds(passes, encoding, wire.total / bandwidth - hidden, vectors)


def _flops(situation: Situation, traces: Traces) -> tuple[float, float, float]:
    """Of one sample: a forward pass, a backward pass, and what a gradient computes again, the mean of a step's."""
    engine, method = situation.config.engine, situation.config.method
    # the type decides nothing here
    kept_in = next(iter(types_of_gradients(situation.config)))
    kept = traces.gradients[kept_in, 0.0]
    of_gradients = {"off": 0.0, "inner": 0.0, "all": 1.0}[engine.activation_checkpointing]
    if engine.activation_checkpointing == "inner" and method.takes_inner_gradients:
        num_gradients = method.cost(engine.precision).gradients
        of_gradients = (num_gradients - 2) / num_gradients  # all but ∇L_r and ∇L_f(θ)
    if not of_gradients:
        return kept.forward_flops, kept.backward_flops, 0.0
    again = traces.gradients[kept_in, engine.activation_checkpointing_share]
    return kept.forward_flops, kept.backward_flops, of_gradients * (again.backward_flops - kept.backward_flops)


def _vector_bytes(config: ScrubConfig, cost: Cost, situation: Situation) -> float:
    """Read and written by elementwise arithmetic on a rank's vectors."""
    shard, num_gradients = situation.shard_bytes, config.method.num_gradients_of_delta
    moments = {"adamw": 2, "adam": 2, "sgd": int(config.optimizer.momentum > 0)}[config.optimizer.name]
    products = num_gradients  # read once
    combined = num_gradients + 1 if num_gradients > 1 else 0  # δ in place of ∇L_r
    optimizer = 3 + 2 * moments  # θ, δ, moments; θ and moments written
    average = 3 if config.optimizer.ema_decay is not None else 0
    displaced = cost.publications * (1 + situation.weight_bytes / 4) + cost.publications - 1
    return shard * (products + combined + optimizer + average + displaced)
