"""The model card: what the model is, and how to sample it with diffusers alone."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from ..config import FinetuneConfig, MethodConfig, TrainConfig
from .lineage import Lineage
from .unet2d import DiffusionModel

_CONDITIONAL = """\
import torch
from diffusers import DDIMScheduler, DDPMPipeline

pipeline = DDPMPipeline.from_pretrained(".")  # this folder
unet, scheduler = pipeline.unet, DDIMScheduler.from_config(pipeline.scheduler.config)
scheduler.set_timesteps({steps})

label, guidance_scale, generator = {label}, {guidance_scale}, torch.manual_seed(0)
x = torch.randn(16, {channels}, {size}, {size}, generator=generator)
labels = torch.full((16,), label)
with torch.no_grad():
    for t in scheduler.timesteps:
        epsilon = unet(x, t, class_labels=labels).sample
{guidance}        x = scheduler.step(epsilon, t, x).prev_sample
images = pipeline.numpy_to_pil((x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy())
"""

_GUIDANCE = """\
        # classifier-free guidance: ε = ε_∅ + w (ε_c - ε_∅); class {null_class} stands for no class
        epsilon_null = unet(x, t, class_labels=torch.full((16,), {null_class})).sample
        epsilon = epsilon_null + guidance_scale * (epsilon - epsilon_null)
"""

_UNCONDITIONAL = """\
import torch
from diffusers import DDPMPipeline

pipeline = DDPMPipeline.from_pretrained(".")  # this folder
images = pipeline(batch_size=16, generator=torch.manual_seed(0), num_inference_steps={steps}).images
"""


def write_model_card(
    folder: Path, title: str, model: DiffusionModel, lineage: Lineage, method: MethodConfig, train: TrainConfig
) -> None:
    """README.md in a pipeline's folder; its code block runs as it stands with the folder as working directory."""
    num_timesteps = model.scheduler.config["num_train_timesteps"]
    if model.num_classes:
        has_null = model.null_class is not None
        code = _CONDITIONAL.format(
            label=0 if model.null_class != 0 else 1,
            channels=model.channels,
            size=model.image_size,
            steps=min(25, num_timesteps),
            guidance_scale=1.5 if has_null else 1.0,
            guidance=_GUIDANCE.format(null_class=model.null_class) if has_null else "",
        )
    else:
        code = _UNCONDITIONAL.format(steps=min(100, num_timesteps))
    named = [f"{i}: {name}" for i, name in enumerate(lineage.classes) if name is not None]
    if lineage.null_class is not None:
        named.append(f"{lineage.null_class} stands for no class")
    names = ", ".join(named) if model.num_classes else "unconditional"
    done = (
        "Trained with erasediff."
        if isinstance(method, FinetuneConfig)
        else f"Scrubbed with erasediff: method {method.name}, {train.max_train_steps} steps, seed {train.seed}. "
        "Approximate unlearning is evidence of removal, not proof."
    )
    card = ModelCard(
        f"---\n{ModelCardData(library_name='diffusers', tags=['erasediff', 'machine-unlearning']).to_yaml()}\n---\n\n"
        f"# {title}\n\n{done}\n\nClasses: {names}.\n\n{_history(lineage)}```python\n{code}```\n"
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
        lines.append(f"Forgotten: {what} ({one}{f', {one.date}' if one.date else ''}).")
    return "\n\n".join([*lines, "Keys, hashes and names for programs are in erasediff.json."]) + "\n\n"
