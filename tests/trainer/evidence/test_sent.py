"""Pictures that a run drew on its way: where they lie, and where they were sent."""

from __future__ import annotations

from pathlib import Path

from erasediff.trainer.evidence.copies import _pictures
from erasediff.trainer.run.attempts import Attempt
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
    # it was logged offline, and nothing is there until it is sent
    assert listed(settings) == [str(run / "tensorboard"), str(run / "wandb")]
    synced = run / "wandb" / "offline-run-2026_0304-abc" / "run-abc.wandb.synced"
    synced.touch()
    assert listed(settings)[2:] == ["wandb://abc"]
    synced.unlink()
    for name in ("run-2026_0304-abc", "run-2026_0305-abc", "run-2026_0306-d-e"):
        (run / "wandb" / name).mkdir()
    assert listed(settings)[2:] == ["wandb://abc", "wandb://d-e"]
    (run / "samples").mkdir()
    assert listed("")[3:] == ["wandb://abc", "wandb://d-e"]


def test_what_a_later_start_sent_is_listed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for sample_every, report_to in ((0, []), (5, ["wandb"]), (0, [])):
        attempt = Attempt.create(run, {"train.sample_every": sample_every, "train.report_to": report_to})
        found = [copy.path for copy in _pictures(run, tmp_path)]
        assert found == ([] if attempt.number == 1 else [f"wandb://{wandb_id(run)}"])
    # what one of them cannot say any more is no reason to say nothing
    (run / "attempt-0001" / "attempt.json").write_text("torn")
    assert [copy.path for copy in _pictures(run, tmp_path)] == [f"wandb://{wandb_id(run)}"]
