"""The model card: what the model is, and how to sample it with diffusers alone."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from ..config import MethodConfig, TrainConfig
from .lineage import Lineage
from .model import Model


def write_model_card(
    folder: Path, title: str, model: Model, lineage: Lineage, method: MethodConfig, train: TrainConfig
) -> None:
    """README.md in a pipeline's folder; its code block runs as it stands with the folder as working directory."""
    code = model.example()
    named = [f"{i}: {name}" for i, name in enumerate(lineage.classes) if name is not None]
    if lineage.null_class is not None:
        named.append(f"{lineage.null_class} stands for no class")
    told = f"Classes: {', '.join(named)}." if model.num_classes else f"Told: {model.conditions.kind}."
    done = (
        "Trained with erasediff."
        if not method.needs_forget
        else f"Scrubbed with erasediff: method {method.name}, {train.max_train_steps} steps, seed {train.seed}. "
        "Approximate unlearning is evidence of removal, not proof."
    )
    card = ModelCard(
        f"---\n{ModelCardData(library_name='diffusers', tags=['erasediff', 'machine-unlearning']).to_yaml()}\n---\n\n"
        f"# {title}\n\n{done}\n\n{told}\n\n{_history(lineage)}```python\n{code}```\n"
    )
    card.save(folder / "README.md")


def add_verdict(folder: Path, verdict: str, date: str) -> None:
    """Says in the card what an evaluation found: shown, not shown or failed."""
    path = folder / "README.md"
    card = ModelCard.load(path)
    card.text = (
        f"{card.text.rstrip()}\n\nEvaluated on {date[:10]}: forgetting **{verdict}** (record.json, report.html).\n"
    )
    card.save(path)


def _history(lineage: Lineage) -> str:
    """What erasediff.json says of data, for a person."""
    trained_on = [
        f"{data.name} ({data.num_samples:,} samples, {data.fingerprint[:12]}…)" for data in lineage.trained_on or ()
    ]
    lines = [f"Trained on: {', '.join(trained_on)}."] if trained_on else ["What it was trained on first is not known."]
    for one in lineage.forgotten:
        what = f"{len(one.keys):,} samples" + (f", all of {', '.join(one.classes)}" if one.classes else "")
        what += f", all that were told one of {len(one.prompts):,} prompts" if one.prompts else ""
        lines.append(f"Forgotten: {what} ({one}{f', {one.date}' if one.date else ''}).")
    return "\n\n".join([*lines, "Keys, hashes and names for programs are in erasediff.json."]) + "\n\n"
