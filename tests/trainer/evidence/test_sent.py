"""Pictures that a run drew on its way: where they lie, and where they were sent."""

from __future__ import annotations

from pathlib import Path

from erasediff.trainer.evidence.copies import _pictures
from erasediff.trainer.run.reporting import wandb_id


def test_what_was_sent_to_a_service_is_listed_without_the_pictures(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    settings = '[train]\nsample_every = 5\nreport_to = ["tensorboard", "wandb"]\n'

    def listed(text: str) -> list[str]:
        (run / "config.toml").write_text(text)
        return [copy.path for copy in _pictures(run, tmp_path)]

    assert listed(settings) == [f"wandb://{wandb_id(run)}"]
    assert listed(settings.replace("5", "0")) == [] and listed("") == []
    (run / "tensorboard").mkdir()
    (run / "wandb" / "offline-run-2026_0304-abc").mkdir(parents=True)
    # it was logged offline, and nothing is there
    assert listed(settings) == [str(run / "tensorboard"), str(run / "wandb")]
    for name in ("run-2026_0304-abc", "run-2026_0305-abc", "run-2026_0306-d-e"):
        (run / "wandb" / name).mkdir()
    assert listed(settings)[2:] == ["wandb://abc", "wandb://d-e"]
    (run / "samples").mkdir()
    assert listed("")[3:] == ["wandb://abc", "wandb://d-e"]
