"""What is to blame for failures, decided from records of failures and successes alone."""

from __future__ import annotations

from actors.backends.interface import Device
from actors.scheduling.backlog import Task
from actors.scheduling.blame import Blame

FIRST, SECOND = (Device("node", "host", name, gpu=True) for name in ("GPU 0", "GPU 1"))


def task():
    return Task("craft", {}, None, lambda: None, 1.0, None)


def fail(blame, one, device):
    blame.failed(one, device)
    one.devices[device] += 1


def test_failures_of_a_device_that_is_set_aside_count_no_more():
    """However often the task failed on it: the task has then failed once, on the other device, which works."""
    blame, poor, other = Blame(3), task(), task()
    for _ in range(3):
        fail(blame, poor, FIRST)
    blame.condemned(FIRST)
    fail(blame, poor, SECOND)
    blame.succeeded(other, [SECOND])
    assert not blame.convicted(poor, alone=False)
    for _ in range(2):
        fail(blame, poor, SECOND)
    blame.succeeded(other, [SECOND])
    assert blame.convicted(poor, alone=False)
