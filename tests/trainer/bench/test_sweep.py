"""`erasediff bench` as a user runs it: rows of real iterations of a model that has no weights."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_text
import torch
from erasediff.launch.bench import Bench
from erasediff.launch.cli import main
from erasediff.trainer import EraseDiffConfig
from erasediff.trainer.bench.command import run_bench
from erasediff.trainer.bench.flops import count
from erasediff.trainer.bench.iteration import Iteration
from erasediff.trainer.bench.split import NUM_PROFILED
from erasediff.trainer.bench.synthetic import RandomStream, random_model
from erasediff.trainer.config import BenchConfig, EngineConfig, MethodConfig, ModelConfig, SweepConfig, TrainConfig
from erasediff.trainer.config.toml import dump_toml
from erasediff.trainer.methods.forget_me_not import ForgetMeNotConfig
from erasediff.trainer.methods.salun import SalUnConfig
from erasediff.trainer.methods.siss import SISSConfig
from erasediff.trainer.models.families import outline_model
from erasediff.trainer.models.model import Model
from erasediff.trainer.plan.traffic import wire_bytes
from erasediff.trainer.ranks import collectives
from ranks import check, run_ranks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

CPU = torch.device("cpu")


def without_weights(folder: Path) -> Path:
    for weights in folder.rglob("*.safetensors"):
        weights.unlink()
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return without_weights(tiny.make_pipeline(tmp_path_factory.mktemp("model") / "model"))


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return without_weights(tiny_text.make_xl_pipeline(tmp_path_factory.mktemp("xl") / "model"))


def config(folder: Path, tmp_path: Path, null_class: int | None = 10, **changes: Any) -> BenchConfig:
    settings: dict[str, Any] = {
        "model": ModelConfig(str(folder), null_class=null_class),
        "rows": str(tmp_path / "rows"),
        "train": TrainConfig(train_batch_size=4),
        "engine": EngineConfig(device="cpu"),
        "rounds": 2,
        "repeats": 3,
        "warmup": 1,
    }
    return BenchConfig(**settings | changes)


def test_a_row_for_each_combination(model: Path, tmp_path: Path) -> None:
    sweep = SweepConfig(zero_stage=(1, 2), attention=("native", "xformers"))
    asked = config(
        model, tmp_path, sweep=sweep, trace=str(tmp_path / "trace.json"), train=TrainConfig(train_batch_size=6)
    )
    told: list[Any] = []
    rows = run_bench(asked, told.append)
    assert told == rows
    assert [row["varied"] for row in rows] == [
        {"zero_stage": stage, "attention": attention} for stage in (1, 2) for attention in ("native", "xformers")
    ]
    for row in rows[1::2]:
        assert row["status"].startswith("refused: engine.attention = 'xformers' runs on CUDA alone")
    for row, place in ((rows[0], 0), (rows[2], 2)):
        assert row["status"] == "ok" and row["num_iterations"] == 2 * 3
        assert 0 < row["seconds_p20"] <= row["seconds"] <= row["seconds_p80"]
        # D_r's and D_f's
        assert row["images_per_second"] == pytest.approx(2 * 6 / row["seconds"])
        assert row["mfu"] is None and row["bytes_sent"] == 0
        assert 1e8 < row["peak_bytes"] < 1e10
        assert all(row[f"seconds_{part}"] > 0 for part in ("passes", "kernels", "optimizer", "data", "gaps"))
        traced = json.loads((tmp_path / f"trace-{place}.json").read_text())["traceEvents"]
        assert sum(event["name"] == "erasediff::inner_products" for event in traced) == NUM_PROFILED
    assert [json.loads(line) for line in (tmp_path / "rows" / "bench.jsonl").read_text().splitlines()] == rows
    with (tmp_path / "rows" / "bench.csv").open(newline="") as file:
        table = [*csv.DictReader(file)]
    assert [row["status"] for row in table] == [row["status"] for row in rows]
    assert float(table[0]["seconds"]) == rows[0]["seconds"] and table[0]["engine.zero_stage"] == "1"


@pytest.mark.parametrize("method", [SalUnConfig(num_mask_batches=1), SISSConfig()], ids=lambda method: method.name)
def test_methods_that_prepare_themselves_or_pair_samples_are_timed(
    model: Path, tmp_path: Path, method: MethodConfig
) -> None:
    (row,) = run_bench(config(model, tmp_path, method=method, rounds=1, repeats=1), lambda row: None)
    assert row["status"] == "ok"


def test_a_method_that_looks_for_words_is_timed_without_them(xl: Path, tmp_path: Path) -> None:
    method = ForgetMeNotConfig(concept=("no such word",))
    (row,) = run_bench(config(xl, tmp_path, null_class=None, method=method, rounds=1, repeats=1), lambda row: None)
    assert row["status"] == "ok"


def test_flops_are_those_of_the_passes_that_an_iteration_runs(xl: Path, tmp_path: Path) -> None:
    """Of a model that is told two encodings, sizes and a prompt's pooled text, none of which can be encoded here."""
    passes: list[bool] = []
    method = EraseDiffConfig(barrier="value", num_inner_steps=2, anchor="no such prompt", concept=("no such word",))
    asked = config(xl, tmp_path, null_class=None, method=method)
    iteration = Iteration(asked, collectives.set_up(asked.engine))
    module: Any = iteration.module
    module.register_forward_hook(lambda _, given, output: passes.append(output[0].requires_grad))
    # the counter does not know a CPU's fused attention
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        iteration.step()
    iteration.close()
    cost = method.cost("fp32")
    assert (sum(passes), len(passes)) == (cost.gradients, cost.gradients + cost.forwards)
    counted = 4 * count(outline_model(asked.model)).of_passes(cost)
    assert counted == counter.get_total_flops()


def test_what_does_not_fit_is_a_row_and_the_sweep_goes_on(model: Path, tmp_path: Path) -> None:
    """Weights of 40 terabytes, which no allocator has."""
    wide = tmp_path / "wide"
    shutil.copytree(model, wide)
    unet = json.loads((wide / "unet" / "config.json").read_text()) | {"block_out_channels": [1 << 20, 1 << 20]}
    (wide / "unet" / "config.json").write_text(json.dumps(unet))
    asked = config(wide, tmp_path, sweep=SweepConfig(forward_batch_size=(4, 1)))
    rows = run_bench(asked, lambda row: None)
    assert [(row["varied"]["forward_batch_size"], row["status"]) for row in rows] == [
        (4, "out of memory"),
        (1, "out of memory"),
    ]
    assert "seconds" not in rows[0]


def test_every_combination_refused_is_a_mistake(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bench", "--model.path", str(model), "--engine.device", "cpu", "--rows", str(tmp_path / "rows")]
    for more, said in (
        (["--sweep.attention", "xformers", "flash"], "engine.attention = 'xformers' runs on CUDA alone"),
        (["--model.path", str(tmp_path / "none")], f"model.path = '{tmp_path / 'none'}': no such folder"),
        (["--sweep.zero-stage", "4"], "invalid choice"),
        (["--compare", str(tmp_path / "none.jsonl")], f"--compare {tmp_path / 'none.jsonl'}: no such file"),
    ):
        assert main([*words, *more]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
    assert not (tmp_path / "rows").exists()


def test_settings_survive_their_file(model: Path, tmp_path: Path) -> None:
    """As a job on a cluster reads them."""
    asked = config(model, tmp_path, sweep=SweepConfig(zero_stage=(1, 3), compile=(False, True)), trace="trace.json")
    (tmp_path / "bench.toml").write_text(dump_toml(asked))
    read = Bench.read([str(tmp_path / "bench.toml")], prog="erasediff bench")
    assert read.config == asked


def test_bytes_are_those_of_two_gradients_and_a_publication(model: Path, tmp_path: Path) -> None:
    words = ["-m", "erasediff.launch", "bench", "--model.path", str(model), "--engine.device", "cpu"]
    words += ["--rows", str(tmp_path), "--train.train-batch-size", "5", "--engine.forward-batch-size", "1"]
    words += ["--sweep.zero-stage", "2", "3", "--sweep.reduce-dtype", "fp32", "bf16"]
    words += ["--engine.persistence-threshold", "0"]
    check(run_ranks(2, [*words, "--rounds", "1", "--repeats", "2", "--warmup", "2"]))
    row, in_bf16, sharded, _ = [json.loads(line) for line in (tmp_path / "bench.jsonl").read_text().splitlines()]
    assert row["num_ranks"] == 2 and row["status"] == "ok"
    module = outline_model(ModelConfig(str(model))).module
    num_parameters = sum(value.numel() for value in module.parameters())
    # half of what a reduce-scatter or an all-gather of fp32 works on; and the packet, an all-reduce in fp64
    packet = 8 * 3 * len(list(module.parameters()))
    assert row["bytes_sent"] == pytest.approx(3 * 4 * num_parameters / 2 + packet, rel=0.02)
    assert in_bf16["bytes_sent"] == pytest.approx((2 * 2 + 4) * num_parameters / 2 + packet, rel=0.02)
    assert row["bus_bytes_per_second"] == pytest.approx(row["bytes_sent"] / row["seconds_reduction_busy"])
    # at stage 3 each of three micro-batches reduces and gathers, the first of them for the target's passes, too
    told = wire_bytes(3, num_parameters, 2, EraseDiffConfig().cost("fp32"), num_micro_batches=3)
    assert sharded["bytes_sent"] == pytest.approx(told.total + packet, rel=0.02)
    # each rank has half of the batch; what one of them fills up with counts for nothing
    assert row["images_per_second"] == pytest.approx(2 * 2.5 / row["seconds"])


def test_samples_of_all_ranks_are_one_batch(model: Path) -> None:
    made: Model = random_model(ModelConfig(str(model)), CPU)
    stream = RandomStream(made, [0, 1, 2], batch_size=5)
    parts = [stream.batch(1, rank, 2) for rank in range(2)]
    assert [part.weights.tolist() for part in parts] == [[1, 1, 1], [1, 1, 0]]
    assert [part.positions.tolist() for part in parts] == [[5, 6, 7], [8, 9, 10]]
    assert parts[0].labels.tolist() == [2, 0, 1]


def test_a_target_that_looks_at_samples_is_timed_without_them(model: Path, tmp_path: Path) -> None:
    (row,) = run_bench(config(model, tmp_path, method=EraseDiffConfig(target="neighbours"), repeats=1), lambda _: None)
    assert row["seconds"] > 0
