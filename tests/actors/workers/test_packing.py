"""Messages to actors: a recipe is pickled once, and an actor reads it once, however many calls have it."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from actors.scheduling.messages import CraftJob, CraftResult
from actors.workers.model_cache import ModelRequest
from actors.workers.ray_actors import pack, unpack
from study.attacks.presets import keys_of
from study.attacks.recipe import Attack
from study.results.schema import PixelDistances


def recipe(preset="mi", **more):
    return Attack.model_validate(keys_of(preset, more))


def message(attack, number):
    job = CraftJob(attack, "untargeted", ("a", number), (f"{number}.png",), (number,), (number,), None)
    return ModelRequest({"m": "0" * 64}, ()), job


@pytest.mark.parametrize("preset", ["mi", "sgm", "vmi", "optimization"])
def test_what_is_packed_is_unpacked(preset):
    attack = recipe(preset)
    for number in range(2):
        assert unpack(pack(message(attack, number))) == message(attack, number)
    distances = PixelDistances(*np.random.default_rng(0).random((3, 4)))
    found = unpack(pack(CraftResult(distances, seconds=1.5, note="said")))
    assert (found.seconds, found.note, found.remark) == (1.5, "said", None)
    assert np.array_equal(found.distances.rmsd, distances.rmsd)


def test_a_recipe_is_pickled_once_and_read_once(monkeypatch):
    attack, pickled = recipe(epsilon=7), []
    usual = Attack.__getstate__
    monkeypatch.setattr(Attack, "__getstate__", lambda self: pickled.append(self) or usual(self))
    packed = [pack(message(attack, number)) for number in range(5)]
    assert pickled == [attack]
    first, *others = (unpack(one)[1].attack for one in packed)
    assert first == attack
    assert all(one is first for one in others)


def test_another_recipe_is_another_object():
    first, second = recipe(epsilon=3), recipe(epsilon=4)
    # The second may even get the place of the first in memory.
    packed = [pack(message(recipe(epsilon=number + 1), number)) for number in range(20)]
    assert [unpack(one)[1].attack.budget.epsilon for one in packed] == [number + 1 for number in range(20)]
    assert unpack(pack(message(first, 0)))[1].attack != unpack(pack(message(second, 0)))[1].attack


def test_a_message_is_a_plain_pickle():
    """An actor of the same code reads it without anything else."""
    one = pack(message(recipe(), 0))
    assert pickle.loads(one) == message(recipe(), 0)
