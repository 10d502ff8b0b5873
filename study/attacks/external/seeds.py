"""Seed the global random generators of Python, numpy and torch for an external attack, and restore them afterwards."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from study.reproducibility.hashing import digest

_DIGITS = 8
"""Number of hexadecimal digits of a seed. Eight digits have 32 bits, the most that numpy takes."""


def seed_of(key: Sequence[object], images: Sequence[str]) -> int:
    """Return the seed of one call, an integer of 32 bits.

    The seed is a digest of the key of the attack run and the ids of the images, in order.
    """
    return int(digest(*key, list(images), "external")[:_DIGITS], 16)


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the generators of `random`, `numpy.random` and `torch`, and restore their states when the context ends.

    The generators of `torch` are those of the CPU and of `device`.
    """
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
