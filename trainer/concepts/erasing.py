"""What makes an erasure of words one of samples: those that the model draws for them."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from ...shards.requests.select import select
from ..config import ConceptConfig, EraseConfig, GenerateConfig, TargetedConfig
from ..config.toml import check_ranges
from ..errors import ConfigError
from ..evidence.classifier import Classifier, load_classifier
from ..evidence.copies import CONCEPT_NAME
from ..evidence.options import check_judge
from ..evidence.prompt_file import has_phrasings
from ..evidence.thresholds import default_thresholds
from ..models.fitting import fit
from ..scrubbing import check_settings
from .generate import DATA_NAME, PROMPTS_NAME, SPLIT_NAME, as_request, check, stand_in
from .request import ConceptRequest, is_concept_request, read_concept_request

DRAWN = (
    "data        drawn by the unscrubbed model from the request's prompts: to a judge trained on them a word means "
    "what that model draws, and the Fréchet distance is to that model's pictures, so it has no default threshold"
)
# what default thresholds are on: not the distance to the real images, which the unscrubbed model drew
_LIMITED = ("p_psi", "p_psi_worst_class", "accuracy_remaining", "accuracy_worst_class", "non_finite_samples")


@dataclass(frozen=True)
class WordsErasure:
    """An `EraseConfig` whose request is words."""

    config: EraseConfig
    request: ConceptRequest

    @classmethod
    def of(cls, config: EraseConfig) -> WordsErasure:
        """Raises ConfigError for settings that go with a request of samples alone."""
        check_ranges(config)
        request, judge = read_concept_request(Path(config.request)), config.judge
        if config.data is not None:
            raise ConfigError(
                f"data = '{config.data}': '{config.request}' forgets words, for which the model draws the data itself: "
                "leave it out"
            )
        if judge.with_retrained or judge.retrained is not None:
            raise ConfigError(
                "judge.retrained: of a request of words there are no training data to leave out, so no model is "
                "retrained: leave it out"
            )
        if request.anchors and not isinstance(config.method, TargetedConfig):
            raise ConfigError(f"{request.name}: anchor: method.name = {config.method.name!r} takes none: leave it out")
        if request.anchors and config.method.target_kind().weights != "teacher":  # pyright: ignore[reportAttributeAccessIssue]
            target = config.method.target  # pyright: ignore[reportAttributeAccessIssue]
            raise ConfigError(f"{request.name}: anchor: method.target = {target!r} takes none: leave it out")
        if request.anchors and (config.method.anchors or config.method.concept):  # pyright: ignore[reportAttributeAccessIssue]
            raise ConfigError(f"{request.name}: anchor, and method.anchor or method.concept: give one of them")
        return cls(config, request)

    @property
    def drawing(self) -> ConceptConfig:
        """What `concept generate` is asked for."""
        config = self.config
        return ConceptConfig(
            request=config.request,
            model=config.model,
            output=str(Path(config.output) / CONCEPT_NAME),
            classes=() if config.judge.classifier is None else self._judge.card.classes,
            generate=config.generate,
            device=config.engine.device,
            num_threads=config.engine.num_threads,
        )

    @functools.cached_property
    def _judge(self) -> Classifier:
        return load_classifier(Path(str(self.config.judge.classifier)), "judge.classifier")

    @property
    def is_drawn(self) -> bool:
        return (Path(self.drawing.output) / SPLIT_NAME).exists()

    def check(self) -> None:
        """Raises ConfigError for what is known to be wrong before anything is drawn; writes nothing."""
        judge = self.config.judge
        if judge.classifier is not None:
            self.request.classes(self._judge.card.classes, f"judge.classifier = '{judge.classifier}'")
        request, model = check(self.drawing)
        asked = request.prompts(request.phrasings)
        forget, remain = ([one.prompt for one in asked if one.is_forgotten == side] for side in (True, False))
        config = self.on_samples()
        check_settings(config, model, forget, remain)
        with TemporaryDirectory() as folder:
            given = stand_in(request, self.drawing, model, Path(folder) / "data")
            asking = config.judge
            if judge.prompts is None:
                request.write_prompts(Path(folder) / PROMPTS_NAME)
                asking = dataclasses.replace(asking, prompts=str(Path(folder) / PROMPTS_NAME))
            chosen = select(given, as_request(request))
            check_judge(asking, model, fit(given, model).data, chosen, ~chosen, config.request)

    def on_samples(self) -> EraseConfig:
        """The same erasure, of the samples that are drawn."""
        config, request = self.config, self.request
        method, judge = config.method, config.judge
        if request.anchors == ("",):
            method = dataclasses.replace(method, anchor="")  # pyright: ignore[reportCallIssue]
        elif request.anchors:
            method = dataclasses.replace(method, anchor=request.anchors, concept=request.words)  # pyright: ignore[reportCallIssue]
        elif method.sought is not None and not method.sought.words:
            method = dataclasses.replace(method, concept=request.words)  # pyright: ignore[reportCallIssue]
        if judge.prompts is None:
            judge = dataclasses.replace(judge, prompts=str(Path(self.drawing.output) / PROMPTS_NAME))
        if not judge.thresholds:
            factor = ("factor_accuracy_remaining", "factor_accuracy_forgotten") if judge.factor is not None else ()
            asked = config.judge.prompts
            phrasing = ("p_psi_worst_phrasing",) if asked is None or has_phrasings(asked) else ()
            limits = default_thresholds([*_LIMITED, *phrasing, *factor], forgets_classes=True, with_retrained=False)
            judge = dataclasses.replace(judge, thresholds=tuple(limits))
        data = str(Path(self.drawing.output) / DATA_NAME)
        return dataclasses.replace(config, data=data, method=method, judge=judge)

    def describe(self) -> list[str]:
        """What will be drawn, in lines."""
        return self.request.describe(self.config.generate)


def drawing_notes(config: EraseConfig) -> list[str]:
    """A line where settings of what is drawn are given, and nothing is."""
    if config.generate == GenerateConfig() or is_concept_request(Path(config.request)):
        return []
    return [f"no effect   generate: request = '{config.request}' names samples, and none are drawn"]
