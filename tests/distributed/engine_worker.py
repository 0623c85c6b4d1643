"""Runs on every rank of one world size: all cases of the engine, what came out written by rank 0 as JSON."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import json
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from engine_cases import (
    DEVICE,
    DIFFERENCE_CASES,
    DIFFERENCES,
    METHODS,
    NUM_ITERATIONS,
    OPTIMIZERS,
    SPREADS,
    STAGE_3_TRAFFIC_CASES,
    WIRE_CASES,
    Case,
    exact_cases,
    global_batch,
    micro_batches,
    rounded_cases,
)
from engine_reference import Reference, ReferenceStep, distance, dot, norm
from engine_steps import ToyObjective, made, traffic, update
from engine_steps import make_model as make_model_as_it_is
from erasediff.trainer import EraseDiffConfig
from erasediff.trainer.config import EngineConfig
from erasediff.trainer.engine import stage3
from erasediff.trainer.engine.sharded_model import ShardedModel
from erasediff.trainer.methods._two_gradients import Descent
from erasediff.trainer.ranks import collectives
from text_cases import errors as text_errors
from text_cases import make_pipelines, text_cases

RANK, WORLD_SIZE = 0, 1


def make_model(case: Case, device: torch.device) -> ShardedModel:
    """With a spread of weights of its own a rank alone gathers and releases, too: on one GPU nothing else would."""
    with patch.object(stage3, "is_alone", lambda: WORLD_SIZE == 1 and case.spread not in SPREADS):
        return make_model_as_it_is(case, device)


def run_exact(case: Case, reference: list[ReferenceStep] | None, device: torch.device) -> list[dict[str, float]]:
    """Errors of each iteration, and whether φ left a trace in θ or in the optimizer."""
    model = make_model(case, device)
    method = made(model, METHODS[case.method])
    results = []
    for iteration in range(NUM_ITERATIONS):
        theta_before = model.theta.data.clone()
        moments_before = {name: vector.data.clone() for name, vector in model.optimizer.vectors().items()}
        done = update(model, method, iteration)
        traces = int(not torch.equal(theta_before, model.theta.data)) + sum(
            int(not torch.equal(moments_before[name], vector.data))
            for name, vector in model.optimizer.vectors().items()
        )
        delta = model.gather(done.delta)
        told_norm = float(done.norm_squared())
        model.step(done.delta, iteration, done.skip)
        theta = model.gather(model.theta)
        if reference is not None:
            expected = reference[iteration]
            results.append(
                {
                    "delta": distance(delta, expected.delta) / norm(expected.delta) / expected.amplification,
                    "theta": distance(theta, expected.theta) / expected.moved,
                    "lambda_t": float(done.packet["lambda_t"]) if "lambda_t" in done.packet.names else 0.0,
                    "expected_lambda_t": expected.lambda_t,
                    "skip": float(done.skip),
                    "traces": traces,
                    "told_norm": told_norm / dot(delta, delta),
                }
            )
    return results


def run_rounded(case: Case, fp64: list[ReferenceStep] | None, device: torch.device) -> dict[str, float]:
    """The first δ's error against fp64, beside that of one process in the same precision."""
    model = make_model(case, device)
    delta = model.gather(update(model, made(model, METHODS[case.method]), 0).delta)
    if fp64 is None:
        return {}
    reference = Reference(WORLD_SIZE, case.precision)
    one_process, _, _ = reference.delta(reference.origin(), 0, METHODS[case.method])
    errors = {"error": distance(delta, fp64[0].delta), "one_process_error": distance(one_process, fp64[0].delta)}
    return errors | {"norm": norm(fp64[0].delta)}


def run_on_the_wire(case: Case, device: torch.device) -> float:
    """How far the first δ is from the one whose gradients are summed in fp32, in norms of δ: nothing else differs."""
    deltas = []
    for spread in (case.spread, "as it is by default"):
        model = make_model(dataclasses.replace(case, spread=spread), device)
        deltas.append(model.gather(update(model, made(model, METHODS[case.method]), 0).delta))
    return distance(*deltas) / norm(deltas[1]) if RANK == 0 else 0.0


def run_difference(case: Case, device: torch.device) -> dict[str, float]:
    """The cosine of ∇g to fp64's, where ∇g is a difference, and g beside fp64's."""
    model, config = make_model(case, device), DIFFERENCES[case.method]
    done = update(model, made(model, config), 0)
    assert isinstance(done.observe, Descent)
    grad_f, grad_phi = done.observe.grad_f, done.observe.grad_phi
    found = model.gather(grad_f.clone().axpy_(-1.0, grad_phi) if grad_phi is not None else grad_f)
    if RANK != 0:
        return {}
    exact = Reference(WORLD_SIZE)
    theta = exact.origin()
    forget = global_batch(0, False)
    loss_f, expected_f = exact.gradient(theta, forget)
    g, difference = exact.difference(theta, forget, loss_f, expected_f, config)
    expected = expected_f if grad_phi is None else difference
    cosine = dot({name: value.to(DEVICE) for name, value in found.items()}, expected) / norm(found) / norm(expected)
    return {"cosine": cosine, "g": float(done.packet["g"]), "expected_g": g}


def run_wrong(reference: list[ReferenceStep] | None, device: torch.device) -> float:
    """The error that a δ with η a thousandth too large shows: the comparison must see it."""
    model = make_model(Case("envelope-norm", "sgd", 2, "fp32"), device)
    right = METHODS["envelope-norm"]
    assert isinstance(right, EraseDiffConfig)
    wrong = EraseDiffConfig(lambda_cap=None, eta=right.eta * 1.001)
    delta = model.gather(update(model, made(model, wrong), 0).delta)
    return distance(delta, reference[0].delta) / norm(reference[0].delta) if reference else 0.0


def run_displaced(stage: int, precision: str, device: torch.device) -> bool:
    """Whether predictions after a displacement equal those before it, bit for bit, and those inside do not.

    And whether all three are the same within a caller's own autocast.
    """
    model = make_model(Case("finetune", "sgd", stage, precision), device)
    batch = micro_batches(global_batch(0, True), RANK, WORLD_SIZE)[0]
    objective = ToyObjective()

    def losses() -> list[torch.Tensor]:
        with torch.no_grad():
            before = objective.loss(model, batch)
            with model.displaced(model.theta, 0.5):
                inside = objective.loss(model, batch)
            return [before, inside, objective.loss(model, batch)]

    before, inside, after = losses()
    with torch.autocast(device.type, torch.bfloat16):
        again = losses()
    return (
        torch.equal(before, after)
        and not torch.equal(before, inside)
        and all(map(torch.equal, again, (before, inside, after)))
    )


def num_persistent(spread: str, device: torch.device) -> int:
    """How many parameters stay whole at stage 3, of 67."""
    model = make_model(Case("finetune", "sgd", 3, "fp32", spread), device)
    stage3: Any = model._zero
    return len(stage3._optimizer.persistent_parameters)


def timeouts(device: torch.device) -> list[float]:
    """Seconds, of every process group that there is."""
    groups: Any = dist.distributed_c10d._world.pg_map
    return [group._get_backend(device).options._timeout.total_seconds() for group in groups]


def main() -> None:
    global RANK, WORLD_SIZE
    output = Path(sys.argv[1])
    kind = "cuda" if DEVICE.type == "cuda" else "cpu"
    device = collectives.set_up(EngineConfig(device=kind, num_threads=1, deterministic=True))
    RANK, WORLD_SIZE = collectives.rank(), collectives.world_size()
    gc.freeze()  # DeepSpeed collects garbage at every start: spare it the modules
    reference = Reference(WORLD_SIZE)
    expected: dict[tuple[str, str], list[ReferenceStep]] = {}
    for case in exact_cases(WORLD_SIZE) if RANK == 0 else []:
        key = (case.method, case.optimizer)
        if key not in expected:
            expected[key] = reference.steps(METHODS[case.method], OPTIMIZERS[case.optimizer])
    results: dict[str, Any] = {}
    # DeepSpeed looks for a compiler as the first model is made
    make_model(Case("finetune", "sgd", 3, "fp32"), device)
    started: list[str] = []
    sys.addaudithook(lambda event, words: started.append(str(words[0])) if event == "subprocess.Popen" else None)
    for case in exact_cases(WORLD_SIZE):
        results[str(case)] = run_exact(case, expected.get((case.method, case.optimizer)), device)
    for case in rounded_cases(WORLD_SIZE):
        results[str(case)] = run_rounded(case, expected.get((case.method, "sgd")), device)
    results["wrong"] = run_wrong(expected.get(("envelope-norm", "sgd")), device)
    for case in WIRE_CASES if WORLD_SIZE > 1 else []:
        errors = run_rounded(case, expected.get((case.method, "sgd")), device)
        results[str(case)] = errors | {"of_wire": run_on_the_wire(case, device)}
    if WORLD_SIZE > 1 and DEVICE.type == "cpu":
        for case in STAGE_3_TRAFFIC_CASES:
            results[f"traffic {case}"] = traffic(case, device)
    precisions = ["fp32", "bf16"]
    # what the number of ranks does not change, on a CPU on one number of them
    if WORLD_SIZE == 2 or DEVICE.type == "cuda":
        precisions.append("bf16-autocast")
        for case in DIFFERENCE_CASES:
            results[str(case)] = run_difference(case, device)
    results["displaced"] = {
        f"zero{stage}-{precision}": run_displaced(stage, precision, device)
        for stage, precision in itertools.product((2, 3), precisions)
    }
    if DEVICE.type == "cpu":
        if RANK == 0 and text_cases(WORLD_SIZE):
            make_pipelines(output.parent)
        collectives.barrier()
        for case in text_cases(WORLD_SIZE):
            results[str(case)] = text_errors(case, output.parent, device, RANK, WORLD_SIZE)
    results["timeouts"] = timeouts(device)
    results["started"] = started
    if WORLD_SIZE == 2:
        results["persistent"] = {spread: num_persistent(spread, device) for spread in SPREADS}
    if RANK == 0:
        output.write_text(json.dumps(results))
    collectives.end_process(0)


if __name__ == "__main__":
    main()
