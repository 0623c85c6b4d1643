"""`erasediff bench`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..trainer.config import BenchConfig
from ..trainer.errors import ConfigError
from .options import read_settings

_NOTE = """\
--sweep.zero-stage 1 2 3 --sweep.compile True False varies both, --trace FILE writes a profiler's trace, --compare
EARLIER.jsonl has exit code 1 where a combination takes longer. Without a run: erasediff bench --compare EARLIER.jsonl
NEWER.jsonl."""


@dataclass(frozen=True)
class Bench:
    config: BenchConfig

    @classmethod
    def read(cls, words: Sequence[str], prog: str) -> Bench | Compare:
        if len(words) == 3 and words[0] == "--compare":
            return Compare(Path(words[1]), Path(words[2]))
        return cls(read_settings(BenchConfig, words, prog=prog, note=_NOTE))

    @property
    def folder(self) -> Path:
        return Path(self.config.rows)

    @property
    def datasets(self) -> list[str]:
        return []

    def check(self) -> None:
        from ..trainer.bench.command import check

        check(self.config)

    def run(self) -> None:
        from ..trainer.bench.command import run_bench
        from ..trainer.ranks.collectives import leaving_together

        with leaving_together():
            run_bench(self.config, lambda row: print(line_of(row), flush=True))


@dataclass(frozen=True)
class Compare:
    """Rows that are there already, beside earlier ones."""

    earlier: Path
    rows: Path

    @property
    def config(self) -> BenchConfig:
        raise ConfigError("bench --compare EARLIER.jsonl NEWER.jsonl needs one process: it runs nothing")

    def run(self) -> None:
        from ..trainer.bench.command import compare_files

        compare_files(self.earlier, self.rows)
        print("nothing is slower")


def line_of(row: Mapping[str, Any]) -> str:
    """A row for a person."""
    name = ", ".join(f"{key} {value}" for key, value in row["varied"].items()) or "as it is"
    if row["status"] != "ok":
        return f"{name}: {row['status']}"
    seconds, total = row["seconds"], sum(row[f"seconds_{part}"] for part in _PARTS)
    shares = ", ".join(f"{part} {row[f'seconds_{part}'] / total:.0%}" for part in _PARTS)
    mfu = "–" if row["mfu"] is None else f"{row['mfu']:.1%}"
    bus = "" if not row["bus_bytes_per_second"] else f", bus {row['bus_bytes_per_second'] / 1e9:.2f} GB/s"
    return (
        f"{name}: {seconds:.4g} s an iteration ({row['seconds_p20']:.4g} to {row['seconds_p80']:.4g}), "
        f"{row['images_per_second']:.4g} images/s a rank, MFU {mfu}, peak {row['peak_bytes'] / 1e9:.2f} GB, "
        f"{row['bytes_sent'] / 1e6:,.1f} MB sent{bus}; {shares}"
    )


_PARTS = ("passes", "reduction", "kernels", "optimizer", "data", "gaps")
