"""Gradient kernels against what one would write without them and the memory's own speed: one long file, side by side.

    python benchmarks/kernels.py                    # on a GPU, full size
    python benchmarks/kernels.py --scale 0.1        # on a CPU, every tensor a tenth as long

Every result is compared with float64 first, by the tests' own check: where one of ours is off, its figures are not
printed and the exit status is 1. `error` is the largest in units of the bound, so above 1 a provider is fast and
wrong. GB/s counts the bytes that the operation has to move, whatever the provider moves; `ceiling` is that figure
over the better of a device copy and a read-only sum over the same bytes, timed in the same run. On a GPU times are
those between two events on the device, what the host takes to launch hidden as far as it runs ahead.

`foreach` is torch's multi-tensor kernels over the parameters, `compile` torch.compile of the formula over flat tensors:
on a CPU with --compile alone, since building it takes a compiler and its time.

What would not fit into the memory that is free (`--memory-gb` sets another bound) is left out, and its row says so.
"""

# torch does not export its foreach operations by name
# pyright: reportPrivateImportUsage=false

import argparse
import itertools
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from erasediff.kernels.combine import combine_
from erasediff.kernels.displace import displace
from erasediff.kernels.inner_products import inner_products_by_parameter
from erasediff.kernels.table import ParameterTable
from pipelines import UNETS
from rows import Rows
from torch import Tensor

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))
import gradient_reference as reference  # noqa: E402

OURS = "erasediff"
LAMBDA, XI = 0.37, 1e-3

SIZES = {"sd1": (859_520_964, 686), "sdxl": (2_567_463_684, 1_680)}
SHARDS = {"whole": None, "0 of 8": (0, 8), "3 of 8": (3, 8)}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

COLUMNS = ["op", "provider", "shape", "dtype", "median ms", "p20", "p80", "GB/s", "ceiling", "launches", "host syncs"]
COLUMNS += ["peak MB", "error"]


def lengths_of(model: str, scale: float) -> list[int]:
    """The length of every tensor of the UNet, from its config: no download, no memory."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    with torch.device("meta"):
        lengths = [p.numel() for p in UNet2DConditionModel(**UNETS[model]).parameters()]
    assert (sum(lengths), len(lengths)) == SIZES[model], (sum(lengths), len(lengths))
    return [max(1, round(length * scale)) for length in lengths]


def pieces_of(lengths: list[int], shard: tuple[int, int] | None) -> list[tuple[int, int]]:
    """(parameter, length) of what rank holds of the flat whole cut into world equal shards."""
    rank, world = shard or (0, 1)
    size = -(-sum(lengths) // world)
    pieces, offset = [], 0
    for parameter, length in enumerate(lengths):
        start, end = max(offset, rank * size), min(offset + length, (rank + 1) * size)
        if start < end:
            pieces.append((parameter, end - start))
        offset += length
    return pieces


class Vectors:
    """Gradients and weights of one configuration, flat; `split` shows a flat one as the tensors it is made of."""

    @staticmethod
    def num_bytes(num_elements: int, dtype: torch.dtype) -> int:
        """Four in `dtype`, θ in fp32, the working copy in bf16; the last is made while a draw in fp32 is at hand."""
        return num_elements * (4 * dtype.itemsize + 4 + 2)

    def __init__(self, pieces: list[tuple[int, int]], num_parameters: int, dtype: torch.dtype, device: torch.device):
        self.lengths = [length for _, length in pieces]
        n = sum(self.lengths)
        generator = torch.Generator(device).manual_seed(0)

        def random(size: float) -> Tensor:
            return torch.randn(n, device=device, generator=generator).mul_(size)

        self.g_f, self.g_r = random(1e-3).to(dtype), random(1e-3).to(dtype)
        self.g_phi = random(1e-4).add_(self.g_f).to(dtype)
        self.delta = torch.empty_like(self.g_r)
        self.theta = random(1.0)
        self.working = torch.empty(n, dtype=torch.bfloat16, device=device)
        self.lambda_t = torch.tensor(LAMBDA, dtype=torch.float64, device=device)
        offsets = torch.tensor([0, *self.lengths]).cumsum(0).tolist()
        rows = [(parameter, offset, length) for (parameter, length), offset in zip(pieces, offsets, strict=False)]
        self.table = ParameterTable.from_rows(rows, num_parameters)

    compiles = False
    """Whether torch.compile is a provider."""

    def split(self, flat: Tensor) -> list[Tensor]:
        return list(flat.split(self.lengths))


@dataclass
class Op:
    name: str
    num_bytes: int
    providers: dict[str, Callable[[], Any]]
    error: Callable[[Any], float]
    """of a provider's result, in units of the bound"""
    extra_bytes: dict[str, int]
    """what a provider allocates beside the vectors; next to nothing where it is not named"""
    prepare: Callable[[], Any] = lambda: None
    """before the checked run, not before the timed ones"""


def compiled(x: Vectors, function: Callable[..., Any], *given: Tensor) -> dict[str, Callable[[], Any]]:
    """A provider, where it is asked for. Every shape its own code."""
    if not x.compiles:
        return {}
    fused = torch.compile(function, dynamic=False)
    return {"compile": lambda: fused(*given)}


def dots(*pairs: tuple[Tensor, Tensor]) -> Tensor:
    return torch.stack([(a.float() * b.float()).sum() for a, b in pairs])


def sums_ops(x: Vectors) -> Iterator[Op]:
    u, v, w = x.g_f, x.g_r, x.g_phi
    us, vs, ws = x.split(u), x.split(v), x.split(w)

    def error_of(*shards: Tensor) -> Callable[[Any], float]:
        def error(found: Any) -> float:
            sums = torch.as_tensor(found, dtype=torch.float64).to(u.device)
            return reference.sums_error(sums, *shards) / reference.SUMS_TOLERANCE

        return error

    def loop() -> list[float]:
        totals = [0.0] * 3
        for a, b in zip(us, vs, strict=True):
            for i, (p, q) in enumerate(((a, a), (a, b), (b, b))):
                totals[i] += (p.float() * q.float()).sum().item()
        return totals

    def foreach() -> list[Tensor]:
        uu, vv = (torch.stack(torch._foreach_norm(side)).float().square().sum() for side in (us, vs))
        return [uu, torch.stack([product.sum() for product in torch._foreach_mul(us, vs)]).float().sum(), vv]

    def cat() -> list[Tensor]:
        a, b = torch.cat(us), torch.cat(vs)
        return [a.dot(a), a.dot(b), b.dot(b)]

    size = u.numel() * u.element_size()
    ours = {OURS: lambda: inner_products_by_parameter(u, v, table=x.table)[0]}
    largest = 3 * 4 * max(x.lengths)
    extra = {"loop": largest, "foreach": size, "cat": 2 * size}
    ours |= compiled(x, lambda a, b: dots((a, a), (a, b), (b, b)), u, v)
    yield Op("inner_products", 2 * size, ours | {"loop": loop, "foreach": foreach, "cat": cat}, error_of(u, v), extra)

    def loop_first_order() -> list[float]:
        totals = [0.0] * 6
        for a, b, c in zip(us, vs, ws, strict=True):
            d = a.float() - c.float()
            for i, (p, q) in enumerate(((d, d), (d, b), (b, b), (a, a), (a, b), (a, d))):
                totals[i] += (p.float() * q.float()).sum().item()
        return totals

    def cat_first_order() -> list[Tensor]:
        a, b = torch.cat(us), torch.cat(vs)
        d = a - torch.cat(ws)
        return [d.dot(d), d.dot(b), b.dot(b), a.dot(a), a.dot(b), a.dot(d)]

    def foreach_first_order() -> list[Tensor]:
        ds = torch._foreach_sub(us, ws)
        pairs = ((ds, ds), (ds, vs), (vs, vs), (us, us), (us, vs), (us, ds))
        return [torch.stack([one.sum() for one in torch._foreach_mul(a, b)]).float().sum() for a, b in pairs]

    def formula(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        d = a.float() - c.float()
        return dots((d, d), (d, b), (b, b), (a, a), (a, b), (a, d))

    ours = {OURS: lambda: inner_products_by_parameter(u, v, w, table=x.table)[0]}
    others = {"loop": loop_first_order, "foreach": foreach_first_order, "cat": cat_first_order}
    others |= compiled(x, formula, u, v, w)
    extra = {"loop": 2 * largest, "foreach": 2 * size, "cat": 4 * size}
    yield Op("inner_products first_order", 3 * size, ours | others, error_of(u, v, w), extra)


def combine_ops(x: Vectors) -> Iterator[Op]:
    delta, g_f, lambda_t = x.delta, x.g_f, x.lambda_t
    deltas, fs = x.split(delta), x.split(g_f)

    def error_of(g_phi: Tensor | None) -> Callable[[Any], float]:
        def terms(piece: slice) -> list[Tensor]:
            d = [g_f[piece].double()] if g_phi is None else [g_f[piece].double(), -g_phi[piece].double()]
            return [x.g_r[piece].double(), *(LAMBDA * term for term in d)]

        return lambda _: worst_error(delta, terms)

    def loop() -> None:
        for r, f in zip(deltas, fs, strict=True):
            r.add_(f, alpha=lambda_t.item())

    def foreach() -> None:
        torch._foreach_add_(deltas, fs, alpha=lambda_t.item())

    def cat() -> None:
        joined = torch.cat(deltas) + lambda_t.to(delta.dtype) * torch.cat(fs)
        for r, piece in zip(deltas, x.split(joined), strict=True):
            r.copy_(piece)

    # timed in place again and again, which adds λ ∇g each time: as fast as once
    size, prepare = delta.numel() * delta.element_size(), lambda: delta.copy_(x.g_r)
    providers = {OURS: lambda: combine_(delta, lambda_t, g_f), "loop": loop, "foreach": foreach, "cat": cat}
    providers |= compiled(x, lambda r, a, f: r.copy_(r.float() + a.float() * f.float()), delta, lambda_t, g_f)
    yield Op("combine_", 3 * size, providers, error_of(None), {"cat": 4 * size}, prepare)
    ours = {OURS: lambda: combine_(delta, lambda_t, g_f, x.g_phi)}
    ours |= compiled(
        x,
        lambda r, a, f, p: r.copy_(r.float() + a.float() * (f.float() - p.float())),
        *(delta, lambda_t, g_f, x.g_phi),
    )
    yield Op("combine_ first_order", 4 * size, ours, error_of(x.g_phi), {}, prepare)


def displace_ops(x: Vectors) -> Iterator[Op]:
    workings, thetas, vs = x.split(x.working), x.split(x.theta), x.split(x.g_f)

    def loop() -> None:
        for out, theta, v in zip(workings, thetas, vs, strict=True):
            out.copy_(theta - XI * v)

    def foreach() -> None:
        steps = vs if x.g_f.dtype == torch.float32 else [v.float() for v in vs]
        torch._foreach_copy_(workings, torch._foreach_add(thetas, steps, alpha=-XI))

    def error(_: Any) -> float:
        return worst_error(x.working, lambda piece: [x.theta[piece].double(), -XI * x.g_f[piece].double()])

    providers = {OURS: lambda: displace(x.working, x.theta, x.g_f, -XI), "loop": loop, "foreach": foreach}
    providers |= compiled(x, lambda out, theta, v: out.copy_(theta - XI * v), x.working, x.theta, x.g_f)
    num_bytes = x.theta.numel() * (4 + x.g_f.element_size() + 2)
    fp32 = 4 * x.theta.numel()
    extra = {"loop": 3 * 4 * max(x.lengths), "foreach": fp32 if x.g_f.dtype == torch.float32 else 2 * fp32}
    yield Op("displace to bf16", num_bytes, providers, error, extra, lambda: x.working.fill_(torch.nan))


def optimizer_ops(x: Vectors) -> Iterator[Op]:
    """What follows `combine_` in a step: what one kernel for all of it could save is at most `combine_`'s time."""
    if x.delta.dtype != torch.float32:
        return
    rate, decay, epsilon = 1e-4, 1e-2, 1e-8
    # made when they are used: they may not fit
    theta = torch.empty(0)
    adamw: torch.optim.Optimizer | None = None

    def prepare() -> None:
        nonlocal theta, adamw
        theta = x.theta.clone().requires_grad_()
        theta.grad = x.delta.copy_(x.g_r)
        adamw = torch.optim.AdamW([theta], lr=rate, weight_decay=decay, eps=epsilon, fused=True)

    def step() -> None:
        assert adamw is not None
        adamw.step()

    def error(_: Any) -> float:
        # after the first step the moments' ratio is the gradient's sign, but for ε
        def terms(piece: slice) -> list[Tensor]:
            g, start = x.g_r[piece].double(), x.theta[piece].double()
            return [start, -rate * decay * start, -rate * g / (g.abs() + epsilon)]

        return worst_error(theta.detach(), terms)

    n = x.theta.numel()
    yield Op("AdamW", 28 * n, {"torch fused": step}, error, {"torch fused": 12 * n}, prepare)
    theta, adamw = torch.empty(0), None
    cast = {OURS: lambda: displace(x.working, x.theta, None, 0.0)}
    yield Op("cast to bf16", 6 * n, cast, lambda _: worst_error(x.working, lambda piece: [x.theta[piece].double()]), {})


def worst_error(found: Tensor, terms: Callable[[slice], list[Tensor]]) -> float:
    """The largest `elementwise_error` against the sum of terms, a piece at a time."""
    worst = 0.0
    for start in range(0, found.numel(), reference.PIECE):
        piece = slice(start, start + reference.PIECE)
        stacked = torch.stack(terms(piece))
        worst = max(worst, reference.elementwise_error(found[piece], stacked.sum(0), stacked.abs().sum(0)))
    return worst


def seconds_of(run: Callable[[], Any], device: torch.device, repeats: int) -> list[float]:
    """Of each of `repeats` runs after a warm-up: on a GPU between two events of the device."""
    for _ in range(2):
        run()
    if device.type == "cuda":
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2 * repeats)]
        for begin, end in zip(events[::2], events[1::2], strict=True):
            begin.record()
            run()
            end.record()
        torch.cuda.synchronize()
        return [begin.elapsed_time(end) / 1e3 for begin, end in zip(events[::2], events[1::2], strict=True)]
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return times


def extra_megabytes(run: Callable[[], Any], device: torch.device) -> float:
    """The most memory that was allocated during a run and not before."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    assert profile.profiler is not None and profile.profiler.kineto_results is not None
    events: list[Any] = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    allocated = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        allocated += event.nbytes()
        peak = max(peak, allocated)
    return peak / 1e6


def launches_and_syncs(run: Callable[[], Any], device: torch.device) -> tuple[str, str]:
    """Kernels started and times the host waited for them; nothing of that on a CPU."""
    if device.type != "cuda":
        return "-", "-"
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        run()
        torch.cuda.synchronize()
    launches = sum(str(event.device_type).endswith("CUDA") for event in profile.events() or [])
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    torch.cuda.set_sync_debug_mode("default")
    return str(launches), str(sum("synchronizing" in str(warning.message) for warning in caught))


def ceiling_of(x: Vectors, repeats: int) -> float:
    """Bytes per second of the better of a copy and a read-only sum over the bytes of two gradients."""
    device, size = x.g_f.device, x.g_f.numel() * x.g_f.element_size()
    copy = statistics.median(seconds_of(lambda: x.delta.copy_(x.g_f), device, repeats))
    both = statistics.median(seconds_of(lambda: (x.g_f.sum(), x.g_r.sum()), device, repeats))
    return 2 * size / min(copy, both)


def free_bytes(device: torch.device) -> int:
    """What can still be allocated, the limit of a container taken into account."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = psutil.virtual_memory().available
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and (text := limit.read_text().strip()) != "max":
        free = min(free, int(text) - psutil.Process().memory_info().rss)
    return free


def bytes_of_check(num_elements: int) -> int:
    """What the comparison with float64 takes at most, a piece at a time: three terms, their copies and their sums."""
    return 80 * min(num_elements, reference.PIECE)


def left_out(columns: list[str], needed: int, free: int) -> list[str]:
    return [*columns, f"left out: needs {needed / 1e9:.1f} GB, {max(free, 0) / 1e9:.1f} GB are free"]


def rows_of(
    model: str, shard: str, dtype: str, arguments: argparse.Namespace, device: torch.device
) -> Iterator[list[str]]:
    lengths = lengths_of(model, arguments.scale)
    pieces = pieces_of(lengths, SHARDS[shard])
    n = sum(length for _, length in pieces)
    shape = f"{model} {shard}, {n:,} in {len(pieces)}"
    free = free_bytes(device) if arguments.memory_gb is None else int(1e9 * arguments.memory_gb)
    needed = Vectors.num_bytes(n, DTYPES[dtype]) + bytes_of_check(n)
    if needed > free:
        yield left_out(["all", "all", shape, dtype], needed, free)
        return
    x = Vectors(pieces, len(lengths), DTYPES[dtype], device)
    x.compiles = arguments.compile or device.type == "cuda"
    ceiling = ceiling_of(x, arguments.repeats)
    for op in itertools.chain(sums_ops(x), combine_ops(x), displace_ops(x), optimizer_ops(x)):
        for provider, run in op.providers.items():
            columns = [op.name, provider, shape, dtype]
            if needed + op.extra_bytes.get(provider, 0) > free:
                yield left_out(columns, needed + op.extra_bytes[provider], free)
                continue
            try:
                op.prepare()
                error = op.error(run())
                if provider == OURS and not error <= 1:
                    sys.exit(f"{op.name}, {shape}, {dtype}: the error is {error:.3g} of its bound; no figures")
                times = seconds_of(run, device, arguments.repeats)
                launches, syncs = launches_and_syncs(run, device)
                peak = extra_megabytes(run, device)
            except torch.OutOfMemoryError:
                yield [*columns, "out of memory"]
                continue
            deciles = statistics.quantiles(times, n=10, method="inclusive")
            low, median, high = deciles[1], deciles[4], deciles[7]
            columns += [f"{1e3 * median:.2f}", f"{1e3 * low:.2f}", f"{1e3 * high:.2f}"]
            columns += [f"{op.num_bytes / median / 1e9:.1f}", f"{op.num_bytes / median / ceiling:.0%}"]
            columns += [launches, syncs, f"{peak:.0f}", f"{error:.2g}"]
            yield columns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=UNETS, default=list(UNETS))
    parser.add_argument("--shards", nargs="+", choices=SHARDS, default=list(SHARDS))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--scale", type=float, default=1.0, help="of the length of every tensor (default 1)")
    parser.add_argument("--repeats", type=int, default=20, help="timed runs of each row (default 20)")
    parser.add_argument("--compile", action="store_true", help="torch.compile as a provider (always on a GPU)")
    parser.add_argument("--memory-gb", type=float, help="leave out what needs more (default: what is free)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    table = Rows(COLUMNS, torch.cuda.get_device_name(device) if device.type == "cuda" else None)
    for model in arguments.models:
        for shard in arguments.shards:
            for dtype in arguments.dtypes:
                for row in rows_of(model, shard, dtype, arguments, device):
                    table.add(*row)


if __name__ == "__main__":
    main()
