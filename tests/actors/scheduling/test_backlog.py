"""Streams and single tasks: everything once, what others wait for first, nothing made before its time."""

from __future__ import annotations

import itertools
import random

from actors.scheduling.backlog import Backlog, Task


def task(number, models=("a",), cost=1.0, method="craft"):
    return Task(method, dict.fromkeys(models), number, lambda: None, cost, number)


def drained(backlog, draw=None):
    found = []
    while backlog:
        groups = backlog.groups(crafts=True)
        chosen = groups[0] if draw is None else draw.choice(groups)
        taken = backlog.take(chosen.key)
        if taken is not None:
            found.append(taken.context)
    return found


def test_streams_are_made_one_by_one():
    made = []

    def stream(first, count):
        for number in range(first, first + count):
            made.append(number)
            yield task(number)

    backlog = Backlog()
    backlog.add_stream(stream(0, 1_000_000), 1_000_000)
    assert len(made) <= 1
    (group,) = backlog.groups(crafts=True)
    assert (group.count, group.cost) == (1_000_000, 1_000_000)
    assert [backlog.take(group.key).context for _ in range(5)] == [0, 1, 2, 3, 4]
    assert len(made) <= 6
    assert backlog.groups(crafts=True)[0].count == 999_995


def test_what_others_wait_for_comes_first_then_the_longest():
    backlog = Backlog()
    backlog.add_stream(iter([task("short", cost=1)]), 1)
    backlog.add_stream(iter([task("long", cost=9)]), 1)
    backlog.add_stream(iter([task("reference", cost=3)]), 1, first=True)
    backlog.add(task("single", cost=5))
    assert drained(backlog) == ["reference", "long", "single", "short"]


def test_everything_once_in_any_order():
    draw = random.Random(0)
    for _ in range(50):
        backlog, numbers, expected = Backlog(), itertools.count(), []
        for _ in range(draw.randint(0, 8)):
            models = tuple(draw.sample("abc", draw.randint(1, 2)))
            count = draw.randint(0, 6)
            some = [next(numbers) for _ in range(count)]
            expected += some
            backlog.add_stream((task(one, models, cost=one) for one in some), count)
            if draw.random() < 0.5:
                expected.append(next(numbers))
                backlog.add(task(expected[-1], models, method=draw.choice(["craft", "predict"])))
        assert sorted(drained(backlog, draw)) == expected
        assert not backlog


def test_paused_crafts_are_not_seen():
    backlog = Backlog()
    backlog.add(task("craft"))
    backlog.add(task("predict", method="predict"))
    (group,) = backlog.groups(crafts=False)
    assert group.urgent
    assert backlog.take(group.key).context == "predict"
    assert backlog.groups(crafts=False) == []


def test_a_stream_that_has_fewer_than_it_said_ends_without_harm():
    backlog = Backlog()
    backlog.add_stream(iter([task(1), task(2)]), 5)
    assert drained(backlog) == [1, 2]
