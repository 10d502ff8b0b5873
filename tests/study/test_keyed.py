"""Keyed randomness: the published generator, and streams that depend on their key alone."""

from __future__ import annotations

import numpy as np

from study.keyed import digest, draws


def philox4x64(counter, key):
    """Philox4x64-10 as Salmon et al. 2011 define it, written out."""
    mask = (1 << 64) - 1
    c, k = list(counter), list(key)
    for step in range(10):
        if step:
            k = [(k[0] + 0x9E3779B97F4A7C15) & mask, (k[1] + 0xBB67AE8584CAA73B) & mask]
        first, second = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
        c = [(second >> 64) ^ c[1] ^ k[0], second & mask, (first >> 64) ^ c[3] ^ k[1], first & mask]
    return c


def test_draws_are_philox():
    key = np.frombuffer(bytes.fromhex(digest("a", 1))[:16], dtype=np.uint64)
    # numpy counts from one: its counter is incremented before each block.
    expected = philox4x64((1, 0, 0, 0), [int(word) for word in key]) + philox4x64(
        (2, 0, 0, 0), [int(word) for word in key]
    )
    assert draws(8, "a", 1).tolist() == expected


def test_philox_known_answer():
    """The all-zero vector of the Random123 distribution."""
    assert philox4x64((0, 0, 0, 0), (0, 0)) == [
        0x16554D9ECA36314C,
        0xDB20FE9D672D0FDC,
        0xD7E772CEE186176B,
        0x7E68B68AEC7BA23B,
    ]


def test_another_key_is_another_stream():
    assert not np.array_equal(draws(4, "a"), draws(4, "b"))
    assert np.array_equal(draws(8, "a")[:4], draws(4, "a"))
