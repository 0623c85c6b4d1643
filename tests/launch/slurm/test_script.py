"""What the batch script runs and queues again, and for which commands, beside programs in the place of SLURM's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from erasediff.launch.job import COMMANDS, Job, Resources
from erasediff.launch.slurm.batch import Batch
from erasediff.launch.slurm.folder import Submission, note_submission
from erasediff.launch.slurm.profile import Profile
from erasediff.launch.slurm.snapshot import code_path, keep_code
from submitting import printed

HERE = Path(__file__).parent


@pytest.fixture
def compare_toml(run_toml: Path) -> Path:
    path = run_toml.with_name("compare.toml")
    path.write_text(
        'output = "table"\ndata = "digits/data"\nforget = "digits/split/forget"\nremain = "digits/split/remain"\n'
        '[model]\npath = "base"\nnull_class = 10\n[methods.finetune]\nmethod.name = "finetune"\n'
        '[methods.small]\nmethod.name = "moo"\ntrain.train_batch_size = 8\n[budget]\nsteps = 2\n'
    )
    return path


def test_every_command_can_be_submitted(run_toml: Path, compare_toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As far as its script: `init` writes what most of them need."""
    vary = compare_toml.with_name("vary.toml")
    vary.write_text(compare_toml.read_text() + '[vary]\n"optimizer.learning_rate" = [1e-5, 2e-5]\n')
    request = run_toml.with_name("request.toml")
    request.write_text('id = "r"\n[[selectors]]\nlabels = ["3"]\n')
    model = ["--model.path", "base", "--model.null-class", "10"]
    words = {
        "scrub": [str(run_toml)],
        "pretrain": ["--data", "digits/data", "--output", "base-2"],
        "erase": ["--request", str(request), "--data", "digits/data", "--output", "erased", *model],
        "evaluate": ["--run", "run", "--data", "digits/data"],
        "sample": [*model, "--output", "grid.png"],
        "concept generate": ["--request", "words.toml", "--output", "words", "--model.path", "pipeline"],
        "bench": [str(run_toml)],
        "compare": [str(compare_toml)],
        "ablate": [str(vary), "--only", "small"],
        "doctor": [str(run_toml)],
    }
    assert words.keys() == COMMANDS.keys()
    for command, own in words.items():
        # what an earlier job makes is not there to be looked at
        waits = ["--dependency", "afterok:1"] if command in ("evaluate", "concept generate") else []
        said = printed(["launch", "slurm", *waits, "--dry-run", *command.split(), *own], capsys)
        assert "srun" in said and f"#SBATCH --job-name={command.replace(' ', '-')}-" in said, command


def test_a_comparisons_ranks_all_have_samples(compare_toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["launch", "slurm", "--tasks-per-node", "12", "--dry-run", "compare", str(compare_toml)]
    assert "train.train_batch_size = 8: 4 of 12 ranks would have no sample" in printed(words, capsys, status=2)


def programs(folder: Path, monkeypatch: pytest.MonkeyPatch, **scripts: str) -> Path:
    """Puts shell scripts before the real programs; what each was called with is in a file of its name."""
    folder.mkdir()
    for name, script in scripts.items():
        file = folder / name
        file.write_text(f'#!/bin/bash\necho "$@" >> {folder}/{name}.calls\n{script}\n')
        file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def test_what_another_job_makes_need_not_be_there(
    run_toml: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model, say; but another job that works on the run is not waited for by accident."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    later = ["--dry-run", "scrub", str(run_toml), "--model.path", "runs/base/model"]
    assert "runs/base/model" in printed(["launch", "slurm", *later], capsys, status=2)
    assert "srun" in printed(["launch", "slurm", "--dependency", "afterok:1234", *later], capsys)

    programs(tmp_path / "bin", monkeypatch, scontrol='echo "JobId=$4 JobState=RUNNING NodeList=n1 Restarts=0"')
    for job in ("1234", "77_3"):
        note_submission(run_toml.parent / "run", Submission(job, job, "", "scrub", 1, 1))
    awaits = ["launch", "slurm", "--dependency"]
    assert "job 77_3 works on this run" in printed([*awaits, "afterok:1234", *later], capsys, status=2)
    assert "job 1234 works on this run" in printed([*awaits, "afterok:77", *later], capsys, status=2)
    assert "job 77_3 works on this run" in printed([*awaits, "afterok:1234:77_4", *later], capsys, status=2)
    for all_of_them in ("afterany:1234,afterok:77", "afterok:1234:77_3"):
        assert "srun" in printed([*awaits, all_of_them, *later], capsys)


@pytest.mark.parametrize(
    ("variables", "job"),
    [({}, "36"), ({"SLURM_ARRAY_JOB_ID": "36", "SLURM_ARRAY_TASK_ID": "2"}, "36_2")],
)
def test_a_start_queues_its_own_job_again(
    run_toml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], job: str
) -> None:
    """An array's own number, which one of its elements has, would mean all of them."""
    bin_ = programs(
        tmp_path / "bin",
        monkeypatch,
        scontrol='echo "JobId=36 JobState=RUNNING Restarts=1 Requeue=1"',
        python="exit 75",
        sleep="exit 0",
    )
    job_of = Job.of(["scrub", str(run_toml)], Resources(1, 1), "")
    script = Batch(run_toml.parent / "run", {"": job_of}, Profile(python=str(bin_ / "python")), "scrub").script()
    _, _, teardown = script.partition("# teardown\n")
    told = os.environ | {"SLURM_JOB_ID": "36", "SLURM_RESTART_COUNT": "1"} | variables
    done = subprocess.run(["bash"], input=teardown, env=told, capture_output=True, text=True)
    assert done.returncode == 75, done.stderr
    calls = (bin_ / "scontrol.calls").read_text().splitlines()
    assert calls[:2] == [f"show job --oneliner {job}", f"requeue {job}"]
    # a start that SLURM has given up wakes: the job is another start's
    (bin_ / "scontrol.calls").unlink()
    subprocess.run(["bash"], input=teardown, env=told | {"SLURM_RESTART_COUNT": "0"}, capture_output=True, text=True)
    assert (bin_ / "scontrol.calls").read_text().splitlines() == [f"show job --oneliner {job}"]


def test_the_submitted_code_runs_whatever_lies_where_the_job_works(run_toml: Path, tmp_path: Path) -> None:
    """A checkout of the name in the working folder, another path from a module that `setup` loads."""
    folder = run_toml.parent / "run"
    job = Job.of(["scrub", str(run_toml)], Resources(1, 1), "")
    (tmp_path / "other" / "erasediff").mkdir(parents=True)
    for decoy in (tmp_path / "erasediff", tmp_path / "other" / "erasediff"):
        shutil.copytree(HERE.parents[2] / "launch", decoy / "launch")
    profile = Profile(setup=(f"export PYTHONPATH={tmp_path / 'other'}",))
    before, _, _ = Batch(folder, {"": job}, profile, "scrub").script().partition("\n# command\n")
    keep_code(folder.absolute() / "slurm")
    # -v names each file that is imported
    asked = (
        f"{sys.executable} -v -m erasediff.launch.slurm.after --help 2>&1 | grep -o '/[^ ]*/slurm/folder.py' | head -1"
    )
    done = subprocess.run(["bash"], input=f"{before}\n{asked}\n", cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == str(code_path(folder.absolute() / "slurm") / "erasediff/launch/slurm/folder.py")


def test_the_signal_is_ours_whatever_submitit_is_told(run_toml: Path) -> None:
    words = ["-m", "erasediff.launch", "launch", "slurm", "--dry-run", "scrub", str(run_toml)]
    told = os.environ | {"SUBMITIT_PREEMPT_SIGNAL": "USR1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, *words], env=told, capture_output=True, text=True, check=True)
    assert "#SBATCH --signal=USR2@90\n" in done.stdout and "USR1" not in done.stdout
    assert "export SUBMITIT_PREEMPT_SIGNAL=USR2\n" in done.stdout
