"""DeepSpeed ZeRO, and the only file that touches its internals.

A `ZeroPartition` answers four questions the engine has: where a rank's fp32 weights live, what their layout is, how to
take a reduced gradient out, and how to write other weights into the working copy that forward passes read. DeepSpeed's
own optimizer step, loss scaling, clipping and gradient accumulation are never used.

Pinned to DeepSpeed 0.19: `tests/distributed` compares every stage and precision with a one-process reference, so that
an upgrade that changes any of this is seen.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import logging
import os
import warnings
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..config import EngineConfig
from ..errors import ConfigError
from ..ranks.collectives import collective_timeout
from .vector import Layout, Segment


def _import_deepspeed(device: torch.device) -> Any:
    """DeepSpeed with its accelerator fixed, its JIT-built CPU collectives off and its chatter silenced."""
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if device.type == "cuda" else "cpu")
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "error")
    import deepspeed
    import deepspeed.ops
    from deepspeed.utils import logger

    if not deepspeed.__version__.startswith("0.19."):
        raise ConfigError(
            f"deepspeed {deepspeed.__version__} is installed; erasediff needs 0.19 (it uses its internals)"
        )
    logger.setLevel(logging.ERROR)
    # torch 2.13 renames two collectives that DeepSpeed and we call, and says so on every rank of every run
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    # compiled at first use otherwise: nodes may have no compiler
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    _spare_time()
    return deepspeed


@functools.cache
def _spare_time() -> None:
    """Without a change to any result."""
    # DeepSpeed asks whether an optimizer is its Muon, whose file compiles as it is imported, which brings torch's whole
    # compiler, 3.5 s a start: those functions, which our placeholder does not run, stay as they are written
    compiler, torch.compile = torch.compile, lambda function: function
    try:
        importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    finally:
        torch.compile = compiler
    # stage 3 on a CPU counts devices at every reduction, each time by starting `numactl`, there or not
    numa: Any = importlib.import_module("deepspeed.utils.numa")
    numa.get_numa_cores = functools.cache(numa.get_numa_cores)


def _deepspeed_config(config: EngineConfig) -> dict[str, Any]:
    """Everything that would change gradients silently is fixed here and is no option."""
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": config.precision == "bf16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": config.reduce_dtype if config.precision == "bf16" else "fp32",
        "zero_optimization": {
            "stage": config.zero_stage,
            "contiguous_gradients": True,
            "overlap_comm": config.overlap_communication,
            "reduce_bucket_size": config.reduce_bucket_size,
            "stage3_prefetch_bucket_size": config.reduce_bucket_size,
            "stage3_param_persistence_threshold": config.persistence_threshold,
            # one sub-group: a rank's share is one flat tensor
            "sub_group_size": 1 << 62,
        },
    }


class _Autocast(nn.Module):
    """The module as DeepSpeed gets it; autocast goes inside, where DeepSpeed leaves it alone."""

    def __init__(self, module: nn.Module, precision: str, device: torch.device):
        super().__init__()
        self.module = module
        self.enabled = precision == "bf16-autocast"
        self._device_type = device.type

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        # a caller's own autocast keeps the cache of cast weights, which a write to the working copy would not reach;
        # within one forward pass each weight is cast once, with or without it
        with torch.autocast(self._device_type, dtype=torch.bfloat16, enabled=self.enabled, cache_enabled=False):
            return self.module(*args, **kwargs)


class ZeroPartition:
    """A module under ZeRO: `theta` is this rank's fp32 partition of the weights, in `layout`; padding is zero.

    All ranks must make it and call its methods together.
    """

    theta: Tensor  # flat fp32 [layout.partition_numel], never an alias of the working copy
    working_partition: Tensor  # flat, this rank's partition of the working copy, in the working dtype
    layout: Layout

    def __init__(self, engine: Any, names: dict[int, str], shapes: dict[str, tuple[int, ...]]):
        self._engine = engine
        self._optimizer = engine.optimizer
        self._names = names
        self._shapes = shapes
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._engine(*args, **kwargs)

    @property
    def autocasts(self) -> bool:
        """Whether forward passes run in bf16 arithmetic on fp32 weights."""
        return self._engine.module.enabled

    @contextlib.contextmanager
    def without_autocast(self) -> Iterator[None]:
        """Inside, forward passes, and the backward passes of those, run in the weights' own precision."""
        module = self._engine.module
        enabled, module.enabled = module.enabled, False
        try:
            yield
        finally:
            module.enabled = enabled

    def backward(self, loss: Tensor) -> None:
        """The backward pass of the one forward pass since the last `take_gradient`."""
        self._engine.backward(loss)

    def take_gradient(self) -> Tensor:
        """The gradient of the last backward pass, mean over ranks, flat fp32 in `layout`; DeepSpeed keeps nothing."""
        raise NotImplementedError

    def before_write(self) -> None:
        """Must precede a write to `working_partition`."""

    def publish(self) -> None:
        """Makes what `working_partition` holds on every rank the weights of the next forward pass."""
        raise NotImplementedError

    def layout_of(self, rank: int) -> Layout:
        """The layout of another rank's partition."""
        raise NotImplementedError


class _Zero12(ZeroPartition):
    def __init__(self, engine: Any, names: dict[int, str], shapes: dict[str, tuple[int, ...]]):
        super().__init__(engine, names, shapes)
        self._flat = self._optimizer.bit16_groups_flat[0]
        # gradients go into one flat partition, in fp32 as with bf16 weights: otherwise they are pieces to be joined,
        # which takes as much memory again
        self._optimizer._use_compact_grad_partition_buffer = lambda group: True
        self.working_partition = self._optimizer.parallel_partitioned_bit16_groups[0][self.rank].data
        self.layout = self.layout_of(self.rank)
        self.theta = self._optimizer.single_partition_of_fp32_groups[0].data

    def layout_of(self, rank: int) -> Layout:
        optimizer = self._optimizer
        partition_numel = int(optimizer.partition_size[0])
        start, end = rank * partition_numel, (rank + 1) * partition_numel
        segments = []
        for parameter, offset in zip(
            optimizer.round_robin_bit16_groups[0], optimizer.round_robin_bit16_offsets[0], strict=True
        ):
            low, high = max(offset, start), min(offset + parameter.numel(), end)
            if low < high:
                segments.append(Segment(self._names[id(parameter)], low - offset, high - low, low - start))
        return Layout(tuple(segments), partition_numel, self._shapes)

    def take_gradient(self) -> Tensor:
        optimizer = self._optimizer
        taken = optimizer.averaged_gradients[0].flat_partition  # in its order, padding included
        optimizer.averaged_gradients.clear()
        optimizer.zero_grad()
        optimizer.micro_step_id = -1
        return taken

    def publish(self) -> None:
        if self.world_size > 1:
            dist.all_gather_into_tensor(self._flat.data, self.working_partition)


class _Zero3(ZeroPartition):
    def __init__(self, engine: Any, names: dict[int, str], shapes: dict[str, tuple[int, ...]]):
        super().__init__(engine, names, shapes)
        optimizer = self._optimizer
        assert len(optimizer.fp16_partitioned_groups_flat) == 1, "one sub-group was asked for"
        self.working_partition = optimizer.fp16_partitioned_groups_flat[0].data
        self.layout = self.layout_of(self.rank)
        master = optimizer.fp32_partitioned_groups_flat[0].data
        # in fp32 DeepSpeed's master partition is the working copy itself; ours must survive a displacement
        self.theta = master.clone() if master.data_ptr() == self.working_partition.data_ptr() else master
        # where parameters are gathered for forward and backward passes: a stream of its own where communication
        # overlaps, the default one where it does not, none on a CPU
        self._gather_stream = optimizer.parameter_offload._DeepSpeedZeRoOffload__allgather_stream

    def layout_of(self, rank: int) -> Layout:
        segments, partition_offset = [], 0
        for parameter in self._optimizer.fp16_groups[0]:
            numel = parameter.partition_numel()
            start = rank * numel
            length = min(numel, parameter.ds_numel - start)
            if length > 0:
                segments.append(Segment(self._names[id(parameter)], start, length, partition_offset))
            partition_offset += numel
        return Layout(tuple(segments), partition_offset, self._shapes)

    def take_gradient(self) -> Tensor:
        optimizer = self._optimizer
        buffer = optimizer.grad_partitions_flat_buffer
        taken = buffer.clone()
        # without this a parameter that the next loss does not use would keep this loss's gradient
        buffer.zero_()
        optimizer.zero_grad()
        return taken.float()

    def before_write(self) -> None:
        # small parameters stay gathered between steps: without this their copies would go stale
        self._optimizer._partition_all_parameters()
        # what is still being gathered must be read before it is overwritten …
        if self._gather_stream is not None:
            torch.cuda.current_stream().wait_stream(self._gather_stream)

    def publish(self) -> None:
        # … and what is gathered from now on must have been written
        if self._gather_stream is not None:
            self._gather_stream.wait_stream(torch.cuda.current_stream())
        optimizer = self._optimizer
        optimizer._unflatten_partitioned_parameters(0)
        if optimizer.persistent_parameters:
            optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)
        optimizer.invalidate_secondary_tensor()


def partition(module: nn.Module, config: EngineConfig, device: torch.device) -> ZeroPartition:
    """Partitions `module`'s trained parameters over all ranks. All ranks must call it with the same module.

    Raises ConfigError for a setting under which gradients would be silently wrong or unsharded.
    """
    deepspeed = _import_deepspeed(device)
    from deepspeed.utils import groups

    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    shapes = {name: tuple(parameter.shape) for name, parameter in trained.items()}
    names = {id(parameter): name for name, parameter in trained.items()}
    # DeepSpeed would take its master weights from the bf16 working copy, already rounded; that has a memory of its own
    originals = (
        {name: parameter.detach().float() for name, parameter in trained.items()} if config.precision == "bf16" else {}
    )
    # it insists on an optimizer; ours works on `theta`, so this one never steps
    placeholder = torch.optim.SGD(list(trained.values()), lr=0.0)
    # DeepSpeed clones the world's group for its collectives without a timeout, which would leave them torch's own
    if groups._WORLD_GROUP is None:
        groups._WORLD_GROUP = dist.new_group(timeout=collective_timeout(config))
    with contextlib.redirect_stdout(io.StringIO()):
        engine, *_ = deepspeed.initialize(
            model=_Autocast(module, config.precision, device),
            optimizer=placeholder,
            config=_deepspeed_config(config),
            dist_init_required=False,
        )
    zero = (_Zero3 if config.zero_stage == 3 else _Zero12)(engine, names, shapes)
    _fill_theta(zero, originals)
    return zero


def _fill_theta(zero: ZeroPartition, originals: dict[str, Tensor]) -> None:
    """θ from the unrounded weights where there are any, and zero in the padding, which DeepSpeed may leave unset."""
    end = 0
    for segment in zero.layout.segments:
        zero.theta[end : segment.partition_offset] = 0
        end = segment.partition_offset + segment.length
        if segment.name in originals:
            there = slice(segment.parameter_offset, segment.parameter_offset + segment.length)
            values = originals[segment.name].reshape(-1)[there]
            zero.theta[segment.partition_offset : end] = values.to(zero.theta.device)
    zero.theta[end:] = 0
