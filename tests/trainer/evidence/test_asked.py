"""What models were asked for is part of what figures depend on, wherever it stands."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from erasediff.shards import Dataset, build, split
from erasediff.shards.sources.digits_in_ink import DIGITS
from erasediff.trainer.comparing.sides import Sides, measured_by
from erasediff.trainer.config import JudgeConfig, ModelConfig, ScrubConfig
from erasediff.trainer.evidence.asking import Asking
from erasediff.trainer.models.fitting import fit
from tiny_text import make_pipeline


def test_what_classes_are_asked_for_by_counts(classifier: Path, tmp_path: Path) -> None:
    """The same pictures and classes, called otherwise by the model's own caption."""
    build("digits-in-ink", tmp_path / "data")
    split(tmp_path / "data", tmp_path / "split", ["two"])
    model = ModelConfig(str(make_pipeline(tmp_path / "model")), truncate_prompts=True)
    data, judge = Dataset.open(tmp_path / "data"), JudgeConfig(classifier=str(classifier))
    two = DIGITS.index("two")

    def asked(model: ModelConfig) -> tuple[str | None, str]:
        sets = (str(tmp_path / "split" / name) for name in ("forget", "remain"))
        sides = Sides.of(ScrubConfig(model, *sets, output=str(tmp_path / "run")))
        told = fit(data, sides.unscrubbed).data
        asking = Asking.of(judge, sides.unscrubbed, told, [two], [label for label in range(10) if label != two])
        return asking.sha256, measured_by(judge, judge, sides, data)

    first, others = asked(model), asked(dataclasses.replace(model, caption="an image of a {}"))
    assert asked(model) == first and first[0] is not None
    assert others[0] not in (None, first[0]) and others[1] != first[1]


def test_each_part_of_what_is_asked_counts() -> None:
    asking = Asking({2: ["two", "a two"], 3: ["three"]}, {"two": "x"}, {"three": "red"}, ["a kept one"], [])
    others = [
        dataclasses.replace(asking, conditions={2: ["two"], 3: ["a two", "three"]}),
        dataclasses.replace(asking, conditions={3: ["two", "a two"], 2: ["three"]}),
        dataclasses.replace(asking, phrasings={"a two": "x"}),
        dataclasses.replace(asking, factors={"three": "blue"}),
        dataclasses.replace(asking, kept=["another"]),
    ]
    assert len({asking.sha256, *(other.sha256 for other in others)}) == 6
    assert dataclasses.replace(asking, notes=["said"]).sha256 == asking.sha256
    assert Asking({2: [2], 3: [3]}, {}, {}, [], []).sha256 is None
    assert Asking({2: [2], 3: [3]}, {}, {2: "red"}, [], []).sha256 is not None
