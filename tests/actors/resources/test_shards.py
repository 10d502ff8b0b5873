"""Images of a unit: sums by hand."""

from __future__ import annotations

import pytest
import yaml

from actors.resources import shards
from study.spec import loading
from tests.conftest import TINY


@pytest.fixture
def spec(tmp_path):
    def read(size=32, **run):
        given = yaml.safe_load(TINY)
        given["run"], given["numerics"]["batch"], given["images"]["size"] = run, 64, size
        given["experiments"] = {"x": {"attacks": ["mi"], "sources": "each", "goal": ["untargeted", "targeted"]}}
        path = tmp_path / "spec.yaml"
        path.write_text(yaml.safe_dump(given))
        return loading.load(path).spec

    return read


@pytest.mark.parametrize(
    ("images", "workers", "expected"),
    [
        (100_000, 1, 512),
        (100_000, 1000, 64),
        (5000, 8, 448),  # 5000 x 6 attack runs / (8 x 8 units) = 468, in batches of 64
        (20, 1, 64),
    ],
)
def test_units_on_gpus_are_large_and_many_enough_for_all_workers(spec, images, workers, expected):
    assert shards.size(spec(), images, gpus=True, workers=workers) == expected


def test_on_processors_and_where_it_is_given(spec):
    assert shards.size(spec(), 100_000, gpus=False, workers=1) == 16
    assert spec(shard="auto") == spec()
    for gpus in (False, True):
        assert shards.size(spec(shard=100), 100_000, gpus=gpus, workers=1) == 100
        assert shards.largest(spec(shard=100), gpus=gpus) == 100


def test_results_of_two_calls_fit_into_what_may_wait(spec):
    large = spec(size=224, waiting_mib=64)
    assert shards.result_bytes(large) == 3 * 224 * 224
    assert shards.largest(large, gpus=True) == (64 * 2**20 // (2 * 3 * 224 * 224)) // 64 * 64 == 192
    assert shards.size(large, 100_000, gpus=True, workers=1) == 192
