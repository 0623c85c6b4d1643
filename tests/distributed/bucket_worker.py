"""Runs on every rank of one world size: what stages 1 and 2 send, and where it lies; written by rank 0 as JSON."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from engine_cases import OPTIMIZERS, TRAFFIC_CASES, Case, global_batch, make_module, per_sample_loss
from engine_reference import distance, norm
from engine_steps import ToyObjective, make_model, own_batches, traffic
from erasediff.trainer.config import EngineConfig
from erasediff.trainer.engine.sharded_model import ShardedModel
from erasediff.trainer.ranks import collectives


def misaligned(case: Case, device: torch.device) -> int:
    """Of a gradient, θ and the weights: how many pieces of this rank's start off a multiple of 16 bytes."""
    model = make_model(case, device)
    batches: Any = own_batches(0, False)
    gradient = model.gradient(ToyObjective().loss, batches)[1]
    vectors = [vector.data[piece.place] for vector in (gradient, model.theta) for piece in model._zero.pieces]
    starts = [value.data_ptr() for value in [*vectors, *(piece.weights for piece in model._zero.pieces)]]
    assert len(starts) > 9 and gradient.data.storage_offset() == 0
    covered = torch.zeros(len(gradient.data), dtype=torch.bool)
    for segment in gradient.layout.segments:
        covered[segment.partition_offset : segment.partition_offset + segment.length] = True
    assert not gradient.data[~covered].any() and not model.theta.data[~covered].any(), "padding is not zero"
    return sum(start % 16 != 0 for start in starts)


class Late(torch.nn.Module):
    """With a parameter whose bucket a backward pass begins with, where its loss uses it."""

    def __init__(self) -> None:
        super().__init__()
        self.odd = make_module()
        self.late = torch.nn.ParameterList([torch.full((650,), 0.1)])

    def forward(self, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor, uses_all: bool) -> torch.Tensor:
        output = self.odd(x, t, labels, uses_all)
        return output * self.late[0].square().sum() if uses_all else output


def run_uneven(device: torch.device) -> float:
    """‖error‖ / ‖gradient‖ where rank 0's loss uses parameters that the others' does not: sums still meet their own."""
    engine = EngineConfig(reduce_bucket_size=700)
    module = Late()
    if collectives.rank() > 0:  # rank 0's weights count
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(1.0)
    model = ShardedModel(module, engine, OPTIMIZERS["sgd"], device, max_train_steps=10)
    batches = [global_batch(rank, rank == 0) for rank in range(collectives.world_size())]
    mine: Any = [batches[collectives.rank()]]
    found = model.gather(model.gradient(ToyObjective().loss, mine)[1])
    reference, parts = Late(), []
    for batch in batches:
        loss = per_sample_loss(reference, batch, torch.float32).sum() / sum(len(one.weights) for one in batches)
        names, values = zip(*reference.named_parameters(), strict=True)
        gradients = torch.autograd.grad(loss, values, allow_unused=True, materialize_grads=True)
        parts.append(dict(zip(names, gradients, strict=True)))
    expected = {name: torch.stack([part[name] for part in parts]).sum(0) for name in parts[0]}
    return distance(found, expected) / norm(expected) if collectives.rank() == 0 else 0.0


def order(case: Case, device: torch.device) -> list[str]:
    """What happens in one backward pass and until its gradient is taken, in that order."""
    model = make_model(case, device)
    events: list[str] = []
    for parameter in model._zero._module.parameters():
        parameter.register_post_accumulate_grad_hook(lambda _: events.append("gradient"))
    reduce = torch.distributed.reduce_scatter_tensor

    class Noted:
        def __init__(self, work: Any):
            self._work = work

        def wait(self) -> None:
            events.append("wait")
            self._work.wait()

    def noted(*args: Any, **kwargs: Any) -> Noted:
        events.append("start")
        return Noted(reduce(*args, **kwargs))

    with patch.object(torch.distributed, "reduce_scatter_tensor", noted):
        model.gradient(ToyObjective().loss, own_batches(0, True)[:1])
    return events


def quantiles(device: torch.device) -> list[list[float]]:
    """By the engine and by sorting the whole vector: for shares, of numbers with ties, many zeros and extremes."""
    model = make_model(Case("moo", "sgd", 2, "fp32", "overlap"), device)
    gradient = model.gradient(ToyObjective().loss, own_batches(0, False))[1]  # one parameter has none
    gradient.data[:40] = 0.25
    gradient.data[40:43] = torch.tensor([3e38, 1e-45, -2.0])
    whole = torch.cat([value.flatten() for value in model.gather(gradient).values()] or [torch.zeros(1)]).abs()
    found = []
    for share in (0.0, 0.001, 0.3, 0.5, 0.9, 1.0):
        number = max(1, math.ceil(share * len(whole) - 1e-6))
        found.append([float(gradient.abs_quantile(share)), float(whole.kthvalue(number).values)])
    return found


def copied_as_it_is_sent() -> float:
    """How much memory a reduction takes beside what is given to it, over the size of that."""
    given = torch.ones(21_000_000)
    received = torch.ones(len(given) // collectives.world_size())
    before = _peak_bytes(forget=True)
    work: Any = torch.distributed.reduce_scatter_tensor(received, given, async_op=True)
    work.wait()
    return (_peak_bytes() - before) / (4 * len(given))


def _peak_bytes(*, forget: bool = False) -> int:
    """Of this process, resident; forget: since now."""
    if forget:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def main() -> None:
    device = collectives.set_up(EngineConfig(device="cpu", num_threads=1))
    results: dict[str, Any] = {str(each): traffic(each.case, device) for each in TRAFFIC_CASES}
    for stage in (1, 2):
        results[f"order zero{stage} overlap"] = order(Case("moo", "sgd", stage, "fp32", "overlap"), device)
        results[f"order zero{stage}"] = order(Case("moo", "sgd", stage, "fp32", "small-buckets"), device)
    results["quantiles"] = quantiles(device)
    results["uneven"] = run_uneven(device)
    results["copied"] = copied_as_it_is_sent()
    for precision in ("fp32", "bf16"):
        found = misaligned(Case("moo", "sgd", 2, precision, "overlap"), device)
        results[f"misaligned {precision}"] = collectives.gather(found)
    if collectives.is_main():
        Path(sys.argv[1]).write_text(json.dumps(results))
    collectives.end_process(0)


if __name__ == "__main__":
    main()
