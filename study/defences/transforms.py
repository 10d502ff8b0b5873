"""Transforms: changes of the images that a target gets, such as input defences and common changes of image files.

A transform is a sequence of stages. Every stage except a vote maps a `uint8` image to a `uint8` image, as if the image
were saved between stages. No gradient passes through a stage. This module computes the stages that have a single number
as parameter, such as JPEG, on the host. Other defences are components (`study.defences.kinds`). Stages of both kinds
are run by `study.defences.stages`.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, model_serializer, model_validator

from study.attacks.part import PYTHON, Part, PartOf
from study.errors import StudyError, names
from study.process.threads import in_threads
from study.reproducibility.rng import Streams, draws
from study.spec.frozen import Frozen, rejected
from study.spec.shorthand import Json, instead

if TYPE_CHECKING:
    from PIL import Image

Stage = tuple[str, int | float | Part]
Pixels = NDArray[np.uint8]

_MOST_PIXELS = 4096
_MOST_STAGES = 32
_UNIT = 2**20
_DEFENCES = PartOf("defence")


def _json_schema(schema: dict[str, Any]) -> None:
    """Describe both YAML forms of a transform in `schema`: a mapping of stages, and a list of mappings."""
    numbers = {name: {"type": "integer" if kind.whole else "number"} for name, kind in _KINDS.items()}
    most: Json = {"type": "object", "properties": {"most": numbers["resize-pad"]}, "additionalProperties": False}
    properties = {**numbers, "resize-pad": {"anyOf": [numbers["resize-pad"], most]}}
    properties |= _DEFENCES.schemas()
    mapping = {"type": "object", "properties": properties, "additionalProperties": False, "minProperties": 1}
    own = {"type": "object", "properties": {PYTHON: {"type": "string"}}, "required": [PYTHON]}
    one = {"anyOf": [{**mapping, "maxProperties": 1}, own]}
    instead(mapping, own, {"type": "array", "items": one, "minItems": 1})(schema)


class Transforms(Frozen):
    """The stages of a spec's `transform`, in their order.

    A spec writes them as a mapping, in the order of its keys, or as a list of mappings with one key each. A list may
    repeat a stage. A stage is a defence (`smoothing`, `nrp`, `hgd`, `feature-distillation`; see Components), a defence
    in a user's own file (`{python: "mine.py:Mine", strength: 3}`), which runs only with --allow-code, or one of these:

    - `jpeg`: the JPEG quality, 1 to 100; colour has half the resolution (4:2:0), as Pillow saves by default;
    - `bits`: 1 to 8 bits per channel; each value becomes the nearest of 2^bits levels, spread evenly over 0..255;
    - `blur`: standard deviation of a Gaussian blur in pixels; the Gaussian is cut off at four times this value, and
      borders are reflected;
    - `noise`: standard deviation of Gaussian noise in pixel values; each image gets its own noise, and the sum is
      clipped and rounded;
    - `rotate`: degrees of a counterclockwise rotation about the centre, with bilinear interpolation; the size stays,
      and corners become black;
    - `resize`: side of the resized image in pixels; resizing is bilinear and antialiased;
    - `resize-pad`: side, in pixels, of a black square for random resizing and padding (Xie et al. 2018,
      arXiv:1711.01991); also written `{most: pixels}`. The image is resized bilinearly and placed at random in the
      square. Its new side is random, from its own side up to one pixel less than the square. The paper has images of
      299 pixels and a square of 331 pixels, which gives 12,528 patterns.

    A transform of one stage is serialised as a mapping. Several stages are serialised as a list, so that a program that
    sorts keys cannot change the order of the stages.
    """

    model_config = ConfigDict(json_schema_extra=_json_schema)

    stages: tuple[Stage, ...]

    @model_validator(mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        if isinstance(given, Transforms):
            return given
        if not isinstance(given, Mapping | list | tuple) or not given:
            raise rejected(
                f"{given!r:.60} is not a transform",
                f"a mapping such as {{jpeg: 75}}, or a list of such mappings, with {names(_KINDS)} or a defence",
            )
        stages = tuple(_stage(name, value) for name, value in _pairs(given))
        if len(stages) > _MOST_STAGES:
            raise rejected(f"a transform has {len(stages)} stages", f"at most {_MOST_STAGES}")
        return {"stages": stages}

    @model_serializer
    def _write(self) -> dict[str, Any] | list[dict[str, Any]]:
        written = [_written(name, value) for name, value in self.stages]
        return written[0] if len(written) == 1 else written

    @property
    def parts(self) -> tuple[Part, ...]:
        """The stages that are components: defences of the project or of a user's file, in the order of the stages."""
        return tuple(value for _, value in self.stages if isinstance(value, Part))

    def identity(self) -> Any:
        """Return what a target's digest contains of the transform, as plain values.

        These are the stages. Parameters at their defaults are left out, and `file` replaces the path of a file. The
        tensors in the files enter the target's digest separately, by `study.defences.stages.Stages.digest`.
        """
        found = [_identity(value) if isinstance(value, Part) else {name: value} for name, value in self.stages]
        return found[0] if len(found) == 1 else found

    def replaced(self, change: Callable[[Part], Part]) -> Transforms:
        """Return the same transform, with `change(part)` in place of each component `part` from a user's file."""
        stages = tuple(
            (name, change(value) if isinstance(value, Part) and value.python is not None else value)
            for name, value in self.stages
        )
        return self.model_copy(update={"stages": stages})


def _written(name: str, value: int | float | Part) -> dict[str, Any]:
    if not isinstance(value, Part):
        return {name: value}
    written = value.written()
    return {written: {}} if isinstance(written, str) else dict(written)


def _identity(part: Part) -> list[Any]:
    *kind, given = part.identity()
    return [*kind, {key: "file" if str(value).startswith("file:") else value for key, value in given.items()}]


def _pairs(given: Mapping[Any, Any] | Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    if isinstance(given, Mapping):
        yield from [(PYTHON, given)] if PYTHON in given else given.items()
        return
    for each in given:
        if isinstance(each, Mapping) and PYTHON in each:
            yield PYTHON, each
            continue
        if not isinstance(each, Mapping) or len(each) != 1:
            raise rejected(
                f"{each!r:.60} is not a stage of a transform",
                "a list whose items are mappings with one key each, or with the key `python`",
            )
        yield from each.items()


def _stage(name: Any, value: Any) -> Stage:
    if name == PYTHON:
        return PYTHON, _DEFENCES.read(dict(value))
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        known = _DEFENCES.names()
        if name in known:
            return str(name), _DEFENCES.read({name: value})
        raise rejected(f"'{name}' is not a transform", names([*_KINDS, *known], name))
    if name == "resize-pad" and isinstance(value, Mapping) and set(value) == {"most"}:
        value = value["most"]
    number = isinstance(value, int if kind.whole else int | float) and not isinstance(value, bool)
    if not number or not kind.accepts(value):
        raise rejected(f"the transform '{name}' cannot have the value {value!r:.60}", kind.accepted)
    # The addition turns -0.0 into 0.0, so that both have the same digest.
    return name, value if kind.whole else float(value) + 0.0


def apply(transforms: Transforms, pixels: Pixels, keys: Sequence[Sequence[object]], threads: int = 1) -> Pixels:
    """Return the transformed images (N, C, H', W') of `pixels` (N, C, H, W), both `uint8`.

    C is 1 or 3, N is at least 1, and no stage may be a component. `keys` has one key per image, which determines the
    image's random draws. Therefore the result of an image depends on the image and its key alone, not on the other
    images or the number of `threads`. Random draws, `noise`, `blur` and `bits` are exact and equal on every machine.
    JPEG, rotation and resizing depend on the version of Pillow. Raises StudyError if `resize-pad` would have to shrink
    an image.
    """
    plain = [(index, name, value) for index, (name, value) in enumerate(transforms.stages)]
    return apply_plain(plain, pixels, keys, threads)


def apply_plain(
    stages: Sequence[tuple[int, str, int | float | Part]],
    pixels: Pixels,
    keys: Sequence[Sequence[object]],
    threads: int = 1,
) -> Pixels:
    """Apply some stages of a transform, none of which is a component, to `pixels`, as `apply` does.

    Each item of `stages` has the index of a stage in the whole transform, its name and its value. The random draws of a
    stage depend on this index.
    """
    assert pixels.dtype == np.uint8, "images must be uint8"
    assert pixels.shape[1] in (1, 3), "images must be grey or RGB"

    def changed(image: Pixels, key: Sequence[object]) -> Pixels:
        for index, name, value in stages:
            assert not isinstance(value, Part), "components run on the target's device"
            image = _KINDS[name].do(image, value, (*key, "transform", index))
        return image

    return np.stack(in_threads(changed, zip(pixels, keys, strict=True), threads))


def transformed(
    transforms: Transforms | None, pixels: Pixels, key: Sequence[object], ids: Sequence[str], threads: int = 1
) -> Pixels:
    """Apply `transforms` to `pixels` (V * N, C, H, W): V versions of the N images with these `ids`.

    `pixels` are returned as they are if `transforms` is None. The draws of a random transform depend on `key` and the
    image's id. Therefore all versions of an image, clean or adversarial, get the same draws, and differences between
    attacks do not come from different draws.
    """
    if transforms is None:
        return pixels
    return apply(transforms, pixels, [(*key, image) for image in ids] * (len(pixels) // len(ids)), threads)


def side_after(transforms: Transforms, side: int) -> int:
    """Return the side in pixels that a square image of `side` pixels has after all stages.

    Raises StudyError if `resize-pad` would have to shrink the image.
    """
    for name, value in transforms.stages:
        if isinstance(value, Part):
            continue
        if name == "resize-pad":
            _must_grow(side, int(value))
        if name in ("resize", "resize-pad"):
            side = int(value)
    return side


def summary(transforms: Transforms) -> str:
    """Return the stages as a short text for tables: `jpeg 75, blur 1`."""
    return ", ".join(
        _summary(value) if isinstance(value, Part) else f"{name} {value:g}" for name, value in transforms.stages
    )


def _summary(part: Part) -> str:
    """Return the name of a component, followed by its parameters that differ from their defaults.

    For a component in a user's file, the text is the name of the class with all given parameters.
    """
    given = part.parameters
    if part.python is None:
        given = part.component().model_dump(mode="json", exclude_defaults=True)
    shown = " ".join(f"{key} {str(value).removeprefix('file:')}" for key, value in given.items())
    return f"{part.name or str(part.python).rpartition(':')[2]} {shown}".strip()


def _jpeg(image: Pixels, quality: float, key: Sequence[object]) -> Pixels:
    from PIL import Image

    file = io.BytesIO()
    _picture(image).save(file, "JPEG", quality=int(quality), subsampling="4:2:0")
    with Image.open(file) as opened:
        return _pixels(opened)


def _bits(image: Pixels, bits: float, key: Sequence[object]) -> Pixels:
    top = 2 ** int(bits) - 1
    # Both lines round to the nearest integer in integer arithmetic. No tie occurs, because 255 and `top` are odd.
    levels = (2 * top * np.arange(256) + 255) // 510
    table: Pixels = ((2 * 255 * levels + top) // (2 * top)).astype(np.uint8)
    return table[image]


def _blur(image: Pixels, sigma: float, key: Sequence[object]) -> Pixels:
    height, width = image.shape[1:]
    return _rounded(_blurring(height, sigma) @ image.astype(np.float64) @ _blurring(width, sigma).T)


@lru_cache(maxsize=4)
def _blurring(side: int, sigma: float) -> NDArray[np.float64]:
    """Return the matrix (side, side) of a Gaussian blur along one axis.

    Borders are reflected, and the reflection repeats the edge pixel. The weights are multiples of 2^-20 and sum to 1.
    Therefore the product of two such matrices with pixels is exact in float64, and a rounded pixel does not depend on
    the order of summation, the library or the machine.
    """
    radius = math.ceil(4 * sigma)
    offsets = range(-radius, radius + 1)
    bell = [math.exp(-0.5 * (offset / sigma) * (offset / sigma)) for offset in offsets]
    weights = [round(weight / sum(bell) * _UNIT) for weight in bell]
    weights[radius] += _UNIT - sum(weights)
    matrix = np.zeros((side, side))
    rows = np.arange(side)
    for offset, weight in zip(offsets, weights, strict=True):
        place = (rows + offset) % (2 * side)
        matrix[rows, np.minimum(place, 2 * side - 1 - place)] += weight / _UNIT
    return matrix


def _noise(image: Pixels, sigma: float, key: Sequence[object]) -> Pixels:
    normal = Streams(key, ("noise",)).normal(image.shape, "cpu", "gaussian")[0].numpy()
    return _rounded(image + sigma * normal.astype(np.float64))


def _rotate(image: Pixels, degrees: float, key: Sequence[object]) -> Pixels:
    from PIL import Image

    return _pixels(_picture(image).rotate(degrees, Image.Resampling.BILINEAR))


def _resize(image: Pixels, side: float, key: Sequence[object]) -> Pixels:
    return _resized(image, int(side), int(side))


def _resize_pad(image: Pixels, most: float, key: Sequence[object]) -> Pixels:
    own, frame = image.shape[1:], int(most)
    _must_grow(max(own), frame)
    size, down, right = (int(drawn) for drawn in draws(3, *key))
    longest = max(own) + _below(max(1, frame - max(own)), size)
    height, width = (max(1, round(side * longest / max(own))) for side in own)
    top, left = _below(frame - height + 1, down), _below(frame - width + 1, right)
    padded: Pixels = np.zeros((len(image), frame, frame), np.uint8)
    padded[:, top : top + height, left : left + width] = _resized(image, height, width)
    return padded


def _below(count: int, drawn: int) -> int:
    """Return a uniform integer from 0 to count - 1, computed from the 64 random bits `drawn`."""
    return count * drawn >> 64


def _must_grow(side: int, frame: int) -> None:
    if frame < side:
        raise StudyError(
            f"the transform 'resize-pad' makes squares of {frame} pixels, but the images have {side} pixels",
            accepted=f"resize-pad: {side} or more",
            todo="name a larger square, or put `resize` before `resize-pad`",
        )


def _resized(image: Pixels, height: int, width: int) -> Pixels:
    from PIL import Image

    return _pixels(_picture(image).resize((width, height), Image.Resampling.BILINEAR))


def _rounded(values: NDArray[np.float64]) -> Pixels:
    return np.rint(values).clip(0, 255).astype(np.uint8)


def _picture(image: Pixels) -> Image.Image:
    from PIL import Image

    return Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)))


def _pixels(picture: Image.Image) -> Pixels:
    found = np.asarray(picture)
    return np.ascontiguousarray(found[None] if found.ndim == 2 else found.transpose(2, 0, 1))


@dataclass(frozen=True)
class _Kind:
    """One kind of stage.

    `do(image, value, key)` computes the stage. `accepts(value)` checks the stage's value, and `accepted` describes the
    accepted values in messages. If `whole` is true, the value must be an integer.
    """

    do: Callable[[Pixels, float, Sequence[object]], Pixels]
    accepts: Callable[[float], bool]
    accepted: str
    whole: bool = False


_KINDS = {
    "jpeg": _Kind(_jpeg, lambda quality: 1 <= quality <= 100, "jpeg: a whole number, 1 to 100", whole=True),
    "bits": _Kind(_bits, lambda bits: 1 <= bits <= 8, "bits: a whole number, 1 to 8 per channel", whole=True),
    "blur": _Kind(_blur, lambda sigma: 0 < sigma <= 100, "blur: a sigma above 0, in pixels, up to 100"),
    "noise": _Kind(_noise, lambda sigma: 0 < sigma <= 255, "noise: a sigma above 0, in pixel values, up to 255"),
    "rotate": _Kind(_rotate, lambda degrees: -360 <= degrees <= 360, "rotate: degrees counterclockwise, -360 to 360"),
    "resize": _Kind(
        _resize,
        lambda side: 1 <= side <= _MOST_PIXELS,
        f"resize: a whole number of pixels, 1 to {_MOST_PIXELS}",
        whole=True,
    ),
    "resize-pad": _Kind(
        _resize_pad,
        lambda most: 1 <= most <= _MOST_PIXELS,
        f"resize-pad: a whole number of pixels, 1 to {_MOST_PIXELS}, the side of the square; or {{most: pixels}}",
        whole=True,
    ),
}
