"""The model card: what the model is, what an evaluation found, and how to sample it with diffusers alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from .lineage import Lineage
from .model import Model

CARD_NAME = "README.md"
TRAINED = "Trained with erasediff."


@dataclass(frozen=True)
class Found:
    """What an evaluation found of a model, for its card."""

    verdict: str
    """shown, not shown or failed."""
    date: str
    evidence: str
    """The file that says more."""

    def __str__(self) -> str:
        return f"Evaluated on {self.date[:10]}: forgetting **{self.verdict}** ({self.evidence})."


def scrubbed(method: str, num_steps: int, seed: int, found: Found | None) -> str:
    """Of a model that a scrub made: what it may call itself. found: None before an evaluation."""
    how = f"method {method}, {num_steps} steps, seed {seed}"
    if found is None:
        return f"Made by a scrub with erasediff: {how}. Not evaluated: whether it has forgotten is not known."
    if found.verdict == "failed":
        return (
            f"**FAILED**: this is no scrubbed model. A scrub with erasediff ({how}) was to make it forget, and it is "
            f"out of a limit. {found}"
        )
    return f"Scrubbed with erasediff: {how}. {found} Approximate unlearning is evidence of removal, not proof."


def retrained(found: Found) -> str:
    """Of one that is published in a scrubbed model's place."""
    return f"Retrained with erasediff from nothing, without what is forgotten below. {found}"


def write_model_card(folder: Path, title: str, model: Model, lineage: Lineage, made: str) -> None:
    """The card in a pipeline's folder; its code block runs as it stands with the folder as working directory.

    made: by what, in sentences.
    """
    model_card(title, model, lineage, made).save(folder / CARD_NAME)


def model_card(title: str, model: Model, lineage: Lineage, made: str) -> ModelCard:
    """The same, not written."""
    code = model.example()
    named = [f"{i}: {name}" for i, name in enumerate(lineage.classes) if name is not None]
    if lineage.null_class is not None:
        named.append(f"{lineage.null_class} stands for no class")
    told = f"Classes: {', '.join(named)}." if model.num_classes else f"Told: {model.conditions.kind}."
    return ModelCard(
        f"---\n{ModelCardData(library_name='diffusers', tags=['erasediff', 'machine-unlearning']).to_yaml()}\n---\n\n"
        f"# {title}\n\n{made}\n\n{told}\n\n{_history(lineage)}```python\n{code}```\n"
    )


def _history(lineage: Lineage) -> str:
    """What erasediff.json says of data, for a person."""
    trained_on = [
        f"{data.name} ({data.num_samples:,} samples, {data.fingerprint[:12]}…)" for data in lineage.trained_on or ()
    ]
    lines = [f"Trained on: {', '.join(trained_on)}."] if trained_on else ["What it was trained on first is not known."]
    for one in lineage.forgotten:
        what = f"{len(one.keys):,} samples" + (f", all of {', '.join(one.classes)}" if one.classes else "")
        what += f", all that were told one of {len(one.prompts):,} prompts" if one.prompts else ""
        lines.append(f"Asked to forget: {what} ({one}{f', {one.date}' if one.date else ''}).")
    return "\n\n".join([*lines, "Keys, hashes and names for programs are in erasediff.json."]) + "\n\n"
