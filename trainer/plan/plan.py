"""A scrub's plan: as its settings have it, and at every ZeRO stage, with the largest micro-batch that fits."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch

from ..config import EngineConfig, ScrubConfig
from ..config.cost import Cost
from ..config.toml import check_ranges
from ..engine.recomputing import can_recompute
from ..engine.switches import set_switches
from ..errors import ConfigError
from ..models.families import outline_model
from ..models.layers import train_only
from ..models.model import Model
from ..run.checks import check_engine, check_optimizer, check_train
from .devices import Device
from .memory import Parts, Situation, Traces, peak, type_of_forwards, types_of_gradients
from .seconds import Seconds, seconds
from .sizes import Sizes, sizes_of
from .trace import Trace, trace_encoding, trace_forward, trace_gradient
from .traffic import Wire, wire_bytes

STAGES = (1, 2, 3)


@dataclass(frozen=True)
class Setting:
    """A way to run the scrub, and what it takes."""

    engine: EngineConfig
    micro_batch: int
    """Samples of one forward pass on one rank."""
    num_micro_batches: int
    cost: Cost
    max_micro_batch: int | None
    """The largest that fits; None: not even one sample does."""
    memory: Parts
    """Bytes of a rank, by part, at a step's peak."""
    memory_bytes: float
    """Of a device."""
    wire: Wire
    """Bytes that a rank sends in a step."""
    seconds: Seconds
    """Of a step."""

    @property
    def peak_bytes(self) -> float:
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        return self.peak_bytes <= self.memory_bytes


@dataclass(frozen=True)
class Plan:
    """All of it."""

    config: ScrubConfig
    device: Device
    num_ranks: int
    num_samples: int
    """Of a rank's batch of one loss."""
    sizes: Sizes
    mfu: float
    kept_bytes: float
    """Activations of a micro-batch as set, that a backward pass finds."""
    kept_again_bytes: float | None
    """The same where blocks make them again; None: they cannot."""
    as_set: Setting
    by_stage: tuple[Setting, ...]
    """As set, but at each stage that there is, in micro-batches that fit where some do."""
    readings: dict[str, tuple[Setting, ...]]
    """The same of the method's readings that go with the other settings, and "as set" where that is none of them."""
    best: Setting | None
    """The fastest that fits, at any stage, with or without activation checkpointing; None: nothing fits."""

    def preparing_seconds(self, setting: Setting) -> float:
        """Of what the method does before its first step, its gradients taking what those of a step take."""
        return self.config.method.num_preparing_gradients * setting.seconds.total / setting.cost.gradients

    def run_seconds(self, setting: Setting) -> float:
        return self.preparing_seconds(setting) + self.config.train.max_train_steps * setting.seconds.total


def make_plan(config: ScrubConfig, device: Device, num_ranks: int, *, mfu: float, stored_latents: bool = False) -> Plan:
    """Reads the model's configuration alone: no weights, no data.

    mfu: share of the device's peak that passes reach. stored_latents: the data hold latents, no image is encoded.
    Raises ConfigError where the run would be refused for its settings or its model.
    """
    check_ranges(config)
    config = dataclasses.replace(config, optimizer=config.optimizer.fitted(config.train.max_train_steps))
    batch_size = config.train.train_batch_size
    if num_ranks > batch_size:
        raise ConfigError(
            f"--gpus {num_ranks}: train.train_batch_size = {batch_size} has no sample for each: give it at least "
            f"{num_ranks}"
        )
    model = outline_model(config.model)
    check_train(config.train, model)
    check_optimizer(config.optimizer, config.train)
    config.method.check(config.engine)
    config.method.check_optimizer(config.optimizer)
    # attention's packages need not be here
    check_engine(dataclasses.replace(config.engine, attention="native"), config.train, model)
    train_only(model.module, config.train.layers, "train.layers")
    set_switches(model.module, dataclasses.replace(config.engine, compile=False), torch.device("meta"))
    return _Planner(config, model, device, num_ranks, mfu, encodes=not stored_latents).plan()


class _Planner:
    def __init__(
        self,
        config: ScrubConfig,
        model: Model,
        device: Device,
        num_ranks: int,
        mfu: float,
        *,
        encodes: bool,
    ):
        self._config, self._device, self._num_ranks, self._mfu = config, device, num_ranks, mfu
        self._recomputes = can_recompute(model.module)
        self._engines = [*_engines(config, model)]
        self._readings = dict(_readings(config))
        self._num_samples = -(-config.train.train_batch_size // num_ranks)
        self._sizes = sizes_of(model)
        self._traces = self._trace(model)
        self._encodes = encodes and len(self._traces.encoding.fixed) > 1

    def _trace(self, model: Model) -> Traces:
        config, on_cpu = self._config, self._device.is_cpu
        configs = [config, *self._readings.values()]
        share = config.engine.activation_checkpointing_share
        shares = {0.0, share} if self._recomputes else {0.0}
        return Traces(
            gradients={
                (kept_in, recomputed): trace_gradient(model, kept_in, recomputed=recomputed, on_cpu=on_cpu)
                for kept_in in set().union(*map(types_of_gradients, configs))
                for recomputed in shares
            },
            forwards={
                kept_in: trace_forward(model, kept_in, on_cpu=on_cpu) for kept_in in {*map(type_of_forwards, configs)}
            },
            encoding=trace_encoding(model),
        )

    def plan(self) -> Plan:
        config, engine = self._config, self._config.engine
        asked = min(engine.forward_batch_size or self._num_samples, self._num_samples)
        as_set = self._setting(config, asked)
        by_stage = self._by_stage(config)
        readings = {name: self._by_stage(reading) for name, reading in self._readings.items()}
        if readings and by_stage not in readings.values():
            readings["as set"] = by_stage
        ways = ("off", "all") if self._recomputes else ("off",)
        others = [
            self._fitted(_with(config, dataclasses.replace(stage, activation_checkpointing=way)))
            for stage in self._engines
            for way in ways
        ]
        fitting = [setting for setting in (as_set, *by_stage, *others) if setting.fits]
        kept_in = min(types_of_gradients(config))  # bf16 before fp32
        share = engine.activation_checkpointing_share
        return Plan(
            config=config,
            device=self._device,
            num_ranks=self._num_ranks,
            num_samples=self._num_samples,
            sizes=self._sizes,
            mfu=self._mfu,
            kept_bytes=_kept(self._traces.gradients[kept_in, 0.0], asked),
            kept_again_bytes=_kept(self._traces.gradients[kept_in, share], asked) if self._recomputes else None,
            as_set=as_set,
            by_stage=by_stage,
            readings=readings,
            best=_best(fitting),
        )

    def _by_stage(self, config: ScrubConfig) -> tuple[Setting, ...]:
        return tuple(self._fitted(_with(config, stage)) for stage in self._engines)

    def _fitted(self, config: ScrubConfig) -> Setting:
        """In as few micro-batches as fit, of even size; of one sample where none does."""
        largest = self._largest(config) or 1
        number = -(-self._num_samples // largest)
        return self._setting(config, -(-self._num_samples // number))

    def _setting(self, config: ScrubConfig, micro_batch: int) -> Setting:
        situation, engine = self._situation(config, micro_batch), config.engine
        cost = config.method.cost(engine.precision)
        sizes, wire_dtype_bytes = self._sizes, 2 if engine.reduce_dtype == "bf16" else 4
        wire = wire_bytes(
            engine.zero_stage,
            sizes.padded_numel(engine, self._num_ranks),
            self._num_ranks,
            cost,
            num_micro_batches=situation.num_micro_batches,
            weight_bytes=situation.weight_bytes,
            reduce_bytes=wire_dtype_bytes,
            num_persistent=sizes.num_persistent(engine),
            num_tensors=len(sizes.trained),
            num_sums=6 if config.method.num_gradients_of_delta > 2 else 3,
        )
        return Setting(
            engine=dataclasses.replace(engine, forward_batch_size=micro_batch),
            micro_batch=micro_batch,
            num_micro_batches=situation.num_micro_batches,
            cost=cost,
            max_micro_batch=self._largest(config),
            memory=self._memory(situation),
            memory_bytes=self._device.memory_bytes,
            wire=wire,
            seconds=seconds(situation, self._traces, self._device, wire, self._mfu),
        )

    def _situation(self, config: ScrubConfig, micro_batch: int) -> Situation:
        return Situation(
            config=config,
            sizes=self._sizes,
            num_ranks=self._num_ranks,
            num_samples=self._num_samples,
            micro_batch=micro_batch,
            on_cpu=self._device.is_cpu,
            encodes=self._encodes,
        )

    def _memory(self, situation: Situation) -> Parts:
        parts = peak(situation, self._traces) | {"reserve": self._device.reserve_bytes}
        return {name: num_bytes for name, num_bytes in parts.items() if num_bytes > 0}

    def _largest(self, config: ScrubConfig) -> int | None:
        """Samples of the largest micro-batch that fits, up to a rank's batch; None: one does not."""

        def fits(micro_batch: int) -> bool:
            return sum(self._memory(self._situation(config, micro_batch)).values()) <= self._device.memory_bytes

        # one micro-batch holds less than several beside its activations
        if fits(self._num_samples):
            return self._num_samples
        low, high = 0, self._num_samples
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return low or None


def _engines(config: ScrubConfig, model: Model) -> Iterator[EngineConfig]:
    """At each stage that goes with the other settings, and with the model."""
    for stage in STAGES:
        with suppress(ValueError):  # a ConfigError is one
            engine = dataclasses.replace(config.engine, zero_stage=stage)
            check_engine(dataclasses.replace(engine, attention="native"), config.train, model)
            yield engine


def _readings(config: ScrubConfig) -> Iterator[tuple[str, ScrubConfig]]:
    """The scrub by each reading of its method that goes with the engine's settings."""
    for name, method in config.method.readings().items():
        with suppress(ConfigError):
            method.check(config.engine)
            yield name, dataclasses.replace(config, method=method)


def _with(config: ScrubConfig, engine: EngineConfig) -> ScrubConfig:
    return dataclasses.replace(config, engine=engine)


def _best(settings: Sequence[Setting]) -> Setting | None:
    """The fastest; of those within a hundredth of it stage 2 before the others, and the first of them."""
    fastest = min((setting.seconds.total for setting in settings), default=0.0)
    equals = [setting for setting in settings if setting.seconds.total <= 1.01 * fastest]
    return min(equals, key=lambda setting: setting.engine.zero_stage != 2, default=None)


def _kept(trace: Trace, num_samples: int) -> float:
    """What a backward pass finds."""
    return float(trace.held(num_samples)[trace.num_forward - 1])
