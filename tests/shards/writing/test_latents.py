"""What an autoencoder makes of images, stored beside them: written, streamed, split, verified, refused."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from erasediff.shards import DataError, Dataset, Stream, split
from erasediff.shards.checking.verify import verify
from erasediff.shards.format.images import encode_png
from erasediff.shards.format.manifest import Latents
from erasediff.shards.sources.source import Entry, ListedSource
from erasediff.shards.writing.build import write_dataset
from webdataset.compat import WebDataset

SHAPE = (8, 2, 3)


def npy(array: np.ndarray) -> bytes:
    data = io.BytesIO()
    np.save(data, array)
    return data.getvalue()


def latents_of(i: int) -> np.ndarray:
    return np.random.default_rng(i).standard_normal(SHAPE, dtype=np.float32)


def picture_of(i: int) -> np.ndarray:
    return np.random.default_rng(100 + i).integers(0, 256, (4, 6, 3), dtype=np.uint8)


class Pictures(ListedSource):
    """Five, of two classes."""

    def __init__(self, odd: np.ndarray | None = None) -> None:
        """odd: the last one's latents."""
        self.name, self.classes = "pictures", ("cat", "dog")
        self._data = [encode_png(picture_of(i)) for i in range(5)]
        kept = [latents_of(i) for i in range(4)] + [latents_of(4) if odd is None else odd]
        super().__init__(
            [
                Entry(f"p{i}", "png", len(self._data[i]), str(i), label=i % 2, text=f"number {i}", latents=npy(kept[i]))
                for i in range(5)
            ]
        )

    def read(self, entry: Entry) -> bytes:
        return self._data[int(entry.location)]


def write(folder: Path, source: Pictures | None = None) -> Dataset:
    shards, latents = [range(3), range(3, 5)], Latents("ab" * 32, SHAPE)
    return write_dataset(source or Pictures(), folder, name="p", shards=shards, num_workers=2, latents=latents)


def test_latents_lie_beside_their_images(tmp_path: Path) -> None:
    data = write(tmp_path / "data")
    assert data.manifest.latents == Latents("ab" * 32, SHAPE)
    for i in range(5):
        assert np.array_equal(data.latents(i), latents_of(i))
        assert np.array_equal(data.read(i).image, picture_of(i))
    # as anybody reads a tar
    tars = sorted(str(path) for path in (tmp_path / "data").glob("*.tar"))
    read = {one["__key__"]: one for one in WebDataset(tars, shardshuffle=False)}
    assert {key: np.load(io.BytesIO(one["latents.npy"])).tobytes() for key, one in read.items()} == {
        f"p{i}": latents_of(i).tobytes() for i in range(5)
    }
    assert verify(tmp_path / "data") == []


def test_a_stream_gives_latents_or_images(tmp_path: Path) -> None:
    data = write(tmp_path / "data")
    seen = Stream(data, seed=3, batch_size=7, latents=True).batch(1)
    images = Stream(data, seed=3, batch_size=7).batch(1)
    assert seen.keys == images.keys and seen.texts == images.texts and seen.labels.tolist() == images.labels.tolist()
    assert seen.latents is not None and seen.latents.dtype == np.float32
    for key, latents in zip(seen.keys, seen.latents, strict=True):
        assert np.array_equal(latents, latents_of(int(key[1:])))
    assert images.latents is None and seen.images.size == 0
    with pytest.raises(DataError, match="no latents are stored beside it"):
        Stream(data.without_latents(), seed=3, batch_size=7, latents=True)
    assert data.without_latents().latents_bytes(0) == b""


@pytest.mark.parametrize("rewrite", [False, True])
def test_a_split_keeps_them(tmp_path: Path, rewrite: bool) -> None:
    write(tmp_path / "data")
    for part in split(tmp_path / "data", tmp_path / "split", ["dog"], rewrite=rewrite):
        assert part.manifest.latents == Latents("ab" * 32, SHAPE)
        assert {part.key(i): part.latents(i).tobytes() for i in range(len(part))} == {
            f"p{i}": latents_of(i).tobytes() for i in range(5) if (i % 2 == 1) == part.path.name.startswith("forget")
        }
    assert verify(tmp_path / "split") == []
    # images alone where nobody asks for more
    plain = Dataset.open(tmp_path / "data").without_latents()
    forget, _ = split(plain, tmp_path / "plain", ["dog"])
    assert forget.manifest.latents is None and forget.index.dtype.names == Dataset.open(forget.path).index.dtype.names
    assert "latents_offset" not in (forget.index.dtype.names or ())


@pytest.mark.parametrize("odd", [np.zeros((8, 3, 2), np.float32), np.zeros(SHAPE), np.zeros(SHAPE, np.float16)])
def test_latents_of_another_shape_are_found(tmp_path: Path, odd: np.ndarray) -> None:
    data = write(tmp_path / "data", Pictures(odd))
    (problem,) = verify(tmp_path / "data")
    assert "'p4'" in problem and "float32 (8, 2, 3) expected" in problem
    with pytest.raises(DataError, match="not the arrays of the first sample"):
        Stream(data, seed=0, batch_size=5, latents=True).batch(0)
    skipping = Stream(data, seed=0, batch_size=5, latents=True, on_bad_sample="skip").batch(0)
    assert [key for key, _ in skipping.bad_samples] == ["p4"]
    assert skipping.weights[skipping.keys.index("p4")] == 0


def test_an_index_without_them_is_out_of_date(tmp_path: Path) -> None:
    write(tmp_path / "data")
    plain = Dataset.open(tmp_path / "data")
    names = [name for name in plain.index.dtype.names or () if not name.startswith("latents_")]
    kept = np.zeros(len(plain), [(name, plain.index.dtype[name]) for name in names])
    for name in names:
        kept[name] = plain.index[name]
    np.save(tmp_path / "data" / "index.npy", kept)
    with pytest.raises(DataError, match="places no latents"):
        Dataset.open(tmp_path / "data")
    manifest = json.loads((tmp_path / "data" / "dataset.json").read_text())
    del manifest["latents"]
    (tmp_path / "data" / "dataset.json").write_text(json.dumps(manifest))
    # as datasets were written before there were any
    assert Dataset.open(tmp_path / "data").manifest.latents is None


def test_a_member_elsewhere_is_found(tmp_path: Path) -> None:
    data = write(tmp_path / "data")
    index = data.index.copy()
    index["latents_offset"][1] += 512
    np.save(tmp_path / "data" / "index.npy", index)
    problems = [line for line in verify(tmp_path / "data") if "latents.npy" in line]
    # the index's own hash tells first
    assert problems == []
    from erasediff.shards.checking.verify_shard import shard_problems
    from erasediff.shards.writing.jobs import StopFlag

    (problem,) = shard_problems(Dataset.open(tmp_path / "data"), 0, True, StopFlag())
    assert "'p1': latents.npy not where the index says" in problem
