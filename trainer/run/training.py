"""From a model, a method and data to a trained pipeline in a run folder: what `scrub` and `pretrain` share."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from ...shards.dataset import Dataset
from ...shards.streaming.stream import Stream
from ..config import EngineConfig, MethodConfig, OptimizerConfig, TrainConfig
from ..engine.sharded_model import ShardedModel
from ..errors import Interrupted, TrainingError
from ..methods import Method
from ..models.card import TRAINED, scrubbed, write_model_card
from ..models.conditions import distinct
from ..models.layers import train_only
from ..models.lineage import Lineage, write_lineage
from ..models.model import Model
from ..objectives.objective import objective_of
from ..objectives.targets import Samples
from ..ranks import collectives, meeting
from ..ranks.watchdog import Watchdog
from .attempts import Attempt
from .checkpoint import Checkpoints
from .checks import check_kernels
from .folder import RunFolder
from .loop import Loop, Watch
from .reading import Streams
from .reporting import Reports
from .watching import SampleWatch

DEFAULT_LABEL_DROP = 0.1


def train(
    name: str,
    model: Model,
    method: MethodConfig,
    config: TrainConfig,
    optimizer: OptimizerConfig,
    engine: EngineConfig,
    *,
    remain: Dataset,
    forget: Dataset | None,
    run: RunFolder,
    hashes: dict[str, str],
    lineage: Lineage,
    device: torch.device,
    watch: Watch | None = None,
) -> None:
    """Trains to the last step and publishes the pipeline as the run's model/. All ranks call it.

    `hashes` name the base model's weights and the data: a checkpoint made with others is refused. `lineage` is what the
    pipeline's folder says of it.
    """
    collectives.together(lambda: check_kernels(device))
    label_drop = config.label_drop
    if label_drop is None:
        label_drop = DEFAULT_LABEL_DROP if model.conditions.has_null else 0.0
    for part in model.frozen_parts.values():
        part.to(device)
    objective = objective_of(model).Objective(
        model,
        device,
        seed=config.seed,
        label_drop=label_drop,
        forget_label_drop=config.forget_label_drop,
        method=method,
        others=distinct(model.conditions.of_dataset(remain)),
        samples=None if forget is None else Samples(forget, remain, run.path),
        forward_batch_size=engine.forward_batch_size,
    )
    train_only(model.module, config.layers, "train.layers")
    sharded = ShardedModel(
        model.module,
        engine,
        optimizer,
        device,
        max_train_steps=config.max_train_steps,
        keep_original=method.keeps_original,
        fresh=lambda: model.fresh_weights(config.seed),
        # as while a model is made: a scrub's ∇g and λ_t are of the model that is sampled
        dropout_seed=config.seed if forget is None else None,
    )

    def stream(dataset: Dataset) -> Stream:
        return Stream(
            dataset,
            seed=config.seed,
            batch_size=config.train_batch_size,
            image_size=model.image_size,
            channels=model.channels,
            dtype="uint8",  # scaled on the device
            latents=dataset.manifest.latents is not None,
            on_bad_sample="skip",
        )

    read = [remain, forget] if forget is not None and method.needs_forget else [remain]
    encodes = model.encoder_sha256 is not None and any(data.manifest.latents is None for data in read)
    streams = Streams(stream(remain), stream(forget) if forget in read else None, encodes)
    chosen: Method = method.make(objective)
    attempt = Attempt.create(run.path, run.free_settings | {"engine.device": device.type})
    checkpoints = Checkpoints(attempt, config.checkpoints_total_limit, run.identity.with_hashes(hashes))
    watchdog = Watchdog(attempt.folder, engine.step_timeout_seconds)
    reports = Reports(config.report_to, run.path, run.identity.values)
    if config.sample_every:
        told = [[] if data is None else distinct(model.conditions.of_dataset(data)) for data in (forget, remain)]
        samples = SampleWatch(
            model,
            run.path / "samples",
            *told,
            every=config.sample_every,
            reports=reports,
            max_batch_size=engine.forward_batch_size,
        )
        watch = samples if watch is None else _both(watch, samples)
    loop = Loop(
        name,
        sharded,
        chosen,
        objective,
        streams,
        config,
        optimizer,
        attempt,
        checkpoints,
        watchdog,
        watch,
        reports,
        # a model made from nothing has nothing to lose
        max_loss_r_ratio=None if forget is None else config.max_loss_r_ratio,
    )
    try:
        # until the model is there: a stop in between would throw steps away
        with meeting.deferred(), collectives.naming_lost_ranks(), watchdog.watching():
            loop.run()
            weights = sharded.gather(sharded.optimizer.ema or sharded.theta)
            collectives.on_main(lambda: _check_finite(weights))

            def write(folder: Path) -> None:
                model.save(weights, folder)
                write_lineage(lineage, folder)
                made = TRAINED if forget is None else scrubbed(method.name, config.max_train_steps, config.seed, None)
                write_model_card(folder, run.path.resolve().name, model, lineage, made)

            run.publish_model(write, attempt)
    except (Exception, Interrupted) as error:
        with suppress(OSError):  # a full disk is what ended it, perhaps
            attempt.end(str(error))
        raise
    finally:
        sharded.close()


def _both(one: Watch, other: Watch) -> Watch:
    def watch(step: int, model: ShardedModel) -> None:
        one(step, model)
        other(step, model)

    return watch


def _check_finite(weights: dict[str, Tensor]) -> None:
    broken = next((name for name, value in weights.items() if not value.isfinite().all()), None)
    if broken is not None:
        raise TrainingError(f"the last step left {broken} with NaN or Inf: no model is written")
