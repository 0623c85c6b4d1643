"""`erasediff demo`: the whole story on real digits, from images to a published model that has forgotten one of them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..trainer.config import DemoConfig
from ..trainer.errors import ConfigError
from ..trainer.ranks import meeting
from . import text_demo
from .demo_steps import check_folder, erase, in_background, split_once, timed, write_request
from .options import parse

if TYPE_CHECKING:
    from ..trainer.config import EraseConfig
    from ..trainer.evidence.collect import Evidence

NULL_CLASS = 10
# every ninth digit is kept from all models: what membership compares the forgotten ones with
HELD_OUT_EVERY = 9
_EXPECTED_MEGABYTES = 20
_REQUEST = """\
id = "demo"
reason = "shows what an erasure request looks like"

[[selectors]]
labels = ["{digit}"]
"""


@dataclass(frozen=True)
class Demo:
    config: DemoConfig

    @classmethod
    def read(cls, words: list[str], prog: str) -> Demo:
        return cls(parse(DemoConfig, words, prog=prog))

    def run(self) -> None:
        with meeting.on_signals():
            self._run()

    def _run(self) -> None:
        plain = DemoConfig()
        if self.config.text and self.config.forget_label != plain.forget_label:
            raise ConfigError(f"--forget-label {self.config.forget_label}: with --text it is --concept that is erased")
        if not self.config.text and self.config.concept != plain.concept:
            raise ConfigError(f"--concept {self.config.concept}: without --text a digit is erased; give --text, too")
        if self.config.text:
            text_demo.run(self.config)
            return
        start = time.perf_counter()
        folder, digit = Path(self.config.output or "demo"), self.config.forget_label
        if not 0 <= digit <= 9:
            raise ConfigError(f"--forget-label {digit}: a digit, 0 to 9")
        check_folder(folder, _REQUEST.format(digit=digit))
        print(_plan(folder, digit), flush=True)
        training, held_out = _data(folder, digit)

        from ..trainer.config import EngineConfig, PretrainConfig
        from ..trainer.config.toml import dump_toml
        from ..trainer.pretrain import run_pretrain

        def pretrain(data: Path, output: str) -> PretrainConfig:
            return PretrainConfig(str(data), str(folder / output), engine=EngineConfig(num_threads=1))

        second = pretrain(folder / "sets" / "remain", "retrained")
        (folder / "retrained.toml").write_text(dump_toml(second))
        # one thread each: on two cores both models are there in little more than the time of one
        with in_background(["pretrain", str(folder / "retrained.toml")], folder / "retrained.log") as retrained:
            base = timed(
                "train the model",
                lambda: run_pretrain(pretrain(training, "base"), watch=_preview(digit, every=225)),
            )
            config = _erasure(folder, base, training, held_out, timed("train the judge", lambda: _judge(folder)))
            evidence = timed(f"erase the {digit}", lambda: erase(config, _preview(digit, every=20), retrained.wait))
        self._tell(evidence, folder, time.perf_counter() - start)
        evidence.require_shown()

    def _tell(self, evidence: Evidence, folder: Path, seconds: float) -> None:
        from .evidence_table import show

        show(evidence)
        model = folder / "erased" / "model"
        published = f"{model}, loads with diffusers alone (its README.md shows how)"
        is_shown = evidence.record.verdict == "shown"
        print(
            f"model    {published if is_shown else f'not published: {evidence.record.verdict}'}\n"
            f"total    {seconds:.0f} s\n\n"
            "your own model:\n"
            "  erasediff erase --request request.toml --model MODEL --data DATASET --output erased\n"
            f"  ({folder}/request.toml is a request; `erasediff shards build` makes a dataset)"
        )


def _plan(folder: Path, digit: int) -> str:
    return (
        f"erasediff demo: a diffusion model learns 1,597 real handwritten digits, then forgets the {digit}.\n\n"
        "  1  train the model on all ten digits; a second one, the retrained model, never sees the "
        f"{digit}\n"
        f"  2  erase the {digit} from the first: 100 steps on the forget and the remain set\n"
        "  3  measure both and the scrubbed one side by side, and write the report\n\n"
        f"A few minutes on 2 idle cores, {_EXPECTED_MEGABYTES} MB in {folder}/. "
        "The same command continues where it stopped.\n"
    )


def _data(folder: Path, digit: int) -> tuple[Path, Path]:
    """(what models are trained on, what no model sees); also the request, and D_r for the retrained model in sets/."""
    from ..shards.dataset import Dataset
    from ..shards.requests.request import Request, Selector
    from ..shards.requests.split import split
    from ..shards.sources.digits import Digits
    from ..shards.writing.build import build

    request = write_request(folder, _REQUEST.format(digit=digit))
    data, parts, sets = folder / "data", folder / "parts", folder / "sets"
    if not data.exists():
        build(Digits(), data)
    if not parts.exists():
        keys = tuple(Dataset.open(data).keys[::HELD_OUT_EVERY])
        split(data, parts, request=Request((Selector(keys=keys),), name="held out"))
    split_once(parts / "remain", sets, request)
    return parts / "remain", parts / "forget"


def _judge(folder: Path) -> Path:
    """The classifier that tells what a generated image shows; it knows all ten digits."""
    from ..shards.dataset import Dataset
    from ..trainer.evidence.classifier import train_classifier

    path = folder / "classifier.safetensors"
    if not path.exists():
        train_classifier(Dataset.open(folder / "data"), image_size=8, channels=1).save(path)
    return path


def _erasure(folder: Path, base: Path, training: Path, held_out: Path, classifier: Path) -> EraseConfig:
    from ..trainer.config import EngineConfig, EraseConfig, JudgeConfig, ModelConfig, RelearnConfig

    return EraseConfig(
        request=str(folder / "request.toml"),
        model=ModelConfig(path=str(base), null_class=NULL_CLASS),
        data=str(training),
        output=str(folder / "erased"),
        engine=EngineConfig(num_threads=1),
        judge=JudgeConfig(
            retrained=str(folder / "retrained" / "model"),
            held_out=str(held_out),
            classifier=str(classifier),
            relearn=True,
            relearning=RelearnConfig(num_samples=50),
            # for images this small a second thread mostly waits for the first
            num_threads=1,
        ),
    )


def _preview(digit: int, every: int):
    from .preview import Preview, digits_shape

    # the digit in the middle of its neighbours: seven fit into 80 columns
    labels = [(digit + i) % 10 for i in range(-3, 4)]
    return Preview(digits_shape(), labels, [str(label) for label in labels], every=every)
