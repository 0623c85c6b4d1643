"""The record and the report: what is written can be read, shown and checked."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import pytest
import tiny
from erasediff.launch.evidence_table import show
from erasediff.trainer import EraseDiffConfig
from erasediff.trainer.config.thresholds import parse_threshold
from erasediff.trainer.errors import ConfigError, NotShownError
from erasediff.trainer.evidence import report
from erasediff.trainer.evidence.classifier import ClassifierCard
from erasediff.trainer.evidence.collect import Evidence, run_evaluate
from erasediff.trainer.evidence.finished import run_entry
from erasediff.trainer.evidence.intervals import score_interval
from erasediff.trainer.evidence.ledger import Deletion, Publication, Withdrawal, append
from erasediff.trainer.evidence.metrics import Measurement
from erasediff.trainer.evidence.noise import alike
from erasediff.trainer.evidence.record import (
    Copy,
    EarlierEntry,
    Link,
    ModelEntry,
    Place,
    Record,
    RequestEntry,
    RunEntry,
    read_record,
)
from erasediff.trainer.evidence.relearning import RelearningPoint
from erasediff.trainer.evidence.report import head
from erasediff.trainer.evidence.thresholds import Verdict, hold, overall, why_not_shown
from erasediff.trainer.run.provenance import DataStamp
from evidence_cases import edit_json, make_classifier, make_run, tiny_evaluation

REQUEST = RequestEntry("<script>alert(1)</script>", "2026-11-20", "withdrawn & gone")
DOCS = Path(__file__).parents[3] / "docs" / "record.md"


@pytest.fixture(scope="module")
def evidence(digits: Path, base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    folder = tmp_path_factory.mktemp("evidence")
    classifier = make_classifier(digits, folder / "classifier.safetensors")
    run = make_run(digits, base_model, folder / "run")
    # a checkpoint, as an interrupted run leaves one
    (run / "attempt-0001" / "checkpoint-000002").mkdir()
    other = tiny.make_pipeline(folder / "other", seed=2)
    judged = tiny_evaluation(run, digits, classifier, relearn=True, retrained=str(other))
    return run_evaluate(judged, request=REQUEST)


def test_a_record_reads_back(evidence: Evidence, tmp_path: Path) -> None:
    record = read_record(evidence.record_path)
    assert record == evidence.record
    append(tmp_path, lambda place: record)
    assert (tmp_path / "record.json").read_bytes() == evidence.record_path.read_bytes()
    assert "not proof" in record.statement


def test_it_says_what_happened(evidence: Evidence, base_model: Path) -> None:
    record = evidence.record
    run = Path(record.models["scrubbed"].path).parent
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert record.run.num_steps == len(lines) == 3
    assert record.run.capped_steps == sum(line["capped"] for line in lines)
    assert record.run.interruptions == 0 and record.run.starts[0]["num_threads"] >= 1
    assert record.run.starts[0]["ended"] == "finished" and record.run.starts[0]["num_steps"] == 3
    for number in (2, 3):
        shutil.copytree(run / "attempt-0001", run / f"attempt-000{number}")
    assert run_entry(run).interruptions == 2
    assert record.config["method"]["eta"] == EraseDiffConfig().eta
    assert "zero_stage" not in record.config["engine"] and record.run.starts[0]["settings"]["engine.zero_stage"] == 2
    copies = {Path(copy.path).name for copy in record.copies}
    assert {base_model.name, "forget", "checkpoint-000002"} <= copies
    assert any(copy.path.endswith(".tar") for copy in record.copies)
    # both hold something of D_f: the judge was trained on it, the report shows it
    assert {"classifier.safetensors", "report.html"} <= copies
    assert {"torch", "deepspeed", "erasediff"} <= set(record.versions)


def test_the_documented_schema_is_the_records(evidence: Evidence) -> None:
    record, model = (
        set(re.findall(r"^\| `([a-z_0-9]+)`", part, re.MULTILINE))
        for part in DOCS.read_text().split("## The metrics")[0].split("## A model")
    )
    assert record == {field.name for field in dataclasses.fields(Record)}
    assert model == {field.name for field in dataclasses.fields(ModelEntry)}
    entries = (Place, Link, Publication, Withdrawal, Deletion, EarlierEntry)
    for kind in (
        *entries,
        RequestEntry,
        RunEntry,
        Copy,
        DataStamp,
        ClassifierCard,
        Measurement,
        Verdict,
        RelearningPoint,
    ):
        for field in dataclasses.fields(kind):
            assert f"`{field.name}`" in DOCS.read_text(), f"{kind.__name__}.{field.name}"
    assert evidence.record.schema in DOCS.read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": "erasediff-record-4"}, "has schema erasediff-record-4, newer than this erasediff reads"),
        ({"schema": "erasediff-record-2"}, "an older erasediff's: remove it, and the same command evaluates again"),
        ({"schema": "something"}, "is not a record: its schema is 'something'"),
        ({"verdict": "perhaps"}, "verdict: Input should be 'shown', 'not shown' or 'failed'"),
        ({"extra": 1}, "extra: Unexpected keyword argument"),
    ],
)
def test_a_record_that_cannot_be_read(
    evidence: Evidence, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(evidence.record_path.read_bytes())
    edit_json(path, **changes)
    with pytest.raises(ConfigError, match=message):
        read_record(path)
    path.write_text("{")
    with pytest.raises(ConfigError, match="is not a record"):
        read_record(path)


def test_every_estimate_has_its_interval(evidence: Evidence) -> None:
    """What is counted has none."""
    for model in evidence.record.models.values():
        for name, found in model.metrics.items():
            if name in ("non_finite_samples", "black_samples"):
                assert found.low is None and found.high is None
            elif found.value is not None:
                assert found.low is not None and found.high is not None, name
                assert found.low <= found.value <= found.high, name
        assert all(point.low is not None and point.n == 6 for point in model.relearning)


def test_figures_within_the_noise_are_said_to_be(evidence: Evidence, capsys: pytest.CaptureFixture[str]) -> None:
    """Of twelve samples few figures are told apart; of a hundred .9 and .3 are."""
    models = dict(evidence.record.models)
    for name, value in (("unscrubbed", 0.9), ("scrubbed", 0.3), ("retrained", 0.25)):
        low, high = score_interval(value, 100)
        models[name] = dataclasses.replace(models[name], metrics={"p_psi": Measurement(value, 100, low=low, high=high)})
    record = dataclasses.replace(evidence.record, models=models, thresholds=[])
    assert (alike(record, "unscrubbed"), alike(record, "retrained")) == ([], ["p_psi"])
    assert report._cell(record, "scrubbed", "p_psi").count("within the noise of retrained") == 1
    assert "noise" not in report._cell(record, "retrained", "p_psi")
    show(dataclasses.replace(evidence, record=record))
    told = capsys.readouterr().out
    assert "  noise  these samples do not tell scrubbed from retrained by: P_psi\n" in told
    assert "0.300 ±.088" in told and "from unscrubbed" not in told


class Page(HTMLParser):
    """Collects what a page refers to, and checks that every element is closed."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.references: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_needs_nothing_else(evidence: Evidence) -> None:
    text = evidence.report_path.read_text()
    page = Page()
    page.feed(text)
    assert not page.open
    assert page.references and all(ref.startswith("data:image/png;base64,") for ref in page.references)
    assert "script" not in page.tags and "url(" not in text and "@import" not in text
    assert 'name="viewport"' in text and "prefers-color-scheme: dark" in text
    # unscrubbed, scrubbed, retrained and real, ten classes
    assert page.tags.count("img") == 4 * 10


def test_the_report_shows_the_record(evidence: Evidence) -> None:
    text = evidence.report_path.read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    for heading in ("Side by side", "λ_t over steps", "Cosines of the update", "Conflict by layer", "Relearning"):
        assert f"<h2>{heading}</h2>" in text
    assert "Forgetting against quality" in text
    # its only threshold is on accuracy
    assert '<span class="badge open">Forgetting not shown · 1 of 1 thresholds shown to hold</span>' in text
    for entry in evidence.record.models.values():
        assert entry.weights_sha256 in text
    p_psi = evidence.record.models["scrubbed"].metrics["p_psi"].value
    assert p_psi is not None and f"{p_psi:.3f}<small>n = 12, 95 %: " in text
    # every figure with its n: the floor is measured on the first batch
    assert "<small>floor, n = 64, 95 %: " in text and "<small>floor, n = 12, 95 %: " in text and "<br>ceiling " in text
    assert 'accuracy_remaining &gt;= 0</code><small class="soft">higher is better, compared with a fixed lim' in text
    assert text.count("good: near the retrained model") == 2  # entropy, nearest to the forget set
    assert "P_psi (n = 6)" in text
    assert evidence.record.tells_nothing(Verdict("p_psi <= 1", 1.0, 0.0, True, True))
    assert text.count("the unscrubbed model holds it too") == 0 and "within the noise of " in text


@pytest.mark.parametrize(
    ("limit", "verdict", "badge", "why"),
    [
        (0.5, "shown", ("pass", 1), ""),
        # within it, and the unscrubbed model is not, but 100 samples do not show it
        (0.35, "not shown", ("open", 0), "too few samples to say that it holds: p_psi <= 0.35 (it is 0.3, but "),
        (1.0, "not shown", ("open", 1), "no threshold on forgetting holds that the unscrubbed model does not hold too"),
        (0.1, "failed", ("fail", 0), ""),
    ],
)
def test_the_headline(
    evidence: Evidence, limit: float, verdict: str, badge: tuple[str, int], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a model whose P_psi went from .9 to .3."""
    models = dict(evidence.record.models)
    for name, value in (("unscrubbed", 0.9), ("scrubbed", 0.3)):
        low, high = score_interval(value, 100)
        models[name] = dataclasses.replace(
            models[name], metrics=models[name].metrics | {"p_psi": Measurement(value, 100, low=low, high=high)}
        )
    figures = {name: entry.metrics for name, entry in models.items()}
    verdicts = hold([parse_threshold(f"p_psi <= {limit}")], figures)
    record = dataclasses.replace(
        evidence.record, models=models, thresholds=verdicts, verdict=overall(verdicts, figures)
    )
    assert record.verdict == verdict
    state, num_shown = badge
    text = f'<span class="badge {state}">Forgetting {verdict} · {num_shown} of 1 thresholds shown to hold</span>'
    assert text + (f"<br>Why: {escape(why)}" if why else "</p>") in head(record)
    told = dataclasses.replace(evidence, record=record)
    show(told)
    line = f"forgetting {verdict.upper()}" + (f": {why}" if why else " judge right on ")
    assert line in " ".join(capsys.readouterr().out.split())
    if why:
        with pytest.raises(NotShownError) as error:
            told.require_shown()
        assert str(error.value).startswith(f"forgetting is not shown: {why}")


def test_a_figure_that_is_missing_shows_nothing_and_fails_nothing(evidence: Evidence) -> None:
    verdict = Verdict("p_psi <= 0.1", 0.1, None, passed=False, shown=False)
    missing = dataclasses.replace(evidence, record=dataclasses.replace(evidence.record, thresholds=[verdict]))
    for require in (missing.require_shown, missing.require_within_limits):
        with pytest.raises(NotShownError, match=r"not shown: p_psi <= 0\.1 \(no figure\)"):
            require()
    assert '<span class="badge open">NO FIGURE</span>' in head(missing.record)
    assert why_not_shown([verdict, Verdict("accuracy_remaining >= 0.9", 0.9, 0.92, True, False, 0.02, -0.1)]) == (
        "p_psi <= 0.1 (no figure)"
    )


def test_a_class_called_like_markup(evidence: Evidence, capsys: pytest.CaptureFixture[str]) -> None:
    """Names come from folders and files of others."""
    name, models = "[/b]<script>x", dict(evidence.record.models)
    for model, entry in models.items():
        mean = entry.metrics["accuracy_remaining"]
        (first, *_) = mean.by_class.values()
        figures = {"accuracy_remaining": dataclasses.replace(mean, by_class={name: first})}
        figures["accuracy_worst_class"] = dataclasses.replace(first, of_class=name)
        models[model] = dataclasses.replace(entry, metrics=entry.metrics | figures)
    verdicts = hold([parse_threshold("accuracy_worst_class >= 2")], {m: e.metrics for m, e in models.items()})
    record = dataclasses.replace(evidence.record, models=models, thresholds=verdicts, forgotten_classes=[name])
    assert "<script>" not in head(record) and "for class [/b]&lt;script&gt;x" in head(record)
    show(dataclasses.replace(evidence, record=record))
    assert f"for class {name}" in "".join(capsys.readouterr().out.split("\n"))


def test_the_report_tells_class_by_class(evidence: Evidence) -> None:
    """Nine classes kept and one forgotten, each with its n and its interval, for every model."""
    text = evidence.report_path.read_text()
    table = text.split("<h2>Class by class</h2>")[1].split("</section>")[0]
    assert table.count("<tr><th>") == 1 + 10 and table.count("forgotten: P_psi") == 1
    for entry in evidence.record.models.values():
        for name in ("0", "9"):
            found = entry.metrics["accuracy_remaining"].by_class[name]
            assert found.value is not None and found.low is not None and found.n == 15
            assert f"{report._number(found.value)}<small>n = 15, 95 %: {report._number(found.low)} to " in table
