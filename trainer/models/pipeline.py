"""A pipeline's folder: found, read, and written again with other weights. Nothing here knows what trains."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..config import ModelConfig
from ..errors import ConfigError

WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
_PICKLED_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}


def resolve(config: ModelConfig, *, weights: bool = True) -> Path:
    """The pipeline's folder; a Hub id is downloaded, configuration files and, where asked for, safetensors only."""
    folder = Path(config.path)
    if folder.is_dir():
        return folder
    if config.path.count("/") != 1 or config.path.startswith((".", "/", "~")):
        raise ConfigError(f"model.path = {config.path!r}: no such folder")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                config.path,
                revision=config.revision,
                # weights of the parts, not a repository's single-file checkpoints beside them
                allow_patterns=["*.json", "*/*.safetensors", "*.txt", "*.md"] if weights else ["*.json"],
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"model.path = {config.path!r} is neither a folder here nor a model the Hub gave: {reason}"
        ) from None


def read_index(folder: Path) -> dict[str, Any]:
    """model_index.json; raises ConfigError where there is none."""
    try:
        index = json.loads((folder / "model_index.json").read_text())
    except FileNotFoundError:
        of_a_run = (folder / "model" / "model_index.json").exists()
        hint = f"; give '{folder / 'model'}'" if of_a_run else ""
        raise ConfigError(
            f"model.path = '{folder}' holds no model_index.json: not a diffusers pipeline{hint}"
        ) from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{folder / 'model_index.json'} is not JSON: {error}") from None
    pairs = [value for value in index.values() if isinstance(value, list)] if isinstance(index, dict) else [[]]
    if any(len(pair) != 2 or not all(isinstance(one, str | None) for one in pair) for pair in pairs):
        raise ConfigError(f"{folder / 'model_index.json'} does not name each part's library and class: fetch it anew")
    return index


def class_of(index: dict[str, Any], component: str) -> str | None:
    """The class that the index names for a part; None: the pipeline has no such part."""
    value = index.get(component)
    return value[1] if isinstance(value, list) else None


def components(index: dict[str, Any]) -> list[str]:
    """Names of the pipeline's parts, which are folders of the same names."""
    return [name for name, value in index.items() if isinstance(value, list) and value[0] is not None]


def pickles_in(component: Path) -> list[str]:
    """Names of a part's files that are pickled weights."""
    return sorted(path.name for path in component.glob("*") if path.suffix in _PICKLED_SUFFIXES)


def refuse_pickles(component: Path) -> None:
    """Raises ConfigError for a part without safetensors weights."""
    has_safetensors = any(component.glob("*.safetensors"))
    pickles = pickles_in(component)
    if pickles and not has_safetensors:
        raise ConfigError(
            f"{component / pickles[0]} is pickled, and unpickling runs code: save the model as safetensors "
            "(save_pretrained(..., safe_serialization=True))"
        )
    if not has_safetensors:
        raise ConfigError(f"{component} holds no .safetensors weights")


@contextmanager
def loading(where: str) -> Iterator[None]:
    """What the libraries raise for a folder's files becomes a ConfigError of one line that blames `where`."""
    try:
        yield
    except ConfigError as error:
        raise error if str(error).startswith(where) else ConfigError(f"{where}: {error}") from None
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        lines = [line.strip() for line in str(error).strip().splitlines()]
        reason = " ".join(lines[:2] if lines[0].endswith(":") else lines[:1])  # torch's first line is a heading
        raise ConfigError(f"{where} cannot be loaded: {reason}") from None


def read_part(kind: Any, pipeline: Path, part: str, variant: str | None = None) -> Any:
    """A part in fp32, by its library's own class. Nothing in it runs code.

    Raises ConfigError where its files lack a tensor: the libraries draw one in its place.
    """
    read, found = kind.from_pretrained(
        str(pipeline),
        subfolder=part,
        variant=variant,
        use_safetensors=True,
        low_cpu_mem_usage=False,
        torch_dtype=torch.float32,
        output_loading_info=True,
    )
    if missing := sorted(found["missing_keys"]):
        raise ConfigError(f"its {part} is not whole: {pipeline / part} holds no {missing[0]}; fetch it anew")
    return read


def outlined_part(kind: Any, pipeline: Path, part: str) -> Any:
    """A part on `meta` as its config.json describes it, of diffusers or transformers. No weights are read."""
    with torch.device("meta"):
        if hasattr(kind, "load_config"):
            return kind.from_config(kind.load_config(str(pipeline), subfolder=part)).eval()
        return kind(kind.config_class.from_pretrained(str(pipeline), subfolder=part)).eval()


def weights_name(variant: str | None) -> str:
    """The trained part's file, such as diffusion_pytorch_model.fp16.safetensors."""
    return WEIGHTS_NAME if variant is None else WEIGHTS_NAME.replace(".", f".{variant}.", 1)


def stored_weights(component: Path, variant: str | None = None) -> dict[str, Tensor]:
    """The tensors of the files that `from_pretrained` reads."""
    tensors: dict[str, Tensor] = {}
    for path in _weight_files(component, variant):
        tensors |= load_file(path)
    return tensors


def _weight_files(component: Path, variant: str | None) -> list[Path]:
    """Several and an index, or one file; where a folder has both, what diffusers reads is the several."""
    name = weights_name(variant)
    suffix = ".safetensors.index.json" if variant is None else f".safetensors.index.{variant}.json"
    index = (component / name.partition(".")[0]).with_suffix(suffix)
    if not index.exists():
        return [component / name]
    return [component / file for file in sorted(set(json.loads(index.read_text())["weight_map"].values()))]


def check_stores(component: Path, names: Iterable[str], variant: str | None = None) -> None:
    """Raises ConfigError where the part's file does not hold one of its tensors under the name it has in memory."""
    stored: set[str] = set()
    for path in _weight_files(component, variant):
        with safe_open(path, framework="pt") as file:  # its header alone is read
            stored |= set(file.keys())
    absent = [name for name in names if name not in stored]
    if absent:
        raise ConfigError(
            f"{component} stores {absent[0]} under an older name: load the pipeline with diffusers and "
            "save_pretrained it once, then scrub that"
        )


def save_with(
    original: Path,
    trained: str,
    names: Iterable[str],
    weights: dict[str, Tensor],
    folder: Path,
    variant: str | None = None,
) -> None:
    """Writes the pipeline in `original` into `folder`, the part `trained` with `weights` in place of its own.

    names: of all tensors of that part. Others in its files are left out, since they may be the original weights under
    another name (an average), as is all of the folder but the parts that model_index.json names, which are copied as
    they are: checkpoints, other formats of the trained part. Tensors keep the type they had.
    """
    folder.mkdir(parents=True)
    shutil.copyfile(original / "model_index.json", folder / "model_index.json")
    for component in components(read_index(original)):
        ignore = _may_hold_weights if component == trained else None
        shutil.copytree(original / component, folder / component, ignore=ignore)
        (folder / component).chmod(0o700 | (folder / component).stat().st_mode)  # the original's may be read-only
    stored = stored_weights(original / trained, variant)
    tensors = {name: stored[name] for name in names}
    for name, value in weights.items():
        tensors[name] = value.to(tensors[name].dtype).contiguous()
    save_file(tensors, folder / trained / weights_name(variant), metadata={"format": "pt"})


def _may_hold_weights(directory: str, names: list[str]) -> list[str]:
    """All but the configuration and texts: there are more formats of weights than anybody lists."""
    return [name for name in names if name != "config.json" and Path(name).suffix not in (".md", ".txt")]
