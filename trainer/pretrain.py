"""`pretrain`: a class-conditional diffusion model from nothing, trained on a dataset; also how a model is retrained."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from ..shards.dataset import Dataset
from ..shards.errors import shorten
from .config import PretrainConfig
from .config.methods import method_kind
from .config.toml import check_ranges
from .errors import ConfigError
from .models.class_names import labels_of
from .models.families import unet2d
from .models.fitting import fit, names_for
from .models.lineage import Lineage, TrainedOn
from .models.model import Model
from .ranks import collectives
from .run.checks import check_engine, check_optimizer, check_train
from .run.effects import effect_notes
from .run.folder import RunFolder, check_output
from .run.loop import Watch
from .run.provenance import DataStamp, PretrainInputs, check_inputs
from .run.training import train


def run_pretrain(config: PretrainConfig, *, watch: Watch | None = None) -> Path:
    """Runs or continues the training; returns the pipeline's folder. All ranks call it."""
    config = _fitted(config)
    device = collectives.set_up(config.engine)
    data, model = collectives.together(lambda: plan(config))
    run = RunFolder(config, config.output)
    inputs = PretrainInputs(DataStamp.of(data))
    run.hold_to(inputs)
    method = method_kind("finetune")("finetune")
    if not run.is_finished:
        if collectives.is_main():
            on_cuda = collectives.is_on_cuda(config.engine)
            for note in effect_notes(method, config.train, config.optimizer, config.engine, on_cuda=on_cuda):
                print(note)
        train(
            "pretrain",
            model,
            method,
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


def check(config: PretrainConfig) -> None:
    """Raises ConfigError or DataError where the run would be refused, its device aside; writes nothing."""
    config = _fitted(config)
    check_output(config, config.output)
    data, _ = plan(config)
    check_inputs(Path(config.output), PretrainInputs(DataStamp.of(data)))


def _fitted(config: PretrainConfig) -> PretrainConfig:
    check_ranges(config)
    return dataclasses.replace(config, optimizer=config.optimizer.fitted(config.train.max_train_steps))


def plan(config: PretrainConfig) -> tuple[Dataset, Model]:
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
    made = unet2d.make(config.unet, image_size=shape.height, channels=shape.channels, num_classes=len(names))
    model = dataclasses.replace(made, class_names=(*names, *[None] * config.unet.null_class))
    data = fit(data, model).data
    check_train(config.train, model)
    check_optimizer(config.optimizer, config.train)
    check_engine(config.engine, config.train, model)
    return data, model
