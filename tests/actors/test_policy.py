"""Pure decisions, in milliseconds."""

from __future__ import annotations

import random

import pytest

from actors.policy import QUEUE, Slot, Work, assign, crew
from study.errors import StudyError


def slot(number, role="source", holds=(), queued=0, capacity=2):
    return Slot(number, role, holds, queued, capacity)


def test_longest_first_and_shortest_queue():
    work = [Work(number, "source", ("a",), cost) for number, cost in ((1, 5), (2, 50), (3, 1), (4, 2))]
    chosen = assign(work, [slot(10, queued=1), slot(11)])
    assert [(one.work, one.slot) for one in chosen] == [(2, 11), (1, 10)]


def test_held_models_first():
    work = [Work(1, "source", ("a",), 50), Work(2, "source", ("b",), 5)]
    assert next((one.work, one.slot) for one in assign(work, [slot(10, holds=("b",))])) == (2, 10)


def test_the_models_used_least_lately_are_dropped():
    work = [Work(1, "source", ("c",), 1)]
    assert assign(work, [slot(10, holds=("b", "a"))])[0].drop == ("b",)
    assert assign(work, [slot(10, holds=("b", "a"), capacity=3)])[0].drop == ()
    both = [Work(1, "source", ("a", "c"), 1)]
    assert assign(both, [slot(10, holds=("b", "a"))])[0].drop == ("b",)


def test_an_ensemble_larger_than_the_capacity_still_fits_one_slot():
    assert assign([Work(1, "source", ("a", "b", "c"), 1)], [slot(10, holds=("d",))])[0].drop == ("d",)


def test_the_last_pieces_are_not_queued_behind_each_other():
    work = [Work(1, "source", ("a",), 1), Work(2, "source", ("a",), 1)]
    assert len(assign(work, [slot(10, queued=1), slot(11, queued=1)])) == 0
    assert len(assign([*work, Work(3, "source", ("a",), 1)], [slot(10, queued=1), slot(11, queued=1)])) == 1


def test_roles_do_not_mix():
    work = [Work(1, "source", ("a",), 1), Work(2, "target", ("a",), 1)]
    assert {(one.work, one.slot) for one in assign(work, [slot(10), slot(20, role="target")])} == {(1, 10), (2, 20)}
    assert assign(work, [slot(20, role="target")])[0].work == 2


def test_properties_of_any_assignment():
    draw = random.Random(0)
    for _ in range(200):
        slots = [
            slot(number, draw.choice(["source", "target"]), tuple(draw.sample("abcd", draw.randint(0, 2))),
                 draw.randint(0, QUEUE))
            for number in range(draw.randint(1, 6))
        ]  # fmt: skip
        work = [
            Work(100 + number, draw.choice(["source", "target"]), tuple(draw.sample("abcd", 1)), draw.random())
            for number in range(draw.randint(0, 12))
        ]
        chosen = assign(work, slots)
        assert len({one.work for one in chosen}) == len(chosen)
        given = {one.id: one.queued for one in slots}
        roles = {one.id: one.role for one in (*slots, *work)}
        for one in chosen:
            given[one.slot] += 1
            assert roles[one.work] == roles[one.slot]
        assert all(count <= QUEUE for count in given.values())
        for role in ("source", "target"):
            idle = [one for one in slots if one.role == role and given[one.id] == 0]
            left = [one for one in work if one.role == role and one.id not in {done.work for done in chosen}]
            assert not (idle and left), "no slot idles while there is work for it"


@pytest.mark.parametrize(
    ("cpus", "gpus", "threads", "sources", "targets", "source_gpus"),
    [(2, 0, 1, 2, 1, 0), (16, 0, 2, 8, 1, 0), (8, 1, 1, 1, 1, 0.5), (64, 8, 1, 7, 1, 1), (640, 64, 1, 56, 8, 1)],
)
def test_crew(cpus, gpus, threads, sources, targets, source_gpus):
    made = crew(cpus, gpus, threads=threads, sources=None, targets=None)
    assert (made.sources, made.targets, made.source.gpus) == (sources, targets, source_gpus)
    assert made.source.device == ("cuda:0" if gpus else "cpu")
    assert made.sources * made.source.cpus <= cpus
    assert made.sources * made.source.gpus + made.targets * made.target.gpus <= gpus


def test_a_crew_that_does_not_fit():
    with pytest.raises(StudyError, match="3 source actors with 2 threads each need 6 cores, and there are 4"):
        crew(4, 0, threads=2, sources=3, targets=None)
