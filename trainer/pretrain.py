"""`pretrain`: a class-conditional diffusion model from nothing, trained on a dataset; also how a model is retrained."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from ..shards.dataset import Dataset
from ..shards.errors import shorten
from .config import FinetuneConfig, PretrainConfig
from .errors import ConfigError
from .models import unet2d as models
from .models.class_names import labels_of
from .models.fitting import fit, names_for
from .models.lineage import Lineage, TrainedOn
from .ranks import collectives
from .run.checks import check_engine, check_optimizer, check_train
from .run.effects import effect_notes, situation
from .run.folder import RunFolder
from .run.loop import Watch
from .run.provenance import DataStamp, PretrainInputs
from .run.training import train


def run_pretrain(config: PretrainConfig, *, watch: Watch | None = None) -> Path:
    """Runs or continues the training; returns the pipeline's folder. All ranks call it."""
    config = dataclasses.replace(config, optimizer=config.optimizer.fitted(config.train.max_train_steps))
    device = collectives.set_up(config.engine)
    data, model = collectives.together(lambda: _plan(config))
    run = RunFolder(config, config.output)
    inputs = PretrainInputs(DataStamp.of(data))
    run.hold_to(inputs)
    if not run.is_finished:
        if collectives.is_main():
            for note in effect_notes(situation(FinetuneConfig(), config)):
                print(note)
        train(
            "pretrain",
            model,
            FinetuneConfig(),
            config.train,
            config.optimizer,
            config.engine,
            remain=data,
            forget=None,
            run=run,
            hashes=inputs.hashes(),
            lineage=Lineage(
                classes=names_for(model, data), null_class=model.null_class, trained_on=(TrainedOn.of(data),)
            ),
            device=device,
            watch=watch,
        )
    return run.model_path


def _plan(config: PretrainConfig) -> tuple[Dataset, models.DiffusionModel]:
    """The data and a new model; raises ConfigError or DataError for what cannot work."""
    data = Dataset.open(config.data)
    shape = data.image_shape
    if shape is None or shape.height != shape.width:
        raise ConfigError(f"data = '{config.data}': pretrain needs square images of one size")
    if not data.classes:
        raise ConfigError(f"data = '{config.data}' has no classes: pretrain makes class-conditional models")
    torch.manual_seed(config.train.seed)  # the initial weights
    names = config.classes or data.classes
    left_out = [data.classes[label] for label in labels_of(data) if data.classes[label] not in names]
    if left_out:
        raise ConfigError(f"classes has no {shorten(left_out)}, which data = '{config.data}' has: name it, too")
    made = models.make(config.unet, image_size=shape.height, channels=shape.channels, num_classes=len(names))
    model = dataclasses.replace(made, class_names=(*names, *[None] * config.unet.null_class))
    data = fit(data, model).data
    check_train(config.train, model)
    check_optimizer(config.optimizer, config.train)
    check_engine(config.engine, model)
    return data, model
