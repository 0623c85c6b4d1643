"""`scrub`: a trained model, D_f and D_r in; the model without D_f's influence out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from diffusers import DiffusionPipeline

from ..shards.dataset import Dataset, check_disjoint
from ..shards.errors import shorten
from .config import (
    LATER,
    EngineConfig,
    EraseConfig,
    MethodConfig,
    ModelConfig,
    OptimizerConfig,
    ScrubConfig,
    TrainConfig,
)
from .config.methods import default_method
from .config.toml import check_ranges, dump_toml
from .errors import ConfigError
from .models.class_names import labels_of
from .models.conditions import Condition, distinct, prompts_among
from .models.families import load_model
from .models.fitting import Fitted, data_notes, fit, names_for, names_notes, null_class_note
from .models.given import save_once
from .models.layers import chosen
from .models.lineage import (
    Forgotten,
    Lineage,
    TrainedOn,
    describe_forgotten,
    forgotten_rows,
)
from .models.model import Model
from .ranks import collectives
from .run.checks import check_conditions, check_engine, check_optimizer, check_train
from .run.effects import again_notes, effect_notes, size_notes
from .run.folder import RunFolder, check_output, is_finished
from .run.loop import Watch
from .run.provenance import Inputs, check_inputs
from .run.training import train as run_training


def scrub(
    model: str | Path | DiffusionPipeline,
    *,
    forget: str | Path,
    remain: str | Path,
    output: str | Path,
    null_class: int | None = None,
    classes: Sequence[str] = (),
    convert_images: bool = False,
    caption: str | None = None,
    truncate_prompts: bool = False,
    image_size: int | None = None,
    read_latents: bool = True,
    variant: str | None = None,
    method: MethodConfig | None = None,
    train: TrainConfig | None = None,
    optimizer: OptimizerConfig | None = None,
    engine: EngineConfig | None = None,
) -> DiffusionPipeline:
    """Erases the forget set's influence from `model` and returns the scrubbed pipeline.

    model: a pipeline folder, a Hub id, or a loaded pipeline (it is saved beside the run folder, as <output>-base, and
    not changed).
    forget, remain: dataset folders, as `erasediff shards split` makes them. output: the run folder; the same call
    again continues an interrupted run, or returns the finished one's pipeline. The rest: see the config classes, those
    up to variant ModelConfig.

    Raises ConfigError or DataError for what cannot work, before anything is written, and TrainingError for a run that
    cannot go on. Under a launcher with several processes, all of them call it.
    """
    output = Path(output)
    if isinstance(model, DiffusionPipeline):
        model = _save_given(model, output.with_name(output.name + "-base"), engine or EngineConfig())
    config = ScrubConfig(
        model=ModelConfig(
            str(model),
            null_class=null_class,
            classes=tuple(classes),
            convert_images=convert_images,
            caption=caption,
            truncate_prompts=truncate_prompts,
            image_size=image_size,
            read_latents=read_latents,
            variant=variant,
        ),
        forget=str(forget),
        remain=str(remain),
        output=str(output),
        method=method or default_method(),
        train=train or LATER,
        optimizer=optimizer or LATER,
        engine=engine or EngineConfig(),
    )
    return DiffusionPipeline.from_pretrained(run_scrub(config), low_cpu_mem_usage=False)


def _save_given(pipeline: DiffusionPipeline, folder: Path, engine: EngineConfig) -> Path:
    """A loaded pipeline as a folder beside the run; there already, with the same weights, when a run is continued."""
    collectives.set_up(engine)
    collectives.on_main(lambda: save_once(pipeline, folder))
    return folder


@dataclasses.dataclass(frozen=True)
class Plan:
    """A scrub that has been checked: everything loaded, nothing written."""

    config: ScrubConfig
    model: Model
    fitted_forget: Fitted
    fitted_remain: Fitted

    @property
    def forget(self) -> Dataset:
        return self.fitted_forget.data

    @property
    def remain(self) -> Dataset:
        return self.fitted_remain.data

    def lineage(self) -> Lineage:
        """What the scrubbed model's folder says of it: what its base's says, and this."""
        before = self.model.lineage
        trained_on = before.trained_on
        is_told_classes = self.model.num_classes > 0
        gone = sorted({*labels_of(self.forget)} - {*labels_of(self.remain)}) if is_told_classes else []
        return Lineage(
            classes=names_for(self.model, self.remain),
            null_class=self.model.null_class,
            trained_on=None if trained_on is None else (*trained_on, TrainedOn.of(self.remain)),
            forgotten=(*before.forgotten, Forgotten.of(self.forget, gone, self._gone_prompts())),
        )

    def _gone_prompts(self) -> list[str]:
        """Those of which nothing remains."""
        conditions = self.model.conditions
        kept = prompts_among([*conditions.of_dataset(self.remain), conditions.null])
        return sorted(prompts_among(conditions.of_dataset(self.forget)) - kept)

    def inputs(self) -> Inputs:
        """What the record holds the run to."""
        return Inputs.of(self.model, self.forget, self.remain)

    def describe(self) -> str:
        """What `--dry-run` prints."""
        trained = chosen(self.model.module, self.config.train.layers, "train.layers").values()
        return "\n".join(
            [
                dump_toml(self.config).rstrip(),
                "",
                f"trains      {len(trained)} tensors, {sum(p.numel() for p in trained):,} parameters",
                f"forget      {len(self.forget):,} samples of {_class_names(self.forget)}",
                f"remain      {len(self.remain):,} samples of {_class_names(self.remain)}",
                f"iteration   {self.config.method.cost(self.config.engine.precision)}, over batches of "
                f"{self.config.train.train_batch_size}",
                *self.notes(),
                *self._standing_notes(),
            ]
        )

    def notes(self) -> list[str]:
        """What is to be said before a run that it does not say of every one."""
        config = self.config
        told = data_notes(self.fitted_forget, self.fitted_remain, first=labels_of(self.forget))
        classes = self.fitted_forget.classes
        if classes is not None and classes.is_as_expected:
            told = [line for line in told if not line.startswith("classes ")]
        null = null_class_note(self.model, self.forget)
        on_cuda = collectives.is_on_cuda(config.engine)
        effects = effect_notes(config.method, config.train, config.optimizer, config.engine, on_cuda=on_cuda)
        sizes = size_notes(self.forget, self.remain, config)
        again = again_notes(self.model, self.forget)
        return [*names_notes(self.model), *told, *([] if null is None else [null]), *again, *sizes, *effects]

    def _standing_notes(self) -> list[str]:
        """What a dry run says beside them: how classes are matched, and what the method's settings mean."""
        told = self.notes()
        data = data_notes(self.fitted_forget, self.fitted_remain, first=labels_of(self.forget))
        return [*(line for line in data if line not in told), *self.config.method.notes()]


def _class_names(dataset: Dataset) -> str:
    names = [dataset.classes[label] if label >= 0 else "no class" for label in np.unique(dataset.labels)]
    return ", ".join(names[:12]) + (", …" if len(names) > 12 else "")


def plan(config: ScrubConfig, model: Model | None = None) -> Plan:
    """Checks all that can be checked before anything is written. model: what the settings name, loaded already."""
    forget, remain = Dataset.open(config.forget), Dataset.open(config.remain)
    check_disjoint(forget, remain)
    model = model or load_model(config.model)
    planned = Plan(config, model, fit(forget, model), fit(remain, model))
    if planned.forget.classes != planned.remain.classes:
        first = [", ".join(data.classes[:3]) for data in (planned.forget, planned.remain)]
        raise ConfigError(
            f"forget = '{config.forget}' and remain = '{config.remain}' have different classes ({first[0]}, … and "
            f"{first[1]}, …): split both from one dataset"
        )
    _check_never_forgotten(planned.remain, model)
    told = model.conditions.of_dataset
    check_settings(config, model, *(distinct(told(data)) for data in (planned.forget, planned.remain)))
    return planned


def _check_never_forgotten(remain: Dataset, model: Model) -> None:
    """Raises ConfigError where training on D_r would bring back what the model has forgotten before."""
    rows = np.flatnonzero(forgotten_rows(model.lineage.forgotten, remain, model.conditions.of_dataset))
    if len(rows):
        names = shorten(remain.key(int(row)) for row in rows)
        raise ConfigError(
            f"remain = '{remain.path}' holds {len(rows):,} samples that '{model.folder}' has forgotten "
            f"({describe_forgotten(model.lineage.forgotten)}): {names}; leave them out with `erasediff shards split "
            f"… --model {model.folder}`"
        )


def check_settings(
    config: ScrubConfig | EraseConfig, model: Model, forget: Sequence[Condition], remain: Sequence[Condition]
) -> None:
    """Raises ConfigError where a scrub's settings, the model and what the two sets' samples are told do not fit."""
    check_engine(config.engine, config.train, model)
    model.check_saveable()
    check_conditions(model, config.method, forget, remain)
    check_train(config.train, model)
    check_optimizer(config.optimizer, config.train)
    config.method.check(config.engine)
    config.method.check_optimizer(config.optimizer)


def fitted(config: ScrubConfig) -> ScrubConfig:
    """With the settings resolved that depend on the run's length. Raises ConfigError for one out of its range."""
    check_ranges(config)
    return dataclasses.replace(config, optimizer=config.optimizer.fitted(config.train.max_train_steps))


def check(config: ScrubConfig, model: Model | None = None) -> Plan:
    """Raises ConfigError or DataError where the run would be refused, its device aside; writes nothing."""
    config = fitted(config)
    check_output(config, config.output)
    planned = plan(config, model)
    check_inputs(Path(config.output), planned.inputs())
    return planned


def dry_run(config: ScrubConfig) -> str:
    """What `--dry-run` prints. Raises ConfigError or DataError where the run would be refused; writes nothing."""
    collectives.check_device(config.engine)
    planned, run = check(config), Path(config.output)
    finished = f"\nfinished    already: {run / 'model'}; the same command changes nothing" if is_finished(run) else ""
    return planned.describe() + finished


def run_scrub(config: ScrubConfig, *, watch: Watch | None = None) -> Path:
    """Runs or continues a scrub; returns the folder of the scrubbed pipeline. All ranks call it."""
    config = fitted(config)
    device = collectives.set_up(config.engine)
    planned = collectives.together(lambda: plan(config))
    run = RunFolder(config, config.output)
    inputs = planned.inputs()
    run.hold_to(inputs)
    if run.is_finished:
        return run.model_path
    if collectives.is_main():
        for note in planned.notes():
            print(note)
    run_training(
        "scrub",
        planned.model,
        config.method,
        config.train,
        config.optimizer,
        config.engine,
        remain=planned.remain,
        forget=planned.forget,
        run=run,
        hashes=inputs.hashes(),
        lineage=planned.lineage(),
        device=device,
        watch=watch,
    )
    return run.model_path
