import os

# tiny models gain nothing from threads, and threads that wait for each other on a busy machine lose minutes
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest
import torch

# before anything imports Triton, as diffusers does: without a GPU its kernels run in the interpreter
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

import tiny


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real digits: data/, split/forget (the 3s) and split/remain."""
    return tiny.make_digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A class-conditional pipeline with a null class, saved by diffusers alone."""
    return tiny.make_pipeline(tmp_path_factory.mktemp("base") / "model")
