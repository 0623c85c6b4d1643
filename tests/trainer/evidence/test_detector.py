"""Exposed parts: counted, told in tables and blurred, whatever the detector; and NudeNet, where it is installed."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from erasediff.launch.evidence_table import show
from erasediff.trainer.config import ModelConfig
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.evidence.bench import Bench
from erasediff.trainer.evidence.collect import Evidence, run_evaluate
from erasediff.trainer.evidence.detector import Box, DetectorCard, as_pictures, load_detector
from erasediff.trainer.evidence.evaluation import Figures, evaluate
from erasediff.trainer.evidence.finished import FinishedScrub
from erasediff.trainer.evidence.intervals import score_interval
from erasediff.trainer.evidence.ledger import append
from erasediff.trainer.evidence.making import make_bench
from erasediff.trainer.evidence.record import read_record
from erasediff.trainer.evidence.report_parts import exposed_parts
from erasediff.trainer.evidence.report_pictures import grids
from erasediff.trainer.evidence.reuse import still_holds
from evidence_cases import tiny_evaluation
from PIL import Image, ImageDraw
from torch import Tensor

THRESHOLDS = (0.5, 0.55)
CARD = DetectorCard("bright", "1.0", "0" * 64, ("TOP_EXPOSED", "BOTTOM_EXPOSED"), 0.0)
needs_nudenet = pytest.mark.skipif(find_spec("nudenet") is None, reason="needs nudenet: pip install '.[nudity]'")


@dataclass(frozen=True)
class Bright:
    """Finds halves of a picture by how bright they are."""

    card: DetectorCard = CARD

    def __call__(self, pictures_NHWC: np.ndarray) -> list[list[Box]]:
        assert pictures_NHWC.dtype == np.uint8 and pictures_NHWC.shape[1:] == (8, 8, 3)
        return [
            [("TOP_EXPOSED", picture[:4].mean() / 255), ("BOTTOM_EXPOSED", picture[4:].mean() / 255)]
            for picture in pictures_NHWC
        ]


def halves(images: Tensor) -> np.ndarray:
    """How bright the two halves of grey images are: [N, 2]."""
    levels = np.rint((images.numpy()[:, 0] + 1) * 127.5) / 255
    return np.stack([levels[:, :4].mean((1, 2)), levels[:, 4:].mean((1, 2))], 1)


@dataclass(frozen=True)
class Found:
    evidence: Evidence
    bench: Bench
    figures: dict[str, Figures]


@pytest.fixture(scope="module")
def found(digits: Path, run: Path, classifier: Path) -> Found:
    scrub, config = FinishedScrub.open(run), tiny_evaluation(run, digits, classifier)
    bench = make_bench(config, scrub, torch.device("cpu"))
    judge = dataclasses.replace(config.judge, detector_thresholds=THRESHOLDS)
    bench = dataclasses.replace(bench, detector=Bright(), config=judge)
    before = evaluate(scrub.unscrubbed, bench)
    figures = {"unscrubbed": before, "scrubbed": evaluate(scrub.scrubbed, bench, before.samples)}
    # for what else stands in a record
    few = dataclasses.replace(config.judge, num_forget_samples_per_class=2, num_remain_samples_per_class=2)
    evidence = run_evaluate(dataclasses.replace(config, judge=few))
    models = {
        name: dataclasses.replace(entry, metrics=figures[name].metrics)
        for name, entry in evidence.record.models.items()
    }
    record = dataclasses.replace(evidence.record, models=models, detector=Bright().card)
    return Found(dataclasses.replace(evidence, record=record), bench, figures)


def test_exposed_parts_by_hand(found: Found) -> None:
    for figures in found.figures.values():
        for side, images in (("forgotten", figures.samples.forget), ("remaining", figures.samples.remain)):
            bright = halves(images.images)
            for threshold in THRESHOLDS:
                any_part = (bright >= threshold).any(1).mean()
                share = figures.metrics[f"exposed_{side}[bright@{threshold}]"]
                assert (share.value, share.n) == (pytest.approx(any_part), len(images))
                assert (share.low, share.high) == pytest.approx(score_interval(any_part, len(images)))
                parts = figures.metrics[f"exposed_parts_{side}[bright@{threshold}]"]
                of_each = {name: one.value for name, one in parts.by_class.items()}
                counts = (bright >= threshold).sum(0)
                assert of_each == {"TOP_EXPOSED": counts[0], "BOTTOM_EXPOSED": counts[1]}
                assert (parts.value, parts.n) == (counts.sum(), len(images))
                assert {one.n for one in parts.by_class.values()} == {len(images)}
    shares = [found.figures["unscrubbed"].metrics[f"exposed_remaining[bright@{one}]"].value for one in THRESHOLDS]
    assert shares[0] is not None and shares[1] is not None and 0 < shares[1] < shares[0] < 1


def test_tables_tell_the_change_in_percent(found: Found, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = found.evidence.record
    name = "exposed_parts_remaining[bright@0.5]"
    metrics = {model: entry.metrics for model, entry in record.models.items()}

    def with_counts(top: Sequence[float], bottom: Sequence[float]) -> Evidence:
        models = dict(record.models)
        for model, one, other in zip(models, top, bottom, strict=True):
            figure = metrics[model][name]
            by_part = {
                part: dataclasses.replace(figure.by_class[part], value=value)
                for part, value in (("TOP_EXPOSED", one), ("BOTTOM_EXPOSED", other))
            }
            figure = dataclasses.replace(figure, value=one + other, low=None, high=None, by_class=by_part)
            models[model] = dataclasses.replace(models[model], metrics={name: figure})
        return dataclasses.replace(found.evidence, record=dataclasses.replace(record, models=models, thresholds=[]))

    evidence = with_counts([40, 3], [0, 7])
    text = exposed_parts(evidence.record)
    assert "top exposed<small>exposed parts, the rest, bright@0.5</small>" in text
    assert '<td class="">40<small>n = 135</small></td><td class="main">3 (-92%)<small>n = 135</small></td>' in text
    # nothing was there to compare with
    assert '<td class="">0<small>n = 135</small></td><td class="main">7<small>n = 135</small></td>' in text
    show(evidence)
    assert re.search(r"exposed parts, the rest ↓ \[bright@0\.5\].* 40 .* 10 \(-75%\)", capsys.readouterr().out)
    assert "bottom" not in exposed_parts(with_counts([40, 3], [0, 0]).record), "no model shows it"
    assert exposed_parts(dataclasses.replace(record, detector=None)) == ""
    append(tmp_path, lambda place: record)
    assert read_record(tmp_path / "record.json") == record


def strips(text: str) -> dict[str, np.ndarray]:
    """Each strip's four pictures [4, 32, 32], by its caption."""
    found = {}
    for alt, data in re.findall(r'alt="([^"]+)" src="data:image/png;base64,([^"]+)"', text):
        pixels = np.array(Image.open(io.BytesIO(base64.b64decode(data))))
        found[alt] = np.stack([pixels[:, 33 * i : 33 * i + 32] for i in range(4)])
    return found


@pytest.mark.parametrize("blur", ["nothing", "flagged", "forgotten"])
def test_what_is_flagged_is_written_blurred(found: Found, blur: Literal["nothing", "flagged", "forgotten"]) -> None:
    """An 8 × 8 picture keeps its mean alone; the others are what they are."""
    bench = dataclasses.replace(found.bench, config=dataclasses.replace(found.bench.config, blur=blur))
    text = grids({name: figures.samples for name, figures in found.figures.items()}, bench)
    shown, num_blurred = strips(text), 0
    assert len(shown) == 3 * 10
    columns: dict[str, Any] = {name: figures.samples for name, figures in found.figures.items()}
    for alt, pictures in shown.items():
        column, label = alt.split(": ")
        sides = (bench.real_forget, bench.real_remain) if column == "real" else columns[column].sides[:2]
        images = next(one for one in (side.images[side.labels == int(label)] for side in sides) if len(one))[:4]
        flagged = halves(images).max(1) >= THRESHOLDS[0]
        for picture, image, is_flagged in zip(pictures, images, flagged, strict=True):
            if blur != "nothing" and (is_flagged or (blur == "forgotten" and label == "3")):
                num_blurred += 1
                assert (picture == picture[0, 0]).all()
                assert abs(int(picture[0, 0]) - (image.mean().item() + 1) * 127.5) < 1
            else:
                sharp = np.rint((image[0].numpy() + 1) * 127.5)
                assert (picture == sharp.repeat(4, 0).repeat(4, 1)).all()
    assert (f" {num_blurred} pictures are blurred." in text) == (blur != "nothing")
    assert num_blurred > 12 if blur == "forgotten" else (num_blurred > 0) == (blur == "flagged")


def test_a_detector_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "nudenet", raising=False)
    with pytest.raises(ConfigError, match=r"needs the package nudenet \(AGPL\): pip install 'erasediff\[nudity\]'"):
        load_detector("nudenet")


@needs_nudenet
@pytest.mark.parametrize(
    ("thresholds", "said"),
    [
        ((0.6, 0.2), r"has 0\.2: nudenet tells of no box below 0\.25"),
        ((), r"= \[\]: give each once, and one at least"),
        ((0.6, 0.6), r"= \[0\.6, 0\.6\]: give each once"),
    ],
)
def test_thresholds_that_no_detector_takes(
    digits: Path, run: Path, classifier: Path, thresholds: tuple[float, ...], said: str
) -> None:
    with pytest.raises(ConfigError, match=rf"judge\.detector_thresholds {said}"):
        run_evaluate(tiny_evaluation(run, digits, classifier, detector="nudenet", detector_thresholds=thresholds))


@needs_nudenet
def test_nudenet_sees_what_its_package_sees_in_a_file(tmp_path: Path) -> None:
    """Two ellipses, which it takes for skin."""
    from nudenet import NudeDetector  # pyright: ignore[reportMissingImports]

    picture = Image.new("RGB", (160, 160), (169, 238, 89))
    draw = ImageDraw.Draw(picture)
    draw.ellipse([133, 12, 137, 72], fill=(220, 124, 123))
    draw.ellipse([-5, 5, 129, 135], fill=(203, 160, 135))
    picture.save(tmp_path / "drawn.png")
    network = NudeDetector()
    (box,) = network.detect(str(tmp_path / "drawn.png"))
    assert box["class"] == "BUTTOCKS_EXPOSED" and box["score"] > 0.7
    levels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1
    (seen, nothing) = load_detector("nudenet")(as_pictures(torch.cat([levels, torch.zeros_like(levels)])))
    assert seen == [(box["class"], pytest.approx(box["score"], abs=1e-3))] and nothing == []
    ((_, swapped),) = load_detector("nudenet")(as_pictures(levels.flip(1)))[0]
    assert abs(swapped - box["score"]) > 0.05, "red for blue would be seen"


@needs_nudenet
def test_an_evaluation_by_nudenet(digits: Path, run: Path, classifier: Path, tmp_path: Path) -> None:
    """Digits are no bodies; what found none stands in the record."""
    threshold = "exposed_forgotten[nudenet@0.6] <= 0.5"
    judged = tiny_evaluation(
        run,
        digits,
        classifier,
        detector="nudenet",
        num_remain_samples_per_class=2,
        thresholds=(threshold,),
        blur="nothing",
    )
    evidence = run_evaluate(judged, output=tmp_path)
    record, card = read_record(evidence.record_path), load_detector("nudenet").card
    assert record.detector == card and len(card.weights_sha256) == 64
    assert len(card.parts) == 9 and all(part.endswith("_EXPOSED") for part in card.parts)
    for entry in record.models.values():
        figure = entry.metrics["exposed_forgotten[nudenet@0.6]"]
        assert (figure.value, figure.n) == (0, 12)
    assert "<h2>Exposed parts</h2>" in evidence.report_path.read_text()
    scrubbed = ModelConfig(str(run / "model"))
    assert still_holds(record, judged.judge, judged.data, run, scrubbed)
    other = dataclasses.replace(record, detector=dataclasses.replace(card, weights_sha256="0" * 64))
    assert not still_holds(other, judged.judge, judged.data, run, scrubbed)
