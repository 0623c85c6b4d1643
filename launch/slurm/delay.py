"""How long before its time limit a run is told to save and stop."""

from __future__ import annotations

import json
from pathlib import Path

from ...trainer.errors import ConfigError
from .folder import STAGES
from .profile import Profile

MIN_SECONDS = 90
# a start takes so long until it has a first step: a limit below that can never carry one
START_SECONDS = 30


def signal_delay(profile: Profile, run: Path) -> int:
    """Seconds. Raises ConfigError for a time limit that leaves no time for a step.

    auto: a step and a save, both the slowest that the run's attempts have noted, half as much again and a few seconds
    for leaving.
    """
    step, save = slowest(run)
    needed = int(1.5 * (step + save)) + 15
    delay = max(MIN_SECONDS, needed) if profile.signal_delay_s == "auto" else profile.signal_delay_s
    told = f"the slowest step took {step:.0f} s and the slowest save {save:.0f} s"
    if step + save and delay < step + save:
        raise ConfigError(
            f"signal_delay_s = {delay} is too short for a step and a save: {told}; give {needed}, or auto"
        )
    if profile.timeout_min * 60 < delay + START_SECONDS:
        more = f" ({told})" if step + save else ""
        raise ConfigError(
            f"timeout_min = {profile.timeout_min} leaves no time for a step: the run is told to stop {delay} s before "
            f"the limit{more}; give at least {-(-(delay + START_SECONDS) // 60)}, or a shorter signal_delay_s"
        )
    return delay


def slowest(run: Path) -> tuple[float, float]:
    """Seconds of the slowest step and of the slowest save that a run's attempts have noted; 0 where there is none."""
    steps, saves = [0.0], [0.0]
    for stage in STAGES:
        for path in run.glob(f"{stage}attempt-*/metrics.jsonl"):
            for line in path.read_text().splitlines():
                try:
                    steps.append(float(json.loads(line)["seconds"]))
                except (ValueError, KeyError):  # torn by a kill
                    continue
        for path in run.glob(f"{stage}attempt-*/checkpoint-*/manifest.json"):
            try:
                saves.append(float(json.loads(path.read_text())["seconds"]))
            except (ValueError, KeyError, OSError):
                continue
    return max(steps), max(saves)
