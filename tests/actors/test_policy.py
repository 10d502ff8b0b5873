"""Pure decisions, in milliseconds."""

from __future__ import annotations

import random

import pytest

from actors.policy import QUEUE, WORKER, Group, Slot, assign, crew, service_role, workers
from study.errors import StudyError


def slot(number, role=WORKER, holds=(), queued=0, capacity=2):
    return Slot(number, role, holds, queued, capacity)


def group(name, models, count=1, cost=1.0, *, role=WORKER, urgent=False):
    return Group(name, role, frozenset(models), urgent, count, cost * count)


def pairs(chosen):
    return [(one.group, one.slot) for one in chosen]


def test_the_shortest_queue_chooses_first_and_takes_what_needs_most():
    groups = [group("small", "a", 1, 5), group("large", "b", 3, 50)]
    assert pairs(assign(groups, [slot(10, queued=1), slot(11)])) == [("large", 11), ("large", 10)]


def test_slots_spread_over_groups_by_what_is_left_for_each():
    groups = [group("large", "a", 90), group("middle", "b", 60), group("small", "c", 30)]
    first = [one for one, _ in zip(pairs(assign(groups, [slot(n) for n in range(6)])), range(6), strict=False)]
    assert sorted(name for name, _ in first) == ["large", "large", "large", "middle", "middle", "small"]


def test_held_models_first_even_where_more_is_left_elsewhere():
    groups = [group("here", "b", 2, 1), group("there", "a", 50, 9)]
    assert pairs(assign(groups, [slot(10, holds=("b",), queued=0)]))[0] == ("here", 10)


def test_a_slot_follows_the_work_once_its_own_has_ended():
    assert assign([group("there", "a", 3)], [slot(10, holds=("b", "c"))])[0].drop == ("b",)


def test_waiting_batches_come_before_new_ones():
    groups = [group("craft", "a", 50, 100), group("shown", "a", 1, 0.1, urgent=True)]
    assert pairs(assign(groups, [slot(10, holds=("a",))]))[0] == ("shown", 10)


def test_batches_wait_for_the_slot_that_holds_their_target_until_they_are_too_many():
    craft = group("craft", "a", 50)
    slots = [slot(10, holds=("a",)), slot(11, holds=("t",), queued=QUEUE)]
    assert pairs(assign([craft, group("shown", "t", 4, urgent=True)], slots))[0] == ("craft", 10)
    assert pairs(assign([craft, group("shown", "t", 5, urgent=True)], slots))[0] == ("shown", 10)


def test_a_target_that_nobody_holds_is_loaded():
    groups = [group("craft", "a", 50), group("shown", "t", 1, urgent=True)]
    assert pairs(assign(groups, [slot(10, holds=("a",))]))[0] == ("shown", 10)


def test_the_models_used_least_lately_are_dropped():
    assert assign([group("x", "c")], [slot(10, holds=("b", "a"))])[0].drop == ("b",)
    assert assign([group("x", "c")], [slot(10, holds=("b", "a"), capacity=3)])[0].drop == ()
    assert assign([group("x", "ac")], [slot(10, holds=("b", "a"))])[0].drop == ("b",)


def test_an_ensemble_larger_than_the_capacity_still_fits_one_slot():
    assert assign([group("x", "abc")], [slot(10, holds=("d",))])[0].drop == ("d",)


def test_the_last_pieces_are_not_queued_behind_each_other():
    busy = [slot(10, queued=1), slot(11, queued=1)]
    assert len(assign([group("x", "a", 2)], busy)) == 0
    assert len(assign([group("x", "a", 3)], busy)) == 1


def test_roles_do_not_mix():
    asked = group("asked", "s", role=service_role("s"), urgent=True)
    slots = [slot(10), slot(20, role=service_role("s")), slot(30, role=service_role("t"))]
    assert set(pairs(assign([group("craft", "a"), asked], slots))) == {("craft", 10), ("asked", 20)}
    assert assign([asked], [slot(10)]) == []


@pytest.mark.parametrize("seed", range(200))
def test_properties_of_any_assignment(seed):
    draw = random.Random(seed)
    roles = [WORKER, service_role("s")]
    slots = [
        slot(number, draw.choice(roles), tuple(draw.sample("abcd", draw.randint(0, 2))), draw.randint(0, QUEUE))
        for number in range(draw.randint(1, 6))
    ]
    groups = [
        group(number, draw.sample("abcd", draw.randint(1, 2)), draw.randint(1, 5), draw.random() + 0.1,
              role=draw.choice(roles), urgent=draw.random() < 0.3)
        for number in range(draw.randint(0, 8))
    ]  # fmt: skip
    chosen = assign(groups, slots)
    queued = {one.id: one.queued for one in slots}
    holds = {one.id: list(one.holds) for one in slots}
    left = {one.key: one.count for one in groups}
    by_key, by_id = {one.key: one for one in groups}, {one.id: one for one in slots}
    for one in chosen:
        queued[one.slot] += 1
        left[one.group] -= 1
        assert by_key[one.group].role == by_id[one.slot].role
        holds[one.slot] = [name for name in holds[one.slot] if name not in one.drop]
        holds[one.slot] += [name for name in by_key[one.group].models if name not in holds[one.slot]]
        assert len(holds[one.slot]) <= 2
    assert all(count <= QUEUE for count in queued.values())
    assert all(count >= 0 for count in left.values())
    for role in roles:
        idle = [one for one in slots if one.role == role and queued[one.id] == 0]
        waiting = [one for one in groups if one.role == role and left[one.key]]
        assert not (idle and waiting), "no slot idles while there is work for it"


@pytest.mark.parametrize(
    ("cpus", "gpus", "threads", "asked", "count", "share"),
    [(2, 0, 1, None, 2, 0), (16, 0, 2, None, 8, 0), (16, 0, 2, 3, 3, 0), (8, 1, 1, None, 1, 1), (8, 1, 1, 2, 2, 0.5),
     (64, 8, 1, None, 8, 1), (640, 64, 1, 128, 128, 0.5), (24, 3, 1, 7, 7, 0.3333)],
)  # fmt: skip
def test_crew(cpus, gpus, threads, asked, count, share):
    made = crew(cpus, gpus, threads=threads, asked=asked, services=("s",))
    assert (made.workers, made.share.gpus) == (count, share)
    assert made.share.device == ("cuda:0" if gpus else "cpu")
    assert made.workers * made.share.cpus <= cpus
    assert made.workers * made.share.gpus <= gpus
    assert made.roles == [WORKER] * count + ["service s"]
    assert made.share_of("service s").cpus == 0
    if asked is None:
        assert workers(cpus, gpus, threads=threads) == count


def test_a_crew_that_does_not_fit():
    with pytest.raises(StudyError, match="3 actors with 2 threads each need 6 cores, and there are 4"):
        crew(4, 0, threads=2, asked=3)
