"""ZeRO stage 3, which is DeepSpeed's: the weights are in partitions, too. The only file that touches its internals.

DeepSpeed's own optimizer step, loss scaling and clipping are never used.

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
import sys
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..config import EngineConfig
from ..errors import ConfigError
from ..ranks.collectives import collective_timeout
from .partition import Autocast, Partition, Piece, trained_parameters
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
    # a rank alone has none to compare the order of modules with, for which the host would read what the device holds
    order: Any = importlib.import_module("deepspeed.runtime.zero.partitioned_param_coordinator")
    compare = order.assert_ints_same_as_other_ranks
    order.assert_ints_same_as_other_ranks = lambda ints: None if is_alone() else compare(ints)


def is_alone() -> bool:
    """Whether this rank has all of the weights: whole where they lie, nothing gathers or releases them."""
    return dist.get_world_size() == 1


def _deepspeed_config(config: EngineConfig) -> dict[str, Any]:
    """Everything that would change gradients silently is fixed here and is no option."""
    alone = is_alone()
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": config.precision == "bf16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": config.reduce_dtype,
        "zero_optimization": {
            "stage": 3,
            "contiguous_gradients": True,
            "overlap_comm": config.overlap_communication and not alone,
            "reduce_bucket_size": config.reduce_bucket_size,
            "stage3_prefetch_bucket_size": config.reduce_bucket_size,
            "stage3_param_persistence_threshold": sys.maxsize if alone else config.persistence_threshold,
            # one sub-group: a rank's share is one flat tensor
            "sub_group_size": 1 << 62,
        },
    }


class Stage3Partition(Partition):
    def __init__(self, module: nn.Module, config: EngineConfig, device: torch.device):
        wrapped = Autocast(module, config.precision, device)
        super().__init__(wrapped)
        trained = trained_parameters(module)
        self._shapes = {name: tuple(parameter.shape) for name, parameter in trained.items()}
        self._names = {id(parameter): name for name, parameter in trained.items()}
        # DeepSpeed would take its master weights from the bf16 working copy, already rounded
        rounds = config.precision == "bf16"
        originals = {name: value.detach().float() for name, value in trained.items()} if rounds else {}
        self._engine = _initialize(wrapped, list(trained.values()), config, device)
        self._optimizer = optimizer = self._engine.optimizer
        assert len(optimizer.fp16_partitioned_groups_flat) == 1, "one sub-group was asked for"
        working_partition = optimizer.fp16_partitioned_groups_flat[0].data
        self.pieces = [Piece(slice(None), working_partition)]
        self.layout = self.layout_of(self.rank)
        master = optimizer.fp32_partitioned_groups_flat[0].data
        # in fp32 DeepSpeed's master partition is the working copy itself; ours must survive a displacement
        self.theta = master.clone() if master.data_ptr() == working_partition.data_ptr() else master
        self._fill_theta(originals)
        from deepspeed.accelerator import get_accelerator

        self._alone = is_alone()
        self._accelerator: Any = get_accelerator()
        # where parameters are gathered for forward and backward passes: a stream of its own where communication
        # overlaps, the default one where it does not, none on a CPU
        self._gather_stream = optimizer.parameter_offload._DeepSpeedZeRoOffload__allgather_stream
        self._spare_the_host(config)

    def _spare_the_host(self, config: EngineConfig) -> None:
        """Takes out DeepSpeed's waits for the device, but for the one that bounds memory."""
        optimizer, accelerator = self._optimizer, self._accelerator
        if self._alone:
            # DeepSpeed releases all weights of a pass whose order it did not expect, and fetches them again
            for parameter in optimizer.fp16_groups[0]:
                parameter.partition = lambda *_, **__: None
        stream = optimizer.reduce_and_partition_stream
        if stream is not None:
            # after each backward pass: what reads the gradients is on the current stream
            stream.synchronize = lambda: accelerator.current_stream().wait_stream(stream)
        # until all but two reductions, or fetches, are done: what one stream frees and another takes comes back as the
        # device gets there, and a host far ahead would take more and more memory. On one stream it comes back at once
        if self._alone or not config.overlap_communication:
            coordinator = optimizer.parameter_offload.get_param_coordinator()
            optimizer.max_param_reduce_events = sys.maxsize
            coordinator._PartitionedParameterCoordinator__max_ongoing_fetch_events = sys.maxsize

    def close(self) -> None:
        self._engine.destroy()
        # engine, optimizer and parameters hold each other, in part where no collector sees it: what they hold goes
        for parameter in self._optimizer.fp16_groups[0]:
            parameter.data = parameter.data.new_empty(0)
            vars(parameter).clear()
        vars(self._optimizer).clear()

    def _fill_theta(self, originals: dict[str, Tensor]) -> None:
        """θ from the unrounded weights where there are any, and zero in the padding, which DeepSpeed leaves unset."""
        end = 0
        for segment in self.layout.segments:
            self.theta[end : segment.partition_offset] = 0
            end = segment.partition_offset + segment.length
            if segment.name in originals:
                there = slice(segment.parameter_offset, segment.parameter_offset + segment.length)
                values = originals[segment.name].reshape(-1)[there]
                self.theta[segment.partition_offset : end] = values.to(self.theta.device)
        self.theta[end:] = 0

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

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = self._engine(*args, **kwargs)
        # DeepSpeed learns from the first pass in what order modules come, and for good which of them it releases: where
        # that is one without a backward pass it would gather for every backward pass again
        order = self._optimizer.parameter_offload.get_param_coordinator()
        if not torch.is_grad_enabled() and order.is_record_trace():
            order._invalidate_trace()
        return output

    def backward(self, share: Tensor, *, is_first: bool, is_last: bool) -> None:
        self._engine.backward(share * self.world_size)  # DeepSpeed takes the mean over ranks, and adds up by itself

    def take_gradient(self) -> Tensor:
        optimizer = self._optimizer
        buffer = optimizer.grad_partitions_flat_buffer
        taken = buffer.clone()
        # without this a parameter that the next loss does not use would keep this loss's gradient
        buffer.zero_()
        optimizer.zero_grad()
        return taken.float()

    def before_write(self) -> None:
        if self._alone:
            return  # what passes read is what is written
        # small parameters stay gathered between steps: without this their copies would go stale
        self._optimizer._partition_all_parameters()
        # what is still being gathered must be read before it is overwritten …
        if self._gather_stream is not None:
            self._accelerator.current_stream().wait_stream(self._gather_stream)

    def publish(self) -> None:
        if self._alone:
            return
        # … and what is gathered from now on must have been written
        if self._gather_stream is not None:
            self._gather_stream.wait_stream(self._accelerator.current_stream())
        optimizer = self._optimizer
        optimizer._unflatten_partitioned_parameters(0)
        persistent = optimizer.persistent_parameters
        if persistent:
            # in one collective, without waiting for the device
            persistent[0].all_gather_coalesced(persistent).wait()
        optimizer.invalidate_secondary_tensor()


def _initialize(module: nn.Module, trained: list[nn.Parameter], config: EngineConfig, device: torch.device) -> Any:
    """DeepSpeed's engine of the module."""
    deepspeed = _import_deepspeed(device)
    from deepspeed.utils import groups

    # it insists on an optimizer; ours works on `theta`, so this one never steps
    placeholder = torch.optim.SGD(trained, lr=0.0)
    # DeepSpeed clones the world's group for its collectives without a timeout, which would leave them torch's own
    if groups._WORLD_GROUP is None:
        groups._WORLD_GROUP = dist.new_group(timeout=collective_timeout(config))
    with contextlib.redirect_stdout(io.StringIO()):
        engine, *_ = deepspeed.initialize(
            model=module, optimizer=placeholder, config=_deepspeed_config(config), dist_init_required=False
        )
    return engine
