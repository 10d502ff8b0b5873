"""Budgets are met after clipping and rounding, exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from study.attacks.budget import all_distances, distances
from study.attacks.components.budgets import EpsilonBudget, RmsdBudget
from study.attacks.finish import nearest
from study.attacks.rounding import PerturbationRay
from study.reproducibility.rng import draws

SHAPE = (3, 32, 32)
RNG = np.random.default_rng(3)
CLEAN = {
    "mixed": RNG.integers(0, 256, SHAPE, dtype=np.uint8),
    "nearly black": RNG.integers(0, 4, SHAPE, dtype=np.uint8),
    "nearly white": RNG.integers(252, 256, SHAPE, dtype=np.uint8),
}
DIRECTION = {
    "fg": RNG.standard_normal(SHAPE).astype(np.float32),
    "fgs": np.sign(RNG.standard_normal(SHAPE)).astype(np.float32),
}


@pytest.mark.parametrize("rmsd", [0.5, 1, 2.5, 7.3, 16, 23.456, 40])
@pytest.mark.parametrize("direction", DIRECTION)
@pytest.mark.parametrize("clean", CLEAN)
def test_rmsd_is_exact_after_rounding(clean, direction, rmsd):
    ties = draws(np.prod(SHAPE), "tie", clean, rmsd)
    image = PerturbationRay(CLEAN[clean], DIRECTION[direction], ties).at(rmsd)
    assert distances(CLEAN[clean], image)[0] == pytest.approx(rmsd, abs=0.002)
    moved = image.astype(int) - CLEAN[clean]
    assert (np.sign(moved) * np.sign(DIRECTION[direction]) >= 0).all(), "no pixel moves against the direction"


def test_rmsd_beyond_the_box_goes_as_far_as_it_can():
    black = np.zeros(SHAPE, dtype=np.uint8)
    ties = draws(black.size, "tie")
    downwards = PerturbationRay(black, -np.ones(SHAPE, dtype=np.float32), ties).at(9.0)
    assert np.array_equal(downwards, black)
    upwards = PerturbationRay(black, np.ones(SHAPE, dtype=np.float32), ties).at(255.0)
    assert (upwards == 255).all()


def test_fgs_rounds_a_keyed_random_share_up():
    """Where all magnitudes are equal, which pixels are rounded up depends on the key alone, not on the image."""
    grey = np.full(SHAPE, 128, dtype=np.uint8)
    first, again, other = (
        PerturbationRay(grey, DIRECTION["fgs"], draws(grey.size, "tie", key)).at(8.4) for key in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    size = np.abs(first.astype(int) - 128)
    assert set(np.unique(size)) == {8, 9}
    assert (size == 9).mean() == pytest.approx((8.4**2 - 64) / 17, abs=1e-3)
    halves = (size == 9).reshape(3, -1).mean(1)
    assert np.ptp(halves) < 0.1


@pytest.mark.parametrize("epsilon", [0.5, 4, 7.9, 16])
def test_rounding_never_exceeds_epsilon(epsilon):
    for clean in CLEAN.values():
        delta = (epsilon * DIRECTION["fgs"]).astype(np.float32)
        image = nearest(torch.from_numpy(clean), torch.from_numpy(delta), math.floor(epsilon)).numpy()
        assert np.abs(image.astype(int) - clean).max() <= epsilon


def test_project_keeps_budget_and_box():
    clean = torch.from_numpy(np.stack(list(CLEAN.values()))).float()
    delta = 60 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    inside = EpsilonBudget().projection(clean, (16.0,), None)(delta)
    assert inside.abs().max() <= 16
    assert ((clean + inside) >= 0).all()
    assert ((clean + inside) <= 255).all()
    radius = torch.tensor([5.0, 500.0, 7.0])
    shrunk = RmsdBudget().projection(torch.full_like(clean, 128), (None,), radius)(delta)
    assert shrunk[0].square().mean().sqrt() == pytest.approx(5, rel=1e-5)
    assert torch.equal(shrunk[1], delta[1].clamp(-128, 127))


def test_distances_by_hand():
    before = np.zeros((3, 1, 2), dtype=np.uint8)
    after = np.array([[[3, 0]], [[0, 4]], [[0, 0]]], dtype=np.uint8)
    assert distances(before, after) == (pytest.approx((25 / 6) ** 0.5), 4.0, 5.0)
    assert all_distances(np.stack([before, after]), np.stack([after, after])).tolist() == [
        list(distances(before, after)),
        [0, 0, 0],
    ]
