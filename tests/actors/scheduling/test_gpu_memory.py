"""Workers on GPUs of several sizes, as each process sees its own: what each may hold, and what is said."""

from __future__ import annotations

import pytest

from actors.backends.interface import ActorInfo, Device
from actors.resources.memory_needs import CallMemory, Needs
from actors.resources.placement import Machine, WorkerOptions, plan_workers
from actors.scheduling.backlog import Task
from actors.scheduling.limits import Limits
from actors.scheduling.scheduler import Done, Scheduler
from tests.actors.scheduling.test_scheduler import Flaky

GIB = 2.0**30
NEEDS = Needs({f"m{number}": 2 * GIB for number in range(4)}, (CallMemory(5 * GIB, 2 * GIB, "predictions of m0", 8),))


class Gpus(Flaky):
    """One actor on a GPU of each size, which tells what its process sees of it."""

    def __init__(self, sizes):
        super().__init__(lambda job, attempt: None)
        self.sizes, self.drops, self.numbers = sizes, {}, {}

    def start(self, role, resources, config):
        actor = super().start(role, resources, config)
        self.numbers[actor] = len(self.numbers)
        return actor

    def machines(self):
        return [Machine(8, len(self.sizes), gpu_memory=80 * GIB)]

    def value(self, ref):
        actor, job = self.running[ref]
        answer = super().value(ref)
        if job != "hello":
            return answer
        number = self.numbers[actor]
        size, device = self.sizes[number], Device("node", "host", f"GPU {number}", gpu=True)
        return ActorInfo(device, "H200", size * GIB if size else None)

    def call(self, actor, method, arguments, pixels):
        self.drops.setdefault(self.numbers[actor], []).append(len(arguments[0].drop))
        return super().call(actor, method, arguments, pixels)


def run(sizes):
    backend, said = Gpus(sizes), []
    pool = plan_workers(backend.machines(), NEEDS, WorkerOptions())
    made = Scheduler(backend, pool, None, limits=Limits(3, 5), say=said.append)
    made.start(lambda: None)
    for job in range(60):
        made.add(Task("predict", {f"m{job % 4}": None}, job, lambda: "pixels", 1.0, job))
    done = []
    while not made.idle:
        done += made.step(0.01)
    assert len([one for one in done if isinstance(one, Done)]) == 60
    return backend, said


def test_a_worker_holds_what_its_own_gpu_has_room_for():
    whole, _ = run([80])
    part, said = run([8])
    assert sum(whole.drops[0]) == 0, "four models fit"
    assert sum(part.drops[0]) > 0, "one model fits beside the largest call"
    assert said == [], "and the largest call fits"


def test_a_part_of_a_gpu_that_is_too_small_is_named_once():
    _, said = run([80, 4])
    assert said == [
        "GPU 1 of host is too small: a worker's process sees 4.0 GiB of memory, but the workers there need 5.7 GiB; "
        "passes with too many images are halved there"
    ]


@pytest.mark.parametrize("sizes", [[None, None]])
def test_where_the_process_does_not_tell(sizes):
    backend, said = run(sizes)
    assert said == []
    assert sum(backend.drops[0]) == 0
