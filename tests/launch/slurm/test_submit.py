"""What is submitted, seen on a machine without SLURM: the script, and what is refused before the queue."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from erasediff.launch.job import Job, Resources
from erasediff.launch.slurm.batch import Batch
from erasediff.launch.slurm.delay import signal_delay
from erasediff.launch.slurm.profile import TAKEN, Profile
from erasediff.launch.slurm.snapshot import code_path, keep_code, keep_config
from erasediff.launch.slurm.submit import read_profile
from erasediff.launch.slurm.sweep import Sweep
from erasediff.trainer.errors import ConfigError
from submitting import printed

HERE = Path(__file__).parent
PROFILES = HERE.parent.parent.parent / "docs" / "profiles"


def anonymous(script: str, folder: Path) -> str:
    """Without what differs between machines and versions."""
    code = code_path(folder / "run" / "slurm").name
    return script.replace(code, "CODE").replace(str(folder), "/FOLDER").replace(sys.executable, "/PYTHON")


@pytest.mark.parametrize("profile", ["a100", "preemptible", "one-gpu", "apptainer", "pyxis"])
def test_a_dry_run_prints_the_script(run_toml: Path, capsys: pytest.CaptureFixture[str], profile: str) -> None:
    file = PROFILES / f"{profile}.toml"
    if not file.exists():
        file = HERE / f"{profile}.toml"
    words = ["launch", "slurm", "scrub", str(run_toml), "--profile", str(file), "--dry-run"]
    said = anonymous(printed(words, capsys), run_toml.parent)
    golden = HERE / f"{profile}.golden.sh"
    if os.environ.get("ERASEDIFF_WRITE_GOLDEN"):
        golden.write_text(said)
    assert said == golden.read_text()
    assert not (run_toml.parent / "run").exists()


def test_options_beat_the_profile(run_toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["launch", "slurm", "--profile", str(PROFILES / "one-gpu.toml"), "--partition", "debug", "--nodes", "3"]
    said = printed([*words, "--dry-run", "scrub", str(run_toml)], capsys)
    assert "#SBATCH --partition=debug\n" in said and "#SBATCH --nodes=3\n" in said and "--ranks 3\n" in said
    assert "#SBATCH --time=240\n" in said


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--nodes", "0"], "nodes = 0: at least 1"),
        (["--gpus-per-node", "2", "--gpus-per-task", "1"], "gpus_per_node and gpus_per_task: give one of them"),
        (["--gpus-per-node", "2", "--tasks-per-node", "3"], "a GPU carries one rank"),
        (["--container", "pyxis"], "container and container_image: give both, or neither"),
        (["--timeout-min", "1"], "timeout_min = 1 leaves no time for a step"),
        (["--timeout-min", "2", "--signal-delay-s", "100"], "timeout_min = 2 leaves no time for a step"),
        (["--gpus-per-node", "2", "--", "--engine.device", "cpu"], "device = 'cpu', and the profile asks for GPUs"),
        (["--", "--engine.device", "cuda"], "device = 'cuda', and the profile asks for no GPU"),
        (["--", "--train.max-train-steps", "0"], "train.max_train_steps = 0: at least 1"),
        (["--", "--forget", "nowhere"], "nowhere"),
        (["--", "--method.anchor", "3"], "method.anchor = 3 is a class that is to be forgotten"),
        (["--", "--output", "run.toml"], "is a file"),
        (["--", "--output", "half-50%"], "output = '{folder}/half-50%': SLURM takes % and \\ in a path"),
        (["--gpus-per-task", "2"], "gpus_per_task = 2: a rank takes one GPU"),
        (
            ["--nodes", "16", "--tasks-per-node", "3"],
            "train.train_batch_size = 64: 16 of 48 ranks would have no sample; at most 32 ranks, or a batch of 48",
        ),
    ],
)
def test_what_is_refused_before_the_queue(
    run_toml: Path, capsys: pytest.CaptureFixture[str], words: list[str], expected: str
) -> None:
    at = words.index("--") if "--" in words else len(words)
    ours, theirs = words[:at], words[at + 1 :]
    said = printed(["launch", "slurm", *ours, "--dry-run", "scrub", str(run_toml), *theirs], capsys, status=2)
    assert expected.replace("{folder}", str(run_toml.parent)) in said and said.count("\n") == 1
    assert not (run_toml.parent / "run").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('sbatch = {time = "90"}', "sbatch.time: the launcher sets it from the profile's other keys: leave it out"),
        ('sbatch = {cpus-per-task = "12"}', "sbatch.cpus-per-task: the launcher sets it"),
        ('sbatch = {mem = "12G"}', "sbatch.mem: the launcher sets it"),
        ('sbatch = {gres = "gpu:a100:8"}', "sbatch.gres asks for GPUs"),
        ('nodes = 2\nsbatch = {gpus = "8"}', "sbatch.gpus asks for GPUs"),
        ('sbatch = {open_mode = "truncate"}', "sbatch.open_mode: the launcher sets it"),
        ('environment = {MY-CACHE = "x"}', "'MY-CACHE' is no name"),
        (
            'container = "pyxis"\ncontainer_image = "x"\nstage_to = "/local/x"\ncontainer_mounts = ["/local:/near"]',
            "stage_to = '/local/x' is not in the container: let container_mounts name it",
        ),
        ('container = "pyxis"\ncontainer_image = "x"\ncache_dir = "/local"', "cache_dir = '/local' is not in the"),
    ],
)
def test_a_profile_that_cannot_work_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text(text + "\n")
    with pytest.raises(ConfigError) as refused:
        read_profile(str(path), [], "launch slurm")
    assert expected in str(refused.value)


def test_a_profile_that_can_work_is_read(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text(
        'container = "pyxis"\ncontainer_image = "x"\ncontainer_mounts = ["/local:/near:ro", "/data"]\n'
        'stage_to = "/near/data"\ncache_dir = "/data/cache"\ntasks_per_node = 8\n'
        'sbatch = {gres = "gpu:a100:8", mail-type = "END"}\n'
    )
    profile = read_profile(str(path), [], "launch slurm")
    assert profile.has_gpus and profile.num_ranks == 8
    path.write_text('sbatch = {gres = "tmpdisk:100"}\n')
    assert not read_profile(str(path), [], "launch slurm").has_gpus


def test_every_key_that_is_sbatchs_is_refused_beside_the_profile() -> None:
    """By sbatch's own names of them."""
    own = {field.name.replace("_", "-") for field in dataclasses.fields(Profile)}
    theirs = own - {
        *("tasks-per-node", "mem-gb", "timeout-min", "signal-delay-s", "max-fruitless-starts", "setup", "environment"),
        *("network-interface", "cache-dir", "stage-to", "doctor", "python", "srun-args", "sbatch"),
        *("container", "container-image", "container-mounts"),
    }
    assert {*theirs, "ntasks-per-node", "mem", "time", "signal", "array"} <= TAKEN


def test_the_set_up_comes_first_and_ends_the_job_where_it_fails(run_toml: Path, tmp_path: Path) -> None:
    """The lines before the ranks start, in bash; the script itself in a folder with a space and a quote."""
    folder = tmp_path / "it's a run"
    job = Job.of(["scrub", str(run_toml), "--output", str(folder)], Resources(1, 1), "")

    def set_up(*lines: str, **environment: str) -> subprocess.CompletedProcess[str]:
        profile = Profile(setup=lines, environment=environment)
        script = Batch(folder, {"": job}, profile, "scrub").script()
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
        before, _, after = script.partition("\n# command\n")
        assert f"'{folder.parent}/it'\"'\"'s a run/slurm/%j'" in after
        shown = "echo $PYTHONPATH; echo $NOTE; false; echo came to the ranks\n"
        variables = os.environ | {"PYTHONPATH": "theirs"}
        return subprocess.run(["bash"], input=f"{before}\n{shown}", env=variables, capture_output=True, text=True)

    done = set_up("set -u", "true", NOTE="two words")
    assert done.returncode == 0, done.stderr
    code, note, last = done.stdout.splitlines()
    assert (code, note, last) == (f"{code_path(folder / 'slurm')}:theirs", "two words", "came to the ranks")
    assert set_up(PYTHONPATH="/ours").stdout.splitlines()[0] == f"{code_path(folder / 'slurm')}:/ours"
    done = set_up("true", "module-that-is-not-there load cuda", "echo never")
    assert done.returncode == 127 and done.stdout == ""
    assert "erasediff: setup failed: module-that-is-not-there load cuda" in done.stderr


def test_without_slurm_a_submission_says_so(
    run_toml: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    said = printed(["launch", "slurm", "scrub", str(run_toml)], capsys, status=2)
    assert "no sbatch here" in said and "--dry-run shows the script" in said
    assert not (run_toml.parent / "run").exists()


def test_the_delay_holds_the_slowest_step_and_save_so_far(tmp_path: Path) -> None:
    assert signal_delay(Profile(), tmp_path) == 90
    attempt = tmp_path / "attempt-0001"
    (attempt / "checkpoint-000010").mkdir(parents=True)
    (attempt / "metrics.jsonl").write_text('{"step": 0, "seconds": 40.0}\n{"step": 1, "seconds": 100.0}\n{"ste')
    (attempt / "checkpoint-000010" / "manifest.json").write_text('{"seconds": 60.0}')
    assert signal_delay(Profile(), tmp_path) == 255  # 1.5 × 160 + 15
    with pytest.raises(ConfigError, match="the slowest step took 100 s and the slowest save 60 s"):
        signal_delay(Profile(signal_delay_s=120), tmp_path)
    with pytest.raises(ConfigError, match="give at least 5"):
        signal_delay(Profile(timeout_min=4), tmp_path)


def test_what_is_submitted_stays_as_it_was(run_toml: Path) -> None:
    slurm = run_toml.parent / "run" / "slurm"
    job = Job.of(["scrub", str(run_toml), "--method.name", "moo"], Resources(1, 1), "launch slurm")
    words = keep_config(slurm, job)
    code = keep_code(slurm)
    run_toml.write_text("changed")
    assert Job.of(words, Resources(1, 1), "").config == job.config
    assert (code / "erasediff" / "trainer" / "methods" / "moo.py").exists()
    assert keep_code(slurm) == code  # once
    # what a job imports is the copy, and other code is another copy
    told = "from erasediff.launch.slurm.snapshot import *; print(code_path(Path('x')).name)"
    asked = [sys.executable, "-c", told]
    environment = os.environ | {"PYTHONPATH": str(code)}
    same = subprocess.run(asked, env=environment, capture_output=True, text=True, check=True)
    assert same.stdout.strip() == code.name
    with (code / "erasediff" / "trainer" / "methods" / "moo.py").open("a") as file:
        file.write("# changed\n")
    other = subprocess.run(asked, env=environment, capture_output=True, text=True, check=True)
    assert other.stdout.strip() != code.name


@pytest.mark.parametrize(
    "words",
    [
        ["erase", "--delete-copies", "--model", "m", "--data", "d", "--request", "r.toml", "--output", "{}/run"],
        ["compare", "{}/compare.toml", "--only", "our own", "moo", "--table-only"],
        ["ablate", "{}/compare.toml", "--only", "moo", "--sweep", "{}/sweep.toml"],
    ],
    ids=lambda words: words[0],
)
def test_what_is_no_setting_is_submitted_too(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "compare.toml").write_text(
        'output = "out"\ndata = "d"\nforget = "f"\nremain = "r"\nmodel.path = "m"\n[methods.moo]\n[methods."our own"]\n'
        '[vary]\n"train.max_train_steps" = [1, 2]\n'
    )
    job = Job.of([word.format(tmp_path) for word in words], Resources(1, 1), "launch slurm")
    kept = keep_config(tmp_path / "slurm", job)
    again = Job.of(kept, Resources(1, 1), "")
    assert again.read == job.read and kept != job.words


def test_a_hub_id_is_pinned_to_its_revision(base_model: Path, tmp_path: Path) -> None:
    """In a cache as the Hub's client keeps it, without a network."""
    revision = "0123456789abcdef0123456789abcdef01234567"
    cache = tmp_path / "hub" / "models--someone--model"
    shutil.copytree(base_model, cache / "snapshots" / revision)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(revision)
    code = (
        "from erasediff.trainer.config import ModelConfig, SampleConfig\n"
        "from erasediff.launch.slurm.snapshot import pinned\n"
        "print(pinned(SampleConfig(ModelConfig('someone/model'), 'grid.png')).model)\n"
        "pinned(SampleConfig(ModelConfig('someone/other'), 'grid.png'))\n"
    )
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert f"path='someone/model', revision='{revision}'" in done.stdout, done.stderr
    assert "ConfigError: model.path = 'someone/other' is neither a folder here" in done.stderr


def test_a_sweeps_dry_run_names_every_combination(run_toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = run_toml.with_name("sweep.toml")
    sweep.write_text(
        'output = "sweep"\nconfig = "run.toml"\nparallel = 2\n[runs.a]\n[runs.b]\n"train.seed" = 7\n'
        '[grid]\n"method.eta" = [0.5, 0.25]\n'
    )
    said = printed(["launch", "sweep", str(sweep), "--dry-run"], capsys)
    names = ["a,eta=0.5", "a,eta=0.25", "b,eta=0.5", "b,eta=0.25"]
    assert said.splitlines()[:4] == [f"# {name}: sweep/{name}" for name in names]
    assert "#SBATCH --array=0-3%2\n" in said and "%A_%a_0_log.out" in said
    jobs = Sweep.read([str(sweep)], "launch sweep").jobs
    assert [(job.config.train.seed, job.config.method.eta) for job in jobs.values()] == [
        *((0, 0.5), (0, 0.25), (7, 0.5), (7, 0.25))
    ]
    assert "no such run" in printed(["launch", "sweep", str(sweep), "--dry-run", "--only", "c"], capsys, status=2)
    first = printed(["launch", "sweep", "--nodes", "2", str(sweep)], capsys, status=2)
    assert "the sweep's file comes first" in first or "no sbatch here" in first


def test_a_sweep_waits_as_long_as_its_slowest_run_and_names_the_run_that_is_refused(
    run_toml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = run_toml.with_name("sweep.toml")
    sweep.write_text('output = "sweep"\nconfig = "run.toml"\n[runs.a]\n[runs.b]\n')
    checkpoint = run_toml.parent / "sweep" / "b" / "scrub" / "attempt-0001" / "checkpoint-000010"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text('{"seconds": 200.0}')
    jobs = Sweep.read([str(sweep)], "launch sweep").jobs
    assert "#SBATCH --signal=USR2@315\n" in Batch(run_toml.parent / "sweep", jobs, Profile(), "sweep").script()
    shutil.rmtree(run_toml.parent / "sweep")
    sweep.write_text('output = "sweep"\nconfig = "run.toml"\n[runs.a]\n[runs.b]\nforget = "nowhere"\n')
    said = printed(["launch", "sweep", str(sweep), "--dry-run"], capsys, status=2)
    assert said.startswith("erasediff: run b: ") and "nowhere" in said and said.count("\n") == 1
    # a run's file, not a sweep's
    said = printed(["launch", "sweep", str(run_toml), "--dry-run"], capsys, status=2)
    wanted = "a sweep's file has output, config, and [runs.NAME] or [grid]"
    assert said == f"erasediff: {run_toml}: config: field required; {wanted}\n"
    for text in ('[runs.a]\noutput = "mine"\n', '[grid]\noutput = ["mine", "yours"]\n'):
        sweep.write_text(f'output = "sweep"\nconfig = "run.toml"\n{text}')
        said = printed(["launch", "sweep", str(sweep), "--dry-run"], capsys, status=2)
        assert "output: a run's folder is sweep/NAME, leave it out" in said
    sweep.write_text('output = "sweep"\nconfig = "run.toml"\n[runs.a]\n[runs.b]\n')
    # what has its model is not submitted again
    printed(["scrub", str(run_toml), "--output", "sweep/b"], capsys)
    said = printed(["launch", "sweep", str(sweep), "--dry-run"], capsys)
    assert said.startswith("# a: sweep/a\n#!/bin/bash\n") and "--array" not in said


def test_every_profile_of_the_docs_is_read() -> None:
    profiles = {path.stem: read_profile(str(path), [], "") for path in PROFILES.glob("*.toml")}
    assert profiles["a100"].num_ranks == 32
    assert profiles["preemptible"].num_ranks == 16
    assert profiles["one-gpu"].num_ranks == 1
