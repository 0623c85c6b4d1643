"""Arrays as content: read without pickle, straight into the batch."""

import io
import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from erasediff.shards import DataError, Dataset, Stream, build
from erasediff.shards.format.arrays import Layout, array_layout
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

DTYPES = st.sampled_from(["<f2", "<f4", "<f8", "|i1", "<i4", "<i8", "|u1", "<u2", "|b1"])
ARRAYS = hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))


def npy(array: np.ndarray, allow_pickle: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=allow_pickle)
    return buffer.getvalue()


def check_layout(layout: Layout, data: bytes, arrays: dict[str, np.ndarray]) -> None:
    """The layout has these arrays, and their bytes lie in `data` where it says."""
    assert {place.name: (place.dtype, place.shape) for place in layout} == {
        name: (array.dtype, array.shape) for name, array in arrays.items()
    }
    for place in layout:
        assert data[place.start : place.start + place.num_bytes] == arrays[place.name].tobytes()


@given(ARRAYS)
def test_npy_as_numpy_writes_and_reads_it(array: np.ndarray) -> None:
    data = npy(np.ascontiguousarray(array))
    check_layout(array_layout(data, "npy", "here"), data, {"array": np.load(io.BytesIO(data))})


@given(st.dictionaries(st.text(min_size=1).filter(lambda name: name != "__metadata__"), ARRAYS, max_size=4))
def test_safetensors_as_the_library_writes_and_reads_them(arrays: dict[str, np.ndarray]) -> None:
    data = safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    check_layout(array_layout(data, "safetensors", "here"), data, safetensors.numpy.load(data))


@given(st.binary(max_size=300), st.sampled_from(["npy", "safetensors"]))
@example(npy(np.array([object()]), allow_pickle=True), "npy")
@example(pickle.dumps(np.zeros(3)), "npy")
@example(npy(np.asfortranarray(np.zeros((3, 4)))), "npy")
@example(npy(np.zeros(3))[:-1], "npy")
@example(npy(np.zeros(3)) + b"x", "npy")
@example(b"\x93NUMPY\x01\x00\xff\xff" + b"[" * 60_000, "npy")
@example(struct.pack("<Q", 2**63) + b"{}", "safetensors")
@example(struct.pack("<Q", 60_000) + b"[" * 60_000, "safetensors")
@example(
    (lambda header: struct.pack("<Q", len(header)) + header + bytes(8))(
        json.dumps({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 8]}}).encode()
    ),
    "safetensors",
)
def test_anything_else_is_our_error(data: bytes, extension: str) -> None:
    with pytest.raises(DataError, match="here: "):
        array_layout(data, extension, "here")


def npy_header(shape: str) -> bytes:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


@pytest.mark.parametrize("shape", [f"({'1, ' * 65})", f"({2**62}, 0)", f"({2**70}, 0)"])
def test_shapes_that_numpy_cannot_make(shape: str) -> None:
    with pytest.raises(DataError, match="here: shape of"):
        array_layout(npy_header(shape) + bytes(4 if "0" not in shape else 0), "npy", "here")


def test_offsets_are_whole_numbers() -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0.0, 4.0]}}).encode()
    with pytest.raises(DataError, match="here: array 'a' overlaps"):
        array_layout(struct.pack("<Q", len(header)) + header + bytes(4), "safetensors", "here")


@given(data=st.data())
def test_damaged_headers_are_our_error_or_read(data: st.DataObject) -> None:
    original = bytearray(npy(np.arange(6, dtype="<f4").reshape(2, 3)))
    for _ in range(data.draw(st.integers(1, 4))):
        original[data.draw(st.integers(0, len(original) - 1))] = data.draw(st.integers(0, 255))
    try:
        array_layout(bytes(original), "npy", "here")
    except DataError as error:
        assert "here: " in str(error)


def make_dataset(folder: Path, extension: str) -> tuple[Dataset, list[dict[str, np.ndarray]]]:
    random = np.random.default_rng(1)
    samples = []
    for i in range(20):
        moments, text = random.normal(size=(8, 4, 4)).astype(np.float16), random.normal(size=(7, 3)).astype(np.float32)
        arrays = {"array": moments} if extension == "npy" else {"moments": moments, "text": text}
        data = npy(moments) if extension == "npy" else safetensors.numpy.save(arrays)
        (folder / f"{i:02d}.{extension}").write_bytes(data)
        samples.append(arrays)
    lines = [json.dumps({"path": f"{i:02d}.{extension}", "label": i % 2, "caption": f"no. {i}"}) for i in range(20)]
    (folder / "t.jsonl").write_text("\n".join(lines))
    return build(folder / "t.jsonl", folder / "out", max_shard_samples=6), samples


@pytest.mark.parametrize("extension", ["npy", "safetensors"])
def test_a_stream_of_arrays(tmp_path: Path, extension: str) -> None:
    dataset, samples = make_dataset(tmp_path, extension)
    assert dataset.image_shape is None
    batch = Stream(dataset, seed=0, batch_size=33).batch(1, 1, 2)
    assert batch.arrays is not None
    assert batch.images.shape == (17, 0, 0, 0)
    for k, key in enumerate(batch.keys):
        for name, array in samples[int(key)].items():
            np.testing.assert_array_equal(batch.arrays[name][k], array)
            assert batch.arrays[name].dtype == array.dtype
        assert batch.texts[k] == f"no. {int(key)}"
        assert batch.labels[k] == int(key) % 2
    assert batch.weights.tolist() == [1] * 16 + [0]


def test_a_sample_of_another_shape_is_named(tmp_path: Path) -> None:
    make_dataset(tmp_path, "npy")
    (tmp_path / "07.npy").write_bytes(npy(np.zeros((8, 4, 5), np.float16)))
    dataset = build(tmp_path / "t.jsonl", tmp_path / "again")
    with pytest.raises(DataError, match="'07': not the arrays of the first sample"):
        Stream(dataset, seed=0, batch_size=20).batch(0)
    batch = Stream(dataset, seed=0, batch_size=20, on_bad_sample="skip").batch(0)
    assert batch.weights.sum() == 19


def test_a_pickled_array_never_gets_in(tmp_path: Path) -> None:
    make_dataset(tmp_path, "npy")
    (tmp_path / "07.npy").write_bytes(npy(np.array([{}]), allow_pickle=True))
    with pytest.raises(DataError, match=r"07\.npy: dtype '\|O' is not read \(objects would be pickle\)"):
        build(tmp_path / "t.jsonl", tmp_path / "again")


def test_single_numbers_and_an_array_called_pixels(tmp_path: Path) -> None:
    for i in range(4):
        arrays = {"pixels": np.full(3, i, np.float32), "timestep": np.array(i, np.int64), "none": np.empty((0, 2))}
        (tmp_path / f"{i}.safetensors").write_bytes(safetensors.numpy.save(arrays))
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps({"path": f"{i}.safetensors"}) for i in range(4)))
    batch = Stream(build(tmp_path / "t.jsonl", tmp_path / "out"), seed=0, batch_size=6).batch(0)
    assert batch.arrays is not None
    numbers = [int(key) for key in batch.keys]
    assert batch.arrays["timestep"].tolist() == numbers
    assert batch.arrays["pixels"].tolist() == [[number] * 3 for number in numbers]
    assert batch.arrays["none"].shape == (6, 0, 2)
    assert batch.images.shape == (6, 0, 0, 0)
