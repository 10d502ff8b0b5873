"""How many workers fit, what each reserves and may hold: sums by hand."""

from __future__ import annotations

import pytest

from actors.resources.placement import WORKER, Machine, MachineRoom, Wish, crew, service_of, service_role, workers
from study.errors import StudyError
from study.models.memory_needs import Call, Needs

GIB = 2.0**30
NEEDS = Needs({"a": 1 * GIB, "b": 2 * GIB}, (Call(5 * GIB, 2 * GIB, "gradients of b", 8),))
"""A worker takes 5 GiB at the height of a call, and 700 MiB before it holds a model."""

LEAST = (5 + 700 / 1024) / 0.9


@pytest.mark.parametrize(
    ("machines", "wish", "count", "share"),
    [
        ([Machine(2)], Wish(), 2, 0),
        ([Machine(16)], Wish(threads=2), 8, 0),
        ([Machine(16)], Wish(threads=2, workers=3), 3, 0),
        ([Machine(3), Machine(3)], Wish(threads=2), 2, 0),
        ([Machine(8, 1)], Wish(), 1, 1),
        ([Machine(8, 1)], Wish(workers=2), 2, 0.5),
        ([Machine(8, 8)] * 8, Wish(), 64, 1),
        ([Machine(8, 8)] * 8, Wish(per_gpu=2), 128, 0.5),
        ([Machine(8, 3), Machine(64)], Wish(workers=7), 7, 0.3333),
    ],
)
def test_where_memory_is_not_known(machines, wish, count, share):
    made = crew(machines, None, wish, ("s",))
    assert (made.workers, made.share.gpus) == (count, share)
    assert made.share.device == ("cuda:0" if share else "cpu")
    assert made.roles == [WORKER] * count + ["service s"]
    assert made.share_of("service s").cpus == 0
    assert made.room == MachineRoom(16)
    if wish.workers is None:
        assert workers(machines, made.share) == count


def test_memory_limits_the_workers_of_a_machine_and_what_they_hold():
    made = crew([Machine(8, memory=20 * GIB)], NEEDS, Wish())
    assert made.workers == int(20 / LEAST) == 3
    assert made.share.memory == pytest.approx(LEAST * GIB)
    assert made.room.sizes == NEEDS.held
    assert made.room.most == pytest.approx((0.9 * 20 / 3 - 700 / 1024 - 3) * GIB)
    alone = crew([Machine(1, memory=100 * GIB), Machine(1, memory=10 * GIB)], NEEDS, Wish())
    assert alone.workers == 2
    assert alone.room.most == pytest.approx((0.9 * 10 - 700 / 1024 - 3) * GIB), "the smaller machine decides"


def test_as_many_share_a_gpu_as_its_memory_allows_but_no_more_than_two():
    for memory, count, share in ((80, 2, 0.5), (13, 2, 0.5), (12, 1, 1), (7, 1, 1)):
        made = crew([Machine(8, 1, gpu_memory=memory * GIB)], NEEDS, Wish())
        assert (made.workers, made.share.gpus) == (count, share), memory
    five = crew([Machine(8, 1, gpu_memory=80 * GIB)], NEEDS, Wish(per_gpu=5))
    assert (five.workers, five.share.gpus) == (5, 0.2)
    assert five.room.most == pytest.approx((0.9 * 80 / 5 - 700 / 1024 - 3) * GIB)


@pytest.mark.parametrize(
    ("machines", "wish", "said"),
    [
        ([Machine(8, memory=6 * GIB)], Wish(), "a worker needs 6.3 GiB, and the most .* is 6.0 GiB"),
        ([Machine(8, memory=20 * GIB)], Wish(workers=4), "4 workers need 6.3 GiB each, and there is memory for 3"),
        ([Machine(8, 1, gpu_memory=6 * GIB)], Wish(), "a worker needs 6.3 GiB, and the most .* is 6.0 GiB"),
        ([Machine(8, 2, gpu_memory=14 * GIB)], Wish(per_gpu=3), "there is memory for 4"),
        ([Machine(4)], Wish(threads=2, workers=3), "3 actors with 2 threads each need 6 cores, and there are 4"),
        ([Machine(3), Machine(3)], Wish(threads=4), "needs 4 cores of one machine, and none has so many"),
    ],
)
def test_what_does_not_fit_is_said_with_its_numbers(machines, wish, said):
    with pytest.raises(StudyError, match=said) as caught:
        crew(machines, NEEDS, wish)
    if "GiB" in said or "memory" in said:
        assert "gradients of b" in str(caught.value)
        assert "run.actor_mib" in str(caught.value)


def test_the_spec_has_the_last_word():
    assert crew([Machine(8, memory=6 * GIB)], NEEDS, Wish(memory=1 * GIB)).workers == 5
    made = crew([Machine(8, memory=20 * GIB)], NEEDS, Wish(models=3))
    assert (made.room.most, made.room.sizes) == (3, {})


def test_roles():
    assert service_of(service_role("a b")) == "a b"
    assert service_of(WORKER) is None
