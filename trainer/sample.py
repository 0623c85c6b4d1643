"""`sample`: a grid of images from a model."""

from __future__ import annotations

from pathlib import Path

import torch

from .config import EngineConfig, SampleConfig
from .config.toml import check_ranges
from .errors import ConfigError, TrainingError
from .files import naming
from .models.conditions import Condition
from .models.families import load_model
from .models.model import Model
from .models.pictures import to_grid, with_names
from .models.sampling import check_sampling, sample
from .ranks import collectives

# Pillow warns of larger ones, as of a trap
MAX_PIXELS = 89_478_485


def run_sample(config: SampleConfig) -> Path:
    """Writes a grid of samples, a row for each condition; returns the file. All ranks call it."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device = 'cuda', but torch sees no CUDA device: use device = 'cpu'")
    device = collectives.set_up(EngineConfig(device=config.device))
    model, rows = collectives.together(lambda: check(config))
    wanted = [row for row in rows for _ in range(config.num_images)]
    images = sample(model, wanted, config.sampling, device=device)
    if not images.isfinite().all():
        raise TrainingError(f"{config.model.path}: draws NaN or infinity: its weights are broken")
    output = Path(config.output)
    names = [model.name_of(row) for row in rows]
    collectives.on_main(lambda: _write(images, names, config, output))
    return output


def _write(images: torch.Tensor, names: list[str], config: SampleConfig, output: Path) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    with naming(output):
        with_names(to_grid(images, config.num_images, config.scale), names).save(output)


def check(config: SampleConfig) -> tuple[Model, list[Condition]]:
    """The model, and what each row is told. Raises ConfigError for what cannot work, writes nothing."""
    check_ranges(config)
    config.check_output()
    model = load_model(config.model)
    conditions = model.conditions
    numbers = {name: label for label, name in enumerate(model.class_names) if name is not None}
    rows = [conditions.parse(numbers.get(str(given), given), "labels") for given in config.labels] or conditions.known()
    if model.null_class is not None and model.null_class in rows:
        raise ConfigError(f"labels: {model.null_class} is no class of the model: it stands for none")
    check_sampling(config.sampling, model)
    side = model.image_size * config.scale
    if (num_pixels := len(rows) * config.num_images * side**2) > MAX_PIXELS:
        raise ConfigError(
            f"scale = {config.scale}, num_images = {config.num_images}: a picture of {len(rows)} rows would have "
            f"{num_pixels:,} pixels, and {MAX_PIXELS:,} is the most: lower one of them"
        )
    return model, rows
