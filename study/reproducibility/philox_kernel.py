"""The random number generator Philox4x64-10 as one GPU kernel, which torch builds from CUDA source at first use."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

SOURCE = """
template <typename T> void philox4x64(T block, T first, T second, T s0, T s1, T s2, T s3, T& w0, T& w1, T& w2, T& w3) {
    unsigned long long c0 = (unsigned long long)block + (unsigned long long)s0;
    unsigned long long c1 = s1, c2 = s2, c3 = s3, k0 = first, k1 = second;
    for (int round = 0; round < 10; ++round) {
        unsigned long long high0 = __umul64hi(0xD2E7470EE14C6C93ULL, c0), low0 = 0xD2E7470EE14C6C93ULL * c0;
        unsigned long long high1 = __umul64hi(0xCA5A826395121157ULL, c2), low1 = 0xCA5A826395121157ULL * c2;
        c0 = high1 ^ c1 ^ k0;
        c1 = low1;
        c2 = high0 ^ c3 ^ k1;
        c3 = low0;
        k0 += 0x9E3779B97F4A7C15ULL;
        k1 += 0xBB67AE8584CAA73BULL;
    }
    w0 = c0; w1 = c1; w2 = c2; w3 = c3;
}
"""
"""CUDA source that computes one block of four 64-bit words. `first` and `second` are the words of the key. `s0` to `s3`
are the words of the counter, and `block` is added to `s0`."""


def available(kind: str) -> bool:
    """Return whether torch can build kernels for devices of the type `kind`, such as `cuda`."""
    return kind == "cuda" and torch.cuda.is_available()


def words(keys: Tensor, counter: Sequence[int], blocks: int) -> Tensor:
    """Return the random words of N streams, int64 (N, 4 * blocks), for their `keys`, int64 (N, 2).

    `counter`: the four words of the counter, each as the signed integer with the same bits. The first block of four
    random words is computed from counter + 1.
    """
    number = torch.arange(1, blocks + 1, device=keys.device)[None]
    s0, s1, s2, s3 = counter
    found = kernel()(number, keys[:, :1], keys[:, 1:], s0=s0, s1=s1, s2=s2, s3=s3)
    return torch.stack(list(found), dim=-1).flatten(1)


@functools.cache
def kernel() -> Callable[..., Sequence[Tensor]]:
    """Return a function of tensors that runs the kernel. torch builds the kernel when this function is first called."""
    from torch.cuda.jiterator import _create_multi_output_jit_fn

    made: Any = _create_multi_output_jit_fn(SOURCE, num_outputs=4, s0=0, s1=0, s2=0, s3=0)
    return made  # type: ignore[no-any-return]
