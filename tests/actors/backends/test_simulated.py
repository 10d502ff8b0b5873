"""Time without machines: sums by hand, losses that lose nothing, and the commands that print it."""

from __future__ import annotations

import json

import pytest
import yaml

from actors.backends.in_process import InProcess
from actors.backends.simulated import Costs, Machines
from actors.estimates.simulation import plan_without_images, simulate
from study.spec.loading import resolve
from study.spec.yaml_document import parse
from tests.conftest import TINY

MODELS = {name: {"network": "timm:test_resnet", "weights": f"random:{index}"} for index, name in enumerate("abc")}
COSTS = Costs(
    gradient={"a": 0.1, "b": 0.2, "c": 0.4}, predict={"a": 0.01, "b": 0.02, "c": 0.04}, load=dict.fromkeys("abc", 3.0),
    call=0.0, driver=0.0, start=5.0,
)  # fmt: skip


def plan_of(count=40, **keys):
    spec = yaml.safe_load(TINY) | {"models": MODELS, "attacks": {}, "numerics": {"batch": 4}, "run": {"shard": 4}}
    spec |= {"experiments": {"x": {"attacks": ["igsm"], "sources": "each"}}} | keys
    return plan_without_images(resolve(parse(yaml.safe_dump(spec), "spec")).spec, count)


def test_one_worker_takes_the_sum_of_all_work():
    """Ten gradients on three models, three targets, forty images; models are there since the clean pass."""
    found = simulate(plan_of(), COSTS, Machines(1, gpus=False))
    assert found.seconds == pytest.approx(40 * (10 * 0.7 + 3 * 0.07))
    assert found.clean_seconds == pytest.approx(40 * 0.07 + 3 * 3.0, abs=0.1)
    assert found.busy_share == pytest.approx(1, abs=0.001)
    assert (found.units, found.model_loads) == (30, 3)


@pytest.mark.parametrize("slots", [2, 4, 8])
def test_more_workers_share_it(slots):
    work = 400 * (10 * 0.7 + 3 * 0.07)
    found = simulate(plan_of(400), COSTS, Machines(slots))
    longest = 4 * 10 * 0.4
    assert work / slots <= found.seconds <= work / slots + 2 * longest + 9
    assert found.busy_share > 0.95
    assert found.units == 300


def test_twice_as_fast_takes_half_as_long():
    slow, fast = (simulate(plan_of(), COSTS, Machines(1, speed=speed)).seconds for speed in (1, 2))
    assert fast == pytest.approx(slow / 2)


def test_a_driver_that_is_too_slow_is_seen():
    costs = Costs(COSTS.gradient, COSTS.predict, COSTS.load, call=0.0, driver=1.0)
    found = simulate(plan_of(400), costs, Machines(64))
    assert found.seconds >= 600
    assert found.busy_share < 0.2


def test_matched_budgets_wait_for_their_reference():
    """FG's one gradient for each image waits for the optimization of all; the sum is the same on one worker."""
    attacks = {"optimization": {"steps": 5}, "fg": {"budget": {"rmsd": "matched", "to": "optimization", "by": "mean"}}}
    experiments = {"x": {"attacks": ["fg", "optimization"], "sources": ["a"]}}
    found = simulate(plan_of(attacks=attacks, experiments=experiments), COSTS, Machines(1))
    assert found.seconds == pytest.approx(40 * (6 * 0.1 + 2 * 0.07))


@pytest.mark.parametrize("seed", range(5))
def test_lost_nodes_lose_no_unit(seed):
    quiet = simulate(plan_of(400), COSTS, Machines(4, 2))
    found = simulate(plan_of(400), COSTS, Machines(4, 2, losses=20.0, back=60), seed=seed)
    assert found.units == quiet.units == 300
    assert found.nodes_lost > 0
    assert quiet.seconds < found.seconds < 4 * quiet.seconds


def test_all_nodes_lost_and_back_again():
    found = simulate(plan_of(400), COSTS, Machines(1, 2, losses=10.0, back=30), seed=1)
    assert found.units == 300


def test_one_broken_device_of_four_costs_no_unit():
    """A hundred units on four machines, one of whose devices fails every call: it is set aside, by name, once."""
    quiet = plan_of(200, experiments={"x": {"attacks": ["igsm"], "sources": ["a", "b"]}})
    said = []
    found = simulate(quiet, COSTS, Machines(4, broken=(2,)), say=said.append)
    assert found.units == 100
    (line,) = said
    assert line.endswith("GPU 0 of machine 2 is set aside, 3 workers from now on")
    assert "CUDA error: unspecified launch failure" in line
    three = simulate(quiet, COSTS, Machines(3))
    assert found.clean_seconds + found.seconds < three.clean_seconds + three.seconds + 60


def test_machines_that_are_lost_for_long_are_waited_for():
    """A forecast waits as long as it takes: the machines of a simulation come back."""
    found = simulate(plan_of(400), COSTS, Machines(1, 2, losses=10.0, back=2000), seed=1)
    assert found.units == 300


def test_plan_and_profile_commands(door, spec_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("actors.backends.ray_backend.RayBackend", lambda *_, **__: InProcess())
    spec = spec_file(TINY)
    status, printed, error = door("plan", spec, "--json")
    assert status == 0, error
    counts = {"experiments": {"single": 72, "ensembles": 18}, "crafts": 30, "units": 90}
    assert counts.items() <= json.loads(printed).items()
    status, _, error = door("plan", spec, "--on", "2xcpu")
    assert status == 2
    assert "there is no profile" in error
    assert "study profile" in error
    status, printed, error = door("profile", spec)
    assert status == 0, error
    measured = json.loads((tmp_path / "runs" / "tiny" / "profile.json").read_text())
    assert set(measured["gradient"]) == set(measured["predict"]) == {"a", "b", "c"}
    assert all(0 < value < 10 for value in measured["gradient"].values())
    status, printed, error = door("plan", spec, "--on", "2xcpu", "--json")
    assert status == 0, error
    found = json.loads(printed)
    assert found["forecast"]["units"] == 90
    assert found["machines"]["nodes"] == 2
    assert measured["hardware"].startswith("cpu: ")
    for machines in ("8x4xH100", "8xBANANA"):
        status, printed, error = door("plan", spec, "--on", machines)
        assert status == 2
        assert f", not on {machines.rpartition('x')[2]}" in error
        assert measured["hardware"] in error
        assert "workers busy" not in printed
    status, printed, error = door("plan", spec, "--on", "8x4xH100", "--speed", "50")
    assert status == 0, error
    assert "workers busy" in printed
    size = f", {measured['memory'] / 2**30:.0f} GiB" if measured["memory"] else ""
    assert f"(costs of {measured['hardware']}{size}, torch {measured['torch']}, 50 times as fast" in " ".join(
        printed.split()
    )
    assert measured["torch"]
    status, _, error = door("plan", spec, "--on", "lots")
    assert status == 2
    assert "64xH100" in error


def profile_of(folder, **changed):
    """A profile of the tiny spec's models, as a GPU machine would write it."""
    costs = {key: dict.fromkeys("abc", 0.001) for key in ("gradient", "predict", "load")}
    path = folder / "profile.json"
    path.write_text(json.dumps(costs | {"hardware": "cuda:0: NVIDIA H100 80GB HBM3", "torch": "2.11"} | changed))
    return path


@pytest.mark.parametrize("on", ["64", "8x4xH100", "16xgpu", "2xH100-80GB", "4xnvidia"])
def test_a_profile_holds_for_machines_of_its_kind(door, spec_file, tmp_path, on):
    status, printed, error = door("plan", spec_file(TINY), "--on", on, "--profile", profile_of(tmp_path))
    assert status == 0, error
    assert f"on {on} (costs of cuda:0: NVIDIA H100 80GB HBM3, torch 2.11)" in " ".join(printed.split())


@pytest.mark.parametrize(
    ("on", "changed", "said"),
    [
        ("8xcpu", {}, ", not on cpu"),
        ("8xA100", {}, ", not on A100"),
        ("8xh", {}, ", not on h"),
        ("8xH100-40GB", {}, ", not on H100-40GB"),
        ("8xgpu", {"hardware": "cpu: Xeon"}, "measured on cpu: Xeon, not on gpu"),
        ("8xH100", {"hardware": "cuda:0: NVIDIA A100; NVIDIA H100"}, ", not on H100"),
        *((on, {"hardware": ""}, "does not name its hardware") for on in ("8", "8xcpu", "8xH100")),
    ],
)
def test_no_time_is_told_for_other_hardware(door, spec_file, tmp_path, on, changed, said):
    words = ("plan", spec_file(TINY), "--on", on, "--profile", profile_of(tmp_path, **changed))
    status, printed, error = door(*words)
    assert status == 2
    assert said in " ".join(error.split())
    assert "study profile" in error
    assert "workers busy" not in printed
    status, printed, error = door(*words, "--speed", "2")
    assert status == 0, error
    assert "2 times as fast as measured" in " ".join(printed.split())


def test_nor_for_this_machine_where_another_was_measured(door, spec_file, tmp_path, monkeypatch):
    words = ("plan", spec_file(TINY), "--profile", profile_of(tmp_path))
    status, printed, error = door(*words)
    assert status == 0, error
    assert "no duration:" in printed
    assert "NVIDIA H100 80GB HBM3, and this machine has no GPU" in " ".join(printed.split())
    assert "workers busy" not in printed
    monkeypatch.setattr("actors.estimates.forecast.gpu_names", lambda: ["NVIDIA H100 80GB HBM3"] * 2)
    status, printed, error = door(*words)
    assert status == 0, error
    assert "on this machine's 2 workers (costs of cuda:0: NVIDIA H100" in " ".join(printed.split())


def test_other_numerics_than_those_measured_are_named(door, spec_file, tmp_path):
    profile = profile_of(tmp_path, numerics={"batch": 256, "threads": 1, "precision": "bfloat16"})
    status, printed, error = door("plan", spec_file(TINY), "--on", "8xH100", "--profile", profile)
    assert status == 0, error
    assert "other numerics: batch 256 instead of 2, precision bfloat16 instead of auto" in " ".join(printed.split())


def test_plan_counts_probes(door, spec_file):
    """Two shards of four images: points of planes and lines, copies of gradients, counted by hand."""
    spec = spec_file(
        {
            "images": {"sample": "foolbox", "size": 48, "keep": "all", "count": 8},
            "geometry": {
                "cosine": {"probe": "gradient-cosine", "images": 3, "smoothing": {"copies": [1, 5], "sigma": [5, 10]}},
                "plane": {"probe": "regions", "along": {"gradient_of": "a"}, "extent": 8, "points": 5, "images": 2},
                "line": {
                    "probe": "linearity",
                    "along": {"gradient_of": "each"},
                    "distances": {"from": 0, "to": 2, "by": 1},
                    "models": ["b"],
                },
            },
            "run": {"shard": 4},
        }
    )
    status, printed, error = door("plan", spec, "--json")
    assert status == 0, error
    found = json.loads(printed)["probes"]
    assert {name: (one["models"], one["images"], one["passes"]) for name, one in found.items()} == {
        "cosine": (3, 3, 3 * 3 * (1 + 2 * 5)),
        "plane": (3, 2, 3 * 2 * 25),
        "line": (1, 8, 8 * 3),
    }
    assert found["line"]["units"] == 2
    status, printed, _ = door("plan", spec)
    assert "linearity" in printed
    assert "gradient-cosine" in printed
