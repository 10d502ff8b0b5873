"""Pixel budgets, and the object stores that hold them: sums by hand."""

from __future__ import annotations

import math

import pytest
import yaml

from actors.resources import object_store
from actors.resources.object_store import PixelBudgets
from study.attacks.presets import keys_of
from study.attacks.recipe import Attack
from study.spec import loading
from tests.conftest import TINY

MIB = 2**20
GIB = 2**30


@pytest.fixture
def spec(tmp_path):
    def read(**run):
        given = yaml.safe_load(TINY)
        given["run"] = {"shard": 100} | run
        given["images"]["size"] = 100
        path = tmp_path / "spec.yaml"
        path.write_text(yaml.safe_dump(given))
        return loading.load(path).spec

    return read


def test_a_store_holds_the_budgets_of_its_workers_and_the_calls_that_end_while_they_are_full(spec):
    budgets = object_store.pixel_budgets(spec(clean_mib=64, waiting_mib=32))
    assert budgets == PixelBudgets(64 * MIB, 32 * MIB, 100 * 3 * 100 * 100)
    assert budgets.store_bytes(4) == math.ceil((64 * MIB + 4 * (32 * MIB + 2 * 3_000_000)) / 0.8)


def test_points_and_searches_make_a_calls_result_larger(spec):
    given = spec()
    more = {"sweep": {"preset": "fgsm", "epsilon": [2, 4, 8, 16]}, "search": {"preset": "fgs-minimal"}}
    attacks = {name: Attack.model_validate(keys_of(one.pop("preset", name), one)) for name, one in more.items()}
    sweep = given.model_copy(update={"attacks": {"sweep": attacks["sweep"]}})
    assert object_store.pixel_budgets(sweep).result == 4 * 3_000_000
    search = given.model_copy(update={"attacks": {"search": attacks["search"]}})
    assert object_store.pixel_budgets(search).result == 8 * 3_000_000, "clean images and rays, in float32"


@pytest.mark.parametrize(
    ("cores", "shared", "memory", "size"),
    [
        (4, math.inf, 1000 * GIB, None),
        (4, 1.5 * GIB, 1000 * GIB, 1.5 * GIB),
        (4, math.inf, 4 * GIB, 1.2 * GIB),
        (4, 2**20, 4 * GIB, 2**28),
    ],
)
def test_a_local_store_is_as_large_as_that_where_there_is_room(spec, cores, shared, memory, size):
    given = spec(clean_mib=1024, waiting_mib=256)
    wanted = object_store.pixel_budgets(given).store_bytes(4)
    assert wanted > 2.5 * GIB
    assert object_store.local_store_bytes(given, cores, shared, memory) == int(size or wanted)
    assert object_store.local_store_bytes(spec(actors=1), 64, math.inf, 1000 * GIB) == object_store.pixel_budgets(
        given
    ).store_bytes(1)


def test_budgets_stay_below_what_the_stores_of_a_cluster_hold(spec):
    budgets = object_store.pixel_budgets(spec(clean_mib=1024, waiting_mib=256))
    assert object_store.fitting(budgets, [], 8) == budgets
    assert object_store.fitting(budgets, [8.0 * GIB] * 2, 8) == budgets
    small = object_store.fitting(budgets, [8.0 * GIB, 1.0 * GIB], 8)
    assert small.store_bytes(4) <= 1.05 * GIB
    assert small.waiting / small.clean == pytest.approx(0.25)
    line = object_store.reduction(small)
    assert f"run.clean_mib is reduced to {small.clean / MIB:.0f}, run.waiting_mib to {small.waiting / MIB:.0f}" in line


@pytest.mark.parametrize(
    ("budgets", "stores", "workers", "clean", "waiting"),
    [
        # Of 0.8 * 2750 bytes, results take 2 * 100; the other 2000 are exactly what the budgets need.
        (PixelBudgets(1000, 1000, 100), [2750.0], 1, 1000, 1000),
        (PixelBudgets(1000, 1000, 100), [1500.0], 1, 500, 500),
        # Two workers on each machine: 0.8 * 3000 - 2 * 2 * 100 = 2000 for 1000 + 2 * 1500.
        (PixelBudgets(1000, 1500, 100), [3000.0, 9000.0], 4, 500, 750),
        # Results take nearly all, all, or more than all: each keeps the size of a result.
        (PixelBudgets(1000, 1000, 100), [300.0], 1, 100, 100),
        (PixelBudgets(1000, 1000, 100), [250.0], 1, 100, 100),
        (PixelBudgets(1000, 50, 100), [10.0], 1, 100, 50),
    ],
)
def test_clean_and_waiting_images_share_what_results_leave(budgets, stores, workers, clean, waiting):
    fitting = object_store.fitting(budgets, stores, workers)
    assert fitting == PixelBudgets(clean, waiting, budgets.result)
    if clean > budgets.result:
        assert fitting.store_bytes(math.ceil(workers / len(stores))) <= min(stores)


def test_a_limit_below_one_mib_is_not_called_zero():
    assert object_store.reduction(PixelBudgets(MIB - 1, 1, 1000)).endswith(
        "run.clean_mib is reduced to less than 1, run.waiting_mib to less than 1"
    )


def test_what_this_machine_has(spec):
    assert 2**28 <= object_store.here(spec()) <= object_store.pixel_budgets(spec()).store_bytes(1000)


def test_a_local_store_is_as_large_as_the_workers_on_its_gpus_need(spec):
    given = spec()
    gpus = object_store.pixel_budgets(given, gpus=True)
    assert object_store.local_store_bytes(given, 128, math.inf, 1000 * GIB, 2) == gpus.store_bytes(2)
    four = object_store.local_store_bytes(spec(actors_per_gpu=2), 128, math.inf, 1000 * GIB, 2)
    assert four == gpus.store_bytes(4)
    without = object_store.local_store_bytes(spec(device="cpu"), 4, math.inf, 1000 * GIB, 2)
    assert without == object_store.pixel_budgets(given).store_bytes(4)
