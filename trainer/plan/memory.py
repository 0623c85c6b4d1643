"""Bytes that a rank holds at a step's peak, part by part: from its settings, and from passes traced on `meta`."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..config import ScrubConfig
from ..engine.buckets import MAX_IN_FLIGHT
from ..engine.optimizer import vector_names
from .sizes import Sizes
from .trace import Trace
from .traffic import MAX_GATHERED

Parts = dict[str, float]


@dataclass(frozen=True)
class Traces:
    """A model's passes, by the types in which they keep what they keep: those of a precision, tf32 as fp32."""

    gradients: Mapping[tuple[str, float], Trace]
    """Beside the type, the share of blocks that make their activations again."""
    forwards: Mapping[str, Trace]
    encoding: Trace


@dataclass(frozen=True)
class Situation:
    """One rank's part of a scrub."""

    config: ScrubConfig
    sizes: Sizes
    num_ranks: int
    num_samples: int  # of a rank's batch of one loss
    micro_batch: int
    on_cpu: bool
    encodes: bool  # images, ahead of the step

    @property
    def num_micro_batches(self) -> int:
        return -(-self.num_samples // self.micro_batch)

    @property
    def weight_bytes(self) -> int:
        return 2 if self.config.engine.precision == "bf16" else 4

    @property
    def shard_bytes(self) -> int:
        """Of a vector as long as θ, in fp32."""
        return 4 * self.sizes.partition_numel(self.config.engine, self.num_ranks)


def peak(situation: Situation, traces: Traces) -> Parts:
    """The parts at the moment of a step when most is held, from the second step on; what is in none is not there."""
    lasting = _lasting(situation) | _inputs(situation, traces)
    phases = [*_passes(situation, traces), _update(situation)]
    return lasting | max(phases, key=lambda parts: sum(parts.values()))


def types_of_gradients(config: ScrubConfig) -> set[str]:
    """In which a step's passes with a gradient keep their activations, as `Traces` has it."""
    is_exact = config.method.cost(config.engine.precision).exact_gradients > 0
    return {_type_of(config.engine.precision)} | ({"fp32"} if is_exact else set())


def type_of_forwards(config: ScrubConfig) -> str:
    """The same of the passes without one that are there at the peak: those of the inner loop, if it has any."""
    is_exact = config.method.cost(config.engine.precision).exact_forwards > 0
    return "fp32" if is_exact else _type_of(config.engine.precision)


def _type_of(precision: str) -> str:
    return "fp32" if precision == "tf32" else precision


def _lasting(situation: Situation) -> Parts:
    """What is there in every phase."""
    config, sizes, shard = situation.config, situation.sizes, situation.shard_bytes
    names = vector_names(config.optimizer)
    return {
        "weights": _weights(situation),
        "frozen parts": sizes.frozen_bytes,
        "master θ": shard,
        "moments": shard * len([name for name in names if name != "ema"]),
        "average": shard * names.count("ema"),
        "method's state": shard * config.method.num_vectors_kept,
        "original": shard * config.method.keeps_original,
        "DeepSpeed's buffers": _deepspeed_buffers(situation) if config.engine.zero_stage == 3 else 0,
    }


def _weights(situation: Situation) -> float:
    """The working copy, with what of the module does not train."""
    engine, sizes, each = situation.config.engine, situation.sizes, situation.weight_bytes
    if engine.zero_stage < 3:
        return each * (sizes.padded_numel(engine, situation.num_ranks) + sizes.num_frozen)
    if situation.num_ranks == 1:  # nothing is gathered
        return each * (situation.shard_bytes / 4 + sizes.num_frozen)
    persistent = sizes.num_persistent(engine)
    gathered = min(sizes.num_trained - persistent, MAX_GATHERED)
    return each * (situation.shard_bytes / 4 + persistent + gathered + sizes.num_frozen)


def _deepspeed_buffers(situation: Situation) -> float:
    """A partition of gradients that stays, a bucket, and its copy as it is sent."""
    engine, sizes = situation.config.engine, situation.sizes
    used = min(engine.reduce_bucket_size, sizes.num_trained)
    made = used if situation.on_cpu else engine.reduce_bucket_size  # a CPU's memory counts once it is written
    copied = used if situation.num_ranks > 1 else 0
    return situation.shard_bytes + (2 if engine.reduce_dtype == "bf16" else 4) * (made + copied)


def _inputs(situation: Situation, traces: Traces) -> Parts:
    """Batches of this step and of those that are made ahead of it, and what makes them."""
    train, method, sizes = situation.config.train, situation.config.method, situation.sizes
    num_workers = train.dataloader_num_workers
    num_sets = 1 + method.needs_forget
    target = method.target_kind() if method.needs_forget else None
    asks_teacher = target is not None and target.num_forwards > 0
    # x_0, ε, x_t, target; what a sample is told, and what its teacher is
    sample = 4 * num_sets * sizes.sample_bytes + (num_sets + asks_teacher) * sizes.told_bytes
    parts: Parts = {"batches": situation.num_samples * sample * (1 + 2 * num_workers)}
    if situation.encodes:
        at_once = float(traces.encoding.held(situation.micro_batch).max())
        parts["encoder at work"] = at_once * max(1, num_workers)
    return parts


def _passes(situation: Situation, traces: Traces) -> list[Parts]:
    """A step's passes, each with the vectors that are there beside what it makes."""
    config, shard = situation.config, situation.shard_bytes
    method, setting = config.method, config.engine.activation_checkpointing
    cost, share = method.cost(config.engine.precision), config.engine.activation_checkpointing_share
    phases = []
    for kept_in in types_of_gradients(config):
        outer = traces.gradients[kept_in, share if setting == "all" else 0.0]
        others = min(1, cost.gradients - 1)  # ∇L_r
        phases.append(_gradient(situation, outer, others * shard))
        if method.takes_inner_gradients:
            inner = traces.gradients[kept_in, share if setting != "off" else 0.0]
            phases.append(_gradient(situation, inner, (method.num_gradients_held - 1) * shard))
    if cost.forwards:
        forward = traces.forwards[type_of_forwards(config)]
        held = method.num_gradients_held - method.takes_inner_gradients
        nothing = np.zeros(len(forward.fixed))
        phases.append(_at_most(forward, situation.micro_batch, held * shard + nothing, nothing))
    return phases


def _update(situation: Situation) -> Parts:
    """δ is applied; where its descent is measured, with ∇g and with θ as it was."""
    config = situation.config
    measures = config.train.descent_every > 0 and "train.descent_every" not in config.method.without_effect()
    held = config.method.num_gradients_of_delta + 1 if measures else 1
    return {"gradients": situation.shard_bytes * held}


def _gradient(situation: Situation, trace: Trace, others: float) -> Parts:
    """A gradient's passes over its micro-batches, `others` bytes of vectors being there."""
    if situation.config.engine.zero_stage == 3:
        # taken out as a copy at the end, when activations are gone
        made, on_way = np.zeros((2, len(trace.fixed)))
        made[-1] = situation.shard_bytes
    else:
        made, on_way = _reduction(situation, trace)
    return _at_most(trace, situation.micro_batch, others + made, on_way)


def _at_most(trace: Trace, num_samples: int, gradients: np.ndarray, buckets: np.ndarray) -> Parts:
    """The moment of a pass when it holds most, with what is beside it after each of its operations."""
    moment = int((trace.held(num_samples) + gradients + buckets).argmax())
    return {
        "gradients": float(gradients[moment]),
        "buckets": float(buckets[moment]),
        "activations": num_samples * float(trace.per_sample[moment]),
        "casts": float(trace.fixed[moment]),
    }


def _reduction(situation: Situation, trace: Trace) -> tuple[np.ndarray, np.ndarray]:
    """Bytes of the vector that a gradient becomes and of what is on its way there, after each operation (stages 1, 2).

    As `engine/buckets.py` does it: a parameter's gradient waits for those of its bucket; they are copied into the
    bucket's sum, which at one rank is a part of the vector; and the sums of the last backward pass are reduced as it
    goes on, beside it with overlap.
    """
    engine, sizes, num_ranks = situation.config.engine, situation.sizes, situation.num_ranks
    buckets, alone, is_last_of_many = sizes.buckets(engine), num_ranks == 1, situation.num_micro_batches > 1
    sums = [4.0 * numel for numel in sizes.bucket_numels(engine, num_ranks)]
    # changes before each operation
    made, on_way = np.zeros((2, len(trace.fixed) + 1))  # nobody looks at the last
    sums_are_there = is_last_of_many and not alone
    on_way[0] += sum(sums) * sums_are_there
    # a CPU's memory counts once it is written
    if not situation.on_cpu or (is_last_of_many and alone):
        made[0 if is_last_of_many else trace.num_forward] += situation.shard_bytes
    wire_bytes = 2 if engine.reduce_dtype == "bf16" else 4
    bucket_of = {number: i for i, numbers in enumerate(buckets) for number in numbers}
    awaited = [len(numbers) for numbers in buckets]
    waiting = [0.0] * len(buckets)
    in_flight: deque[float] = deque()
    for event, number in trace.arrivals:
        i = bucket_of[number]
        gradient = float(situation.weight_bytes * sizes.trained[number])
        awaited[i] -= 1
        on_way[event] += gradient
        waiting[i] += gradient
        if awaited[i] > 0:
            continue
        if alone:
            made[event] += sums[i] * (situation.on_cpu and not is_last_of_many)
        elif not sums_are_there:
            on_way[event] += sums[i]
        # copied, they are gone, one operation later
        on_way[event + 1] -= waiting[i]
        if not alone:
            # gloo's first step is to make a copy
            sent = wire_bytes / 4 * sums[i] * (2 if situation.on_cpu else 1)
            on_way[event + 1] += sent - sums[i]
            in_flight.append(sent)
            made[event + 1] += sums[i] / num_ranks * situation.on_cpu
            if len(in_flight) > (MAX_IN_FLIGHT if engine.overlap_communication else 0):
                on_way[event + 1] -= in_flight.popleft()
    return made[:-1].cumsum(), on_way[:-1].cumsum()
