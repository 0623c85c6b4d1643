"""Combinations of settings, each timed in turn, and a row for each."""

from __future__ import annotations

import dataclasses
import os
import platform
import statistics
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..config import BenchConfig, EngineConfig
from ..config.toml import as_dict, check_ranges, flatten
from ..errors import ConfigError
from ..models.families import outline_model
from ..models.layers import train_only
from ..models.model import Model
from ..ranks import collectives
from ..ranks.freed_memory import give_back
from ..run.checks import check_engine
from ..run.peak import peak_bytes, reset_peak
from ..run.provenance import commit, now
from . import memory
from .flops import Flops, count, peak
from .iteration import without_words, working
from .split import Split, take_apart

OK, NO_MEMORY = "ok", "out of memory"
# settings that are not of what is timed
_ELSEWHERE = frozenset({"engine.device", "engine.step_timeout_seconds", "train.max_train_steps", "train.seed"})


@dataclass
class Combination:
    """One row to be: its settings, and what its rounds have found so far."""

    varied: dict[str, Any]
    config: BenchConfig | None
    """None: the settings do not go together."""
    status: str = OK
    rounds: list[list[float]] = field(default_factory=list)
    """Seconds of each iteration of each round."""
    split: Split | None = None
    peak_bytes: int = 0
    flops: Flops | None = None


def combinations(config: BenchConfig) -> list[Combination]:
    """Those that cannot be, with why in their status. Raises ConfigError where none can."""
    made = [_combination(config, varied) for varied in config.sweep.combinations()]
    if all(one.config is None for one in made):
        raise ConfigError(made[0].status.removeprefix("refused: "))
    return made


def _combination(config: BenchConfig, varied: dict[str, Any]) -> Combination:
    names = {each.name for each in dataclasses.fields(EngineConfig)}
    try:
        engine = dataclasses.replace(config.engine, **{name: varied[name] for name in varied if name in names})
        train = dataclasses.replace(config.train, **{name: varied[name] for name in varied if name not in names})
        whole = dataclasses.replace(config, engine=engine, train=train)
        check_ranges(whole)
        # what depends on the run's length changes nothing of an iteration's time
        whole = dataclasses.replace(whole, optimizer=whole.optimizer.fitted(whole.train.max_train_steps))
        outline = outline_model(whole.model)
        check_engine(engine, train, outline)
        without_words(whole).check(engine)
    except ValueError as error:  # a ConfigError is one
        return Combination(varied, None, f"refused: {error}")
    return Combination(varied, whole, flops=_flops(whole, outline))


def _flops(config: BenchConfig, outline: Model) -> Flops:
    train_only(outline.module, config.train.layers, "train.layers")
    return count(outline)


def time_all(
    config: BenchConfig, device: torch.device, on_row: Callable[[dict[str, Any]], None]
) -> list[dict[str, Any]]:
    """The rows, each given to `on_row` as soon as its last round is done. All ranks call it; all get the same.

    What runs out of memory, and what the settings refuse, becomes a row that says so.
    """
    memory.bound_alike(device)
    chosen = combinations(config)
    rows = []
    for number in range(config.rounds):
        is_last = number == config.rounds - 1
        for place, one in enumerate(chosen):
            if one.config is not None and one.status == OK:
                trace = _trace_path(config, place, len(chosen)) if is_last else None
                _time(one, one.config, device, trace, is_last=is_last)
                # hooks hold the weights in circles, and an error the frames that it went through
                give_back(device)
            if is_last:
                rows.append(_row(one, device, config))
                on_row(rows[-1])
    return rows


def _time(one: Combination, config: BenchConfig, device: torch.device, trace: Path | None, *, is_last: bool) -> None:
    try:
        collectives.check_device(config.engine)
        with working(config, device) as iteration:
            iteration.seconds(config.warmup)
            reset_peak(device)
            # the slowest rank's, whose iterations the others wait for
            one.rounds.append([*map(max, zip(*collectives.gather(iteration.seconds(config.repeats)), strict=True))])
            one.peak_bytes = max(one.peak_bytes, peak_bytes(device))
            if is_last:
                one.split = take_apart(iteration.step, device, trace)
    except ConfigError as error:
        one.status = f"refused: {error}"
    except (RuntimeError, MemoryError) as error:
        if not memory.is_short(error):
            raise
        one.status = NO_MEMORY
    one.status = next((status for status in collectives.gather(one.status) if status != OK), OK)


def _trace_path(config: BenchConfig, place: int, num: int) -> Path | None:
    if config.trace is None or not collectives.is_main():
        return None
    path = Path(config.trace)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path if num == 1 else path.with_name(f"{path.stem}-{place}{path.suffix}")


def _row(one: Combination, device: torch.device, asked: BenchConfig) -> dict[str, Any]:
    config = one.config or asked
    on_cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_cuda else processor()
    num_ranks = collectives.world_size()
    row: dict[str, Any] = {
        "status": one.status,
        "model": _model_name(config),
        "device": name,
        "num_ranks": num_ranks,
        "num_nodes": -(-num_ranks // int(os.environ.get("LOCAL_WORLD_SIZE", num_ranks))),
        "num_threads": None if on_cuda else torch.get_num_threads(),
        **_settings(config),
        "varied": one.varied,
        "date": now(),
        **_versions(),
    }
    peaks = collectives.gather(one.peak_bytes)
    if one.status != OK or one.split is None or one.flops is None:
        return row
    seconds, split = [seconds for each in one.rounds for seconds in each], one.split
    deciles = statistics.quantiles(seconds, n=10, method="inclusive") if len(seconds) > 1 else seconds * 9
    median, method = deciles[4], config.method
    losses = 1 + method.needs_forget
    # samples that count: what fills up an odd share is no work done
    per_rank = config.train.train_batch_size / num_ranks
    flops = one.flops.of_passes(method.cost(config.engine.precision)) * per_rank
    most = peak(name, config.engine.precision)
    bus = split.bus_bandwidth
    return row | {
        "seconds": median,
        "seconds_p20": deciles[1],
        "seconds_p80": deciles[7],
        "seconds_by_round": [statistics.median(each) for each in one.rounds],
        "num_iterations": len(seconds),
        "images_per_second": losses * per_rank / median,  # of one rank; D_r's and D_f's
        "tflops_per_second": flops / median / 1e12,
        "mfu": None if most is None else flops / median / most,
        "peak_bytes": max(peaks),
        **{f"seconds_{part}": value for part, value in split.seconds.items()},
        "seconds_reduction_busy": split.reduction_busy_seconds,
        "bytes_sent": split.num_bytes,
        "bus_bytes_per_second": bus,
    }


def _model_name(config: BenchConfig) -> str:
    outline = outline_model(config.model)
    module: nn.Module = outline.module
    size = " × ".join(map(str, outline.latent_shape))
    return f"{type(module).__name__}, {sum(value.numel() for value in module.parameters()):,} parameters, {size}"


def processor() -> str:
    """The CPU's name, as Linux has it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "cpu")


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"commit": commit(), "torch": torch.__version__}
    for name in ("triton", "diffusers", "deepspeed"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _settings(config: BenchConfig) -> dict[str, dict[str, Any]]:
    """Of method, training, optimizer and engine what is not the default, and the batch's size; flat. Then the rest."""
    sections = {name: getattr(config, name) for name in ("method", "train", "optimizer", "engine")}
    chosen: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for name, section in sections.items():
        values, defaults = (flatten(as_dict(each), f"{name}.") for each in (section, type(section)()))
        for key in values.keys() - _ELSEWHERE:
            (rest if values[key] == defaults[key] else chosen)[key] = values[key]
    # each method's own name is its default
    chosen["method.name"] = rest.pop("method.name", config.method.name)
    chosen["train.train_batch_size"] = config.train.train_batch_size
    rest.pop("train.train_batch_size", None)
    if config.model.image_size is not None:
        chosen["model.image_size"] = config.model.image_size
    return {"settings": dict(sorted(chosen.items())), "defaults": dict(sorted(rest.items()))}
