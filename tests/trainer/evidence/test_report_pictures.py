"""What the report shows, and what it must not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from erasediff.trainer.evidence.evaluation import evaluate
from erasediff.trainer.evidence.finished import FinishedScrub
from erasediff.trainer.evidence.images import Images
from erasediff.trainer.evidence.making import make_bench
from erasediff.trainer.evidence.report_pictures import grids
from evidence_cases import tiny_evaluation

CPU = torch.device("cpu")


def test_the_report_shows_no_real_picture_of_single_samples_that_are_forgotten(
    digits: Path, run: Path, classifier: Path
) -> None:
    """Also where what remains of their class is not among the pictures that are looked at."""
    scrubbed = FinishedScrub.open(run)
    bench = make_bench(tiny_evaluation(run, digits, classifier), scrubbed, CPU)
    samples = {"scrubbed": evaluate(scrubbed.scrubbed, bench).samples}
    assert 'alt="real: 3"' in grids(samples, bench), "of a whole class they are what it was"
    fives = Images.of_data(scrubbed.remain, scrubbed.unscrubbed, 50, [5])
    some = dataclasses.replace(
        bench,
        forgets_classes=False,
        real_forget=fives,
        real_remain=bench.real_remain.where(bench.real_remain.labels != 5),
    )
    text = grids(samples, some)
    assert 'alt="real: 4"' in text and 'alt="real: 5"' not in text and 'alt="scrubbed: 5"' in text
