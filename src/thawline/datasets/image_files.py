"""From the bytes of an image file to RGB pixels, the same for every format, or a reason why not."""

from __future__ import annotations

import contextlib
import hashlib
import io
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from thawline.errors import usage_error

if TYPE_CHECKING:
    from PIL.Image import Image

EXTENSIONS = frozenset(
    [".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".pnm"]
)
# A closed list, because Pillow would hand a PostScript file to an external program.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
MAX_PIXELS = 89_478_485
"""Pillow's own limit (a quarter of a GiB in RGB), which it only warns of; here more is refused."""
MAX_SIDE = 2**18
"""The longest side in pixels. Resizing takes memory for every pixel of a side, however thin the image is."""
_IN_FLIGHT = 2**26
"""Pixels that all threads of a process decode at once (a larger image alone): each takes up to 12 bytes."""
_BAND_PIXELS = 2**20

FIRST_FRAME = "several frames or pages: the first is used"
FURTHER_BANDS = "bands beyond red, green and blue: they are left out"
TIFF_ALPHA = "a TIFF band marked as transparency: the rest is laid over white"

_ORIENTATION = 0x0112
_PHOTOMETRIC, _SAMPLES_PER_PIXEL = 0x0106, 0x0115
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


class UnreadableImageError(Exception):
    """The bytes are not an image that can be used; says why."""


class Examined(NamedTuple):
    """What decoding an image file found.

    Attributes:
        problem: Why `decode` would refuse the bytes; None: it would not.
        pixels: A digest of size and RGB pixels: files with the same one show the same image. Empty with a problem.
        remarks: What of the file is not used, in the words of this module's constants.
        size: (height, width) of the upright image in pixels; zeros with a problem.
    """

    problem: str | None
    pixels: str = ""
    remarks: tuple[str, ...] = ()
    size: tuple[int, int] = (0, 0)


def decode(content: bytes) -> Image:
    """The first frame of an image file in RGB, upright.

    Grey, palette, CMYK and 16-bit images are converted (16 bits keep their upper eight); transparency is laid over
    white, as a viewer shows it; the EXIF orientation is applied.

    Raises:
        UnreadableImageError: truncated, damaged, an unsupported format, more than `MAX_PIXELS` pixels, or a side
            longer than `MAX_SIDE`.
    """
    with _opened(content) as image, _in_flight.taking(image.width * image.height):
        return _guarded(lambda: _upright(image, _rgb(image)))


def read(path: Path, field: str, load: Callable[[Path], bytes] = Path.read_bytes) -> Image:
    """The image in a file, as `decode` gives it; `load` gives the file's bytes.

    Raises:
        UsageError: it cannot be read; names the `field` of the configuration and the file.
    """
    try:
        return decode(load(path))
    except OSError as error:
        raise usage_error(field, f"{path}: cannot be read: {error.strerror or error}") from None
    except UnreadableImageError as error:
        raise usage_error(field, f"{path}: not a usable image: {error}") from None


def converted(image: Image) -> Image:
    """An image that is open already, in RGB and upright, as `decode` gives that of a file.

    Raises:
        UnreadableImageError: its pixels cannot be read, or are of a kind that has no agreed range.
    """
    return _guarded(lambda: _upright(image, _rgb(image)))


def examine(content: bytes) -> Examined:
    """Decode the bytes once: whether they can be used, a digest of their pixels, and what of them is not used."""
    try:
        with _opened(content) as image, _in_flight.taking(image.width * image.height):
            rgb = _guarded(lambda: _upright(image, _rgb(image)))
            return Examined(None, _digest(rgb), _remarks(image), (rgb.height, rgb.width))
    except UnreadableImageError as error:
        return Examined(str(error))


def stored(content: bytes) -> Image:
    """The first frame of an image file in the mode that it has, upright: for files whose values are not colours.

    Raises:
        UnreadableImageError: as `decode`.
    """
    with _opened(content) as image, _in_flight.taking(image.width * image.height):
        return _guarded(lambda: _upright(image, _loaded(image)))


class _PixelBudget:
    """Lets threads wait until the pixels that are decoded at once are few enough for their memory."""

    def __init__(self, most: int) -> None:
        self._most, self._taken, self._freed = most, 0, threading.Condition()

    @contextlib.contextmanager
    def taking(self, pixels: int) -> Iterator[None]:
        with self._freed:
            self._freed.wait_for(lambda: not self._taken or self._taken + pixels <= self._most)
            self._taken += pixels
        try:
            yield
        finally:
            with self._freed:
                self._taken -= pixels
                self._freed.notify_all()


_in_flight = _PixelBudget(_IN_FLIGHT)


def _opened(content: bytes) -> Image:
    from PIL import Image, UnidentifiedImageError

    Image.init()
    try:
        image = Image.open(io.BytesIO(content), formats=[name for name in _FORMATS if name in Image.OPEN])
    except UnidentifiedImageError:
        raise UnreadableImageError(_unidentified(content)) from None
    except (Image.DecompressionBombError, *_DECODER_ERRORS) as error:
        raise UnreadableImageError(_reason(error)) from None
    if image.width * image.height > MAX_PIXELS:
        raise UnreadableImageError(f"{image.width} x {image.height} pixels, more than the {MAX_PIXELS} allowed")
    if max(image.size) > MAX_SIDE:
        raise UnreadableImageError(f"{image.width} x {image.height} pixels: a side may have {MAX_SIDE} pixels at most")
    return image


def _unidentified(content: bytes) -> str:
    if not content:
        return "the file is empty"
    if content[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "a TIFF whose bands or sample type cannot be read as grey, RGB or CMYK: export it as RGB with 8 bits"
    return "not an image in a supported format"


def _guarded(work: Callable[[], Image]) -> Image:
    from PIL import Image

    try:
        return work()
    except (Image.DecompressionBombError, *_DECODER_ERRORS) as error:
        raise UnreadableImageError(_reason(error)) from None


def _loaded(image: Image) -> Image:
    image.load()
    own = image.copy()
    own.format = image.format
    return own


def _rgb(image: Image) -> Image:
    image.load()
    if image.mode == "RGB" and "transparency" not in image.info:
        return image.copy()
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _in_bands(image, _upper_eight_bits)
    if image.mode == "F":
        raise ValueError("images of floating-point numbers have no agreed range")
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        return _in_bands(image, _over_white)
    return image.convert("RGB")


def _in_bands(image: Image, converted: Callable[[Image], Image]) -> Image:
    """The image in RGB, converted some rows at a time: what lies between must not take memory for all of them."""
    from PIL import Image

    rows = max(_BAND_PIXELS // image.width, 1)
    if rows >= image.height:
        return converted(image)
    canvas = Image.new("RGB", image.size)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        canvas.paste(converted(band), (0, top))
    return canvas


def _over_white(image: Image) -> Image:
    from PIL import Image

    opaque = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque).convert("RGB")


def _upper_eight_bits(image: Image) -> Image:
    import numpy as np
    from PIL import Image

    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise ValueError("more than 16 bits per pixel")
    return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")


def _upright(image: Image, rgb: Image) -> Image:
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
        turn = turns.get(image.getexif().get(_ORIENTATION, 1))
    except _DECODER_ERRORS:
        # Damaged EXIF data says nothing about the pixels, which are whole.
        turn = None
    return rgb if turn is None else rgb.transpose(turn)


def _digest(rgb: Image) -> str:
    digest = hashlib.blake2b(f"{rgb.width} x {rgb.height}\n".encode(), digest_size=16)
    rows = max(_BAND_PIXELS // rgb.width, 1)
    if rows >= rgb.height:
        digest.update(rgb.tobytes())
        return digest.hexdigest()
    for top in range(0, rgb.height, rows):
        digest.update(rgb.crop((0, top, rgb.width, min(top + rows, rgb.height))).tobytes())
    return digest.hexdigest()


def _remarks(image: Image) -> tuple[str, ...]:
    remarks = []
    if image.format == "TIFF":
        # Pillow drops unknown bands without a word, and programs mark an infrared band as transparency.
        tags = getattr(image, "tag_v2", {})
        colors = {0: 1, 1: 1, 2: 3}.get(tags.get(_PHOTOMETRIC, -1))
        if colors is not None and tags.get(_SAMPLES_PER_PIXEL, 1) > colors:
            remarks.append(TIFF_ALPHA if image.mode in ("RGBA", "RGBa", "LA", "La") else FURTHER_BANDS)
    try:
        # Looking for further frames moves within the file, so this comes after the pixels.
        frames = image.format in ("GIF", "PNG", "WEBP", "TIFF") and getattr(image, "n_frames", 1) > 1
    except _DECODER_ERRORS:
        frames = True  # a damaged second frame
    if frames:
        remarks.append(FIRST_FRAME)
    return tuple(remarks)


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
