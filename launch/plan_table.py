"""A plan as tables for a person, and as plain values for machines."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from ..trainer.plan.plan import Plan, Setting


def as_table(plan: Plan) -> str:
    blocks = [_heading(plan), _memory(plan), _step(plan), _readings(plan), _verdict(plan)]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def as_dict(plan: Plan) -> dict[str, Any]:
    return {
        "device": dataclasses.asdict(plan.device),
        "num_ranks": plan.num_ranks,
        "mfu": plan.mfu,
        "num_parameters": plan.sizes.num_trained + plan.sizes.num_frozen,
        "num_trained": plan.sizes.num_trained,
        "samples_per_rank": plan.num_samples,
        "cost": dataclasses.asdict(plan.as_set.cost),
        "activations": {"kept_bytes": plan.kept_bytes, "with_checkpointing_bytes": plan.kept_again_bytes},
        "as_set": _setting_as_dict(plan.as_set, plan),
        "by_stage": [_setting_as_dict(setting, plan) for setting in plan.by_stage],
        "readings": {
            name: [_setting_as_dict(setting, plan) for setting in settings] for name, settings in plan.readings.items()
        },
        "best": None if plan.best is None else _setting_as_dict(plan.best, plan),
    }


def _setting_as_dict(setting: Setting, plan: Plan) -> dict[str, Any]:
    return {
        "zero_stage": setting.engine.zero_stage,
        "activation_checkpointing": setting.engine.activation_checkpointing,
        "micro_batch": setting.micro_batch,
        "num_micro_batches": setting.num_micro_batches,
        "cost": dataclasses.asdict(setting.cost),
        "max_micro_batch": setting.max_micro_batch,
        "fits": setting.fits,
        "memory": setting.memory,
        "peak_bytes": setting.peak_bytes,
        "wire": {**dataclasses.asdict(setting.wire), "total": setting.wire.total},
        "seconds": {**dataclasses.asdict(setting.seconds), "total": setting.seconds.total},
        "preparing_seconds": plan.preparing_seconds(setting),
        "run_seconds": plan.run_seconds(setting),
    }


def _heading(plan: Plan) -> list[str]:
    device, sizes, method = plan.device, plan.sizes, plan.config.method
    num_nodes = -(-plan.num_ranks // device.num_per_node)
    nodes = f"{num_nodes} node{'s' if num_nodes > 1 else ''}"
    inner = getattr(method, "num_inner_steps", None)
    if inner is not None and not getattr(method, "needs_inner_loop", True):
        inner = 0  # it is skipped
    return [
        f"{plan.num_ranks} × {device.name} on {nodes}, {plan.config.engine.precision}",
        f"{(sizes.num_trained + sizes.num_frozen) / 1e6:,.1f} M parameters, {sizes.num_trained / 1e6:,.1f} M trained, "
        f"in {len(sizes.trained):,} tensors",
        f"{method.name}{'' if inner is None else f', K = {inner}'}: an iteration is {plan.as_set.cost}",
        f"a batch of {plan.config.train.train_batch_size:,}: {plan.num_samples:,} samples a rank and loss",
        f"activations kept of {plan.as_set.micro_batch:,} samples: {_gb(plan.kept_bytes)} GB"
        + ("" if plan.kept_again_bytes is None else f", {_gb(plan.kept_again_bytes)} GB with checkpointing"),
    ]


def _memory(plan: Plan) -> list[str]:
    settings = _columns(plan)
    names = [*dict.fromkeys(name for setting in settings for name in setting.memory)]
    rows = [[name, *(_gb(setting.memory.get(name, 0)) for setting in settings)] for name in names]
    rows += [
        ["at the peak", *(_gb(setting.peak_bytes) for setting in settings)],
        [f"fits in {_gb(plan.device.memory_bytes)}", *("yes" if setting.fits else "NO" for setting in settings)],
    ]
    return _table(["a rank's memory, GB", *_names(plan)], rows)


def _step(plan: Plan) -> list[str]:
    settings = _columns(plan)

    def row(name: str, value: Callable[[Setting], object]) -> list[str]:
        return [name, *(str(value(setting)) for setting in settings)]

    steps = plan.config.train.max_train_steps
    rows = [
        row("micro-batches", lambda s: f"{s.num_micro_batches} × {s.micro_batch}"),
        row("largest that fits", lambda s: "none" if s.max_micro_batch is None else s.max_micro_batch),
        row("sent by a rank, GB", lambda s: _gb(s.wire.total)),
        row("  gradients", lambda s: _gb(s.wire.reductions)),
        row("  weights", lambda s: _gb(s.wire.publications + s.wire.gathers)),
        row(f"seconds at {plan.mfu:.0%} of peak", lambda s: f"{s.seconds.total:.3f}"),
        row("  passes", lambda s: f"{s.seconds.passes:.3f}"),
        row("  encoding images", lambda s: f"{s.seconds.encoding:.3f}"),
        row("  communication", lambda s: f"{s.seconds.communication:.3f}"),
        row("  vectors", lambda s: f"{s.seconds.vectors:.3f}"),
    ]
    if before := plan.config.method.num_preparing_gradients:
        rows.append(row(f"{before:,} gradients before", lambda s: _time(plan.preparing_seconds(s))))
    rows.append(row(f"a run of {steps:,} steps", lambda s: _time(plan.run_seconds(s))))
    return _table(["an iteration", *_names(plan)], rows)


def _readings(plan: Plan) -> list[str]:
    """What the method's readings take at each stage; nothing of a method that has one."""
    rows = [
        [
            f"{name}, as set" if settings == plan.by_stage and name != "as set" else name,
            *(str(number) for number in (settings[0].cost.gradients, settings[0].cost.forwards)),
            *(_gb(setting.wire.total) for setting in settings),
            *(f"{setting.seconds.total:.3f}" for setting in settings),
        ]
        for name, settings in plan.readings.items()
    ]
    stages = [f"ZeRO {setting.engine.zero_stage}" for setting in plan.by_stage]
    head = [*(f"{stage} GB" for stage in stages), *(f"{stage} s" for stage in stages)]
    return _table(["an iteration of", "gradients", "forward passes", *head], rows) if rows else []


def _columns(plan: Plan) -> tuple[Setting, ...]:
    """What is set comes first where it is none of the stages' best."""
    return plan.by_stage if plan.as_set in plan.by_stage else (plan.as_set, *plan.by_stage)


def _names(plan: Plan) -> list[str]:
    def is_set(setting: Setting) -> str:
        return ", as set" if setting == plan.as_set else ""

    return [f"ZeRO {setting.engine.zero_stage}{is_set(setting)}" for setting in _columns(plan)]


def _verdict(plan: Plan) -> list[str]:
    verdict = "fits" if plan.as_set.fits else "does not fit"
    lines = [f"as set: {verdict}, {_gb(plan.as_set.peak_bytes)} of {_gb(plan.device.memory_bytes)} GB"]
    if plan.best is not None:
        engine = plan.best.engine
        lines.append(
            f"best: --engine.zero-stage {engine.zero_stage} --engine.forward-batch-size {plan.best.micro_batch} "
            f"--engine.activation-checkpointing {engine.activation_checkpointing}: {_gb(plan.best.peak_bytes)} GB, "
            f"{plan.best.seconds.total:.3f} s an iteration"
        )
    return lines


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = []
    for row in (head, *rows):
        cells = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def _gb(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:,.2f}"


def _time(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours:,} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"
