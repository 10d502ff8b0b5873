"""Pure decisions, in milliseconds."""

from __future__ import annotations

import random

import pytest

from actors.resources.placement import WORKER, ModelCapacity, service_role
from actors.scheduling.policy import QUEUE, Group, SlotView, assign


def slot(number, role=WORKER, holds=(), queued=0, capacity=2):
    return SlotView(number, role, holds, queued, ModelCapacity(capacity))


def group(name, models, count=1, cost=1.0, *, role=WORKER, urgent=False):
    return Group(name, role, frozenset(models), urgent, count, cost * count)


def pairs(chosen):
    return [(one.group, one.slot) for one in chosen]


def test_an_actor_of_short_calls_gets_more_of_them_but_no_model_to_load():
    deep = slot(10, holds=("a",), queued=QUEUE)._replace(most=5)
    assert pairs(assign([group("held", "a", 90)], [deep])) == [("held", 10)] * 3
    assert assign([group("other", "b", 90)], [deep]) == []
    assert pairs(assign([group("held", "a", 90), group("shown", "b", 90, urgent=True)], [deep])) == []


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


def test_a_target_that_no_actor_holds_is_loaded():
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


def test_a_slot_joins_others_only_where_it_would_be_of_use_before_they_are_through():
    """Forty pieces of a second on one holder: loading may take 39 s. Where no slot holds them it may take any time."""
    held, free = slot(10, holds=("a",), queued=QUEUE), slot(11)
    for loading, joins in ((38.9, True), (39.1, False)):
        chosen = assign([group("x", "a", 40)], [held, free], loads={"a": loading})
        assert bool(chosen) == joins, loading
    assert assign([group("x", "a", 40)], [free], loads={"a": 1e6})


def test_targets_get_their_share_of_the_slots_and_more_only_for_a_high_wave():
    """A tenth of all work: one slot of ten, one and a fifth of that in all; then only where waiting takes very long."""
    craft = Group("craft", WORKER, frozenset("a"), urgent=False, count=90, cost=900)
    slots = [slot(n, holds=("t",) if n < 2 else ("a",), queued=QUEUE if n < 2 else 0) for n in range(10)]

    def joins(waiting, coming):
        shown = Group("shown", WORKER, frozenset("t"), urgent=True, count=waiting, cost=waiting, coming=coming)
        return ("shown", 2) in pairs(assign([craft, shown], slots, loads={"t": 5}))

    assert not joins(30, 70)
    assert joins(60, 40), "two holders have thirty seconds of work, and loading and a piece take six"
    assert joins(30, 370), "a third of all work, and a fifth of the slots"


def test_models_are_let_go_by_their_size():
    sizes = ModelCapacity(10, {"big": 8, "small": 1, "next": 3})
    held = SlotView(10, WORKER, ("small", "big"), 0, sizes)
    assert assign([group("x", ["next"])], [held])[0].drop == ("small", "big")
    held = SlotView(10, WORKER, ("big", "small"), 0, sizes)
    assert assign([group("x", ["next"])], [held])[0].drop == ("big",)


def test_no_second_call_is_queued_once_the_rest_is_less_than_a_piece_for_each():
    busy = [slot(10, queued=1), slot(11, queued=1)]
    groups = [group("long", "a", 1, 9), group("short", "a", 6, 1)]
    assert assign(groups, busy) == []
    assert len(assign([group("long", "a", 1, 9), group("short", "a", 10, 1)], busy)) == 1
