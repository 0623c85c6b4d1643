"""What a job asks of a SLURM cluster: a TOML file a cluster, each key also an option."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ...trainer.config.base import AtLeast1, Positive, Settings
from ...trainer.errors import ConfigError

# what sbatch may not be told past the profile: how often a job starts, where it logs and what its code relies on
TAKEN = frozenset(
    {
        *("array", "chdir", "error", "no-requeue", "open-mode", "output", "requeue", "signal", "time"),
        *("nodes", "ntasks", "ntasks-per-node", "gpus-per-node", "gpus-per-task", "job-name", "wckey"),
        *("cpus-per-task", "mem", "partition", "account", "qos", "constraint", "reservation", "dependency"),
        *("nodelist", "exclude", "exclusive"),
    }
)


@dataclass(frozen=True)
class Profile(Settings):
    """Submit a command to SLURM, one task a rank, and leave; nothing has to stay logged in.

    The job runs the code and the settings as they are now. Where it is asked to stop, loses a node or a rank, it is
    queued again and goes on from its newest checkpoint.
    """

    nodes: AtLeast1 = 1
    """Nodes of the job."""
    tasks_per_node: AtLeast1 | None = None
    """Ranks on each node; none: one for each GPU, or one."""
    gpus_per_node: AtLeast1 | None = None
    """GPUs of each node, which all its tasks see: each takes the one of its SLURM_LOCALID."""
    gpus_per_task: AtLeast1 | None = None
    """Instead: GPUs that SLURM gives each task for itself. A rank takes one."""
    cpus_per_task: AtLeast1 | None = None
    """Cores of each rank; its threads, where OMP_NUM_THREADS is not set."""
    mem_gb: Positive | None = None
    """Memory of each node."""
    timeout_min: AtLeast1 = 60
    """Time limit, minutes; at its end the run saves and is queued again."""
    partition: str | None = None
    """As sbatch has it; so are the next ones."""
    account: str | None = None
    """Whom the time is charged to."""
    qos: str | None = None
    """Quality of service."""
    constraint: str | None = None
    """Features that the nodes must have."""
    reservation: str | None = None
    """A reservation's name."""
    dependency: str | None = None
    """For instance afterok:1234. What that job will make cannot be checked before, and is not."""
    nodelist: str | None = None
    """Nodes that the job must have."""
    exclude: str | None = None
    """Nodes that it must not have."""
    exclusive: bool = False
    """No other job on its nodes."""
    signal_delay_s: AtLeast1 | Literal["auto"] = "auto"
    """So long before the time limit the run is told to save and stop. It must hold a step and a save.
    auto: 90 s, or more where an earlier start of the run was slower."""
    max_fruitless_starts: AtLeast1 = 2
    """So many starts that end the same way without a new checkpoint, one after another, are enough: the job fails."""
    setup: tuple[str, ...] = ()
    """Shell lines before the ranks start, once, on the first node: module load … One that fails ends the job."""
    environment: dict[str, str] = field(default_factory=dict)
    """Variables of every rank. PYTHONPATH comes behind the submitted code."""
    network_interface: str | None = None
    """Where gloo and NCCL listen: ib0, say; none lets them choose."""
    cache_dir: str | None = None
    """Folder for compiled kernels on each node's own disk; none: a folder of yours in its temporary one."""
    stage_to: str | None = None
    """Folder on each node's own disk: the datasets are copied there first, once a node, and verified."""
    doctor: bool = False
    """Each start first looks whether its nodes can carry the run (launch doctor), and fails where they cannot."""
    python: str | None = None
    """The interpreter on the nodes; none: this one, or python3 in a container."""
    container: Literal["pyxis", "apptainer"] | None = None
    """What runs the container image; enroot is pyxis's."""
    container_image: str | None = None
    """The image, with erasediff's dependencies in it."""
    container_mounts: tuple[str, ...] = ()
    """Folders to mount, SOURCE[:TARGET]; the run's folder and this one are mounted anyway."""
    srun_args: tuple[str, ...] = ()
    """More arguments of srun."""
    sbatch: dict[str, Annotated[str, Field()]] = field(default_factory=dict)
    """More options of sbatch, without dashes before them: {comment = "…"}. Not those that the profile has itself."""

    @property
    def ranks_per_node(self) -> int:
        return self.tasks_per_node or self.gpus_per_node or 1

    @property
    def num_ranks(self) -> int:
        return self.nodes * self.ranks_per_node

    def check(self) -> None:
        """Raises ConfigError for settings that cannot go together."""
        if self.gpus_per_node and self.gpus_per_task:
            raise ConfigError("gpus_per_node and gpus_per_task: give one of them")
        if self.gpus_per_task is not None and self.gpus_per_task > 1:
            raise ConfigError(f"gpus_per_task = {self.gpus_per_task}: a rank takes one GPU")
        if self.gpus_per_node and self.ranks_per_node > self.gpus_per_node:
            raise ConfigError(
                f"tasks_per_node = {self.ranks_per_node}, gpus_per_node = {self.gpus_per_node}: a GPU carries one rank"
            )
        if (self.container is None) != (self.container_image is None):
            raise ConfigError("container and container_image: give both, or neither")
        if self.container_mounts and self.container is None:
            raise ConfigError("container_mounts needs a container")
        for option, folder in (("stage_to", self.stage_to), ("cache_dir", self.cache_dir)):
            if folder is not None and self.container is not None and not self._is_mounted(Path(folder)):
                raise ConfigError(f"{option} = '{folder}' is not in the container: let container_mounts name it")
        for word in (*self.environment, *(option.replace("-", "_") for option in self.sbatch)):
            if not word.isidentifier():
                raise ConfigError(f"{word!r} is no name: environment has NAME = value, sbatch has option = value")
        for option in self.sbatch:
            if option.replace("_", "-") in TAKEN:
                raise ConfigError(f"sbatch.{option}: the launcher sets it from the profile's other keys: leave it out")
        if self._other_gpus and not (self.tasks_per_node or self.gpus_per_node or self.gpus_per_task):
            raise ConfigError(
                f"sbatch.{self._other_gpus[0]} asks for GPUs, of which a node has nobody knows how many ranks: give "
                "gpus_per_node in its place, or tasks_per_node beside it"
            )

    def _is_mounted(self, folder: Path) -> bool:
        places = [(mount.split(":") * 2)[1] for mount in self.container_mounts]
        return any(folder.is_relative_to(place) for place in places)

    @property
    def has_gpus(self) -> bool:
        return bool(self.gpus_per_node or self.gpus_per_task or self._other_gpus)

    @property
    def _other_gpus(self) -> list[str]:
        """Options of sbatch that ask for GPUs past the profile's own keys."""
        return [
            option
            for option, value in self.sbatch.items()
            if option.replace("_", "-") in ("gpus", "gpus-per-socket")
            or (option.startswith(("gres", "tres")) and re.search(r"\bgpu\b", value))
        ]
