"""From an image file to pixels at an image set's canonical size."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from study.errors import StudyError

PREPARATION = "rgb, short side to floor(size / 0.875) by antialiased bicubic, centre crop"
"""What `read` does to a file, in words that are part of every craft's identity."""


def read(path: Path, size: int) -> NDArray[np.uint8]:
    """The image as RGB `uint8` (3, size, size): short side to floor(size / 0.875), bicubic, then the centre.

    Raises StudyError, naming the file, where it is missing or cannot be decoded.
    """
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except FileNotFoundError:
        raise StudyError(f"the image {path} does not exist", todo="correct the image list or folder") from None
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise StudyError(
            f"the image {path} cannot be read: {error}",
            accepted="an image file that Pillow decodes (JPEG, PNG, …)",
            todo="fetch the file again, or take it out of the image set",
        ) from None
    short = math.floor(size / 0.875)
    # Truncated and rounded as torchvision's Resize and CenterCrop do.
    width, height = (short * side // min(image.size) for side in image.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    cropped = resized.crop((left, top, left + size, top + size))
    return np.ascontiguousarray(np.asarray(cropped).transpose(2, 0, 1))


def digest(pixels: NDArray[np.uint8]) -> str:
    """SHA-256 of one image's pixels."""
    return hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest()
