"""Files to start from: they say what is so anyway, and say it of everything."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from erasediff.launch.cli import main
from erasediff.launch.init import KINDS
from erasediff.shards.requests.request import read_request
from erasediff.trainer.config.document import field_docs
from erasediff.trainer.config.toml import decode, over_defaults


def read(kind: str, text: str) -> Any:
    cls = KINDS[kind][0]
    values = tomllib.loads(text)
    return decode(cls, over_defaults(cls, cls.decided(values, {})), kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_the_defaults_with_and_without_its_marks(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "start" / f"{kind}.toml"
    assert main(["init", kind, str(path)]) == 0
    assert f"wrote {path}" in capsys.readouterr().out
    text, (cls, chosen, _) = path.read_text(), KINDS[kind]
    expected = decode(cls, over_defaults(cls, chosen), "")
    assert read(kind, text) == expected
    all_set = re.sub(r"^#(?=\w+ = )", "", text, flags=re.MULTILINE)
    assert all_set.count("\n#") < text.count("\n#") - 10
    assert read(kind, all_set) == expected
    assert max(map(len, text.splitlines())) <= 120
    # every key stands there under what it means
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if re.match(r"#?\w+ = ", line) and "methods" not in lines[number - 1]:
            assert lines[number - 1].startswith("# "), line
    assert main(["init", kind, str(path)]) == 2
    assert "is there already: name another file, or remove it" in capsys.readouterr().err


def test_every_setting_is_explained() -> None:
    def look(settings: Any) -> None:
        docs = field_docs(type(settings))
        for field in dataclasses.fields(settings):
            assert docs.get(field.name, "").endswith((".", ")")), f"{type(settings).__name__}.{field.name}"
            value = getattr(settings, field.name)
            if dataclasses.is_dataclass(value):
                look(value)

    for cls, chosen, _ in KINDS.values():
        look(decode(cls, over_defaults(cls, chosen), ""))


def test_an_erasures_request_comes_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "erase", str(tmp_path / "erase.toml")]) == 0
    request = read_request(tmp_path / "request.toml")
    assert request.selectors[0].labels == ("tench",) and request.id == "2026-001"
    (tmp_path / "erase.toml").unlink()
    assert main(["init", "erase", str(tmp_path / "erase.toml")]) == 2
    assert not (tmp_path / "erase.toml").exists(), "nothing is written where something is in the way"
    (tmp_path / "request.toml").unlink()
    assert main(["init", "erase", str(tmp_path / "request.toml")]) == 2
    assert "request.toml is where the request goes: name another" in capsys.readouterr().err
    assert not (tmp_path / "request.toml").exists()
    assert main(["init", "nothing"]) == 2
    assert "'nothing': name what the file is for: scrub, erase" in capsys.readouterr().err
