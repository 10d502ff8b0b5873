"""Check the images and labels that a caller gives to an attack from Python. Convert images to pixel values, and back.

Images are torch tensors or numpy arrays (N, C, H, W), with one or three channels: 8-bit, floats in 0..1, or floats
normalised by a mean and a standard deviation. Images with channels last, single images and other types are refused,
because a guess could be wrong. Black images are refused too: their values were probably scaled twice, or rounded to 8
bits before they were multiplied by 255.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from study.errors import StudyError

Images = Tensor | NDArray[Any]
PixelValues = NDArray[np.uint8] | NDArray[np.float32]
Restore = Callable[[NDArray[np.uint8]], Any]
Statistic = float | Sequence[float] | NDArray[Any] | Tensor
"""A mean or a standard deviation: one number for all channels, or one number for each channel."""

_ACCEPTED = "uint8 in 0..255, floats in 0..1, or floats with their mean= and std="
_FLOATS = ("float16", "bfloat16", "float32", "float64")
_EXCESS = 0.5
"""Values beyond 0..255 by at most this number of pixel values are clipped, because rounding can cause them."""
_EIGHT_BITS = 0.01
"""Floats within this distance of whole pixel values are read as an 8-bit image.

For 16-bit floats, `_tolerance` returns a larger distance.
"""


@dataclass(frozen=True)
class _Kind:
    """The form in which the caller gives images, and in which the caller gets results.

    `device` is the device of a tensor, or None for a numpy array. `mean` and `std`, (C, 1, 1) or (1, 1, 1), belong to
    the normalisation; they are None without normalisation.
    """

    device: torch.device | None
    dtype: str
    mean: NDArray[np.float64] | None
    std: NDArray[np.float64] | None


def check_statistics(mean: Statistic | None, std: Statistic | None) -> None:
    """Raise StudyError if only one of the mean and the standard deviation of a model's images is given."""
    if (mean is None) != (std is None):
        raise StudyError(
            "mean= and std= belong together, and only one of them is given",
            where="images",
            accepted="both for a model of normalised images, or neither",
        )


def to_pixels(
    images: Images, *, mean: Statistic | None = None, std: Statistic | None = None
) -> tuple[PixelValues, Restore]:
    """Return images as pixel values 0..255, and a function that converts 8-bit results to the caller's kind of images.

    Args:
        images: (N, C, H, W) with one or three channels. The dtype is `uint8`, float16, bfloat16, float32 or float64.
            Floats are in 0..1, or normalised as `(x - mean) / std` of images x in 0..1.
        mean: Mean of the normalisation, for images in 0..1: one number, or one for each channel. Requires `std`.
        std: Standard deviation of the normalisation, in the same form as `mean`. Requires `mean`.

    If all pixel values are whole numbers, up to rounding errors, the pixels (N, C, H, W) are `uint8`. Most images are
    such 8-bit images in another form. Otherwise the pixels are `float32` in 0..255. Floats beyond 0..1 by less than
    half a pixel value are clipped. The returned function takes `uint8` (N, C, H, W) and returns the same kind as
    `images`: tensor or array, with the dtype, device, range and normalisation of `images`. The results of torchvision's
    `ToTensor` and `Normalize` on 8-bit images are restored bit for bit.

    Raises StudyError for other types, shapes, dtypes and ranges, for values that are not finite, for black images, and
    for a `mean` or `std` that does not fit. `uint8` images accept neither.
    """
    _check_type(images)
    _check_shape(tuple(images.shape))
    dtype = str(images.dtype).removeprefix("torch.")
    check_statistics(mean, std)
    device = images.device if isinstance(images, Tensor) else None
    if dtype == "uint8":
        return _eight_bit(images, _Kind(device, dtype, None, None), normalised=mean is not None)
    if dtype not in _FLOATS:
        raise StudyError(
            f"images cannot have the dtype {dtype}",
            where="images",
            accepted=_ACCEPTED,
            todo="convert integers in 0..255 with .to(torch.uint8) or .astype(numpy.uint8)" if "int" in dtype else None,
        )
    channels = images.shape[1]
    kind = _Kind(device, dtype, _statistic("mean", mean, channels), _statistic("std", std, channels))
    values = _array(images.to(torch.float64)) if isinstance(images, Tensor) else images.astype(np.float64)
    _check_finite(values)
    if kind.mean is not None and kind.std is not None:
        values = values * kind.std + kind.mean
    pixels = 255 * values
    _check_range(pixels, normalised=kind.mean is not None)
    pixels = pixels.clip(0, 255)
    whole = np.rint(pixels)
    return (
        whole.astype(np.uint8) if np.abs(pixels - whole).max() <= _tolerance(kind) else pixels.astype(np.float32)
    ), _restore(kind)


def to_labels(
    labels: Tensor | NDArray[Any] | Sequence[int], count: int, classes: int | None = None
) -> NDArray[np.int64]:
    """Check the labels of `count` images, and return them as `int64` (count,).

    Raises StudyError for floats, probabilities, another number of labels, and negative labels. If `classes` is given,
    labels that are not below `classes` are refused too.
    """
    given = _array(labels) if isinstance(labels, Tensor) else np.asarray(labels)
    if given.dtype.kind not in "iu":
        raise StudyError(
            f"labels must be whole numbers, but these have the dtype {given.dtype}",
            where="labels",
            accepted="integers (N,)",
        )
    if given.shape != (count,):
        raise StudyError(
            f"the number of images is {count}, but the labels have the shape {given.shape}",
            where="labels",
            accepted=f"({count},): one label for each image",
            todo="take labels.argmax(1) of one-hot labels, or labels[:, 0] of one column" if given.ndim == 2 else None,
        )
    found = given.astype(np.int64)
    wrong = found[(found < 0) | (found >= (math.inf if classes is None else classes))]
    if len(wrong):
        raise StudyError(
            f"there is no class {wrong[0]}",
            where="labels",
            accepted="0 and above" if classes is None else f"0 to {classes - 1}: the model has {classes} outputs",
        )
    return found


def device_of(images: Images, models: Sequence[nn.Module]) -> str:
    """Return the device of all parameters and buffers of the models.

    Raises StudyError if there are several devices, or if the images are a tensor on another device. Models without
    parameters count as being on the device of the images.
    """
    found = {str(value.device) for model in models for value in (*model.parameters(), *model.buffers())}
    if len(found) > 1:
        raise StudyError(
            f"the models are on several devices: {', '.join(sorted(found))}",
            where="models",
            accepted="one device",
            todo="move them with model.to(device)",
        )
    theirs = str(images.device) if isinstance(images, Tensor) else None
    device = next(iter(found), theirs or "cpu")
    if theirs is not None and theirs != device:
        raise StudyError(
            f"the images are on {theirs}, but the model is on {device}",
            where="images",
            accepted="one device",
            todo=f"move the images: images.to('{device}')",
        )
    return device


def _check_type(images: object) -> None:
    if not isinstance(images, Tensor | np.ndarray):
        raise StudyError(
            f"images cannot be of the type {type(images).__name__}",
            where="images",
            accepted="a torch tensor or a numpy array (N, C, H, W)",
        )


def _check_shape(shape: tuple[int, ...]) -> None:
    todo = None
    if len(shape) == 4 and shape[1] in (1, 3) and all(shape):
        return
    if len(shape) == 3:
        todo = "add the dimension N to a single image: images[None]"
    elif len(shape) == 4 and shape[3] in (1, 3):
        todo = "put the channels first: images.transpose(0, 3, 1, 2) in numpy, images.permute(0, 3, 1, 2) in torch"
    raise StudyError(
        f"images cannot have the shape {shape}",
        where="images",
        accepted="(N, C, H, W) with at least one image, and one or three channels",
        todo=todo,
    )


def _eight_bit(images: Images, kind: _Kind, *, normalised: bool) -> tuple[PixelValues, Restore]:
    if normalised:
        raise StudyError(
            "mean= and std= are for float images, and these images are uint8",
            where="mean, std",
            todo="leave out mean= and std=, or give the normalised float images",
        )
    pixels = np.array(_array(images) if isinstance(images, Tensor) else images, dtype=np.uint8, order="C")
    if pixels.max() <= 1:
        raise StudyError(
            f"the largest value of these uint8 images is {pixels.max()}, so they are black",
            where="images",
            accepted=_ACCEPTED,
            todo="turn floats in 0..1 into 8-bit images by (255 * images).round() before you change the dtype",
        )
    return pixels, _restore(kind)


def _check_finite(values: NDArray[np.float64]) -> None:
    broken = np.flatnonzero(~np.isfinite(values).all(axis=(1, 2, 3)))
    if len(broken):
        raise StudyError(f"image {broken[0]} has values that are not finite", where="images", accepted=_ACCEPTED)


def _check_range(pixels: NDArray[np.float64], *, normalised: bool) -> None:
    low, high = float(pixels.min()) / 255, float(pixels.max()) / 255
    excess = _EXCESS / 255
    if low < -excess or high > 1 + excess:
        if normalised:
            what = f"this mean and std do not fit: x * std + mean has values from {low:.4g} to {high:.4g}, not in 0..1"
            todo = "give the mean and std (for images in 0..1) with which the images were normalised"
        else:
            what = f"float images have values from {low:.4g} to {high:.4g}, not in 0..1"
            todo = (
                "divide images in 0..255 by 255, or make them uint8"
                if low >= -excess
                else "give the mean= and std= with which the images were normalised"
            )
        raise StudyError(what, where="images", accepted=_ACCEPTED, todo=todo)
    if high <= 1 / 255 + 1e-6:
        raise StudyError(
            f"these images are black: their largest value is {high:.4g}, where 0 is black and 1 is white",
            where="images",
            accepted=_ACCEPTED,
            todo="divide images in 0..255 by 255 once only; if you give mean= and std=, check them",
        )


def _statistic(name: str, given: Statistic | None, channels: int) -> NDArray[np.float64] | None:
    """Return a mean or standard deviation as (C, 1, 1), or as (1, 1, 1) if it is a single number.

    Return None if none is given. `name` is `mean` or `std`. Raises StudyError for values that do not fit the channels
    or the range 0..1.
    """
    if given is None:
        return None
    try:
        values = np.asarray(_array(given) if isinstance(given, Tensor) else given, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        values = np.zeros(0)
    accepted = f"a finite number, or one for each channel ({channels}), for images in 0..1; a std is above 0"
    if len(values) not in (1, channels) or not np.isfinite(values).all() or (name == "std" and (values <= 0).any()):
        what = f"{name}= cannot be {given!r} (number of channels: {channels})"
        raise StudyError(what, where=name, accepted=accepted)
    if (np.abs(values) > 1).any():
        raise StudyError(
            f"{name}={given!r} is for pixel values 0..255, but the mean and std of images in 0..1 are needed",
            where=name,
            accepted=accepted,
            todo="divide it by 255",
        )
    return values.reshape(-1, 1, 1)


def _tolerance(kind: _Kind) -> float:
    """Return the largest distance from a whole pixel value that rounding in the caller's dtype can cause."""
    # A mantissa of 8 bits has an error of up to 255 / 2**9, half a pixel value: a bfloat16 cannot hold 8-bit images.
    bits = {"float16": 11, "bfloat16": 8, "float32": 24, "float64": 53}[kind.dtype]
    scale = 1.0 if kind.mean is None or kind.std is None else float((kind.std + np.abs(kind.mean)).max())
    return min(0.25, max(_EIGHT_BITS, 4 * scale * 255 / 2.0**bits))


def _restore(kind: _Kind) -> Restore:
    def restore(pixels: NDArray[np.uint8]) -> Any:
        """Convert 8-bit images `uint8` (N, C, H, W) to the dtype, device, range and normalisation of the caller."""
        if pixels.dtype != np.uint8:
            raise TypeError("results are 8-bit images")
        found: NDArray[Any] = np.ascontiguousarray(pixels)
        if kind.dtype != "uint8":
            # Compute in the caller's dtype, as torchvision does. 16-bit floats are rounded once, at the end.
            wide: Any = np.float64 if kind.dtype == "float64" else np.float32
            found = found.astype(wide) / wide(255)
            if kind.mean is not None and kind.std is not None:
                found = (found - kind.mean.astype(wide)) / kind.std.astype(wide)
        if kind.device is None:
            return found.astype(kind.dtype)
        return torch.from_numpy(found.copy()).to(kind.device, getattr(torch, kind.dtype))

    return restore


def _array(tensor: Tensor) -> NDArray[Any]:
    found: NDArray[Any] = tensor.detach().cpu().contiguous().numpy()
    return found
