"""The cost of a launch: workers that share a GPU do not count it twice."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from actors.backends.in_process import InProcess
from actors.launch.launch import launch
from actors.launch.options import LaunchOptions
from actors.resources.placement import Machine, ResourceRequest
from study.terminal import Display
from tests.conftest import FEWER


class OnGpus(InProcess):
    """Workers that believe to have shares of a GPU, and compute on the processor."""

    def start(self, role, resources, config):
        return super().start(role, ResourceRequest(1, 0), config)


@pytest.mark.parametrize(
    ("run", "gpus", "cost"),
    [
        ({}, 1, "2 GPU-hours"),
        ({"actors_per_gpu": 2, "actors": "auto"}, 1, "1 GPU-hours"),
        ({"device": "cpu"}, 2, "2 core-hours"),
    ],
)
def test_two_hours_of_crafting(spec_file, tmp_path, monkeypatch, run, gpus, cost):
    monkeypatch.setattr(Display, "seconds_crafting", 7200.0)
    printed = io.StringIO()
    overrides = tuple(f"run.{key}={value}" for key, value in run.items())
    options = LaunchOptions(spec_file(FEWER), tmp_path / "run", overrides=(*overrides, "attacks={mi: {steps: 1}}", ONE))
    machine = Machine(4.0, float(gpus))
    assert launch(options, Console(file=printed, width=200), lambda: OnGpus(machine=machine)) == 0, printed.getvalue()
    assert f", {cost} of crafting" in printed.getvalue()


ONE = "experiments={x: {attacks: [mi], sources: [b]}}"
