"""Functions of unsigned 64-bit random words, which are stored bit by bit in `int64` tensors.

CPU and GPU give equal results. The functions use integer operations, and single float64 operations, which all devices
round in the same way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_LOW = 0xFFFFFFFF
_MOST = 2**31


def below(words: Tensor, count: int | Tensor) -> Tensor:
    """Return each word modulo `count`, as int64. `count` is from 1 to 2^31, or a tensor of such numbers."""
    assert not isinstance(count, int) or 1 <= count <= _MOST, "intermediate results have 63 bits"
    found: Tensor = ((words >> 32 & _LOW) % count * (2**32 % count) + (words & _LOW)) % count
    return found


def shares(words: Tensor) -> Tensor:
    """Return each word divided by 2^64, as float64 in 0..1. The result is rounded only once."""
    import torch

    # Both halves of a word are exact in float64, so only their sum rounds.
    found: Tensor = ((words >> 32 & _LOW).to(torch.float64) * 2.0**32 + (words & _LOW).to(torch.float64)) * 2.0**-64
    return found


def order(words: Tensor) -> Tensor:
    """Return the indices, int64 (N, K), that sort each row of `words` (N, K) in ascending order.

    Equal words keep their order.
    """
    # This flips the sign bit. Otherwise int64 would sort words of 2^63 or more as negative numbers, before all others.
    found: Tensor = (words ^ -(2**63)).argsort(dim=1, stable=True)
    return found
