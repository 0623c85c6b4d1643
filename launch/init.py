"""`erasediff init`: a file to start from, every setting in it with its default and what it means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..trainer.config import CompareConfig, EraseConfig, PretrainConfig, ScrubConfig
from ..trainer.config.base import Settings
from ..trainer.config.document import commented_toml
from ..trainer.errors import ConfigError
from .slurm.profile import Profile

_SETS = {"forget": "sets/forget", "remain": "sets/remain"}
_MODEL = {"model": {"path": "base/model"}}
# by name: the settings, what has no default or is nearly always set, and what is done with the file
KINDS: dict[str, tuple[type[Settings], dict[str, Any], str]] = {
    "scrub": (ScrubConfig, _MODEL | _SETS | {"output": "runs/scrub"}, "erasediff scrub {} --dry-run"),
    "erase": (
        EraseConfig,
        _MODEL | {"request": "request.toml", "data": "data", "output": "runs/erased"},
        "erasediff erase {} --dry-run",
    ),
    "pretrain": (PretrainConfig, {"data": "data", "output": "runs/base"}, "erasediff pretrain {} --dry-run"),
    "compare": (
        CompareConfig,
        _MODEL
        | _SETS
        | {"data": "data", "output": "runs/comparison"}
        | {"methods": {"erasediff": {}, "moo": {"method": {"name": "moo"}}}, "judge": {"with_retrained": True}},
        "erasediff compare {} --dry-run",
    ),
    "cluster": (Profile, {}, "erasediff launch slurm --profile {} scrub run.toml"),
}
_REQUEST = """\
# An erasure request: whose, when, why, and which samples. A sample is forgotten if any selector selects it.
id = "2026-001"
date = 2026-11-22
reason = ""

[[selectors]]
labels = ["tench"]             # a whole class
#keys = ["tench/0001"]         # single samples, by key
#captions = ["*portrait of*"]  # patterns
#metadata = ["person == 17"]   # comparisons, docs/a-persons-pictures.md
"""


@dataclass(frozen=True)
class Init:
    """Write a commented file to start from.

    erasediff init scrub|erase|pretrain|compare|cluster [FILE.toml]. With erase also request.toml beside it. Nothing is
    overwritten.
    """

    kind: str
    path: Path

    @classmethod
    def read(cls, words: Sequence[str], prog: str) -> Init:
        if {"-h", "--help"} & {*words}:
            print(f"usage: {prog} {'|'.join(KINDS)} [FILE.toml]\n\n{cls.__doc__}")
            raise SystemExit(0)
        if not words or words[0] not in KINDS:
            found = f" {words[0]!r}" if words else ""
            raise ConfigError(f"{prog}{found}: name what the file is for: {', '.join(KINDS)}")
        if len(words) > 2 or words[-1].startswith("-"):
            raise ConfigError(f"{prog} {words[0]}: takes one more word, the file to write")
        return cls(words[0], Path(words[1] if len(words) > 1 else f"{words[0]}.toml"))

    def run(self) -> None:
        kind, chosen, use = KINDS[self.kind]
        texts = {self.path: commented_toml(kind, chosen)}
        if self.kind == "erase":
            if self.path.name == "request.toml":
                raise ConfigError(f"{self.path} is where the request goes: name another file for the settings")
            texts[self.path.with_name("request.toml")] = _REQUEST
        for path in texts:
            if path.exists():
                raise ConfigError(f"{path} is there already: name another file, or remove it")
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path}")
        print(f"next: set what is not commented out, and {use.format(self.path)}")
