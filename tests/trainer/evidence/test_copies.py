"""Every copy of what was forgotten: listed by who can reach it, and deleted where it is the erasure's own."""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from erasediff.launch.cli import main
from erasediff.trainer.config import EngineConfig, EraseConfig, ModelConfig, OptimizerConfig, TrainConfig
from erasediff.trainer.config.toml import dump_toml
from erasediff.trainer.evidence import deletion
from erasediff.trainer.evidence.copies import reach_of
from erasediff.trainer.evidence.deletion import delete_copies, planned
from erasediff.trainer.evidence.ledger import Deletion, Publication, append, entry_paths, read_entries
from erasediff.trainer.evidence.record import Copy, Record, read_record, schema_name
from erasediff.trainer.evidence.verify import verify
from evidence_cases import TWELVE, tiny_judge
from tiny import make_pipeline


@dataclass(frozen=True)
class Requests:
    """Two requests, one on the model of the other; and all that they were made from."""

    folder: Path

    @property
    def first(self) -> Path:
        return self.folder / "first"

    @property
    def second(self) -> Path:
        return self.folder / "second"

    def words(self, name: str) -> list[str]:
        return ["erase", str(self.folder / f"{name}.toml")]


@pytest.fixture(scope="module")
def requests(digits: Path, base_model: Path, classifier: Path, tmp_path_factory: pytest.TempPathFactory) -> Requests:
    found = Requests(tmp_path_factory.mktemp("copies"))
    shutil.copytree(digits / "data", found.folder / "data")
    shutil.copytree(base_model, found.folder / "base" / "model")
    # as a run that trained it leaves it
    (found.folder / "base" / "attempt-0001" / "checkpoint-000009").mkdir(parents=True)
    (found.folder / "base" / "config.toml").write_text('data = "data"\n')
    shutil.copyfile(classifier, found.folder / "judge.safetensors")
    selectors = {"first": f"keys = {json.dumps(TWELVE)}", "second": 'labels = ["3"]'}
    for name, model in (("first", found.folder / "base" / "model"), ("second", found.first / "model")):
        request = found.folder / f"{name}-request.toml"
        request.write_text(f'id = "{name}"\n[[selectors]]\n{selectors[name]}\n')
        is_second = name == "second"
        config = EraseConfig(
            request=str(request),
            model=ModelConfig(str(model), null_class=10),
            data=str(found.folder / "data"),
            output=str(found.folder / name),
            publish="shown" if is_second else "within-limits",
            train=TrainConfig(max_train_steps=3 if is_second else 2, train_batch_size=4),
            # so rough that no 3 is left
            optimizer=OptimizerConfig(learning_rate=0.1 if is_second else 1e-4),
            engine=EngineConfig(device="cpu"),
            judge=tiny_judge(
                found.folder / "judge.safetensors",
                num_forget_samples_per_class=200 if is_second else 2,
                thresholds=("p_psi <= 0.09",) if is_second else ("accuracy_remaining >= 0",),
            ),
        )
        (found.folder / f"{name}.toml").write_text(dump_toml(config))
        assert main(found.words(name)) == 0
        if name == "first":  # as an interrupted run leaves one, and an evaluation with a retrained model
            (found.first / "scrub" / "attempt-0001" / "checkpoint-000001").mkdir()
            (found.first / "scrub" / "retrained").mkdir()
    return found


def test_every_copy_is_told_by_who_can_reach_it(requests: Requests) -> None:
    record = read_record(requests.second / "record.json")
    second, first, folder = requests.second, requests.first, requests.folder
    found = {copy.path: copy.reach for copy in record.copies}
    ours = {str(second / "split" / "forget"), str(second / "report.html")}
    assert {path for path, reach in found.items() if reach == "not reached"} == ours
    # scrubbed, and shown to be
    assert {path for path, reach in found.items() if reach == "reached"} == {str(second / "scrub" / "model")}
    not_ours = {path for path, reach in found.items() if reach == "not ours"}
    assert not_ours >= {str(first / "model"), str(first / "scrub" / "model"), str(folder / "base" / "model")}
    assert str(folder / "base" / "attempt-0001" / "checkpoint-000009") in not_ours, "of the model before that one"
    assert not_ours >= {str(first / "scrub" / "attempt-0001" / "checkpoint-000001"), str(first / "scrub" / "retrained")}
    assert not_ours >= {str(folder / "judge.safetensors"), *map(str, (folder / "data").glob("*.tar"))}
    assert record.reach == "partial" and len(found) == len(record.copies)
    # the report's, too, which is written after it
    assert all(record.absolute_paths[path] == str(Path(path).resolve()) for path in found)
    text = (second / "report.html").read_text()
    assert "<h2>Every copy: partial</h2>" in text
    for reach, count in (("not reached", 2), ("reached", 1), ("not ours", len(not_ours))):
        assert text.count(f">{reach}</span>") == count

    # of the first request's samples nothing is measured without unseen ones, and it is said
    assert any(note.startswith("earlier     10 single samples of earlier requests are not") for note in record.notes)

    # of a model that is not shown to have forgotten nothing is reached
    before = read_record(first / "record.json")
    assert before.verdict == "not shown" and before.reach == "partial"
    assert {copy.reach for copy in before.copies if copy.path == str(first / "scrub" / "model")} == {"not reached"}


def test_partial_unless_all_are_reached() -> None:
    copies = [Copy("a", "x", "reached"), Copy("b", "y", "reached")]
    assert reach_of(copies) == reach_of([]) == "complete"
    assert reach_of([*copies, Copy("c", "z", "not ours")]) == "partial"
    assert reach_of([*copies, Copy("c", "z", "not reached")]) == "partial"


def test_a_kill_in_the_deletion_is_no_end(
    requests: Requests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    here = shutil.copytree(requests.second, tmp_path / "erased")
    words, delete = [*requests.words("second"), "--output", str(here)], deletion._delete

    class Killed(Exception):
        pass

    def deleted_and_killed(path: Path, output: Path) -> None:
        delete(path, output)
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(deletion, "_delete", deleted_and_killed)
        delete_copies(here)
    assert not (here / "split" / "forget").exists() and 'class="gone"' in (here / "report.html").read_text()
    assert main(words) == 0, "without the option, too"
    assert main([*words, "--delete-copies"]) == 0
    assert capfd.readouterr().out.strip().endswith("erasure      partial")
    assert 'class="gone"' not in (here / "report.html").read_text() and not verify(here).differs
    assert not planned(here)

    # what would need the copies is refused, not answered with what was found before
    request = requests.folder / "second-request.toml"
    before = request.read_text()
    request.write_text(before.replace('"3"', '"4"'))
    for more in ([], ["--dry-run"]):
        assert main([*words, *more]) != 0
        assert f"was begun with another request than '{request}' holds now" in capfd.readouterr().err
    request.unlink()
    assert main(words) == 0, "what names samples may be deleted as well"
    request.write_text(before)
    judge = ["--judge.retrained", str(requests.folder / "base" / "model")]
    assert main([*words, *judge, "--publish", "retrained"]) != 0
    assert "holds another run: judge.retrained" in capfd.readouterr().err


def test_what_any_entry_lists_is_known(requests: Requests, tmp_path: Path) -> None:
    """A judge that was trained for an evaluation before, a model published on one before, pictures on the way."""
    here = shutil.copytree(requests.second, tmp_path / "erased")
    scrub = here / "scrub"
    shutil.copyfile(requests.folder / "judge.safetensors", scrub / "classifier.safetensors")
    for name in (
        "samples",
        "tensorboard",
        "wandb/run-2026_0304-sent-id",
        "wandb/offline-run-2026_0304-kept",
    ):
        (scrub / name).mkdir(parents=True)
    lone = Copy(str(here / "lone"), "listed once", "not reached")
    (here / "lone").mkdir()
    append(here, lambda place: Deletion(schema_name(), place, "deletion", [lone], "partial"))

    words = ["evaluate", "--run", str(here), "--data", str(requests.folder / "data"), "--judge.device", "cpu"]
    words += ["--judge.classifier", str(requests.folder / "judge.safetensors")]
    words += ["--judge.num-forget-samples-per-class", "2", "--judge.num-remain-samples-per-class", "3"]
    words += ["--judge.sampling.num-inference-steps", "2", "--judge.thresholds", "p_psi <= 0"]
    assert main(words) == 1
    record = read_record(here / "record.json")
    found = {copy.path: copy.reach for copy in record.copies}
    ours = {scrub / name for name in ("classifier.safetensors", "samples", "tensorboard", "wandb", "model")}
    assert {found[str(path)] for path in (*ours, here / "model")} == {"not reached"}
    (service,) = (path for path in found if path.startswith("wandb://"))
    assert service == "wandb://sent-id" and found[service] == "not ours" and service not in record.absolute_paths

    # the first entry's D_f lies in the folder as it was before it was copied, and so do its pictures
    assert {one.place for one in planned(here)} >= {*ours, here / "lone", here / "report.html"}
    lines = delete_copies(here)
    assert not any(path.exists() for path in (*ours, here / "lone")) and (here / "model").exists()
    assert f"not reached  {here / 'model'}: the published model: forgetting is failed" in lines
    assert any(line.startswith(f"not ours     {service}: ") for line in lines) and lines[-1] == "erasure      partial"
    assert not planned(here) and not verify(here).differs
    entries = entry_paths(here)
    assert delete_copies(here)[-1] == "erasure      partial" and entry_paths(here) == entries


def test_another_model_is_not_published_once_copies_are_deleted(
    config: EraseConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    judge = dataclasses.replace(config.judge, retrained=str(Path(config.output).parent / "retrained"))
    make_pipeline(Path(str(judge.retrained)), seed=2)
    file = Path(config.request).with_name("erase.toml")
    file.write_text(dump_toml(dataclasses.replace(config, judge=judge)))
    assert main(["erase", str(file), "--delete-copies"]) == 0
    assert main(["erase", str(file), "--publish", "retrained"]) != 0
    err = capfd.readouterr().err
    assert "publish = 'retrained': " in err and "is the scrubbed model" in err and "leave publish as it was" in err
    assert main(["erase", str(file), "--publish", "shown"]) == 3
    assert "forgetting is not shown" in capfd.readouterr().err


def test_ours_are_deleted_with_a_line_each(requests: Requests, capfd: pytest.CaptureFixture[str]) -> None:
    second, words = requests.second, [*requests.words("second"), "--delete-copies"]
    stray = requests.folder / "outside"
    stray.mkdir()
    before = {path for path in requests.folder.rglob("*") if path.is_file()}
    capfd.readouterr()
    assert main([*words, "--dry-run"]) == 0
    told = capfd.readouterr().out
    assert f"would delete {second / 'split' / 'forget'}: the forget set" in told and "report.html" in told
    assert {path for path in requests.folder.rglob("*") if path.is_file()} == before
    pictures = (second / "report.html").read_text().count('class="gone"')
    assert pictures > 0

    assert main(words) == 0
    told = capfd.readouterr().out
    assert f"deleted      {second / 'split' / 'forget'}: the forget set" in told
    assert f"not ours     {requests.folder / 'base' / 'model'}: the model before an earlier request" in told
    assert told.strip().endswith("erasure      partial")
    gone = before - {path for path in requests.folder.rglob("*") if path.is_file()}
    assert gone and all(path.is_relative_to(second / "split" / "forget") for path in gone)
    text = (second / "report.html").read_text()
    assert text.count('class="gone"') == 0 and text.count("<span>deleted</span>") == pictures
    assert text.count("<img") > 0, "of the rest they stay"
    last = read_entries(second)[-1]
    assert isinstance(last, Deletion) and last.reach == "partial"
    assert f"{second / 'split' / 'forget'}" in {copy.path for copy in last.copies if copy.reach == "reached"}
    assert not verify(second).differs

    # what it was made from is gone: the same command says so much, and changes nothing
    entries = entry_paths(second)
    assert main(requests.words("second")) == 0 and main(words) == 0
    assert entry_paths(second) == entries

    # when the user has deleted the rest, nothing is left: and a dry run can say so
    moved = requests.folder / "deleted"
    moved.mkdir()
    for name in ("first", "base", "data", "judge.safetensors"):
        (requests.folder / name).rename(moved / name)
    assert main([*words, "--dry-run"]) == 0
    assert "nothing is left to do" in capfd.readouterr().out
    assert main(words) == 0
    assert capfd.readouterr().out.strip().endswith("erasure      complete")
    last = read_entries(second)[-1]
    assert isinstance(last, Deletion) and last.reach == "complete"
    assert any(copy.holds.endswith("not there any more") for copy in last.copies)
    for name in ("first", "base", "data", "judge.safetensors"):
        (moved / name).rename(requests.folder / name)


def test_what_is_not_shown_is_never_complete(requests: Requests, tmp_path: Path) -> None:
    """Wherever the erasure's folder lies now; and nothing outside of it is deleted."""
    here = shutil.copytree(requests.first, tmp_path / "elsewhere" / "erased")
    (here / "scrub" / "attempt-0001" / "checkpoint-000001" / "weights").write_text("")
    assert {one.place for one in planned(here)} >= {here / "split" / "forget", here / "scrub" / "model"}
    lines = delete_copies(here)
    assert not (here / "scrub" / "model").exists() and (requests.first / "scrub" / "model").exists()
    assert (requests.folder / "base").exists() and lines[-1] == "erasure      partial"
    with_all_gone = [(requests.folder / name, tmp_path / name) for name in ("base", "data", "judge.safetensors")]
    for there, away in with_all_gone:
        there.rename(away)
    assert delete_copies(here)[-1] == "erasure      partial", "of what is published it is not shown"
    for there, away in with_all_gone:
        away.rename(there)
    shutil.rmtree(here / "scrub")
    for copy in read_entries(here)[-1].copies:  # pyright: ignore[reportAttributeAccessIssue]
        assert copy.reach != "not reached"


def test_nothing_is_deleted_where_nothing_is_published(requests: Requests, tmp_path: Path) -> None:
    here = shutil.copytree(requests.first, tmp_path / "erased")
    entries = read_entries(here)
    assert isinstance(entries[0], Record) and isinstance(entries[1], Publication)
    sums = here / "records" / "SHA256SUMS"
    sums.write_text(sums.read_text().splitlines(keepends=True)[0])
    (here / "records" / "0002.json").unlink()
    assert delete_copies(here) == ["nothing is deleted: no model is published"]
    assert (here / "split" / "forget").exists()
