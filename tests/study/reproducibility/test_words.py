"""Arithmetic of unsigned words in signed tensors, compared with Python's integers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from study.reproducibility.words import below, order, shares

EDGES = [0, 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 2**11 - 1, 2**64 - 1]
DRAWN = np.random.default_rng(0).integers(0, 2**64, 1000, dtype=np.uint64)
UNSIGNED = np.concatenate([np.array(EDGES, dtype=np.uint64), DRAWN])
WORDS = torch.from_numpy(UNSIGNED.view(np.int64))


@pytest.mark.parametrize("count", [1, 2, 3, 224, 1000, 2**31 - 1, 2**31])
def test_below_is_the_remainder(count):
    expected = [word % count for word in UNSIGNED.tolist()]
    assert below(WORDS, count).tolist() == expected
    assert below(WORDS, torch.full_like(WORDS, count)).tolist() == expected


def test_shares_are_rounded_once():
    assert shares(WORDS).tolist() == [word / 2**64 for word in UNSIGNED.tolist()]


def test_order_is_that_of_unsigned_words():
    twice = np.concatenate([UNSIGNED, UNSIGNED[:5]])
    found = order(torch.from_numpy(twice.view(np.int64))[None])
    assert np.array_equal(found[0].numpy(), np.argsort(twice, kind="stable"))
