"""CLIP score: how much of its prompt a picture shows, by a CLIP model that the judge names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ..errors import ConfigError
from ..models.pictures import to_pixels
from ..run.provenance import weights_sha256

_CHUNK = 64


@dataclass(frozen=True)
class ClipScorer:
    """A whole CLIP model with its tokenizer and its way to prepare pictures."""

    name: str
    sha256: str
    """Over its weights' hash and every .json and .txt file beside them: tokenizer and preparation change figures."""
    model: nn.Module
    tokenizer: Any
    processor: Any

    @torch.no_grad()
    def __call__(self, images_NCHW: Tensor, prompts: Sequence[str], device: torch.device) -> Tensor:
        """100 · max(cos(picture, prompt), 0) of each, fp64 [N] on the CPU (Hessel et al. 2021, as torchmetrics does).

        images: in [-1, 1], drawn as pictures first. A prompt that is longer than CLIP takes is cut.
        """
        self.model.to(device)
        scores = [torch.zeros(0, dtype=torch.float64)]
        for start in range(0, len(prompts), _CHUNK):
            pixels = to_pixels(images_NCHW[start : start + _CHUNK])
            colour = pixels.repeat(3 // pixels.shape[-1], -1)
            shown = self.processor([*colour], input_data_format="channels_last", return_tensors="pt")
            told = self.tokenizer(
                [*prompts[start : start + _CHUNK]], padding=True, truncation=True, return_tensors="pt"
            )
            found = self.model(
                input_ids=told.input_ids.to(device),
                attention_mask=told.attention_mask.to(device),
                pixel_values=shown.pixel_values.to(device),
            )
            cosines = nn.functional.cosine_similarity(found.image_embeds.double(), found.text_embeds.double())
            scores.append(100 * cosines.clamp(min=0).cpu())
        return torch.cat(scores)


def load_clip(option: str) -> ClipScorer:
    """What `judge.clip` names; raises ConfigError for anything but a whole CLIP model in safetensors."""
    folder, where = Path(option), f"judge.clip = '{option}'"
    if not (folder / "config.json").exists():
        raise ConfigError(f"{where}: name the folder of a CLIP model, as `save_pretrained` writes it")
    if not any(folder.glob("*.safetensors")):
        raise ConfigError(f"{where} holds no .safetensors weights: pickled ones are not read")
    # older transformers write the first, newer ones the second
    if not any((folder / name).exists() for name in ("preprocessor_config.json", "processor_config.json")):
        raise ConfigError(f"{where} has no processor: save the model's there, too")
    import transformers

    transformers.utils.logging.disable_progress_bar()
    # the one that needs no torchvision; older transformers call it by the plain name
    name = "CLIPImageProcessorPil" if hasattr(transformers, "CLIPImageProcessorPil") else "CLIPImageProcessor"
    processors: Any = getattr(transformers, name)
    try:
        kind = json.loads((folder / "config.json").read_text()).get("model_type")
        if kind != "clip":
            raise ConfigError(f"{where} is a model of type {kind!r}, not CLIP with its text encoder")
        loaded: Any = transformers.CLIPModel.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, dtype=torch.float32
        )
        model, found = loaded
        tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
        processor = processors.from_pretrained(folder)
    except (AttributeError, OSError, RuntimeError, ValueError, SafetensorError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{where} cannot be loaded: {str(error).splitlines()[0]}") from None
    if missing := sorted(found["missing_keys"]):
        # transformers would leave them random
        raise ConfigError(f"{where} has no weights for {missing[0]}: name a whole CLIP model")
    tokenizer.model_max_length = model.config.text_config.max_position_embeddings
    digest = hashlib.sha256(weights_sha256(model.state_dict()).encode())
    for path in sorted([*folder.glob("*.json"), *folder.glob("*.txt")]):
        digest.update(path.name.encode() + path.read_bytes())
    return ClipScorer(f"clip-{folder.resolve().name}", digest.hexdigest(), model.eval(), tokenizer, processor)


def clip_sha256(option: str | None) -> str | None:
    """Of what `judge.clip` names as it is now; None for nothing."""
    return None if option is None else load_clip(option).sha256
