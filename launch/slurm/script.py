"""The batch script: submitit's, with what has to happen before the ranks start and after they have ended."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from submitit import SlurmExecutor

from ...trainer.errors import ConfigError
from .profile import Profile

# of the job's own folder; submitit puts the job's number in its place
JOB = "%j"
# a controller that is busy, or starts again, answers within these
QUEUE_TRIES, QUEUE_PAUSE_SECONDS = 10, 30
# what asks the ranks to stop, whatever submitit is told elsewhere
STOP_SIGNAL = "USR2"

# of a shell's variables for SLURM those that say where it is, not what to ask of it
KEPT_VARIABLES = ("SLURM_CONF", "SLURM_JWT")


@contextmanager
def by_the_profile_alone() -> Iterator[None]:
    """Inside, sbatch sees no variables of a job that this shell may be a part of, nor those that beat the script.

    A job would inherit the former: another array's number, another's restarts.
    """
    hidden = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("SLURM_", "SBATCH_")) and name not in KEPT_VARIABLES
    }
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ |= hidden


class Executor(SlurmExecutor):
    """submitit's, which writes a script for sbatch also where there is none."""

    @classmethod
    def affinity(cls) -> int:
        return 2

    def text(self) -> str:
        """The script that a submission hands to sbatch."""
        return self._make_submission_file_text(self._submitit_command_str, "")

    def check(self) -> None:
        """Raises ConfigError where SLURM could never start the job: sbatch takes such jobs, and they wait for ever."""
        with tempfile.NamedTemporaryFile("w", suffix=".sh") as file:
            file.write(self.text())
            file.flush()
            with by_the_profile_alone():
                done = subprocess.run(["sbatch", "--test-only", file.name], capture_output=True, text=True)
        if done.returncode:
            said = [line.removeprefix("sbatch: ").removeprefix("error: ") for line in done.stderr.splitlines()]
            raise ConfigError(f"SLURM refuses the job: {'; '.join(line for line in said if line)}")


def executor(profile: Profile, run: Path, *, name: str, code: Path, signal_delay_s: int) -> Executor:
    """Makes scripts for a run's folder. code: the folder that holds the submitted `erasediff`."""
    made = Executor(folder=str(run / "slurm" / JOB), python=_python(profile, run))
    made.update_parameters(**_parameters(profile, run, name=name, code=code, signal_delay_s=signal_delay_s))
    return made


def _parameters(profile: Profile, run: Path, *, name: str, code: Path, signal_delay_s: int) -> dict[str, Any]:
    asked = {
        "job_name": name,
        "nodes": profile.nodes,
        "ntasks_per_node": profile.ranks_per_node,
        "gpus_per_node": profile.gpus_per_node,
        "gpus_per_task": profile.gpus_per_task,
        "cpus_per_task": profile.cpus_per_task,
        "mem": None if profile.mem_gb is None else f"{int(profile.mem_gb * 1024)}M",
        "time": profile.timeout_min,
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "dependency": profile.dependency,
        "nodelist": profile.nodelist,
        "exclude": profile.exclude,
        "exclusive": profile.exclusive or None,
        "wckey": "erasediff",
    }
    more: dict[str, Any] = {"requeue": True, "chdir": str(Path.cwd())}
    if profile.reservation is not None:
        more["reservation"] = profile.reservation
    return {name: value for name, value in asked.items() if value is not None} | {
        "additional_parameters": {"signal": f"{STOP_SIGNAL}@{signal_delay_s}"} | more | profile.sbatch,
        "setup": [*_exports(profile), *_set_up(profile), *_imports(code)],
        "srun_args": _srun_args(profile, run),
        "teardown": _teardown(profile, run, signal_delay_s),
    }


def _exports(profile: Profile) -> list[str]:
    variables = {"HF_HUB_OFFLINE": "1", "SUBMITIT_PREEMPT_SIGNAL": STOP_SIGNAL}
    if profile.network_interface is not None:
        variables |= dict.fromkeys(("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"), profile.network_interface)
    variables |= profile.environment
    return [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]


def _imports(code: Path) -> list[str]:
    """The submitted code comes before all else: what `setup` names, and an `erasediff/` where the job works."""
    path = f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}"
    return [path, "export PYTHONSAFEPATH=1"]


def _set_up(profile: Profile) -> list[str]:
    """The profile's lines: a start whose set-up fails ends there, and what follows the ranks' end is never left out."""
    if not profile.setup:
        return []
    told = 'echo "erasediff: setup failed: $BASH_COMMAND" >&2'
    return ["set -e", f"trap {shlex.quote(told)} ERR", *profile.setup, "trap - ERR", "set +eu"]


def _srun_args(profile: Profile, run: Path) -> list[str]:
    arguments = ["--kill-on-bad-exit=1"]  # the others would wait for the lost rank until the time limit
    if profile.cpus_per_task is not None:  # which srun no longer takes from sbatch
        arguments.append(f"--cpus-per-task={profile.cpus_per_task}")
    return [*arguments, *_pyxis(profile, run), *profile.srun_args]


def _pyxis(profile: Profile, run: Path) -> list[str]:
    if profile.container != "pyxis":
        return []
    return [
        f"--container-image={profile.container_image}",
        f"--container-mounts={','.join(_mounts(profile, run))}",
        f"--container-workdir={Path.cwd()}",
    ]


def _python(profile: Profile, run: Path) -> str:
    if profile.container is None:
        return shlex.quote(profile.python or sys.executable)
    python = shlex.quote(profile.python or "python3")
    if profile.container == "pyxis":
        return python
    gpus = ["--nv"] if profile.has_gpus else []
    binds = [word for mount in _mounts(profile, run) for word in ("--bind", mount)]
    return f"{shlex.join(['apptainer', 'exec', *gpus, *binds, str(profile.container_image)])} {python}"


def _mounts(profile: Profile, run: Path) -> list[str]:
    own = [f"{path}:{path}" for path in dict.fromkeys((str(Path.cwd()), str(run)))]
    return [*own, *profile.container_mounts]


def _teardown(profile: Profile, run: Path, signal_delay_s: int) -> list[str]:
    """Only where this start is still the job's: a node that was given up may wake while the next one runs."""
    where = ""
    if profile.container == "pyxis":
        where = shlex.join(["srun", "--nodes=1", "--ntasks=1", *_pyxis(profile, run)]) + " "
    limit = profile.timeout_min * 60 - signal_delay_s
    return [
        "status=$?",
        # an array's first element has the array's own number, which would mean all of them
        "job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}",
        "job=${job:-$SLURM_JOB_ID}",
        f"{where}{_python(profile, run)} -m erasediff.launch.slurm.after {shlex.quote(str(run))} --status $status "
        f"--ran $SECONDS --limit {limit} --fruitless {profile.max_fruitless_starts} --ranks {profile.num_ranks}",
        "verdict=$?",
        f"if [ $verdict -eq {os.EX_TEMPFAIL} ]; then",
        f"  for try in $(seq {QUEUE_TRIES}); do",
        "    if state=$(scontrol show job --oneliner $job); then",
        '      case "$state" in',
        '        *JobState=RUNNING*" Restarts=${SLURM_RESTART_COUNT:-0} "*) scontrol requeue $job ;;',
        "        *) exit $verdict ;;",  # it is another start's, or SLURM has it in hand
        "      esac",
        "    fi",
        f"    sleep {QUEUE_PAUSE_SECONDS}",
        "  done",
        '  echo "erasediff: SLURM did not queue the job again: submit it anew" >&2',
        "fi",
        "exit $verdict",
        "",
    ]
