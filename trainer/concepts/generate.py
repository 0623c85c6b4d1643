"""`concept generate`: a forget and a remain set that the model itself draws from a request's prompts.

    OUTPUT/config.toml, inputs.json    what was asked of which model
    OUTPUT/images/forget|remain/       every picture, for review
    OUTPUT/data/                       the dataset: pictures, prompts, and what the autoencoder makes of them
    OUTPUT/split/                      D_f and D_r of it
    OUTPUT/prompts.csv                 what an evaluation asks for, as `judge.prompts` takes it

The same command continues after a kill with the pictures that are not there yet. Nothing blackens pictures: no safety
checker runs.
"""

from __future__ import annotations

import dataclasses
import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ...shards.dataset import Dataset
from ...shards.format.images import encode_png
from ...shards.format.manifest import Latents
from ...shards.requests.request import Request, Selector
from ...shards.requests.split import split
from ...shards.sources.source import Entry, ListedSource, mixed
from ...shards.writing.build import DEFAULT_MAX_SHARD_BYTES, DEFAULT_MAX_SHARD_SAMPLES, write_dataset
from ...shards.writing.write_shard import plan_shards
from ..config import ConceptConfig, EngineConfig, GenerateConfig
from ..config.toml import check_ranges, dump_toml
from ..errors import ConfigError, TrainingError
from ..models.families import load_model
from ..models.model import Model
from ..models.pictures import MAX_BLACK_SHARE, from_pixels, to_pixels
from ..models.sampling import check_sampling, denoise
from ..ranks import collectives
from ..run.folder import RunFolder, check_output
from ..run.progress import StepProgress
from ..run.provenance import ConceptInputs, ModelStamp, check_inputs
from .pictures import LATENTS_NAME, Picture, pictures_of
from .request import ConceptRequest, read_concept_request

DATA_NAME = "data"
SPLIT_NAME = "split"
PROMPTS_NAME = "prompts.csv"


def run_generate(config: ConceptConfig) -> Path:
    """Draws what is not there yet and makes the dataset and its split; returns the output folder. All ranks call it.

    Raises ConfigError or DataError for what cannot work, before anything is written, and TrainingError where more than
    1 % of the pictures are black.
    """
    device = collectives.set_up(EngineConfig(device=config.device, num_threads=config.num_threads))
    request, model = collectives.together(lambda: plan(config))
    run = RunFolder(config, config.output)
    stamp = ModelStamp.of(model)
    run.hold_to(ConceptInputs(request.plain(), stamp.weights_sha256, stamp.frozen_sha256))
    if not collectives.on_main((run.path / DATA_NAME).exists):
        pictures = pictures_of(request, config.generate)
        chunks = _chunks(pictures, config.generate)
        # spread anew each time: a rank whose share is done would wait for the others' longer than ranks wait
        missing = collectives.on_main(lambda: [i for i, chunk in enumerate(chunks) if not _is_drawn(chunk, run.path)])
        own = missing[collectives.rank() :: collectives.world_size()]
        _draw(model.to(device), [chunks[i] for i in own], config.generate, run.path, device)
        collectives.barrier()
        collectives.on_main(lambda: _write_data(run.path, request, config, model, stamp, pictures))
    collectives.on_main(lambda: _finish(run.path, request))
    return run.path


def check(config: ConceptConfig) -> tuple[ConceptRequest, Model]:
    """`plan`, and ConfigError where the run would be refused, its device aside; writes nothing."""
    check_output(config, config.output)
    request, model = plan(config)
    stamp = ModelStamp.of(model)
    check_inputs(Path(config.output), ConceptInputs(request.plain(), stamp.weights_sha256, stamp.frozen_sha256))
    return request, model


def dry_run(config: ConceptConfig) -> str:
    """What `--dry-run` prints. Raises ConfigError where the run would be refused; writes nothing."""
    return "\n".join([dump_toml(config).rstrip(), "", *check(config)[0].describe(config.generate)])


def plan(config: ConceptConfig) -> tuple[ConceptRequest, Model]:
    """What is asked, and of whom; raises ConfigError for a model that is told no prompts or cannot be told these."""
    check_ranges(config)
    request, model = read_concept_request(Path(config.request)), load_model(config.model)
    request.classes(config.classes, "classes")
    if config.model.caption is not None:
        raise ConfigError("model.caption: a request of words has prompts of its own: leave it out")
    check_sampling(config.generate.sampling, model, "generate.sampling")
    for option, count, words in (
        ("num_forget_images", config.generate.num_forget_images, request.words),
        ("num_remain_images", config.generate.num_remain_images, request.remaining),
    ):
        needed = len(words) * len(request.phrasings)
        if count < needed:
            raise ConfigError(f"generate.{option} = {count}: {request.name} has {needed} prompts: draw each once")
    if model.conditions.kind != "a prompt":
        raise ConfigError(f"model.path = {config.model.path!r} is told {model.conditions.kind}: it draws no prompts")
    for one in request.prompts((*request.phrasings, *request.held_out_phrasings)):
        model.conditions.parse(one.prompt, f"{request.name}: the prompt")
    return request, model


def _chunks(pictures: list[Picture], config: GenerateConfig) -> list[list[Picture]]:
    """What is drawn at once, by whichever rank."""
    size = config.sampling.batch_size
    return [pictures[start : start + size] for start in range(0, len(pictures), size)]


def _is_drawn(chunk: list[Picture], output: Path) -> bool:
    return all(one.file(output).exists() and one.latents_file(output).exists() for one in chunk)


@torch.no_grad()
def _draw(
    model: Model, chunks: list[list[Picture]], config: GenerateConfig, output: Path, device: torch.device
) -> None:
    """This rank's share."""
    model.module.eval()
    progress = StepProgress("drawing", 0, len(chunks))
    try:
        for step, chunk in enumerate(chunks):
            _draw_chunk(model, chunk, config, output, device)
            progress.update(step, {"pictures": float(sum(map(len, chunks[: step + 1])))})
    finally:
        progress.close()


def _draw_chunk(model: Model, chunk: list[Picture], config: GenerateConfig, output: Path, device: torch.device) -> None:
    asked = [one.asked.prompt for one in chunk]
    images = denoise(
        model, model.module, asked, config.sampling, device=device, first=chunk[0].number, purpose="concept"
    )
    pixels = to_pixels(images.cpu())
    # of what the file holds, as a stream of it would encode it
    moments = model.encode_moments(from_pixels(torch.from_numpy(pixels).permute(0, 3, 1, 2)).to(device))
    for one, picture, latents in zip(chunk, pixels, moments.float().cpu().numpy(), strict=True):
        data = io.BytesIO()
        np.save(data, latents.astype("<f4"), allow_pickle=False)
        _write(one.latents_file(output), data.getvalue())
        _write(one.file(output), encode_png(picture))


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    partial.rename(path)


def _write_data(
    output: Path,
    request: ConceptRequest,
    config: ConceptConfig,
    model: Model,
    stamp: ModelStamp,
    pictures: list[Picture],
) -> None:
    """The dataset of the pictures, black ones left out."""
    pictures = _without_black(pictures, output)
    assert model.encoder_sha256 is not None
    channels, height, width = model.latent_shape
    source = _Drawn(output, request.classes(config.classes, "classes"), config.generate, stamp, pictures)
    shards = plan_shards(source.sizes_bytes, DEFAULT_MAX_SHARD_SAMPLES, DEFAULT_MAX_SHARD_BYTES)
    latents = Latents(model.encoder_sha256, (2 * channels, height, width))
    write_dataset(source, output / DATA_NAME, name=source.name, shards=shards, num_workers=1, latents=latents)


def _finish(output: Path, request: ConceptRequest) -> None:
    """What is left to do once the dataset is there."""
    request.write_prompts(output / PROMPTS_NAME)
    shutil.rmtree(output / LATENTS_NAME, ignore_errors=True)  # they lie in the shards
    if not (output / SPLIT_NAME).exists():
        split(output / DATA_NAME, output / SPLIT_NAME, request=as_request(request))


def stand_in(request: ConceptRequest, config: ConceptConfig, model: Model, folder: Path) -> Dataset:
    """As many blank pictures as there are prompts, in the drawn ones' place: what is told of them can be checked."""
    picture = encode_png(np.zeros((model.image_size, model.image_size, model.channels), np.uint8))
    asked = request.prompts(request.phrasings)
    classes = request.classes(config.classes, "classes")
    entries = [
        Entry(f"p{i}", "png", len(picture), "", label=classes.index(one.of_class), text=one.prompt)
        for i, one in enumerate(asked)
    ]
    source = _Blank(entries, classes, picture)
    return write_dataset(source, folder, name="concept", shards=[range(len(entries))], num_workers=1)


class _Blank(ListedSource):
    def __init__(self, entries: list[Entry], classes: tuple[str, ...], picture: bytes):
        self.name, self.classes, self._picture = "concept", classes, picture
        super().__init__(entries)

    def read(self, entry: Entry) -> bytes:
        return self._picture


def as_request(request: ConceptRequest) -> Request:
    """The same of the dataset that was drawn for it."""
    selector = Selector(labels=(request.words[0],))
    return Request((selector,), id=request.id, date=request.date, reason=request.reason, name=request.name)


def _without_black(pictures: list[Picture], output: Path) -> list[Picture]:
    """Raises TrainingError where too many are."""
    black = [one.file(output) for one in pictures if _is_black(one.file(output))]
    if len(black) > MAX_BLACK_SHARE * len(pictures):
        raise TrainingError(
            f"{len(black):,} of {len(pictures):,} pictures are black, '{black[0]}' for one: the model gives NaN or "
            "black pictures for these prompts; look at generate.sampling and the model's weights"
        )
    if black:
        print(f"left out    {len(black):,} pictures that are black, '{black[0]}' for one")
    return [one for one in pictures if one.file(output) not in black]


def _is_black(file: Path) -> bool:
    with Image.open(file) as picture:
        return picture.getbbox() is None


class _Drawn(ListedSource):
    """The pictures as a source for shards, their latents beside them."""

    def __init__(
        self,
        output: Path,
        classes: tuple[str, ...],
        config: GenerateConfig,
        stamp: ModelStamp,
        pictures: list[Picture],
    ):
        self.name = "concept"
        self.classes = classes
        self._output = output
        self._pictures = {one.key: one for one in pictures}
        made = {
            "model_sha256": stamp.weights_sha256,
            "seed": config.sampling.seed,
            "guidance_scale": config.sampling.guidance_scale,
            "num_inference_steps": config.sampling.num_inference_steps,
        }
        super().__init__(mixed([self._entry(one, made) for one in pictures]))

    def _entry(self, one: Picture, made: dict[str, Any]) -> Entry:
        state = one.file(self._output).stat()
        return Entry(
            key=one.key,
            extension="png",
            size_bytes=state.st_size,
            location=one.key,
            label=self.classes.index(one.asked.of_class),
            text=one.asked.prompt,
            metadata=made | {"number": one.number, "phrasing": one.asked.phrasing},
            modified_ns=state.st_mtime_ns,
        )

    def entry(self, i: int) -> Entry:
        entry = super().entry(i)
        latents = self._pictures[entry.key].latents_file(self._output).read_bytes()
        return dataclasses.replace(entry, latents=latents)

    def read(self, entry: Entry) -> bytes:
        return self._pictures[entry.key].file(self._output).read_bytes()
