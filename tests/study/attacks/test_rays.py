"""Rounding along rays on a device: the images of the host's rays, which tests of budgets try."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from study.attacks.budget import all_distances, integer_distances, of_integers
from study.attacks.finish import finish
from study.attacks.rays import Rays
from study.attacks.recipe import Attack
from study.attacks.rounding import PerturbationRay
from study.devices import copies
from study.reproducibility import rng

SHAPE = (3, 12, 11)
KEYS = [("ray", number) for number in range(6)]
DRAWN = np.random.default_rng(3)
CLEAN = DRAWN.integers(0, 256, (6, *SHAPE), dtype=np.uint8)
CLEAN[4], CLEAN[5] = 0, 255
STEPS = {
    "any": DRAWN.normal(size=CLEAN.shape).astype(np.float32),
    "signs": np.sign(DRAWN.normal(size=CLEAN.shape)).astype(np.float32),
    "few": (DRAWN.normal(size=CLEAN.shape) * (DRAWN.random(CLEAN.shape) < 0.05)).astype(np.float32),
    "none": np.zeros(CLEAN.shape, np.float32),
}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("beyond", [True, False])
def test_rays_of_a_batch_are_those_of_each_image(step, beyond):
    rays = Rays(torch.from_numpy(CLEAN), torch.from_numpy(step), rng.draws_on("cpu", CLEAN[0].size, KEYS))
    for rmsd in (0.0, 0.3, 4.0, 9.5, 60.0, 300.0):
        found = rays.at(torch.full((6,), rmsd, dtype=torch.float64), beyond=beyond).numpy()
        for row, key in enumerate(KEYS):
            ray = PerturbationRay(CLEAN[row], step[row], rng.draws(CLEAN[row].size, *key))
            assert np.array_equal(found[row], ray.at(rmsd, beyond=beyond))


def test_one_ray_gives_several_images():
    rays = Rays(torch.from_numpy(CLEAN[:1]), torch.from_numpy(STEPS["any"][:1]), rng.draws_on("cpu", 396, KEYS[:1]))
    lengths = torch.tensor([1.0, 5.0, 300.0], dtype=torch.float64)
    assert torch.equal(rays.at(lengths), torch.cat([rays.at(one[None]) for one in lengths]))


@pytest.mark.parametrize("budget", [{"rmsd": 6}, {"l2": 90}, {"l2": 400}, {"rmsd": [2, 6]}], ids=str)
def test_finishing_on_a_device_is_that_of_the_host(budget, monkeypatch):
    attack = Attack.model_validate({"step": "sign", "steps": 1, "budget": budget, "step_size": 2})
    deltas = [torch.from_numpy(8 * STEPS["any"])] * len(attack.scored_points)
    many = isinstance(next(iter(budget.values())), list)
    radii = None if many else np.full(6, budget.get("rmsd", 0) or budget["l2"] / CLEAN[0].size ** 0.5)
    here = finish(torch.from_numpy(CLEAN), deltas, attack, radii, KEYS)
    monkeypatch.setattr("study.attacks.finish.is_host", lambda device: False)
    there = finish(torch.from_numpy(CLEAN), deltas, attack, radii, KEYS)
    assert len(here) == len(there) == len(attack.scored_points)
    assert all(torch.equal(*pair) for pair in zip(here, there, strict=True))


def test_distances_in_integers_are_exact():
    other = CLEAN[::-1].copy()
    squares, largest = copies.Download(*integer_distances(torch.from_numpy(CLEAN), torch.from_numpy(other))).arrays()
    assert np.array_equal(of_integers(squares, largest, CLEAN[0].size), all_distances(CLEAN, other))
