"""The chain of entries: nothing is replaced, and what was changed is found, wherever it was."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from erasediff.launch.cli import main
from erasediff.shards.dataset import Dataset
from erasediff.trainer.config import EngineConfig, EraseConfig, EvaluateConfig, ModelConfig, TrainConfig
from erasediff.trainer.erase import run_erase
from erasediff.trainer.errors import ConfigError, ThresholdError
from erasediff.trainer.evidence import ledger
from erasediff.trainer.evidence.collect import places
from erasediff.trainer.evidence.ledger import Publication, Withdrawal, append, entry_paths, read_entries
from erasediff.trainer.evidence.record import Record, read_record
from erasediff.trainer.evidence.verify import verify
from erasediff.trainer.files import write_text
from evidence_cases import TWELVE, edit_json, tiny_judge


def erasure(folder: Path, digits: Path, model: Path, classifier: Path, selector: str, **judge: object) -> EraseConfig:
    folder.mkdir()
    (folder / "request.toml").write_text(f'id = "{folder.name}"\n[[selectors]]\n{selector}\n')
    return EraseConfig(
        request=str(folder / "request.toml"),
        model=ModelConfig(str(model), null_class=10),
        data=str(digits / "data"),
        output=str(folder / "erased"),
        publish="within-limits",
        train=TrainConfig(max_train_steps=2, train_batch_size=4),
        engine=EngineConfig(device="cpu"),
        judge=tiny_judge(classifier, **judge),
    )


@pytest.fixture(scope="module")
def first(digits: Path, base_model: Path, classifier: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve samples erased, published, and evaluated again with other thresholds."""
    config = erasure(
        tmp_path_factory.mktemp("requests") / "r-1", digits, base_model, classifier, f"keys = {json.dumps(TWELVE)}"
    )
    run_erase(config)
    words = ["evaluate", "--run", config.output, "--data", str(config.data), "--judge.classifier", str(classifier)]
    words += ["--judge.num-forget-samples-per-class", "2", "--judge.num-remain-samples-per-class", "3"]
    words += ["--judge.sampling.num-inference-steps", "2", "--judge.device", "cpu", "--judge.num-threads", "1"]
    assert main([*words, "--judge.thresholds", "accuracy_remaining >= 2"]) == 1
    return Path(config.output)


@pytest.fixture(scope="module")
def second(first: Path, digits: Path, classifier: Path) -> Path:
    """A request on the model of the first; it fails."""
    config = erasure(
        first.parents[1] / "r-2",
        digits,
        first / "model",
        classifier,
        'labels = ["3"]',
        thresholds=("p_psi >= 2",),
    )
    with pytest.raises(ThresholdError):
        run_erase(config)
    return Path(config.output)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_an_evaluation_more_replaces_none(first: Path) -> None:
    entries = read_entries(first)
    assert [type(entry) for entry in entries] == [Record, Publication, Record]
    evaluated, publication, again = entries
    assert isinstance(evaluated, Record) and isinstance(publication, Publication) and isinstance(again, Record)
    assert (evaluated.verdict, again.verdict) == ("not shown", "failed")
    assert (first / "record.json").read_bytes() == (first / "records" / "0003.json").read_bytes()
    # each names the file before it, and where and when it was written
    paths = entry_paths(first)
    assert [entry.place.number for entry in entries] == [1, 2, 3]
    assert [entry.place.previous_sha256 for entry in entries] == [None, sha256(paths[0]), sha256(paths[1])]
    assert {entry.place.host for entry in entries} == {socket.gethostname()}
    # what is published rests on the first, and stays
    assert (publication.evaluation, publication.published, publication.verdict) == (1, "scrubbed", "not shown")
    files = {path.relative_to(first / "model").as_posix(): path for path in (first / "model").rglob("*.*")}
    assert publication.files == {name: sha256(path) for name, path in files.items() if name != "README.md"}
    card = (first / "model" / "README.md").read_text()
    assert f"(records/0002.json, SHA-256 {sha256(paths[1])})" in card
    # the sums are for everybody's tool
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=first / "records", check=True)


def test_the_request_is_told_in_full(first: Path, digits: Path) -> None:
    evaluated, _, again = read_entries(first)
    assert isinstance(evaluated, Record) and isinstance(again, Record)
    request = evaluated.request
    assert (request.id, request.keys_asked, request.keys_found) == ("r-1", 12, 12)
    assert request.sha256 == sha256(Path(request.path)) and again.request == request
    data = Dataset.open(digits / "data")
    expected = {key: hashlib.sha256(data.read_bytes(data.keys.index(key))).hexdigest()[:32] for key in TWELVE}
    assert evaluated.forget_samples == expected
    for given in (request.path, evaluated.forget.path, evaluated.models["unscrubbed"].path, str(digits / "data")):
        assert evaluated.absolute_paths[given] == str(Path(given).resolve())


def test_two_requests_in_a_row_verify(first: Path, second: Path, capfd: pytest.CaptureFixture[str]) -> None:
    record = read_record(second / "record.json")
    assert record.verdict == "failed" and record.follows is not None
    assert record.follows.sha256 == sha256(first / "records" / "0002.json")
    assert main(["verify-record", str(second)]) == 0
    told = capfd.readouterr().out
    assert f"{first / 'model' / 'README.md'}: as it is made again" in told and "no model was published" in told
    assert main(["verify-record", str(first / "record.json")]) == 0
    assert "**FAILED**" in (second / "scrub" / "model" / "README.md").read_text()
    assert not (second / "model").exists()

    # what is not here is neither right nor wrong
    away = first.rename(first.with_name("away"))
    assert main(["verify-record", str(second)]) == 0
    told = capfd.readouterr().out
    away.rename(first)
    assert f"  not looked at  {record.follows.path}: the earlier request's entry is not here" in told
    assert f"holds    {record.follows.path}" not in told


@contextmanager
def changed(path: Path, place: int) -> Iterator[None]:
    """One byte of it is another."""
    before = path.read_bytes()
    after = bytearray(before)
    after[place] ^= 1
    path.write_bytes(after)
    yield
    path.write_bytes(before)


def test_a_byte_changed_anywhere_is_found(first: Path, second: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """In the first request's files, looked at from there and from the second request's record."""
    paths = [path for folder in ("records", "model") for path in sorted((first / folder).rglob("*"))]
    paths = [path for path in [*paths, first / "record.json"] if path.is_file() and path.name != ".lock"]
    assert {"0001.json", "0003.json", "SHA256SUMS", "README.md", "erasediff.json"} <= {path.name for path in paths}
    for number, path in enumerate(paths):
        size = path.stat().st_size
        for place in {0, size // 3, size // 2, size - 1}:
            with changed(path, place):
                findings = verify(second if number % 3 == 0 else first)
            assert any(str(path.name) in line for line in findings.differs), (path, place)
    assert not verify(second).differs
    with changed(first / "model" / "README.md", 300):
        assert main(["verify-record", str(first)]) == 1
    told = capfd.readouterr()
    assert "  differs  " in told.out and "is not the card that is made again" in told.out
    assert told.err == f"erasediff: '{first}' is not what was written: 1 difference\n"


def test_an_edit_whose_sum_was_made_right_is_found_by_what_names_its_hash(first: Path, second: Path) -> None:
    """The entry after it, the card, and the record of the request that follows."""
    entries, sums = entry_paths(first), first / "records" / "SHA256SUMS"
    before = {path: path.read_bytes() for path in (*entries, sums, first / "record.json")}

    def edit(path: Path, old: str, new: str) -> None:
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))
        sums.write_text("".join(f"{sha256(one)}  {one.name}\n" for one in entries))

    edit(entries[1], '"verdict": "not shown"', '"verdict": "shown"')
    differs = verify(second).differs
    assert any(f"{entries[2]}: the entry before it has SHA-256 {sha256(entries[1])}" in line for line in differs)
    assert any(line.startswith(f"{entries[1]}: SHA-256 is") and "0001.json follows" in line for line in differs)
    assert any("is not the card that is made again" in line for line in differs)
    entries[1].write_bytes(before[entries[1]])
    edit(entries[2], '"number": 3', '"number": 7')
    assert any("says of itself that it is entry 7" in line for line in verify(first).differs)
    for path, content in before.items():
        path.write_bytes(content)
    assert not verify(second).differs


def test_what_is_missing_or_too_much(first: Path, tmp_path: Path) -> None:
    here = shutil.copytree(first, tmp_path / "erased")
    (here / "record.json.sig").write_text("a signature is left alone")
    assert not verify(here).differs, "wherever it lies"
    # the card is of the folder that it was published in
    (here / "model" / "more.txt").write_text("")
    (line,) = verify(here).differs
    assert line.startswith(f"{here / 'model' / 'more.txt'}: SHA-256 is ") and "no such file" in line
    (here / "model" / "more.txt").unlink()
    shutil.rmtree(here / "model" / "unet")
    assert any("unet/diffusion_pytorch_model.safetensors: SHA-256 is not there" in d for d in verify(here).differs)
    shutil.rmtree(here / "model")
    (line,) = verify(here).differs
    assert line == f"{here / 'model'}: is not there, {here / 'records' / '0002.json'} published it"
    (here / "records" / "0001.json").unlink()
    assert any("0001.json: is not there, SHA256SUMS has it" in line for line in verify(here).differs)
    assert any("0002.json: expected 0001.json: an entry is missing" in line for line in verify(here).differs)
    shutil.rmtree(here / "records")
    (line,) = [one for one in verify(here).differs if "has no entries" in one]
    assert line == f"{here / 'records'}: has no entries, and record.json is a copy of one"
    record = read_record(here / "record.json")
    with pytest.raises(ConfigError, match=r"record\.json has no entries in .*records: put them back, or remove it"):
        append(here, lambda place: dataclasses.replace(record, place=place))
    edit_json(here / "record.json", schema="erasediff-record-2")
    with pytest.raises(ConfigError, match="an older erasediff's: remove it, and the same command evaluates again"):
        append(here, lambda place: dataclasses.replace(record, place=place))


def test_a_chain_without_its_end_is_not_one_of_a_published_model(first: Path, tmp_path: Path) -> None:
    here = shutil.copytree(first, tmp_path / "erased")
    sums = here / "records" / "SHA256SUMS"
    sums.write_text(sums.read_text().splitlines(keepends=True)[0])
    for number in (2, 3):
        (here / "records" / f"000{number}.json").unlink()
    shutil.copyfile(here / "records" / "0001.json", here / "record.json")
    assert verify(here).differs == [f"{here / 'model'}: no entry published it"]
    (here / "model" / "README.md").unlink()
    assert verify(here).differs == [f"{here / 'model'}: no entry published it"]
    shutil.rmtree(here / "scrub")
    (here / "model").rename(here / "moved")
    assert not verify(here).differs


def test_a_damaged_entry_is_to_be_put_back(first: Path, tmp_path: Path) -> None:
    here = shutil.copytree(first, tmp_path / "erased")
    edit_json(here / "records" / "0001.json", verdict="perhaps")
    found = verify(here)
    assert any("0001.json: verdict: " in line and "put the file back" in line for line in found.differs)
    assert not any("entries" in line for line in found.holds), "of what differs no count"


def test_an_erasures_scrub_stands_for_the_erasure(first: Path, digits: Path) -> None:
    for run in (first, first / "scrub"):
        assert places(EvaluateConfig(run=str(run), data=str(digits / "data"))) == (first / "scrub", first)


def test_nothing_is_added_to_a_chain_whose_last_entry_was_changed(first: Path, tmp_path: Path) -> None:
    here = shutil.copytree(first, tmp_path / "erased")
    record = read_record(here / "record.json")
    with (
        changed(here / "records" / "0003.json", 900),
        pytest.raises(ConfigError, match=r"0003\.json was changed since it was written: put it back"),
    ):
        append(here, lambda place: dataclasses.replace(record, place=place))
    append(here, lambda place: dataclasses.replace(record, place=place))
    assert [entry.place.number for entry in read_entries(here)] == [1, 2, 3, 4] and not verify(here).differs
    # killed after the entry and before its sum: the next one makes up for it
    sums = here / "records" / "SHA256SUMS"
    sums.write_text("".join(sums.read_text().splitlines(keepends=True)[:-1]))
    assert any("0004.json: SHA-256 is" in line for line in verify(here).differs)
    assert any("SHA256SUMS: is not what sha256sum makes" in line for line in verify(here).differs)
    append(here, lambda place: dataclasses.replace(record, place=place))
    assert not verify(here).differs


def test_a_withdrawn_model_is_told_and_looked_at(first: Path, tmp_path: Path) -> None:
    here = shutil.copytree(first, tmp_path / "erased")
    (here / "model").rename(here / "model.withdrawn")
    append(
        here,
        lambda place: Withdrawal(
            schema="erasediff-record-3", place=place, kind="withdrawal", publication=2, evaluation=3, model="there"
        ),
    )
    found = verify(here)
    assert not found.differs and any("was withdrawn by entry 4" in line for line in found.holds)
    with changed(here / "model.withdrawn" / "erasediff.json", 40):
        assert verify(here).differs
    (here / "model").mkdir()
    assert verify(here).differs == [f"{here / 'model'}: no entry published it since"]


@pytest.mark.parametrize("last", ["0004.json", "SHA256SUMS", "record.json"])
def test_a_kill_between_an_entry_and_what_shows_it_is_made_up_for(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    here = shutil.copytree(first, tmp_path / "erased")
    newer = dataclasses.replace(read_record(here / "record.json"), date="2026-11-23T00:00:00+00:00")

    def killed_before(path: Path, text: str) -> None:
        if path.name == last:
            raise KeyboardInterrupt
        write_text(path, text)

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "write_text", killed_before)
        with pytest.raises(KeyboardInterrupt):
            append(here, lambda place: dataclasses.replace(newer, place=place))
    assert read_record(here / "record.json").date != newer.date
    if last != "record.json":
        append(here, lambda place: dataclasses.replace(newer, place=place))
    ledger.show_newest(here)
    assert read_record(here / "record.json").date == newer.date and not verify(here).differs
