"""Processes: which rank this one is, which device it has, and how results depend on neither."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ...shards.errors import DataError
from ..config import EngineConfig
from ..errors import ConfigError, LostRankError, TrainingError
from . import freed_memory

Result = TypeVar("Result")


def set_up(config: EngineConfig) -> torch.device:
    """Joins the process group that the launcher's environment describes (none: a group of one) and returns the device.

    Raises ConfigError where the asked-for device is not there.
    """
    check_device(config)
    on_cuda = is_on_cuda(config)
    device = torch.device("cpu")
    if on_cuda:
        num_ranks = int(os.environ.get("WORLD_SIZE", "1"))
        index = device_index(os.environ.get("LOCAL_RANK"), torch.cuda.device_count(), num_ranks)
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
        os.environ["LOCAL_RANK"] = str(index)  # DeepSpeed takes it for the device's index
        # TF32 keeps 10 bits of a convolution's inputs: fp32 here means fp32; passes of precision tf32 switch it on
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = config.cudnn_benchmark
        if config.deterministic:
            make_deterministic()
    else:
        freed_memory.keep()
        if config.num_threads is not None:
            torch.set_num_threads(config.num_threads)
    os.environ.setdefault("LOCAL_RANK", "0")  # which DeepSpeed insists on
    # torch 2.13 renames two collectives that DeepSpeed and we call, and says so on every rank of every run
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    if not dist.is_initialized():
        _join(device, config)
    return device


def _join(device: torch.device, config: EngineConfig) -> None:
    backend = "nccl" if device.type == "cuda" else "gloo"
    if "RANK" not in os.environ:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        return
    # NCCL guesses the device otherwise, from the rank; alone there is nobody to connect to
    bound = device if device.type == "cuda" and os.environ.get("WORLD_SIZE") != "1" else None
    try:
        dist.init_process_group(backend, timeout=collective_timeout(config), device_id=bound)
    except dist.DistBackendError as error:
        if "Duplicate GPU" in str(error):
            raise ConfigError("two ranks have the same CUDA device: start at most one rank for each device") from None
        raise


def collective_timeout(config: EngineConfig) -> timedelta:
    """How long a collective waits for other ranks. The watchdog comes first: it knows who is missing."""
    return timedelta(seconds=1.5 * config.step_timeout_seconds + 60)


def device_index(local_rank: str | None, num_visible: int, num_ranks: int) -> int:
    """Which of the CUDA devices that this process sees is its own.

    local_rank: the launcher's LOCAL_RANK. Where a task sees one device, that is the one, whatever its LOCAL_RANK.
    Raises ConfigError where it cannot be told, or where there are fewer devices than ranks.
    """
    if num_visible == 1:
        return 0
    if local_rank is None:
        if num_ranks > 1:
            raise ConfigError(
                f"LOCAL_RANK is not set, {num_ranks} ranks run and this one sees {num_visible} CUDA devices: set "
                "LOCAL_RANK (torchrun does), or let each task see one device (SLURM: --gpus-per-task=1)"
            )
        return 0
    if int(local_rank) >= num_visible:
        raise ConfigError(
            f"LOCAL_RANK is {local_rank}, but this node has {num_visible} CUDA devices: start {num_visible} ranks on it"
        )
    return int(local_rank)


def make_deterministic() -> None:
    """Bit-for-bit repeatable arithmetic on CUDA; an operation that has none raises."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # it would also fill every tensor that is made empty, which costs time and here decides nothing
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]


def is_on_cuda(config: EngineConfig) -> bool:
    """Whether a run with these settings computes on CUDA here."""
    return config.device != "cpu" and torch.cuda.is_available()


def check_device(config: EngineConfig) -> None:
    """Raises ConfigError where the asked-for device is not there."""
    if torch.cuda.is_available():
        return
    if config.device == "cuda":
        raise ConfigError("engine.device = 'cuda', but torch sees no CUDA device: use engine.device = 'cpu'")
    if config.attention != "native":
        raise ConfigError(
            f"engine.attention = {config.attention!r} runs on CUDA alone, and torch sees no CUDA device: use 'native'"
        )


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process writes what is written once."""
    return rank() == 0


def barrier() -> None:
    if world_size() > 1:
        dist.barrier()


def agree(value: Result) -> Result:
    """Rank 0's value, on every rank."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def on_main(do: Callable[[], Result]) -> Result:
    """What `do` returns on rank 0, which alone calls it, on every rank. All ranks call this.

    Where it raises ConfigError, DataError or TrainingError there, every rank raises the same; what else it raises is
    rank 0's to tell, and the others raise a TrainingError.
    """
    found: list[Result] = []
    problem: Exception | None = None
    if is_main():
        try:
            found.append(do())
        except Exception as error:
            problem = error
    is_ours = isinstance(problem, ConfigError | DataError | TrainingError)
    found, told = agree((found, problem if problem is None or is_ours else TrainingError(f"rank 0: {problem}")))
    if told is not None:
        raise problem or told
    return found[0]


def gather(value: object) -> list[Any]:
    """Every rank's value, in the order of the ranks, on every rank."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def sum_(values: Tensor) -> Tensor:
    """Sums a tensor over ranks, in place."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def together(check: Callable[[], Result]) -> Result:
    """What `check` returns. Where a rank's raises ConfigError or DataError, every rank raises a ConfigError for it."""
    found: list[Result] = []
    problem = None
    try:
        found.append(check())
    except (ConfigError, DataError) as error:
        problem = str(error)
    problems = gather(problem)
    if problems[0] is not None:
        raise ConfigError(problems[0])
    for number, told in enumerate(problems):
        if told is not None:
            raise ConfigError(f"rank {number}: {told}")
    return found[0]


def check_same_everywhere(hashes: dict[str, str]) -> None:
    """Raises ConfigError, on all ranks, where a rank's disk holds something else than rank 0's."""
    first, *others = gather(hashes)
    for number, theirs in enumerate(others, start=1):
        for what, found in theirs.items():
            if found != first[what]:
                raise ConfigError(f"rank {number} has other {what} than rank 0: copy the same files to every machine")


@contextmanager
def naming_lost_ranks() -> Iterator[None]:
    """Inside, a collective that fails because another rank has left raises LostRankError."""
    try:
        yield
    except TrainingError:  # says itself what it is, whatever words are in it
        raise
    except RuntimeError as error:
        if world_size() > 1 and (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise LostRankError("another rank has left or does not answer, its log may say why") from error
        raise


@contextmanager
def leaving_together() -> Iterator[None]:
    """Around a command: several ranks leave their process group, or gloo's threads abort them at their exit."""
    try:
        with naming_lost_ranks():
            yield
    finally:
        if world_size() > 1:
            tear_down()


def tear_down() -> None:
    """Leaves the process group, so that the process ends quietly."""
    if dist.is_initialized():
        dist.destroy_process_group()


def end_process(status: int) -> NoReturn:
    """Ends a rank's process here and now: gloo's threads, whose group DeepSpeed keeps, can abort an ordinary exit."""
    tear_down()
    with suppress(OSError):  # a log on a full disk
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)
