"""`erasediff demo --text`: a small text-to-image model learns digits in six inks, then forgets a word."""

from __future__ import annotations

import csv
import itertools
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ..shards.sources.digits_in_ink import COLOURS, DIGITS, HELD_OUT_PHRASING, PHRASINGS, DigitsInInk, Prompt
from ..trainer.config import DemoConfig
from ..trainer.errors import ConfigError
from .demo_steps import check_folder, erase, in_background, split_once, timed, write_request

if TYPE_CHECKING:
    from ..trainer.config import EraseConfig, PretrainConfig
    from ..trainer.evidence.collect import Evidence

_REQUEST = """\
id = "demo"
reason = "shows what an erasure request looks like"

[[selectors]]
labels = ["{concept}"]
"""
_GUIDANCE_SCALE = 2.5


def run(config: DemoConfig) -> None:
    """Data, two models side by side, the erasure, and the evidence."""
    start = time.perf_counter()
    folder, concept = Path(config.output or "demo-text"), config.concept
    if concept not in (*DIGITS, *COLOURS):
        raise ConfigError(f"--concept {concept}: one of {', '.join((*DIGITS, *COLOURS))}")
    check_folder(folder, _REQUEST.format(concept=concept))
    print(_plan(folder, concept), flush=True)
    data, other = _data(folder, concept)

    from ..trainer.config.toml import dump_toml
    from ..trainer.pretrain import run_pretrain

    second = _pretrain(folder, folder / "sets" / "remain", "retrained")
    (folder / "retrained.toml").write_text(dump_toml(second))
    # one thread each: on two cores both models are there in little more than the time of one
    with in_background(["pretrain", str(folder / "retrained.toml")], folder / "retrained.log") as retrained:
        base = timed("train the model", lambda: run_pretrain(_pretrain(folder, data, "base")))
        timed("train the judges", lambda: _judges(folder, data, other))
        erasure = _erasure(folder, base, data, other, concept)
        evidence = timed(f"erase '{concept}'", lambda: erase(erasure, None, retrained.wait))
    from .evidence_table import show

    show(evidence)
    _tell(folder, evidence, time.perf_counter() - start)
    evidence.require_shown()


def _plan(folder: Path, concept: str) -> str:
    kept = "colours" if concept in DIGITS else "digits"
    return (
        "erasediff demo: a text-to-image model learns 1,797 handwritten digits in six inks, by prompts such as 'the\n"
        f"digit seven in blue', then forgets the word '{concept}'.\n\n"
        "  1  train a small Stable Diffusion pipeline; a second one, the retrained model, never sees "
        f"'{concept}'\n"
        "  2  erase it from the first by prompts with another word in its place\n"
        f"  3  measure both and the scrubbed one side by side: the forgotten, the rest, and all {kept}\n\n"
        f"About ten minutes on 2 cores, 50 MB in {folder}/. The same command continues where it stopped.\n"
    )


def _data(folder: Path, concept: str) -> tuple[Path, Path]:
    """(pictures labelled by what is erased, the same labelled by what must be kept); also the request and sets/."""
    from ..shards.writing.build import build

    data, other = folder / "data", folder / "other"
    own, kept = ("digit", "colour") if concept in DIGITS else ("colour", "digit")
    request = write_request(folder, _REQUEST.format(concept=concept))
    for where, label in ((data, own), (other, kept)):
        if not where.exists():
            build(DigitsInInk(label), where)
    split_once(data, folder / "sets", request)
    with (folder / "prompts.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["prompt", "class", "phrasing", "factor"])
        for phrasing in (*PHRASINGS, HELD_OUT_PHRASING):
            shown = phrasing.format(colour="…", digit="…")
            for digit, colour in itertools.product(DIGITS, COLOURS):
                meant = (digit, colour) if own == "digit" else (colour, digit)
                table.writerow([Prompt.of(phrasing, digit, colour).text, meant[0], shown, meant[1]])
    return data, other


def _pretrain(folder: Path, data: Path, output: str) -> PretrainConfig:
    from ..shards.sources.digits_in_ink import prompts
    from ..trainer.config import EngineConfig, PretrainConfig, StableDiffusionConfig
    from ..trainer.models.text_to_image.tokenizer import words_of

    return PretrainConfig(
        str(data),
        str(folder / output),
        pipeline="stable-diffusion",
        # the retrained model's data have not all of them
        stable_diffusion=StableDiffusionConfig(words=words_of(prompt.text for prompt in prompts())),
        engine=EngineConfig(num_threads=1),
    )


def _judges(folder: Path, *datasets: Path) -> None:
    """The classifiers that tell what a generated image shows, a file beside each dataset."""
    from ..shards.dataset import Dataset
    from ..trainer.evidence.classifier import train_classifier

    for data in datasets:
        path = folder / f"{data.name}.safetensors"
        if not path.exists():
            train_classifier(Dataset.open(data), image_size=16, channels=3).save(path)


def _erasure(folder: Path, base: Path, data: Path, other: Path, concept: str) -> EraseConfig:
    from ..trainer.config import (
        EngineConfig,
        EraseConfig,
        JudgeConfig,
        ModelConfig,
        OptimizerConfig,
        SamplingConfig,
        TrainConfig,
    )
    from ..trainer.config.methods import method_kind

    words = DIGITS if concept in DIGITS else COLOURS
    return EraseConfig(
        request=str(folder / "request.toml"),
        model=ModelConfig(path=str(base)),
        data=str(data),
        output=str(folder / "erased"),
        method=method_kind("erasediff")(
            "erasediff",
            concept=(concept,),  # pyright: ignore[reportCallIssue]
            anchor=words[(words.index(concept) + 1) % len(words)],  # pyright: ignore[reportCallIssue]
        ),
        # what forgets digits and colours alike: docs/results/text.md, docs/decisions/models.md
        train=TrainConfig(max_train_steps=70, layers=("xattn",)),
        optimizer=OptimizerConfig(learning_rate=5e-4),
        engine=EngineConfig(num_threads=1),
        judge=JudgeConfig(
            retrained=str(folder / "retrained" / "model"),
            classifier=str(folder / f"{data.name}.safetensors"),
            factor=str(other),
            factor_classifier=str(folder / f"{other.name}.safetensors"),
            prompts=str(folder / "prompts.csv"),
            num_forget_samples_per_class=864,
            # as many of all together, whichever word it is
            num_remain_samples_per_class=4320 // (len(words) - 1),
            sampling=SamplingConfig(guidance_scale=_GUIDANCE_SCALE, num_inference_steps=10),
            num_threads=2,
        ),
    )


def _tell(folder: Path, evidence: Evidence, seconds: float) -> None:
    found = evidence.record.models["scrubbed"].metrics
    model = folder / "erased" / "model"
    published = f"{model}, loads with diffusers alone (its README.md shows how)"
    print("UnlearnCanvas' figures, on prompts:")
    for name, metric in (
        ("UA", "unlearning_accuracy"),
        ("IRA", "accuracy_remaining"),
        ("CRA", "factor_accuracy_remaining"),
    ):
        print(f"  {name:<4} {found[metric].value:.3f}  n = {found[metric].n:,}")
    print(
        f"model    {published if evidence.record.verdict == 'shown' else f'not published: {evidence.record.verdict}'}\n"
        f"total    {seconds:.0f} s\n"
    )
