"""Small real datasets shared by the tests of shards."""

from pathlib import Path

import numpy as np
import pytest
from erasediff.shards import Dataset, build
from PIL import Image


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The 1,797 digits in seven shards; read only."""
    return build("digits", tmp_path_factory.mktemp("digits") / "digits", max_shard_samples=270)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of three classes with 4, 3 and 2 pictures: PNG and JPEG, grey and colour, of two sizes."""
    random = np.random.default_rng(0)
    root = tmp_path / "pictures"
    for name, num in [("cat", 4), ("dog", 3), ("émeu", 2)]:
        (root / name).mkdir(parents=True)
        for i in range(num):
            shape = [(12, 16, 3), (12, 16), (10, 10, 3)][i % 3]
            extension = ["png", "jpg", "webp"][i % 3]
            Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)).save(root / name / f"{i}.{extension}")
    return root
