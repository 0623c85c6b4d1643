"""`erasediff erase`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..trainer.config import EraseConfig
from ..trainer.config.methods import method_names
from ..trainer.ranks import meeting
from .options import DRY_RUN, METHODS, print_once, read_settings, without_flag

_DELETES = (
    "--delete-copies deletes, once a model is published, what lies of the forgotten in the erasure's own folder, with "
    "a line each; with --dry-run it says what that would be."
)


@dataclass(frozen=True)
class Erase:
    config: EraseConfig
    dry_run: bool
    delete_copies: bool

    @classmethod
    def read(cls, words: Sequence[str], prog: str) -> Erase:
        words, dry_run = without_flag(words, "--dry-run")
        words, deletes = without_flag(words, "--delete-copies")
        # the model is what a request names first: `--model M` for `--model.path M`
        words = ["--model.path" + word[7:] if word == "--model" or word[:8] == "--model=" else word for word in words]
        note = f"{METHODS.format('|'.join(method_names()))}\n{DRY_RUN}\n{_DELETES}"
        return cls(read_settings(EraseConfig, words, prog=prog, note=note), dry_run, deletes)

    @property
    def beside(self) -> tuple[str, ...]:
        """Words that are not in the settings."""
        return ("--delete-copies",) if self.delete_copies else ()

    @property
    def folder(self) -> Path:
        return Path(self.config.output)

    @property
    def datasets(self) -> list[str]:
        return [] if self.config.data is None else [self.config.data]

    def check(self) -> None:
        from ..trainer.erase import check

        check(self.config)

    def run(self) -> None:
        with meeting.on_signals():
            from ..trainer.erase import dry_run, run_erase
            from ..trainer.errors import ThresholdError
            from ..trainer.evidence.copies import WITHDRAWN_NAME
            from ..trainer.evidence.deletion import delete_copies, planned
            from ..trainer.evidence.record import RECORD_NAME
            from ..trainer.ranks.collectives import is_main, leaving_together, on_main
            from .evidence_table import show

            output = Path(self.config.output)
            if self.dry_run:
                told = [f"would delete {one}" for one in planned(output)] if self.delete_copies else []
                print_once("\n".join([dry_run(self.config), *told]))
                return
            with leaving_together():
                try:
                    erasure = run_erase(self.config)
                except ThresholdError as error:
                    if is_main():
                        for line in error.advice:
                            print(f"next     {line}")
                    model = output / "model"
                    withdrawn = model.with_name(WITHDRAWN_NAME)
                    told = "no model is published"
                    if model.exists():
                        told = f"{model} is what an earlier call published"
                    elif withdrawn.exists():
                        told = f"{told}, what was published before is in {withdrawn}"
                    more = f"{self.config.output}/{RECORD_NAME} and the report beside it say more"
                    raise type(error)(f"{error}; {told}, {more}") from None
                if is_main():
                    show(erasure.evidence)
                    print(f"model    {erasure.model}")
                if self.delete_copies:
                    lines = on_main(lambda: delete_copies(output))
                    if is_main():
                        print("\n".join(lines))
