"""Bytes to pixels with Pillow, restricted to three formats and a bounded number of pixels."""

import contextlib
import io
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageOps

from ..errors import DataError

FORMATS = ("PNG", "JPEG", "WEBP")
# a decompression bomb is refused from its header, before a pixel is allocated; 64 Mpixel is a 8192 × 8192 scan
MAX_PIXELS = 1 << 26
_GREY_MODES = ("1", "L", "LA")
_COLOUR_MODES = ("P", "RGB", "RGBA", "CMYK", "YCbCr")
_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)


def open_image(data: bytes, where: str) -> Image.Image:
    """Decode an image upright (EXIF orientation applied), as mode L or RGB.

    Raises `DataError`, naming `where`, for anything that is not a whole PNG, JPEG or WebP image of 8 bits a channel.
    """
    with _opened(data, where) as image:
        image.load()
        upright = ImageOps.exif_transpose(image) if _orientation(image) != 1 else image
        return upright.convert(_mode(upright))


def image_header_shape(data: bytes, where: str) -> tuple[int, int, int]:
    """[H, W, C] that decoding will give, from the header alone; raises `DataError`."""
    with _opened(data, where) as image:
        size = image.size[::-1] if _orientation(image) in _TURNED else image.size
        return (size[1], size[0], len(_mode(image)))


def decode(data: bytes, where: str) -> np.ndarray:
    """Decode an image to uint8 [H, W, C], C = 1 or 3; raises as `open_image` does."""
    return to_array(open_image(data, where))


def to_array(image: Image.Image) -> np.ndarray:
    """Pixels of an L or RGB image, uint8 [H, W, C]."""
    pixels = np.asarray(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def encode_png(pixels: np.ndarray) -> bytes:
    """PNG bytes of uint8 [H, W] or [H, W, 3]; the same pixels give the same bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


@contextlib.contextmanager
def _opened(data: bytes, where: str) -> Iterator[Image.Image]:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_header(image)
            yield image
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    # decoders raise whatever their format's parser runs into: struct.error, SyntaxError, EOFError, KeyError, ...
    except Exception as error:
        reason = "not a PNG, JPEG or WebP image" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        raise DataError(f"{where}: cannot be decoded ({reason}); replace or remove it") from error


def _check_header(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise DataError(f"{width} × {height} pixels, more than {MAX_PIXELS:,} are refused; downsize or remove it")
    if image.mode not in _GREY_MODES + _COLOUR_MODES:
        raise DataError(f"mode {image.mode} is not 8 bits a channel; convert it to 8-bit grey or RGB")


def _mode(image: Image.Image) -> str:
    return "L" if image.mode in _GREY_MODES else "RGB"


def _orientation(image: Image.Image) -> int:
    # asking a PNG for EXIF that is not in its head would decode the whole image
    return image.getexif().get(_ORIENTATION, 1) if "exif" in image.info else 1
