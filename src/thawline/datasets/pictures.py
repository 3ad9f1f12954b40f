"""From the bytes of a picture file to RGB pixels, the same for every format, or a reason why not."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

EXTENSIONS = frozenset(
    [".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".pnm"]
)
# A closed list, because Pillow would hand a PostScript file to an external program.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
MAX_PIXELS = 89_478_485
"""Pillow's own limit (a quarter of a GiB in RGB), which it only warns of; here more is refused."""

_ORIENTATION = 0x0112
# What a decoder raises on bytes that make no sense depends on the format and on where it notices.
_DECODER_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    AttributeError,
    ArithmeticError,
    LookupError,
    EOFError,
    RuntimeError,
    struct.error,
    zlib.error,
)


class UnreadablePictureError(Exception):
    """The bytes are not a picture that can be used; says why."""


def decode(content: bytes) -> Image:
    """The first frame of a picture file in RGB, upright.

    Grey, palette, CMYK and 16-bit pictures are converted (16 bits keep their upper eight); transparency is laid over
    white, as a viewer shows it; the EXIF orientation is applied.

    Raises:
        UnreadablePictureError: truncated, damaged, an unsupported format, or more than `MAX_PIXELS` pixels.
    """
    with _opened(content) as picture:
        return _guarded(lambda: _upright(picture, _rgb(picture)))


def check(content: bytes) -> str | None:
    """Why `decode` would refuse the bytes, or None. Reads all of the data, but a JPEG at an eighth of its size."""
    try:
        with _opened(content) as picture:
            if picture.format == "JPEG":
                picture.draft(None, (max(picture.width // 8, 1), max(picture.height // 8, 1)))
            _guarded(lambda: _rgb(picture))
    except UnreadablePictureError as error:
        return str(error)
    return None


def _opened(content: bytes) -> Image:
    from PIL import Image, UnidentifiedImageError

    Image.init()
    try:
        picture = Image.open(io.BytesIO(content), formats=[name for name in _FORMATS if name in Image.OPEN])
    except UnidentifiedImageError:
        reason = "the file is empty" if not content else "not a picture in a supported format"
        raise UnreadablePictureError(reason) from None
    except (Image.DecompressionBombError, *_DECODER_ERRORS) as error:
        raise UnreadablePictureError(_reason(error)) from None
    if picture.width * picture.height > MAX_PIXELS:
        raise UnreadablePictureError(f"{picture.width} x {picture.height} pixels, more than the {MAX_PIXELS} allowed")
    return picture


def _guarded(work: Callable[[], Image]) -> Image:
    from PIL import Image

    try:
        return work()
    except (Image.DecompressionBombError, *_DECODER_ERRORS) as error:
        raise UnreadablePictureError(_reason(error)) from None


def _rgb(picture: Image) -> Image:
    from PIL import Image

    picture.load()
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture.copy()
    if picture.mode == "I" or picture.mode.startswith("I;16"):
        return _upper_eight_bits(picture)
    if picture.mode == "F":
        raise ValueError("pictures of floating-point numbers have no agreed range")
    if picture.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in picture.info:
        opaque = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque).convert("RGB")
    return picture.convert("RGB")


def _upper_eight_bits(picture: Image) -> Image:
    import numpy as np
    from PIL import Image

    values = np.asarray(picture).astype(np.int64)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise ValueError("more than 16 bits per pixel")
    return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")


def _upright(picture: Image, rgb: Image) -> Image:
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    try:
        turn = turns.get(picture.getexif().get(_ORIENTATION, 1))
    except _DECODER_ERRORS:
        # Damaged EXIF data says nothing about the pixels, which are whole.
        turn = None
    return rgb if turn is None else rgb.transpose(turn)


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
