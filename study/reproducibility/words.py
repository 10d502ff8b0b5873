"""Functions of unsigned 64-bit random words, whose bits are held in `int64` tensors.

Host and device give equal results: every function uses integers, or single operations in float64, which all devices
round in the same way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_LOW = 0xFFFFFFFF
_MOST = 2**31


def below(words: Tensor, count: int | Tensor) -> Tensor:
    """Return each word modulo `count`, int64. `count` is from 1 to 2^31, or a tensor of such numbers."""
    assert not isinstance(count, int) or 1 <= count <= _MOST, "intermediate results have 63 bits"
    found: Tensor = ((words >> 32 & _LOW) % count * (2**32 % count) + (words & _LOW)) % count
    return found


def shares(words: Tensor) -> Tensor:
    """Return each word divided by 2^64, float64 in 0..1, rounded once."""
    import torch

    # The upper half is exact, so that only the sum rounds.
    found: Tensor = ((words >> 32 & _LOW).to(torch.float64) * 2.0**32 + (words & _LOW).to(torch.float64)) * 2.0**-64
    return found


def order(words: Tensor) -> Tensor:
    """Return the indices (N, K) that sort each row's words in ascending order; equal words keep their order."""
    # As signed numbers, words from 2^63 would come first.
    found: Tensor = (words ^ -(2**63)).argsort(dim=1, stable=True)
    return found
