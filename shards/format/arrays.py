"""Arrays as sample content: `.npy` without pickle, and `.safetensors`; both are a header and raw bytes."""

import ast
import json
import math
import struct
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..errors import DataError
from .limits import MAX_SAMPLE_BYTES

MAX_HEADER_BYTES = 1 << 16
MAX_DIMENSIONS = 32
_NPY_MAGIC = b"\x93NUMPY"
_DTYPES = ("<f2", "<f4", "<f8", "|i1", "<i2", "<i4", "<i8", "|u1", "<u2", "<u4", "<u8", "|b1")
# https://huggingface.co/docs/safetensors, "Format"; bfloat16 has no numpy type
_SAFETENSORS_DTYPES = {
    "F16": "<f2", "F32": "<f4", "F64": "<f8", "I8": "|i1", "I16": "<i2", "I32": "<i4", "I64": "<i8",
    "U8": "|u1", "U16": "<u2", "U32": "<u4", "U64": "<u8", "BOOL": "|b1",
}  # fmt: skip


@dataclass(frozen=True)
class ArrayPlace:
    """Where one array lies in a sample's content."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    start: int
    """Bytes from the start of the content."""

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


Layout = tuple[ArrayPlace, ...]


def array_layout(data: bytes, extension: str, where: str) -> Layout:
    """Where each array lies; an `.npy` has one, named `array`.

    Raises `DataError` naming `where` when the header is not one, or its arrays are not exactly the rest.
    """
    try:
        header_bytes = _npy_header_bytes(data) if extension == "npy" else _safetensors_header_bytes(data)
        layout = _parse_header(data[:header_bytes], extension)
    except DataError as error:
        raise DataError(f"{where}: {error}; write it again") from None
    # untrusted headers: ast, json and struct raise ValueError, SyntaxError, MemoryError, RecursionError, TypeError, ...
    except Exception as error:
        raise DataError(f"{where}: not a readable .{extension} ({error}); write it again") from error
    end = max((place.start + place.num_bytes for place in layout), default=header_bytes)
    if end != len(data):
        raise DataError(f"{where}: {len(data):,} bytes where its header says {end:,}; write it again")
    return layout


def check_array(data: bytes, extension: str, where: str) -> None:
    """Raise `DataError` unless `data` is a whole `.npy` or `.safetensors` without pickle."""
    array_layout(data, extension, where)


def _npy_header_bytes(data: bytes) -> int:
    # https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
    if data[:6] != _NPY_MAGIC or data[6] not in (1, 2, 3):
        raise DataError("no .npy header")
    lengths = struct.Struct("<H" if data[6] == 1 else "<I")
    (num_bytes,) = lengths.unpack_from(data, 8)
    return _bounded(8 + lengths.size + num_bytes, data)


def _safetensors_header_bytes(data: bytes) -> int:
    (num_bytes,) = struct.unpack_from("<Q", data)
    return _bounded(8 + num_bytes, data)


def _bounded(header_bytes: int, data: bytes) -> int:
    if header_bytes > min(MAX_HEADER_BYTES, len(data)):
        raise DataError(f"a header of {header_bytes:,} bytes in {len(data):,}, at most {MAX_HEADER_BYTES:,} are read")
    return header_bytes


# the samples of a dataset share a header or a few
@lru_cache(maxsize=64)
def _parse_header(header: bytes, extension: str) -> Layout:
    return _parse_npy(header) if extension == "npy" else _parse_safetensors(header)


def _parse_npy(header: bytes) -> Layout:
    text = header[10 if header[6] == 1 else 12 :].decode("utf-8")
    fields = ast.literal_eval(text.strip())
    if set(fields) != {"descr", "fortran_order", "shape"} or fields["fortran_order"] is not False:
        raise DataError("not a C-ordered array")
    return (ArrayPlace("array", _dtype(fields["descr"]), _shape(fields["shape"]), len(header)),)


def _parse_safetensors(header: bytes) -> Layout:
    places, end = [], 0
    fields = json.loads(header[8:])
    fields.pop("__metadata__", None)
    for name, field in sorted(fields.items(), key=lambda item: item[1]["data_offsets"]):
        start, stop = field["data_offsets"]
        dtype = _dtype(_SAFETENSORS_DTYPES.get(field["dtype"], field["dtype"]))
        place = ArrayPlace(name, dtype, _shape(field["shape"]), len(header) + start)
        if type(start) is not int or start != end or stop - start != place.num_bytes:
            raise DataError(f"array {name!r} overlaps another, leaves a gap or has a wrong size")
        places.append(place)
        end = stop
    return tuple(places)


def _dtype(name: object) -> np.dtype:
    if name not in _DTYPES:
        raise DataError(f"dtype {name!r} is not read (objects would be pickle); possible are {', '.join(_DTYPES)}")
    return np.dtype(str(name))


def _shape(sizes: object) -> tuple[int, ...]:
    if not isinstance(sizes, tuple | list) or not all(type(size) is int and size >= 0 for size in sizes):
        raise DataError(f"shape {sizes!r}")
    # an array without an element could have sizes that numpy cannot multiply
    if len(sizes) > MAX_DIMENSIONS or math.prod(size or 1 for size in sizes) > MAX_SAMPLE_BYTES:
        raise DataError(f"shape of {len(sizes)} dimensions or more than {MAX_SAMPLE_BYTES:,} elements")
    return tuple(sizes)
