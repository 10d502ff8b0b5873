"""Decode stored images into pixels, at the size that an image set has."""

from __future__ import annotations

import hashlib
import math
import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from study.errors import StudyError
from study.images.location import FORMATS, Stored

if TYPE_CHECKING:
    from study.images.image_sets import ImageSet

_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    ArithmeticError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""The exceptions that Pillow and pyarrow raise for damaged files."""
_MOST_PIXELS = 2**28


def read(stored: Stored, images: ImageSet) -> NDArray[np.uint8]:
    """Decode an image into `uint8` (channels, size, size). `fit`, `channels` and `size` of `images` say how:

    - fit crop: the short side is resized to floor(size / 0.875), antialiased bicubic, and the centre is cropped, as
      torchvision's Resize and CenterCrop do. Smaller images are enlarged;
    - fit squash: both sides are resized to `size`, antialiased bicubic;
    - fit exact: only images of this size are accepted, and no pixel changes.

    Raises StudyError, which names the image, if the image is missing, cannot be decoded or does not fit.
    """
    image, size = decode(stored, images.channels), images.size
    if images.fit == "exact":
        if image.size != (size, size):
            raise StudyError(
                f"the image {stored} has {image.width} x {image.height} pixels, not {size} x {size}",
                accepted=f"{size} x {size} pixels, because `fit: exact` changes no pixel",
                todo="correct `images: size:`, or use `fit: crop` or `fit: squash`",
            )
        return array(image)
    if images.fit == "squash":
        return array(image.resize((size, size), Image.Resampling.BICUBIC))
    short = math.floor(size / 0.875)
    # Sizes are truncated and positions are rounded in the same way as in torchvision's Resize and CenterCrop.
    width, height = (short * side // min(image.size) for side in image.size)
    if width * height > _MOST_PIXELS:
        raise StudyError(
            f"the image {stored} cannot be used: it is too long and narrow ({image.width} x {image.height} pixels)",
            todo="remove it from the image set, or use `fit: squash`",
        )
    left, top = round((width - size) / 2), round((height - size) / 2)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return array(resized.crop((left, top, left + size, top + size)))


def decode(stored: Stored, channels: int) -> Image.Image:
    """Decode an image at its own size: greyscale for one channel, RGB for three.

    Only the first frame is read. The EXIF orientation is applied. Transparent pixels are composed over white. Colour
    becomes grey with the weights of ITU-R 601. 16-bit greyscale is rounded to 8 bits; for 16-bit colour, Pillow keeps
    the upper 8 bits. Colour profiles are ignored: all values count as sRGB. Raises StudyError, which names the image,
    if the image is missing or cannot be decoded.
    """
    try:
        with stored.open() as opened:
            if 0 in opened.size:
                raise ValueError(f"it has {opened.width} x {opened.height} pixels")
            opened.load()
            plain = _plain(ImageOps.exif_transpose(opened))
            return plain.convert("L" if channels == 1 else "RGB")
    except FileNotFoundError:
        raise StudyError(
            f"the image {stored} does not exist", todo="restore the file, or correct its place in the spec"
        ) from None
    except _BROKEN as error:
        raise StudyError(
            f"the image {stored} cannot be read: {getattr(error, 'strerror', None) or error or type(error).__name__}",
            accepted=f"an image in one of the formats {', '.join(FORMATS)}",
            todo="fetch the file again, or remove it from the image set",
        ) from None


def array(image: Image.Image) -> NDArray[np.uint8]:
    """Return the pixels of a greyscale or RGB image as contiguous `uint8` (1 or 3, height, width)."""
    pixels = np.asarray(image)
    planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return np.array(planes, dtype=np.uint8, order="C")


def digest(pixels: NDArray[np.uint8]) -> str:
    """Return the SHA-256 of the pixels of one image, in hexadecimal."""
    return hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest()


def _plain(image: Image.Image) -> Image.Image:
    """Return the image without transparency, with at most 8 bits per channel."""
    deep = image.mode in _SIXTEEN_BITS or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if deep:
        levels = np.asarray(image).astype(np.int64)
        # 257 is 65535 / 255. Adding half of 257 before the division rounds to the nearest value.
        grey = ((levels + 128) // 257).astype(np.uint8)
        if isinstance(image.info.get("transparency"), int):
            grey[levels == image.info["transparency"]] = 255
        return Image.fromarray(grey)
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        raise ValueError("its pixels are 32-bit numbers without a known range")
    if image.has_transparency_data:
        whole = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", whole.size, (255, 255, 255, 255)), whole).convert("RGB")
    return image
