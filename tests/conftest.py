import os

# tiny models gain nothing from threads, and threads that wait for each other on a busy machine lose minutes
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# before anything imports Triton, as diffusers does: without a GPU its kernels run in the interpreter
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

import hypothesis
import tiny
import toy.made
from erasediff.trainer import plugins

# how long an example takes says something of the machine alone
hypothesis.settings.register_profile("any-machine", deadline=None)
hypothesis.settings.load_profile("any-machine")


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real digits: data/, split/forget (the 3s) and split/remain."""
    return tiny.make_digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A class-conditional pipeline with a null class, saved by diffusers alone."""
    return tiny.make_pipeline(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="session")
def toy_folder(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy family's data/, split/ and model/."""
    folder = tmp_path_factory.mktemp("toy")
    toy.made.make_data(digits, folder, 60)
    toy.made.make_pipeline(folder / "model")
    toy.made.make_package(folder / "package")
    return folder


@pytest.fixture
def toy_family(toy_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The same, the family installed."""
    monkeypatch.syspath_prepend(str(toy_folder / "package"))
    _forget_plugins()
    yield toy_folder
    _forget_plugins()


def _forget_plugins() -> None:
    plugins.names.cache_clear()
    plugins._places.cache_clear()  # pyright: ignore[reportPrivateUsage]
