"""Operations on images, from which attacks with learnt or sampled transforms choose. Each image has its own operation.

An operation has a family, such as "rotate", and several amounts; each image draws one amount. Images with operations of
one family are changed together, in a few kernels. Permutations, rotations and shifts gather pixels. Resizing is a
product with two matrices. On every device, these gathers and products give the same bits in every run.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from study.attacks.kinds import Draws, Pool
from study.attacks.resampling import taps
from study.devices.copies import uploaded

if TYPE_CHECKING:
    from torch import Tensor

Family = Literal[
    "identity",
    "flip",
    "roll",
    "rotate",
    "shuffle",
    "translate",
    "resize",
    "crop",
    "scale",
    "mask",
    "drop",
    "mix",
    "spectrum",
    "fade",
    "noise",
    "low-pass",
    "channels",
]
"""The families of operations; `Operation` describes the amounts of each family."""

FAMILIES: tuple[Family, ...] = get_args(Family)

_ROWS, _COLUMNS = 0, 1
_WORDS = 4
_NOISE = 16.0
"""Standard deviation, in pixel values, of the noise that is added before the cosine transform."""


@dataclass(frozen=True)
class Operation:
    """One operation on an image. Each image draws one of the `amounts`. The meaning of an amount depends on the family:

    - flip, roll: the axis, 0 for up and down, 1 for left and right. A roll moves the image by a random number of
      pixels;
    - rotate: the angle in degrees, counter-clockwise. A pixel gets the value of the nearest old pixel, or zero if that
      is outside the image;
    - shuffle: the number of strips. The image is cut into strips of random lengths along one axis. Each strip is cut
      into the same number of pieces along the other axis. Strips and pieces are shuffled;
    - translate: the fraction of its size by which the image moves down and to the right. Uncovered pixels become zero;
    - resize: the size of a frame divided by the size of the image. The image is resized to a random size, from its own
      size to just below that of the frame. It is put at a random place in the frame, which is zero elsewhere. The frame
      is resized back (bilinear);
    - crop: the fraction of the size that is kept around the centre. The crop is resized to the whole size (bilinear);
    - scale: the factor that multiplies the image;
    - mask: the number of blocks along each axis of a grid. One random block becomes zero;
    - drop: the probability that a value becomes zero;
    - mix: the factor of a random image of the pool, which is added to the image. The sum is multiplied by 1, 1/2 or 1/4
      at random;
    - spectrum: r. The image x becomes idct(dct(x + noise) * u), where u is uniform over 1 - r to 1 + r, and the noise
      is normal with a standard deviation of 16 pixel values;
    - fade: the largest factor. The image is multiplied by a random factor that is uniform from 0 to this amount;
    - noise: the amplitude of uniform noise in pixel values. The noisy image is clipped to 0..255;
    - low-pass: the fraction of the frequencies of the cosine transform that become zero along each axis. These are the
      highest frequencies;
    - channels: the probability that a channel becomes zero. Other channels are divided by one minus this probability.
    """

    family: Family
    amounts: tuple[float, ...] = (0.0,)


IDENTITY = Operation("identity")


def _turns(*degrees: float) -> list[Operation]:
    return [Operation("rotate", (degree,)) for degree in degrees]


COMPOSED: tuple[Operation, ...] = (
    IDENTITY,
    *(Operation(family, (axis,)) for family in ("flip", "roll") for axis in (_ROWS, _COLUMNS)),
    *_turns(5, -5, 15, -15, 45, -45, 90, -90, 180),
    *(Operation("scale", (1 / divisor,)) for divisor in range(2, 9)),
    *(Operation("resize", (tenths / 10,)) for tenths in range(11, 30, 2)),
)
"""The 31 operations of OPS (Guo et al., CVPR 2025)."""

BASIC: tuple[Operation, ...] = (
    *(Operation(family, (axis,)) for family in ("flip", "roll") for axis in (_ROWS, _COLUMNS)),
    *_turns(180),
    Operation("fade", (1.0,)),
    Operation("noise", (16.0,)),
    Operation("low-pass", (0.4,)),
    Operation("channels", (0.1,)),
)
"""The nine operations of S4ST (Liu et al., arXiv:2410.13891)."""

_DROPPED = ("1", "12", "123", "1234", "12345", "2345", "1345", "1245", "1235", "1234")
"""The drop probabilities of L2T, one text for each operation. Each digit is a probability in tenths."""

LEARNT: tuple[Operation, ...] = (
    IDENTITY,
    *(Operation("rotate", tuple(angle / 2**halved for halved in range(5))) for angle in range(30, 301, 30)),
    *(Operation("scale", tuple(1 / 2**halved for halved in range(copies))) for copies in range(1, 11)),
    *(Operation("resize", (hundredths / 100,)) for hundredths in range(110, 156, 5)),
    *(Operation("shuffle", (strips,)) for strips in range(3, 13)),
    *(Operation("mix", (strength,)) for strength in (0.2, 0.4) for _ in range(5)),
    *(Operation("drop", tuple(int(tenths) / 10 for tenths in several)) for several in _DROPPED),
    *(Operation("mask", (blocks,)) for blocks in (2, 4, 6, 8, 10, 3, 5, 7, 9, 11)),
    *(Operation("spectrum", (tenths / 10,)) for tenths in (2, 4, 5, 6, 8, 1, 3, 7, 9)),
    *(Operation("crop", tuple((kept + (10 - kept) * part / 5) / 10 for part in range(1, 6))) for kept in range(1, 10)),
    *(Operation("translate", tuple(far / 100 * part / 5 for part in range(1, 6))) for far in range(50, 91, 5)),
)
"""The 98 operations of L2T (Zhu et al., CVPR 2024), in the order of their authors."""


@dataclass(frozen=True)
class _Chosen:
    """The images of a batch whose operations are of one family, and what these operations need.

    `rows` are the rows of these images in the batch. Each image has a drawn amount in `amounts` and random 64-bit
    integers in `words`. `draws` is the source of further random numbers, under the name `stream`. `pool` has the images
    to mix in, or None.
    """

    rows: list[int]
    amounts: list[float]
    words: list[list[int]]
    draws: Draws
    stream: str
    pool: Pool | None


def applied(
    image: Tensor, operations: Sequence[Operation], draws: Draws, stream: str, pool: Pool | None = None
) -> Tensor:
    """Return the images (N, C, S, S), where image n is changed by `operations[n]`. The result is differentiable.

    If one component calls this function several times with the same `draws`, each call needs another `stream`. The
    family "mix" needs a `pool`.
    """
    import torch

    words = draws.integers(_WORDS, stream).tolist()
    families = [one.family for one in operations]
    parts, order = [], []
    for family in FAMILIES:
        rows = [row for row, one in enumerate(families) if one == family]
        if not rows:
            continue
        part = image if len(rows) == len(image) else image.index_select(0, _index(rows, image))
        if family != "identity":
            amounts = [operations[row].amounts[words[row][0] % len(operations[row].amounts)] for row in rows]
            chosen = _Chosen(rows, amounts, [words[row][1:] for row in rows], draws, stream, pool)
            part = _CHANGES[family](part, chosen)
        parts.append(part)
        order += rows
    if len(parts) == 1:
        return parts[0]
    return torch.cat(parts).index_select(0, _index(np.argsort(order), image))


def gathered(image: Tensor, places: NDArray[np.int64]) -> Tensor:
    """Return images (N, C, H, W): pixel p of the new image n is pixel `places[n, p]` of the old image n.

    A place of -1 gives zero. `places` is (N, H * W), and pixels are counted row by row. If no pixel is taken more than
    twice, the gradient is the same to the last bit in every run, also on a GPU.
    """
    index = _index(places, image)[:, None]
    flat = image.reshape(*image.shape[:2], -1)
    taken = flat.gather(2, index.clamp(min=0).expand(-1, flat.shape[1], -1))
    if (places < 0).any():
        taken = taken * (index >= 0)
    return taken.view(image.shape)


def moved_places(height: int, width: int, down: int, right: int) -> NDArray[np.int64]:
    """Return places (height * width,) with which `gathered` moves an image by `down` and `right` pixels."""
    rows, columns = np.arange(height)[:, None] - down, np.arange(width) - right
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    return np.where(inside, rows * width + columns, -1).ravel()


def _flip(image: Tensor, chosen: _Chosen) -> Tensor:
    def places(size: int, axis: float, words: list[int]) -> NDArray[np.int64]:
        return np.flip(_whole(size), int(axis)).ravel()

    return _placed(image, chosen, places)


def _roll(image: Tensor, chosen: _Chosen) -> Tensor:
    def places(size: int, axis: float, words: list[int]) -> NDArray[np.int64]:
        return np.roll(_whole(size), words[0] % size, int(axis)).ravel()

    return _placed(image, chosen, places)


def _rotate(image: Tensor, chosen: _Chosen) -> Tensor:
    return _placed(image, chosen, lambda size, degrees, words: _turned(size, degrees))


def _translate(image: Tensor, chosen: _Chosen) -> Tensor:
    def places(size: int, part: float, words: list[int]) -> NDArray[np.int64]:
        return moved_places(size, size, round(part * size), round(part * size))

    return _placed(image, chosen, places)


def _shuffle(image: Tensor, chosen: _Chosen) -> Tensor:
    most = int(max(chosen.amounts))
    words = chosen.draws.integers(2 * most * (most + 1), f"{chosen.stream}.shuffle")[chosen.rows]
    size = image.shape[-1]
    places = [
        _shuffled(size, int(strips), own, across=bool(drawn[0] % 2))
        for strips, own, drawn in zip(chosen.amounts, words, chosen.words, strict=True)
    ]
    return gathered(image, np.stack(places))


def _placed(image: Tensor, chosen: _Chosen, places: Callable[[int, float, list[int]], NDArray[np.int64]]) -> Tensor:
    size = image.shape[-1]
    return gathered(image, np.stack([places(size, *one) for one in zip(chosen.amounts, chosen.words, strict=True)]))


def _whole(size: int) -> NDArray[np.int64]:
    return np.arange(size * size).reshape(size, size)


@functools.lru_cache(maxsize=256)
def _turned(size: int, degrees: float) -> NDArray[np.int64]:
    """Return places (size * size,) with which `gathered` rotates an image about its centre, counter-clockwise."""
    angle = math.radians(degrees)
    centred = np.arange(size) - (size - 1) / 2
    right, down = centred[None, :], centred[:, None]
    columns = math.cos(angle) * right - math.sin(angle) * down + (size - 1) / 2
    rows = math.sin(angle) * right + math.cos(angle) * down + (size - 1) / 2
    # Remove the errors in the last bits of sine and cosine: at multiples of 90 degrees, positions are whole numbers.
    nearest_row, nearest_column = np.rint(rows.round(9)).astype(int), np.rint(columns.round(9)).astype(int)
    inside = (nearest_row >= 0) & (nearest_row < size) & (nearest_column >= 0) & (nearest_column < size)
    return np.where(inside, nearest_row * size + nearest_column, -1).ravel()


def _shuffled(size: int, strips: int, words: NDArray[np.uint64], *, across: bool) -> NDArray[np.int64]:
    """Return the places (size * size,) with which `gathered` shuffles an image's strips and the pieces of each strip.

    Strips are bands of rows, or bands of columns if `across`. Pieces are what a strip is cut into along its length.
    `words` are random integers.
    """
    parts = words[: 2 * strips * (strips + 1)].reshape(strips + 1, 2, strips)
    outer = _strips(size, *parts[0])
    lines = np.concatenate(outer)
    pieces = [np.concatenate(_strips(size, *one)) for one in parts[1:]]
    inner = np.concatenate([np.tile(piece, (len(strip), 1)) for piece, strip in zip(pieces, outer, strict=True)])
    found = inner * size + lines[:, None] if across else lines[:, None] * size + inner
    return (found.T if across else found).ravel()


def _strips(size: int, lengths: NDArray[np.uint64], order: NDArray[np.uint64]) -> list[NDArray[np.int64]]:
    """Return the numbers 0 to `size` - 1, cut into strips of consecutive numbers. The strips are in random order.

    `lengths` and `order` are random integers (strips,), which determine the lengths and the order of the strips.
    """
    shares = (lengths >> np.uint64(11)).astype(np.float64) + 1
    rounded = np.round(shares / shares.sum() * size).astype(int)
    rounded[rounded.argmax()] += size - rounded.sum()
    cut = np.split(np.arange(size), np.cumsum(rounded)[:-1])
    return [cut[place] for place in np.argsort(order, kind="stable")]


def _resize(image: Tensor, chosen: _Chosen) -> Tensor:
    size = image.shape[-1]
    rows, columns = [], []
    for rate, (extent, top, left) in zip(chosen.amounts, chosen.words, strict=True):
        frame = int(rate * size)
        inner = size + extent % max(1, frame - size)
        free = max(1, frame - inner)
        rows.append(_through_frame(size, frame, inner, top % free))
        columns.append(_through_frame(size, frame, inner, left % free))
    return _multiplied(image, rows, columns)


def _crop(image: Tensor, chosen: _Chosen) -> Tensor:
    size = image.shape[-1]
    matrices = []
    for part in chosen.amounts:
        # Without the small addend, a product such as 0.29 * 100, which is 28.999... in float64, would be cut to 28.
        kept = max(1, int(part * size + 1e-9))
        matrix = np.zeros((size, size), np.float32)
        first = (size - kept) // 2
        matrix[:, first : first + kept] = resizing(kept, size)
        matrices.append(matrix)
    return _multiplied(image, matrices, matrices)


def _multiplied(image: Tensor, rows: Sequence[NDArray[np.float32]], columns: Sequence[NDArray[np.float32]]) -> Tensor:
    left, right = (_numbers(np.stack(one), image)[:, None] for one in (rows, columns))
    return left @ image @ right.transpose(-1, -2)


@functools.lru_cache(maxsize=1024)
def resizing(old: int, new: int) -> NDArray[np.float64]:
    """Return the matrix (new, old) by which torch's antialiased bilinear `interpolate` resizes one axis."""
    ratio = old / new
    away = np.arange(old) + 0.5 - (np.arange(new)[:, None] + 0.5) * ratio
    weight: NDArray[np.float64] = (1 - np.abs(away) / max(1.0, ratio)).clip(min=0)
    weight /= weight.sum(1, keepdims=True)
    return weight


def _through_frame(size: int, frame: int, inner: int, start: int) -> NDArray[np.float32]:
    """Return the matrix (size, size) that resizes one axis of an image by way of a frame.

    The axis is resized to `inner` pixels and put at the position `start` of a frame of `frame` zeros. Then the frame is
    resized to `size` pixels.
    """
    first, second, share = taps(frame, size)
    low, high, weight = taps(size, inner)
    matrix = np.zeros((size, size))
    places = np.arange(size)
    for at, part in ((first - start, 1 - share), (second - start, share)):
        inside = (at >= 0) & (at < inner)
        within = at.clip(0, inner - 1)
        np.add.at(matrix, (places, low[within]), part * inside * (1 - weight[within]))
        np.add.at(matrix, (places, high[within]), part * inside * weight[within])
    return matrix.astype(np.float32)


def _scale(image: Tensor, chosen: _Chosen) -> Tensor:
    return image * _numbers(chosen.amounts, image)[:, None, None, None]


def _mask(image: Tensor, chosen: _Chosen) -> Tensor:
    size = image.shape[-1]
    kept = np.ones((len(image), 1, size, size), np.float32)
    for one, blocks, (down, right, _) in zip(kept, chosen.amounts, chosen.words, strict=True):
        edges = [round(size / blocks * edge) for edge in range(int(blocks) + 1)]
        row, column = down % int(blocks), right % int(blocks)
        one[:, edges[row] : edges[row + 1], edges[column] : edges[column + 1]] = 0
    return image * _numbers(kept, image)


def _drop(image: Tensor, chosen: _Chosen) -> Tensor:
    drawn = chosen.draws.uniform(image.shape[1:], f"{chosen.stream}.drop")[_index(chosen.rows, image)]
    limit = _numbers([2 * one - 1 for one in chosen.amounts], image)[:, None, None, None]
    return image * (drawn >= limit)


def _mix(image: Tensor, chosen: _Chosen) -> Tensor:
    pool = chosen.pool
    assert pool is not None, "an attack that uses the operation `mix` declares `others`, so it has a pool"
    others = pool.pixels[[words[0] % len(pool.pixels) for words in chosen.words]]
    strength = _numbers(chosen.amounts, image)[:, None, None, None]
    factor = _numbers([0.5 ** (words[1] % 3) for words in chosen.words], image)[:, None, None, None]
    return factor * (image + strength * _numbers(others, image))


def _spectrum(image: Tensor, chosen: _Chosen) -> Tensor:
    rows, shape = _index(chosen.rows, image), image.shape[1:]
    noise = chosen.draws.normal(shape, f"{chosen.stream}.noise")[rows]
    factor = chosen.draws.uniform(shape, f"{chosen.stream}.spectrum")[rows]
    radius = _numbers(chosen.amounts, image)[:, None, None, None]
    # Multiply each channel of each image separately: the rounding of one large product may depend on the batch size.
    matrix = _numbers(_cosines(image.shape[-1]), image).expand(image.shape)
    turned = matrix.transpose(-1, -2)
    changed = (matrix @ (image + _NOISE * noise) @ turned) * (1 + radius * factor)
    return turned @ changed @ matrix


def _fade(image: Tensor, chosen: _Chosen) -> Tensor:
    shares = [most * words[0] / 2**64 for most, words in zip(chosen.amounts, chosen.words, strict=True)]
    return image * _numbers(shares, image)[:, None, None, None]


def _noise(image: Tensor, chosen: _Chosen) -> Tensor:
    drawn = chosen.draws.uniform(image.shape[1:], f"{chosen.stream}.added")[_index(chosen.rows, image)]
    return (image + _numbers(chosen.amounts, image)[:, None, None, None] * drawn).clamp(0, 255)


def _low_pass(image: Tensor, chosen: _Chosen) -> Tensor:
    size = image.shape[-1]
    matrices = [_lower(size, size - int(part * size)) for part in chosen.amounts]
    return _multiplied(image, matrices, matrices)


def _channels(image: Tensor, chosen: _Chosen) -> Tensor:
    drawn = chosen.draws.uniform(image.shape[1:2], f"{chosen.stream}.channels")[_index(chosen.rows, image)]
    chance = _numbers(chosen.amounts, image)[:, None]
    return image * ((drawn >= 2 * chance - 1) / (1 - chance))[:, :, None, None]


@functools.lru_cache(maxsize=256)
def _lower(size: int, kept: int) -> NDArray[np.float32]:
    """Return the matrix (size, size) that keeps the `kept` lowest frequencies of the cosine transform of a line."""
    low = _cosines(size)[:kept]
    return (low.T @ low).astype(np.float32)


@functools.lru_cache(maxsize=16)
def _cosines(size: int) -> NDArray[np.float64]:
    """Return the orthogonal matrix (size, size) of the cosine transform DCT-II."""
    places = np.arange(size)
    matrix = np.cos(np.pi / size * np.outer(places, places + 0.5)) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix


def _index(values: Sequence[int] | NDArray[np.int64], image: Tensor) -> Tensor:
    return uploaded(np.asarray(values, np.int64), image.device)


def _numbers(values: Sequence[float] | NDArray[Any], image: Tensor) -> Tensor:
    return uploaded(np.asarray(values), image.device, image.dtype)


_CHANGES: Mapping[Family, Callable[[Tensor, _Chosen], Tensor]] = {
    "flip": _flip,
    "roll": _roll,
    "rotate": _rotate,
    "shuffle": _shuffle,
    "translate": _translate,
    "resize": _resize,
    "crop": _crop,
    "scale": _scale,
    "mask": _mask,
    "drop": _drop,
    "mix": _mix,
    "spectrum": _spectrum,
    "fade": _fade,
    "noise": _noise,
    "low-pass": _low_pass,
    "channels": _channels,
}
