"""`scrub`: a trained model, D_f and D_r in; the model without D_f's influence out."""

from __future__ import annotations

import dataclasses
import shutil
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
    EraseDiffConfig,
    MethodConfig,
    ModelConfig,
    OptimizerConfig,
    ScrubConfig,
    TrainConfig,
)
from .config.toml import dump_toml
from .errors import ConfigError
from .files import open_up
from .models import unet2d as models
from .models.class_names import labels_of
from .models.fitting import Fitted, data_notes, fit, names_for
from .models.lineage import (
    LINEAGE_NAME,
    Forgotten,
    Lineage,
    TrainedOn,
    describe_forgotten,
    forgotten_rows,
)
from .models.unet2d import DiffusionModel
from .ranks import collectives
from .run.checks import (
    check_engine,
    check_labels,
    check_method,
    check_optimizer,
    check_precision,
    check_train,
)
from .run.cost import cost
from .run.effects import effect_notes, situation
from .run.folder import RunFolder, check_output, is_finished
from .run.loop import Watch
from .run.provenance import DataStamp, Inputs, check_inputs, weights_sha256
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
    method: MethodConfig | None = None,
    train: TrainConfig | None = None,
    optimizer: OptimizerConfig | None = None,
    engine: EngineConfig | None = None,
) -> DiffusionPipeline:
    """Erases the forget set's influence from `model` and returns the scrubbed pipeline.

    model: a pipeline folder, a Hub id, or a loaded pipeline (it is saved beside the run folder, as <output>-base, and
    not changed).
    forget, remain: dataset folders, as `erasediff shards split` makes them. output: the run folder; the same call
    again continues an interrupted run, or returns the finished one's pipeline. The rest: see the config classes.

    Raises ConfigError or DataError for what cannot work, before anything is written, and TrainingError for a run that
    cannot go on. Under a launcher with several processes, all of them call it.
    """
    output = Path(output)
    if isinstance(model, DiffusionPipeline):
        model = _save_given(model, output.with_name(output.name + "-base"), engine or EngineConfig())
    config = ScrubConfig(
        model=ModelConfig(str(model), null_class=null_class, classes=tuple(classes), convert_images=convert_images),
        forget=str(forget),
        remain=str(remain),
        output=str(output),
        method=method or EraseDiffConfig(),
        train=train or LATER,
        optimizer=optimizer or LATER,
        engine=engine or EngineConfig(),
    )
    return DiffusionPipeline.from_pretrained(run_scrub(config), low_cpu_mem_usage=False)


def _save_given(pipeline: DiffusionPipeline, folder: Path, engine: EngineConfig) -> Path:
    """A loaded pipeline as a folder beside the run; there already, with the same weights, when a run is continued."""
    collectives.set_up(engine)
    problem = None
    if collectives.is_main():
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        pipeline.save_pretrained(partial)
        known = Path(str(pipeline.name_or_path)) / LINEAGE_NAME
        if known.is_file():  # diffusers loads and saves what it knows, and this it does not
            shutil.copyfile(known, partial / LINEAGE_NAME)
        open_up(partial)
        if not folder.exists():
            partial.rename(folder)
        else:
            if _hash(folder) != _hash(partial):
                problem = f"'{folder}' holds another model than the one given: remove it, or choose another output"
            shutil.rmtree(partial)
    problem = collectives.agree(problem)
    if problem is not None:
        raise ConfigError(str(problem))
    return folder


def _hash(folder: Path) -> str:
    return weights_sha256(models.stored_weights(folder / "unet"))


@dataclasses.dataclass(frozen=True)
class Plan:
    """A scrub that has been checked: everything loaded, nothing written."""

    config: ScrubConfig
    model: DiffusionModel
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
            forgotten=(*before.forgotten, Forgotten.of(self.forget, gone)),
        )

    def inputs(self) -> Inputs:
        """What the record holds the run to."""
        weights = weights_sha256(self.model.unet.state_dict())
        return Inputs(weights, DataStamp.of(self.forget), DataStamp.of(self.remain))

    def describe(self) -> str:
        """What `--dry-run` prints."""
        trained = [parameter for parameter in self.model.unet.parameters() if parameter.requires_grad]
        return "\n".join(
            [
                dump_toml(self.config).rstrip(),
                "",
                f"trains      {len(trained)} tensors, {sum(p.numel() for p in trained):,} parameters",
                f"forget      {len(self.forget):,} samples of {_class_names(self.forget)}",
                f"remain      {len(self.remain):,} samples of {_class_names(self.remain)}",
                f"iteration   {cost(self.config.method, self.config.engine.precision)}, over batches of "
                f"{self.config.train.train_batch_size}",
                *self.notes(),
            ]
        )

    def notes(self) -> list[str]:
        """What is said once, before a run."""
        found = [inner_loop_note(self.config.method), null_class_note(self.model, self.forget)]
        data = data_notes(self.fitted_forget, self.fitted_remain, first=labels_of(self.forget))
        effects = effect_notes(situation(self.config.method, self.config))
        return [*data, *(note for note in found if note is not None), *effects]


def inner_loop_note(method: MethodConfig) -> str | None:
    """Why the inner loop does not run."""
    if not isinstance(method, EraseDiffConfig) or method.needs_inner_loop or method.inner_every:
        return None
    return (
        "inner loop  skipped: with gradient_of_g = 'envelope' and barrier = 'norm', φ^K drops out of the update "
        "exactly; inner_every = n logs g every n steps"
    )


def null_class_note(model: DiffusionModel, dataset: Dataset) -> str | None:
    """That a class more than the data have may be the null class."""
    if model.null_class is not None or model.num_classes != len(dataset.classes) + 1:
        return None
    last = model.num_classes - 1
    return (
        f"null class  none: the model knows {model.num_classes} classes, the data {last}; "
        f"if class {last} stands for 'no class', set model.null_class = {last}"
    )


def _class_names(dataset: Dataset) -> str:
    names = [dataset.classes[label] if label >= 0 else "no class" for label in np.unique(dataset.labels)]
    return ", ".join(names[:12]) + (", …" if len(names) > 12 else "")


def plan(config: ScrubConfig) -> Plan:
    """Checks all that can be checked before anything is written."""
    forget, remain = Dataset.open(config.forget), Dataset.open(config.remain)
    check_disjoint(forget, remain)
    model = models.load(config.model)
    planned = Plan(config, model, fit(forget, model), fit(remain, model))
    if planned.forget.classes != planned.remain.classes:
        first = [", ".join(data.classes[:3]) for data in (planned.forget, planned.remain)]
        raise ConfigError(
            f"forget = '{config.forget}' and remain = '{config.remain}' have different classes ({first[0]}, … and "
            f"{first[1]}, …): split both from one dataset"
        )
    _check_never_forgotten(planned.remain, model)
    check_settings(config, model, labels_of(planned.forget), labels_of(planned.remain))
    return planned


def _check_never_forgotten(remain: Dataset, model: DiffusionModel) -> None:
    """Raises ConfigError where training on D_r would bring back what the model has forgotten before."""
    rows = np.flatnonzero(forgotten_rows(model.lineage.forgotten, remain))
    if len(rows):
        names = shorten(remain.key(int(row)) for row in rows)
        raise ConfigError(
            f"remain = '{remain.path}' holds {len(rows):,} samples that '{model.folder}' has forgotten "
            f"({describe_forgotten(model.lineage.forgotten)}): {names}; leave them out with `erasediff shards split "
            f"… --model {model.folder}`"
        )


def check_settings(
    config: ScrubConfig | EraseConfig, model: DiffusionModel, forget_labels: list[int], remain_labels: list[int]
) -> None:
    """Raises ConfigError where the settings of a scrub, the model and the labels do not fit together."""
    check_method(config.method)
    check_engine(config.engine, model)
    models.check_saveable(model)
    check_labels(model, config.method, forget_labels, remain_labels)
    check_train(config.train, model)
    check_optimizer(config.optimizer, config.train)
    check_precision(config.engine, config.method)


def fitted(config: ScrubConfig) -> ScrubConfig:
    """With the settings resolved that depend on the run's length."""
    return dataclasses.replace(config, optimizer=config.optimizer.fitted(config.train.max_train_steps))


def dry_run(config: ScrubConfig) -> str:
    """What `--dry-run` prints. Raises ConfigError or DataError where the run would be refused; writes nothing."""
    config = fitted(config)
    collectives.check_device(config.engine)
    check_output(config, config.output)
    planned, run = plan(config), Path(config.output)
    check_inputs(run, planned.inputs())
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
