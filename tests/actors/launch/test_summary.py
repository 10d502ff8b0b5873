"""How a launch ends: the numbers of its last event after a signal."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from actors.execution.driver import Failure, Outcome
from actors.launch.options import LaunchOptions
from actors.launch.summary import stopped, summarise
from study.events.observer import Ended, UnitFailed
from study.terminal import Display


@pytest.fixture
def display():
    with Display(Console(file=io.StringIO(), width=120)) as shown:
        yield shown


def test_failures_count_also_after_a_signal(display):
    """Two of an attack unit, and one of a probe, of which the display knows nothing."""
    outcome = Outcome(failures=[Failure("unit", None, "broken")] * 3, interrupted=130)
    launch = SimpleNamespace(options=LaunchOptions(Path("spec.yaml")), folder=None)
    plan = SimpleNamespace(left=lambda folder: 7)
    ended = summarise(launch, plan, outcome, display, device="cpu", device_share=1.0, begun=0.0)
    assert ended == Ended(130, 7, 3, 0.0)


def test_failures_count_also_where_a_signal_cuts_the_launch_off(display):
    unit = SimpleNamespace(id="a.fgsm.untargeted.0", craft=SimpleNamespace(id="a.fgsm.untargeted"))
    options = LaunchOptions(Path("spec.yaml"))
    assert stopped(options, display, 143) == Ended(143, None, 0, 0.0)
    display.failed(UnitFailed(unit, "b", "not finite"))
    display.failed(UnitFailed(unit, None, "not finite"))
    assert stopped(options, display, 143) == Ended(143, None, 2, 0.0)
