"""Random numbers that depend only on their key: seed, attack run, image and purpose.

The generator is Philox4x64-10 (Salmon et al. 2011). It is counter-based, so batches, order and machines do not change
its numbers. On a CPU, numpy's compiled Philox computes the numbers. On a GPU, one kernel computes them
(`philox_kernel`). If this kernel cannot be built, integer operations on tensors compute them (`philox`). All three ways
give the same bits.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from study.devices.copies import is_host, uploaded
from study.devices.tables import kept
from study.reproducibility.hashing import digest

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_PURPOSES = {"start": 1, "gaussian": 2, "variance": 3, "diversity": 4, "admix": 5}
"""The fixed numbers of the oldest purposes. The number of every other purpose is a hash of its name (`_number`)."""

_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_ROUNDS = 10
_LOW = 0xFFFFFFFF
_START = np.zeros(4, np.uint64)


class _Numpy(threading.local):
    """A numpy Philox generator for each thread. Its state is set anew for each stream of random numbers.

    Setting the state takes a fifth of the time of creating a new generator.
    """

    def __init__(self) -> None:
        self._generator: Any = np.random.Philox(0)
        nothing_left = {"buffer": np.zeros(4, np.uint64), "buffer_pos": 4, "has_uint32": 0, "uinteger": 0}
        self._state: dict[str, Any] = {"bit_generator": "Philox", "state": {}, **nothing_left}

    def words(self, key: NDArray[np.uint64], counter: NDArray[np.uint64], count: int) -> NDArray[np.uint64]:
        """Return the first `count` 64-bit integers of the stream with this key (2,) and counter (4,), as uint64."""
        self._state["state"] = {"counter": counter, "key": key}
        self._generator.state = self._state
        found: NDArray[np.uint64] = self._generator.random_raw(count)
        return found


_numpy = _Numpy()


def draws(count: int, *key: object) -> NDArray[np.uint64]:
    """Return `count` uniform random 64-bit integers, uint64 (count,). They depend only on `key`."""
    return _numpy.words(_words(*key), _START, count)


def draws_on(device: str | torch.device, count: int, keys: Sequence[Sequence[object]]) -> Tensor:
    """Return `draws(count, *key)` for each key in `keys`, with the same bits as int64 (keys, count), on `device`."""
    held = np.stack([_words(*key) for key in keys])
    if is_host(device):
        return uploaded(np.stack([_numpy.words(key, _START, count) for key in held]).view(np.int64), device)
    return philox(uploaded(held.view(np.int64), device), np.zeros(4, np.uint64), count)


def _words(*key: object) -> NDArray[np.uint64]:
    return np.frombuffer(bytes.fromhex(digest(*key))[:16], dtype=np.uint64)


class Streams:
    """The random numbers of one attack run: a stream for each image, purpose, step and copy of the image.

    A uniform or normal number is made from 16 random bits. Such a number is exact in float32, so all devices have equal
    numbers, and it costs half as much as a number from 32 bits. A uniform number is one of the midpoints of 65,536
    equal intervals of (-1, 1). A normal number is one of 65,536 equally probable values with variance 1, at most 4.3
    standard deviations from 0.
    """

    def __init__(self, key: Sequence[object], images: Sequence[str]) -> None:
        self._keys = np.stack([_words(*key, image, "streams") for image in images])
        self._held: dict[str, Tensor] = {}

    def uniform(self, shape: Sequence[int], device: str, purpose: str, step: int = 0, copy: int = 0) -> Tensor:
        """Return random numbers that are uniform over (-1, 1): float32 (images, *shape), on `device`.

        `purpose`, `step` and `copy` select the stream of each image. Equal arguments give equal numbers.
        """
        import torch

        if not is_host(device):
            halves = self._halves_on(shape, device, purpose, step, copy)
            return halves.to(torch.float32).add_(0.5 - 2**15).mul_(2.0**-15).view(-1, *shape)
        drawn = torch.empty(len(self._keys), int(np.prod(shape)))
        for row, halves in enumerate(self._halves(shape, purpose, step, copy)):
            torch.add(halves, 0.5 - 2**15, out=drawn[row]).mul_(2.0**-15)
        return drawn.view(len(self._keys), *shape)

    def normal(self, shape: Sequence[int], device: str, purpose: str, step: int = 0, copy: int = 0) -> Tensor:
        """Return random numbers of the standard normal distribution: float32 (images, *shape), on `device`.

        `purpose`, `step` and `copy` select the stream of each image. Equal arguments give equal numbers.
        """
        import torch

        table = _normal_table(device)
        if not is_host(device):
            halves = self._halves_on(shape, device, purpose, step, copy)
            return table.index_select(0, halves.flatten()).view(-1, *shape)
        drawn = torch.empty(len(self._keys), int(np.prod(shape)))
        for row, halves in enumerate(self._halves(shape, purpose, step, copy)):
            torch.index_select(table, 0, halves, out=drawn[row])
        return drawn.view(len(self._keys), *shape)

    def integers(self, count: int, purpose: str, step: int = 0, copy: int = 0) -> NDArray[np.uint64]:
        """Return random 64-bit integers, uint64 (images, count), on the host, for sizes, places and choices.

        `purpose`, `step` and `copy` select the stream of each image. Equal arguments give equal numbers.
        """
        counter = _counter(purpose, step, copy)
        return np.stack([_numpy.words(key, counter, count) for key in self._keys])

    def words(self, count: int, device: str, purpose: str, step: int = 0, copy: int = 0) -> Tensor:
        """Return the random words of `integers`, with the same bits as int64 (images, count), on `device`."""
        if is_host(device) or not one_kernel(device):
            # Without the kernel, Philox takes about 400 operations on small tensors, so the host is faster.
            return uploaded(self.integers(count, purpose, step, copy).view(np.int64), device)
        return philox(self._on(device), _counter(purpose, step, copy), count)

    def _halves(self, shape: Sequence[int], purpose: str, step: int, copy: int) -> Iterator[Tensor]:
        """Yield random 16-bit integers, int32 (count,), for one image at a time. `count` is the product of `shape`.

        The integers of one image fit into a CPU's cache. The low bits of a 64-bit word come first.
        """
        import torch

        count = int(np.prod(shape))
        blocks, counter = -(-count // 4), _counter(purpose, step, copy)
        for key in self._keys:
            words = _numpy.words(key, counter, blocks).astype("<u8", copy=False)
            yield torch.from_numpy(words.view("<u2")[:count].astype(np.int32))

    def _halves_on(self, shape: Sequence[int], device: str, purpose: str, step: int, copy: int) -> Tensor:
        """Return the integers of `_halves` for all images at once, int32 (images, count), on `device`."""
        import torch

        count = int(np.prod(shape))
        words = philox(self._on(device), _counter(purpose, step, copy), -(-count // 4))
        return words.view(torch.int16)[:, :count].to(torch.int32).bitwise_and_(0xFFFF)

    def _on(self, device: str) -> Tensor:
        """Return the keys of all images, int64 (images, 2), on `device`. The first call copies the keys there."""
        if device not in self._held:
            self._held[device] = uploaded(self._keys.view(np.int64), device)
        return self._held[device]


def of_all_images(key: Sequence[object]) -> Streams:
    """Return the random numbers that all images of the attack run `key` share, as `Streams` of a single row."""
    return Streams((*key, "all images"), ("",))


def _counter(purpose: str, step: int, copy: int) -> NDArray[np.uint64]:
    return np.array([0, step, copy, _number(purpose)], dtype=np.uint64)


@functools.cache
def _number(purpose: str) -> int:
    """Return the number of a purpose: its fixed number in `_PURPOSES` if it has one, and otherwise a hash of its name.

    All fixed numbers are below 2^63. Hashes are at least 2^63, so they never equal a fixed number.
    """
    return _PURPOSES.get(purpose) or int(digest("purpose", purpose)[:16], 16) | 2**63


@functools.cache
def normal_quantiles() -> NDArray[np.float64]:
    """Return the quantiles of the standard normal distribution at the midpoints of 65,536 equally probable intervals.

    The quantiles, float64 (65536,), are scaled to variance 1, and rounded so that float32 holds them exactly.
    """
    upper = np.array([NormalDist().inv_cdf(0.5 + (index + 0.5) / 2**16) for index in range(2**15)])
    upper /= np.sqrt(np.square(upper).mean())
    quantiles = np.concatenate([-upper[::-1], upper]).astype(np.float32).astype(np.float64)
    quantiles.flags.writeable = False
    return quantiles


@kept
def _normal_table(device: str) -> Tensor:
    """Return the normal quantiles, float32 (65536,), on `device`. The host computes them, so all devices agree."""
    return uploaded(normal_quantiles().astype(np.float32), device)


def one_kernel(device: str) -> bool:
    """Return whether a single GPU kernel computes the random numbers (Philox) on `device`.

    The first call builds the kernel and compares its bits with those of numpy. The first call waits for the device, so
    make it before a loop that must not wait.
    """
    return not is_host(device) and _checked_kernel(device.partition(":")[0])


@functools.cache
def _checked_kernel(kind: str) -> bool:
    from study.reproducibility import philox_kernel

    if not philox_kernel.available(kind):
        return False
    keys, counter = np.array([[1, 2**63 + 5], [2**64 - 1, 7]], np.uint64), np.array([3, 2, 1, 2**63], np.uint64)
    expected = np.stack([_numpy.words(key, counter, 4 * 300) for key in keys])
    try:
        there = uploaded(keys.view(np.int64), kind)
        found = philox_kernel.words(there, [_signed(int(one)) for one in counter], 300).cpu().numpy()
    except Exception:  # noqa: BLE001
        # If the kernel cannot be built for any reason, `_by_operations` computes the same numbers.
        return False
    return np.array_equal(found.view(np.uint64), expected)


def philox(keys: Tensor, counter: NDArray[np.uint64], count: int) -> Tensor:
    """Return the first `count` random words of N Philox4x64-10 streams, int64 (N, count), on the device of `keys`.

    The words have the bits of numpy's Philox. `keys`, int64 (N, 2), have the bits of numpy's keys. `counter`, uint64
    (4,), is numpy's counter: the first block of four words is computed from counter + 1. The first word of the counter
    must not overflow.
    """
    blocks, start = -(-count // 4), [_signed(int(word)) for word in counter]
    if one_kernel(str(keys.device)):
        from study.reproducibility import philox_kernel

        return philox_kernel.words(keys, start, blocks)[:, :count]
    return _by_operations(keys, start, blocks)[:, :count]


def _by_operations(keys: Tensor, start: Sequence[int], blocks: int) -> Tensor:
    """Return the same words as `philox_kernel.words`, computed by about 400 integer operations on tensors."""
    import torch

    first, second = keys[:, :1], keys[:, 1:]
    c0 = torch.arange(1, blocks + 1, device=keys.device).expand(len(keys), -1) + start[0]
    c1, c2, c3 = (torch.full_like(c0, word) for word in start[1:])
    for _ in range(_ROUNDS):
        high0, low0 = _multiply(c0, _MULTIPLIERS[0])
        high1, low1 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ first, low1, high0 ^ c3 ^ second, low0
        first, second = first + _signed(_WEYL[0]), second + _signed(_WEYL[1])
    return torch.stack([c0, c1, c2, c3], dim=-1).flatten(1)


def _multiply(left: Tensor, right: int) -> tuple[Tensor, Tensor]:
    """Return the high and the low 64 bits of the product of two unsigned 64-bit numbers, each as int64 bits."""
    high, low = left >> 32 & _LOW, left & _LOW
    top, bottom = right >> 32, right & _LOW
    middle = high * bottom + ((low * bottom) >> 32 & _LOW)
    other = low * top + (middle & _LOW)
    return high * top + (middle >> 32 & _LOW) + (other >> 32 & _LOW), left * _signed(right)


def _signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word
