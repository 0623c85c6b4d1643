"""`pretrain`: a small diffusion model from nothing, trained on a dataset; also how a model is retrained."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from ..shards.dataset import Dataset
from ..shards.errors import shorten
from .config import ModelConfig, PretrainConfig, TrainConfig
from .config.methods import method_kind
from .config.toml import check_ranges, dump_toml
from .errors import ConfigError
from .models.class_names import labels_of
from .models.families import load_model, unet2d
from .models.fitting import fit, names_for
from .models.lineage import Lineage, TrainedOn
from .models.model import Model
from .models.text_to_image.start import plan_start, with_words, write_start
from .ranks import collectives
from .run.checks import check_engine, check_optimizer, check_train
from .run.effects import pretrain_effect_notes
from .run.folder import RunFolder, check_output, is_finished
from .run.loop import Watch
from .run.progress import StepProgress
from .run.provenance import ModelStamp, PretrainInputs, check_inputs
from .run.training import train

START_NAME = "start"  # in the run's folder: the text-to-image pipeline before its UNet's first step


def run_pretrain(config: PretrainConfig, *, watch: Watch | None = None) -> Path:
    """Runs or continues the training; returns the pipeline's folder. All ranks call it."""
    check_ranges(config)
    device = collectives.set_up(config.engine)
    config = collectives.together(lambda: _fitted(config))
    data, model = collectives.together(lambda: plan(config))
    run = RunFolder(config, config.output)
    inputs = PretrainInputs.of(data, by_prompts=config.pipeline == "stable-diffusion")
    run.hold_to(inputs)
    method = method_kind("finetune")("finetune")
    if not run.is_finished:
        begun: dict[str, str] = {}
        if config.pipeline == "stable-diffusion":
            collectives.on_main(lambda: _write_start(config, data, run.path / START_NAME, device))
            model = load_model(ModelConfig(str(run.path / START_NAME)))
            begun = ModelStamp.of(model).hashes()
        if collectives.is_main():
            for note in pretrain_effect_notes(config, on_cuda=collectives.is_on_cuda(config.engine)):
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
            hashes=inputs.hashes() | begun,
            lineage=Lineage(
                classes=names_for(model, data), null_class=model.null_class, trained_on=(TrainedOn.of(data),)
            ),
            device=device,
            watch=watch,
        )
    return run.model_path


def check(config: PretrainConfig) -> tuple[PretrainConfig, Dataset, Model]:
    """The settings with all resolved, the data and a new model.

    Raises ConfigError or DataError where the run would be refused, its device aside; writes nothing.
    """
    check_ranges(config)
    config = _fitted(config)
    check_output(config, config.output)
    data, model = plan(config)
    inputs = PretrainInputs.of(data, by_prompts=config.pipeline == "stable-diffusion")
    check_inputs(Path(config.output), inputs)
    return config, data, model


def dry_run(config: PretrainConfig) -> str:
    """What `--dry-run` prints. Raises ConfigError or DataError where the run would be refused; writes nothing."""
    collectives.check_device(config.engine)
    config, data, model = check(config)
    run = Path(config.output)
    train, num_parameters = config.train, sum(value.numel() for value in model.module.parameters())
    lines = [
        dump_toml(config).rstrip(),
        "",
        f"model       {type(model.module).__name__}, {num_parameters:,} parameters",
        f"data        {len(data):,} samples, {data.image_shape}",
        f"steps       {train.max_train_steps:,} of {train.train_batch_size} samples, "
        f"{train.max_train_steps * train.train_batch_size / len(data):.1f} times through the data",
    ]
    lines += pretrain_effect_notes(config, on_cuda=collectives.is_on_cuda(config.engine))
    if is_finished(run):
        lines.append(f"finished    already: {run / 'model'}; the same command changes nothing")
    return "\n".join(lines)


def _fitted(config: PretrainConfig) -> PretrainConfig:
    """With what depends on the run's length or on the data resolved."""
    config = dataclasses.replace(config, optimizer=config.optimizer.fitted(config.train.max_train_steps))
    if config.pipeline == "stable-diffusion":
        settings = with_words(config.stable_diffusion, Dataset.open(config.data))
        config = dataclasses.replace(config, stable_diffusion=settings)
    return config


def _write_start(config: PretrainConfig, data: Dataset, folder: Path, device: torch.device) -> None:
    settings = config.stable_diffusion
    progress = StepProgress("autoencoder", 0, settings.autoencoder.max_train_steps)
    try:
        write_start(
            settings,
            data,
            folder,
            seed=config.train.seed,
            device=device,
            on_step=lambda step, loss: progress.update(step, {"loss": loss}),
        )
    finally:
        progress.close()


def plan(config: PretrainConfig) -> tuple[Dataset, Model]:
    """The data and a new model; raises ConfigError or DataError for what cannot work."""
    if config.train.layers != TrainConfig().layers:
        raise ConfigError("train.layers: a model that begins from nothing trains whole: leave it out")
    data = Dataset.open(config.data).without_latents()
    shape = data.image_shape
    if shape is None or shape.height != shape.width:
        raise ConfigError(f"data = '{config.data}': pretrain needs square images of one size")
    model = _told_captions(config, data) if config.pipeline == "stable-diffusion" else _told_classes(config, data)
    data = fit(data, model).data
    check_train(config.train, model)
    check_optimizer(config.optimizer, config.train)
    check_engine(config.engine, config.train, model)
    return data, model


def _told_captions(config: PretrainConfig, data: Dataset) -> Model:
    if config.classes:
        raise ConfigError("classes: a model that is told captions has none: leave it out")
    return plan_start(config.stable_diffusion, data, seed=config.train.seed)


def _told_classes(config: PretrainConfig, data: Dataset) -> Model:
    if not data.classes:
        raise ConfigError(
            f"data = '{config.data}' has no classes: pretrain makes class-conditional models, or with captions "
            "pipeline = 'stable-diffusion'"
        )
    names = config.classes or data.classes
    left_out = [data.classes[label] for label in labels_of(data) if data.classes[label] not in names]
    if left_out:
        raise ConfigError(f"classes has no {shorten(left_out)}, which data = '{config.data}' has: name it, too")
    assert data.image_shape is not None
    size, channels = data.image_shape.height, data.image_shape.channels
    torch.manual_seed(config.train.seed)  # the initial weights
    made = unet2d.make(config.unet, image_size=size, channels=channels, num_classes=len(names))
    return dataclasses.replace(made, class_names=(*names, *[None] * config.unet.null_class))
