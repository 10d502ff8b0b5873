"""Randomness that depends on what it is for, and on nothing else.

A stream is named by its key: the seed, the craft, the image and the purpose. It is drawn from Philox4x64-10
(Salmon et al. 2011), a counter-based generator, so that no batch, order or machine can change it.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
from numpy.typing import NDArray


def digest(*parts: object) -> str:
    """SHA-256, in hexadecimal, of `parts` as canonical JSON: the source of every id and every key."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def draws(count: int, *key: object) -> NDArray[np.uint64]:
    """`count` uniform 64-bit integers of the stream named by `key`, shape (count,)."""
    words = np.frombuffer(bytes.fromhex(digest(*key))[:16], dtype=np.uint64)
    return np.random.Philox(key=words).random_raw(count)
