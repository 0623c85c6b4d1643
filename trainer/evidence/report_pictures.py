"""The report's pictures: a strip of each class for each model. What nobody needs to see is written blurred."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..models.pictures import to_grid
from .bench import Bench, Samples
from .detector import as_pictures
from .images import Images
from .report_page import section

_IMAGES_A_CLASS = 4
MAX_CLASSES = 20
_MAX_PIXELS = 64


def grids(samples: Mapping[str, Samples], bench: Bench) -> str:
    """A row for each class, the forgotten first; a strip of images for each model, and real ones."""
    columns: dict[str, Sequence[Images]] = {
        name: (shown.remain, shown.forget, shown.kept) for name, shown in samples.items()
    }
    # where single samples are forgotten, these are what must not be shown
    columns["real"] = (bench.real_remain, bench.real_forget) if bench.forgets_classes else (bench.real_remain,)
    gone = bench.forget_labels if bench.forgets_classes else []
    labels = [*gone, *(label for label in bench.remain_labels if label not in gone)][:MAX_CLASSES]
    num_blurred = 0
    cells = ["<b></b>", *(f"<b>{escape(name)}</b>" for name in columns)]
    for label in [*labels, -1] if bench.kept_conditions else labels:
        name = bench.classifier.card.classes[label] if label >= 0 else "kept prompts"
        mark = ' class="gone"' if label in gone else ""
        cells.append(f'<span class="label{" gone" if label in gone else ""}">{escape(name)}</span>')
        for heading, sets in columns.items():
            strip, num_hidden = _strip(label, sets, bench, is_forgotten=label in gone)
            num_blurred += num_hidden
            alt = escape(f"{heading}: {name}", quote=True)
            cells.append(f'<img{mark} alt="{alt}" src="{strip}">' if strip else "<span></span>")
    left_out = len({*gone, *bench.remain_labels}) - len(labels)
    note = "The same noise for every model, column by column." + (f" {left_out} more classes." if left_out else "")
    note += f" {num_blurred} pictures are blurred." if num_blurred else ""
    style = f"grid-template-columns: auto repeat({len(columns)}, minmax(0, 1fr))"
    return section("What the models make", f'<div class="samples" style="{style}">{"".join(cells)}</div>', note)


def contact_sheet(samples: Samples, bench: Bench) -> Image.Image:
    """One model's first images, a row for each class, the forgotten first; blurred like the report's."""
    sets = (samples.remain, samples.forget, samples.kept)
    gone = bench.forget_labels if bench.forgets_classes else []
    labels = [*gone, *(label for label in bench.remain_labels if label not in gone)][:MAX_CLASSES]
    strips = [_shown(label, sets, bench, is_forgotten=label in gone) for label in labels]
    return to_grid(torch.cat([images for images, _ in strips if images is not None]), _IMAGES_A_CLASS)


def _strip(label: int, sets: Sequence[Images], bench: Bench, *, is_forgotten: bool) -> tuple[str, int]:
    """(this class's first images as a data URL, how many of them are blurred); empty: there are none."""
    shown, num_hidden = _shown(label, sets, bench, is_forgotten=is_forgotten)
    if shown is None:
        return "", 0
    buffer = io.BytesIO()
    to_grid(shown, _IMAGES_A_CLASS).save(buffer, format="PNG", optimize=True)
    return data_url(buffer.getvalue()), num_hidden


def data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _shown(label: int, sets: Sequence[Images], bench: Bench, *, is_forgotten: bool) -> tuple[Tensor | None, int]:
    """(this class's first images, [4, C, H, W], how many of them are blurred); None: there are none."""
    for images in sets:
        rows = (images.labels == label).nonzero().squeeze(1)[:_IMAGES_A_CLASS]
        if len(rows):
            shown = images.images[rows]
            hidden = _hidden(shown, bench, is_forgotten=is_forgotten)
            if shown.shape[-1] > _MAX_PIXELS:
                shown = F.interpolate(shown, _MAX_PIXELS, mode="area")
            shown = torch.where(hidden[:, None, None, None], _blurred(shown), shown)
            missing = _IMAGES_A_CLASS - len(rows)
            shown = torch.cat([shown, -torch.ones_like(shown[:1]).expand(missing, -1, -1, -1)])
            # enlarged before they are joined: the gap stays a thin line
            return F.interpolate(shown, scale_factor=max(1, 32 // shown.shape[-1]), mode="nearest"), int(hidden.sum())
    return None, 0


def _hidden(images: Tensor, bench: Bench, *, is_forgotten: bool) -> Tensor:
    """Which of images [N, C, H, W] are not for everyone's eyes: bool [N]."""
    hidden = torch.full((len(images),), is_forgotten and bench.config.blur == "forgotten")
    if bench.config.blur != "nothing" and bench.detector is not None:
        lowest = min(bench.config.detector_thresholds)
        found = bench.detector(as_pictures(images))
        hidden |= torch.tensor([any(score >= lowest for _, score in boxes) for boxes in found])
    return hidden


def _blurred(images: Tensor) -> Tensor:
    """Of each picture no more is left than the colours of a few tiles."""
    num_tiles = max(1, min(4, images.shape[-1] // 8))
    tiles = F.interpolate(images, num_tiles, mode="area")
    return F.interpolate(tiles, images.shape[-2:], mode="bilinear")
