"""The workers that fit, the resources and the model capacity of each: sums by hand."""

from __future__ import annotations

import pytest

from actors.resources.memory_needs import CallMemory, Needs
from actors.resources.placement import (
    WORKER,
    Machine,
    ModelCapacity,
    fitting_workers,
    not_up,
    plan_workers,
    remarks,
    service_of,
    service_role,
)
from actors.resources.placement import WorkerOptions as Options
from study.errors import StudyError

GIB = 2.0**30
NEEDS = Needs({"a": 1 * GIB, "b": 2 * GIB}, (CallMemory(5 * GIB, 2 * GIB, "gradients of b", 8),))
"""A worker needs 5 GiB in its largest call, and 700 MiB without models."""

LEAST = (5 + 700 / 1024) / 0.9


@pytest.mark.parametrize(
    ("machines", "options", "count", "share"),
    [
        ([Machine(2)], Options(), 2, 0),
        ([Machine(16)], Options(threads=2), 8, 0),
        ([Machine(16)], Options(threads=2, workers=3), 3, 0),
        ([Machine(3), Machine(3)], Options(threads=2), 2, 0),
        ([Machine(8, 1)], Options(), 1, 1),
        ([Machine(8, 1)], Options(workers=2), 2, 0.5),
        ([Machine(8, 8)] * 8, Options(), 64, 1),
        ([Machine(8, 8)] * 8, Options(per_gpu=2), 128, 0.5),
        ([Machine(8, 3), Machine(64)], Options(workers=7), 7, 0.3333),
    ],
)
def test_where_memory_is_not_known(machines, options, count, share):
    made = plan_workers(machines, None, options, ("s",))
    assert (made.workers, made.resources.gpus) == (count, share)
    assert made.resources.device == ("cuda:0" if share else "cpu")
    assert made.roles == [WORKER] * count + ["service s"]
    assert made.resources_of("service s").cpus == 0
    assert made.capacity == ModelCapacity(16)
    if options.workers is None:
        assert fitting_workers(machines, made.resources) == count


def test_memory_limits_the_workers_of_a_machine_and_what_they_hold():
    made = plan_workers([Machine(8, memory=20 * GIB)], NEEDS, Options())
    assert made.workers == int(20 / LEAST) == 3
    assert made.resources.memory == pytest.approx(LEAST * GIB)
    assert made.capacity.sizes == NEEDS.held
    assert made.capacity.limit == pytest.approx((0.9 * 20 / 3 - 700 / 1024 - 3) * GIB)
    alone = plan_workers([Machine(1, memory=100 * GIB), Machine(1, memory=10 * GIB)], NEEDS, Options())
    assert alone.workers == 2
    assert alone.capacity.limit == pytest.approx((0.9 * 10 - 700 / 1024 - 3) * GIB), "the smaller machine decides"


def test_a_worker_has_a_gpu_for_itself_unless_the_spec_says_otherwise():
    for memory in (80, 13, 7):
        made = plan_workers([Machine(8, 1, gpu_memory=memory * GIB)], NEEDS, Options())
        assert (made.workers, made.resources.gpus) == (1, 1), memory
    five = plan_workers([Machine(8, 1, gpu_memory=80 * GIB)], NEEDS, Options(per_gpu=5))
    assert (five.workers, five.resources.gpus) == (5, 0.2)
    assert five.capacity.limit == pytest.approx((0.9 * 80 / 5 - 700 / 1024 - 3) * GIB)


@pytest.mark.parametrize(
    ("machines", "options", "said"),
    [
        (
            [Machine(8, memory=6 * GIB)],
            Options(),
            "a worker needs 6.3 GiB of memory, and the largest .* has only 6.0 GiB",
        ),
        (
            [Machine(8, memory=20 * GIB)],
            Options(workers=4),
            "4 workers need 6.3 GiB of memory each, and the machines have memory for only 3",
        ),
        (
            [Machine(8, 1, gpu_memory=6 * GIB)],
            Options(),
            "a worker needs 6.3 GiB of memory, and the largest .* has only 6.0 GiB",
        ),
        (
            [Machine(8, 2, gpu_memory=14 * GIB)],
            Options(per_gpu=3),
            "run.actors_per_gpu is 3, but the largest GPU has room for only 2: a worker needs 6.3 GiB of memory, and "
            "this GPU has 14.0 GiB\n  accepted: run.actors_per_gpu up to 2 on these machines; the largest call: ",
        ),
        (
            [Machine(8, 1, gpu_memory=8 * GIB)],
            Options(workers=1, per_gpu=2),
            "run.actors_per_gpu is 2, but the largest GPU has room for only 1: a worker needs 6.3 GiB of memory",
        ),
        (
            [Machine(8, 2, gpu_memory=80 * GIB)],
            Options(workers=4, per_gpu=1),
            "4 workers do not fit: run.actors_per_gpu is 1, and the machines have 2 GPUs\n"
            "  accepted: run.actors up to 2, with 1 on each GPU\n",
        ),
        (
            [Machine(8, 2, gpu_memory=30 * GIB), Machine(8, 2, gpu_memory=8 * GIB)],
            Options(workers=7),
            "7 workers need 6.3 GiB of memory each, and the machines have memory for only 4, because every GPU gets as "
            "many workers as fit on the smallest\n",
        ),
        ([Machine(8, 1)], Options(workers=4, per_gpu=2), "run.actors_per_gpu is 2, and the machines have 1 GPU\n"),
        (
            [Machine(1, memory=100 * GIB), Machine(8, memory=5 * GIB)],
            Options(threads=4),
            "a worker needs 6.3 GiB of memory, and the largest .* has only 5.0 GiB",
        ),
        (
            [Machine(4)],
            Options(threads=2, workers=3),
            "3 workers with 2 threads each do not fit: they need 6 cores in all, the machines have 4",
        ),
        ([Machine(3), Machine(3)], Options(threads=4), "needs 4 cores of one machine, but no machine has that many"),
        (
            [Machine(4)],
            Options(threads=8, workers=1),
            "a worker with 8 threads needs 8 cores of one machine, but no machine has that many: there is 1 machine, "
            "cores in total: 4\n  to do:    lower numerics.threads, or give --address of another cluster",
        ),
        ([Machine(0)] * 2, Options(), "a worker with 1 thread needs 1 core of one machine, .*: there are 2 machines,"),
    ],
)
def test_what_does_not_fit_is_said_with_its_numbers(machines, options, said):
    with pytest.raises(StudyError, match=said) as caught:
        plan_workers(machines, NEEDS, options)
    if "GiB" in said:
        assert "gradients of b" in str(caught.value)
        assert "run.actor_mib" in str(caught.value)


def test_the_spec_has_the_last_word():
    assert plan_workers([Machine(8, memory=6 * GIB)], NEEDS, Options(memory=1 * GIB)).workers == 5
    made = plan_workers([Machine(8, memory=20 * GIB)], NEEDS, Options(models=3))
    assert (made.capacity.limit, made.capacity.sizes) == (3, {})


MIXED = [Machine(8, 2, gpu_memory=80 * GIB, host="big"), Machine(8, 4, gpu_memory=8 * GIB, host="middle"),
         Machine(8, 8, gpu_memory=4 * GIB, host="small")]  # fmt: skip


def test_gpus_of_several_sizes_hold_what_each_has_room_for_and_the_too_small_ones_are_named():
    made = plan_workers(MIXED, NEEDS, Options())
    assert made.workers == fitting_workers(MIXED, made.resources) == 2 + 4
    assert made.capacity.limit == pytest.approx(max(0.9 * 8 - 700 / 1024 - 3, 2) * GIB), "where the size is not known"
    assert made.capacity_on(80 * GIB).limit == pytest.approx((0.9 * 80 - 700 / 1024 - 3) * GIB)
    assert made.capacity_on(None) == made.capacity
    unused, unequal = remarks(MIXED, made)
    assert unused == "8 GPUs of small not used: a worker needs 6.3 GiB, but a GPU there has only 4.0 GiB"
    assert unequal.startswith("the GPUs have 8.0 GiB to 80.0 GiB")


def test_the_smallest_gpu_limits_the_workers_that_share_one():
    made = plan_workers(MIXED[:2], NEEDS, Options(per_gpu=3))
    assert (made.workers, made.resources.together) == (6, 1)
    assert remarks(MIXED[:2], made)[1].startswith("run.actors_per_gpu is 1 instead of 3: the smallest GPU, of 8.0 GiB")
    with pytest.raises(StudyError, match=r"run\.actors_per_gpu is 3, but the largest GPU has room for only 1"):
        plan_workers(MIXED[1:2], NEEDS, Options(per_gpu=3, memory=5 * GIB))


@pytest.mark.parametrize(
    ("device", "workers", "used"), [("auto", 2, "cuda:0"), ("gpu", 2, "cuda:0"), ("cpu", 24, "cpu")]
)
def test_the_spec_chooses_the_device(device, workers, used):
    made = plan_workers([Machine(8, 2), Machine(16)], None, Options(device=device))
    assert (made.workers, made.resources.device) == (workers, used)


def test_gpus_that_are_asked_for_and_missing():
    with pytest.raises(StudyError, match="no machine has a GPU") as caught:
        plan_workers([Machine(64)], None, Options(device="gpu"))
    assert "run.wait_seconds" in str(caught.value)
    assert plan_workers([Machine(64)], None, Options(device="auto")).resources.device == "cpu"


def test_fewer_workers_may_begin_where_machines_join_later():
    assert plan_workers([Machine(2)], None, Options(workers=6, fewer=True)).workers == 2
    few = plan_workers([Machine(8, 1)], None, Options(workers=6, fewer=True))
    assert (few.workers, few.resources.gpus) == (1, 1), "they do not all go to the first GPU"
    assert plan_workers([Machine(8, 8)], None, Options(workers=6, fewer=True)).workers == 6


@pytest.mark.parametrize(
    ("machine", "threads", "accepted"),
    [
        (Machine(1), 1, "a worker needs 1 core; the cluster has 1 core and 0 GPUs in all"),
        (Machine(4, memory=20 * GIB), 2, "a worker needs 2 cores and 6.3 GiB; the cluster has 4 cores and 0 GPUs in"),
        (Machine(4, 1), 1, "a worker needs 1 GPU; the cluster has 4 cores and 1 GPU in all"),
    ],
)
def test_what_workers_that_do_not_start_need(machine, threads, accepted):
    pool = plan_workers([machine], NEEDS if machine.memory else None, Options(threads=threads))
    error = not_up([machine], pool, 1, 5)
    assert error.what == f"1 of {pool.workers} actors did not start within 5 s"
    assert accepted in error.accepted


def test_roles():
    assert service_of(service_role("a b")) == "a b"
    assert service_of(WORKER) is None
