"""Devices that fail: their worker ends, their calls are given out again, and after some failures they are set aside."""

from __future__ import annotations

import pytest

from actors.backends.interface import ActorInfo, CallFailed, Device, DeviceLost, MachineLost
from actors.resources.placement import Machine
from actors.scheduling.backlog import Task
from actors.scheduling.limits import Limits
from actors.scheduling.scheduler import Done, Failed, Scheduler
from study.errors import StudyError
from study.events import repairs
from tests.actors.scheduling.test_scheduler import Broken, Clock, ends, hundred, pool_of, pool_on, wound

CAUSE = "AcceleratorError: CUDA error: unspecified launch failure"
FOUR = ["GPU 0", "GPU 1", "GPU 2", "GPU 3"]


def lost(device, cause=CAUSE):
    return DeviceLost(cause, "Traceback …", Device("node", "host", device, gpu=True))


class Gpus(Broken):
    """GPUs of one machine; an actor whose device failed executes nothing more. `fate(job, device)`: does it fail?"""

    def __init__(self, clock, devices, fate, seconds=lambda job, device: 10):
        super().__init__(clock, devices, lambda job, device: lost(device) if fate(job, device) else None, seconds)
        self.gone, self.parked = set(), {}

    def call(self, actor, method, arguments, pixels):
        assert actor not in self.gone, "the context of the process is broken"
        assert self.on[actor] not in self.parked, "the device is set aside"
        return super().call(actor, method, arguments, pixels)

    def value(self, ref):
        actor, job = self.running[ref]
        if job == "hello":
            self.running.pop(ref)
            return ActorInfo(Device("node", "host", self.on[actor], gpu=True), "a GPU")
        try:
            return super().value(ref)
        except DeviceLost:
            self.gone.add(actor)
            raise

    def set_aside(self, device, actors):
        self.aside += [] if device.name in self.parked else [device]
        self.parked.setdefault(device.name, []).extend(actors)
        self.devices = [one for one in self.devices if one != device.name]
        for actor in actors:
            self.stop(actor)


def test_one_broken_device_of_four_costs_no_unit_and_is_set_aside_once():
    clock, said = Clock(), []
    quick = lambda job, device: 0 if device == "GPU 1" else 10  # noqa: E731
    backend = Gpus(clock, FOUR, lambda job, device: device == "GPU 1", quick)
    made = pool_on(backend, clock, 4, said)
    repairs.taken()
    assert ends(hundred(made, clock)) == (list(range(100)), [])
    assert [str(one) for one in backend.aside] == ["GPU 1 of host"]
    assert backend.failures == {"GPU 1": 3}, "three calls in a row, each of another task"
    assert made.workers == 3
    (line,) = said
    assert line == (
        f"GPU 1 of host fails under one process after the other ({CAUSE}): GPU 1 of host is set aside, "
        "3 workers from now on"
    )
    ended = [one.what for one in repairs.taken() if "has ended" in one.what]
    assert 2 <= len(ended) <= 3
    assert ended[0].endswith(f"has ended, and another takes its place: GPU 1 of host failed: {CAUSE}")
    assert clock.now < 100 / 3 * 10 + 60


def test_failures_of_devices_are_no_failures_of_tasks():
    """Three of four are broken, so that a task may meet each of them; it has one attempt."""
    clock = Clock()
    quick = lambda job, device: 10 if device == "GPU 3" else 0  # noqa: E731
    backend = Gpus(clock, FOUR, lambda job, device: device != "GPU 3", quick)
    made = Scheduler(backend, pool_of(4), None, limits=Limits(1, 5), clock=clock)
    made.start(lambda: None)
    done, failed = ends(hundred(made, clock, 40))
    assert sorted(str(one) for one in backend.aside) == ["GPU 0 of host", "GPU 1 of host", "GPU 2 of host"]
    assert (done, failed) == (list(range(40)), [])
    assert made.workers == 1


def test_a_device_that_fails_once_is_used_again():
    clock, said = Clock(), []
    backend = Gpus(clock, FOUR, lambda job, device: device == "GPU 1" and made.replaced == 0)
    made = pool_on(backend, clock, 4, said)
    assert ends(hundred(made, clock)) == (list(range(100)), [])
    assert (made.replaced, backend.aside, said, made.workers) == (1, [], [], 4)
    last = [actor for actor, device in backend.on.items() if device == "GPU 1"][-1]
    assert last not in backend.gone, "a new process works on it"


def test_a_device_that_errs_now_and_then_is_set_aside_in_the_end():
    """It executes most calls, and fails every fifth task that it gets."""
    clock = Clock()
    backend = Gpus(clock, FOUR, lambda job, device: device == "GPU 1" and job % 5 == 0)
    made = pool_on(backend, clock, 4)
    done, failed = ends(hundred(made, clock, 200))
    assert (done, failed) == (list(range(200)), [])
    assert [str(one) for one in backend.aside] == ["GPU 1 of host"]
    assert 5 <= backend.failures["GPU 1"] <= 8


def test_rare_failures_of_a_device_are_no_reason_to_set_it_aside():
    """In a launch of days every device may fail now and then."""
    clock, rare = Clock(), set(range(1, 2000, 200))
    backend = Gpus(clock, FOUR[:2], lambda job, device: job in rare and not rare.discard(job), lambda job, device: 1)
    made = pool_on(backend, clock, 2)
    assert ends(hundred(made, clock, 2000)) == (list(range(2000)), [])
    assert sum(backend.failures.values()) == 10
    assert max(backend.failures.values()) >= 5
    assert (backend.aside, made.workers) == ([], 2)


@pytest.mark.parametrize("devices", [1, 2, 3, 8])
def test_tasks_that_break_every_device_are_set_aside_and_no_device_is(devices):
    """An attack whose kernel indexes out of range: every device fails under it, and executes what comes next."""
    clock, said = Clock(), []
    names, poison = [f"GPU {number}" for number in range(devices)], set(range(0, 100, 7))
    backend = Gpus(clock, names, lambda job, device: job in poison)
    made = pool_on(backend, clock, devices, said)
    assert ends(hundred(made, clock)) == (sorted(set(range(100)) - poison), sorted(poison))
    assert (backend.aside, said, made.workers) == ([], [], devices)
    assert sum(backend.failures.values()) <= 6 * len(poison)


def test_the_error_of_a_task_that_breaks_devices_names_the_last():
    clock = Clock()
    made = pool_on(Gpus(clock, FOUR[:2], lambda job, device: job == 3), clock, 2)
    (event,) = [one for one in hundred(made, clock, 10) if isinstance(one, Failed)]
    assert isinstance(event.error, DeviceLost)
    assert CAUSE in str(event.error)
    assert event.error.traceback == "Traceback …"


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_where_no_device_works_an_error_names_them_and_the_cause(devices):
    clock = Clock()
    backend = Gpus(clock, FOUR[:devices], lambda job, device: True)
    made = pool_on(backend, clock, devices)
    with pytest.raises(StudyError, match="no usable device is left") as caught:
        hundred(made, clock)
    assert caught.value.status == 1
    for name in FOUR[:devices]:
        assert f"{name} of host ({CAUSE})" in caught.value.where
    assert sum(backend.failures.values()) <= 4 * devices


def test_two_workers_of_one_device_are_set_aside_together():
    clock, said = Clock(), []
    backend = Gpus(clock, ["GPU 0", "GPU 0", "GPU 1", "GPU 1"], lambda job, device: device == "GPU 1")
    backend.machines = lambda: [Machine(float(len(backend.devices)))]
    made = pool_on(backend, clock, 4, said)
    assert ends(hundred(made, clock)) == (list(range(100)), [])
    assert [str(one) for one in backend.aside] == ["GPU 1 of host"]
    assert made.workers == 2
    assert len(said) == 1


def test_a_worker_that_starts_on_a_device_set_aside_is_given_no_work():
    """The process that reserved the device has died, so the backend places the next actor on it again."""
    clock, said = Clock(), []
    backend = Gpus(clock, FOUR, lambda job, device: device == "GPU 1")
    set_aside = backend.set_aside

    def leaky(device, actors):
        first = device.name not in backend.parked
        set_aside(device, actors)
        if first:
            backend.devices = ["GPU 1", *backend.devices]

    backend.set_aside = leaky
    backend.machines = lambda: [Machine(float(sum(one not in backend.parked for one in backend.devices)))]
    made = Scheduler(
        backend, pool_of(4), None, limits=Limits(3, 5), elastic=True, clock=clock, say=said.append
    )  # fmt: skip
    made.start(lambda: None)
    assert ends(hundred(made, clock)) == (list(range(100)), [])
    assert len(said) == 1
    assert made.workers == 3


def failing_hello(backend, bad):
    """Actors on the devices `bad` cannot start."""
    value = backend.value

    def answer(ref):
        actor, job = backend.running[ref]
        if job == "hello" and backend.on[actor] in bad:
            backend.running.pop(ref)
            raise CallFailed("RuntimeError: No CUDA GPUs are available", "", lost(backend.on[actor]).device)
        return value(ref)

    backend.value = answer
    return backend


def slow_hello(backend, clock, until, good):
    """Actors on the devices `good` come up at a time; others answer at once."""
    wait = backend.wait

    def waiting(refs, seconds):
        early = [ref for ref in refs if clock.now >= until or backend.on[backend.running[ref][0]] not in good]
        found = wait(early, seconds)
        clock.now += 0 if found else seconds
        return found

    backend.wait = waiting
    return wait


def test_workers_that_cannot_start_do_not_end_a_launch_in_which_others_still_start():
    """Two of four devices fail at once, and again and again; the others take a while to come up."""
    clock, said = Clock(), []
    backend = failing_hello(Gpus(clock, FOUR, lambda job, device: False), {"GPU 0", "GPU 1"})
    wait = slow_hello(backend, clock, 3, {"GPU 2", "GPU 3"})
    starting = backend.start

    def start(role, resources, config):
        clock.now += 0.25
        return starting(role, resources, config)

    backend.start = start
    made = pool_on(backend, clock, 4, said)
    backend.wait, backend.start = wait, starting
    assert ends(hundred(made, clock)) == (list(range(100)), [])
    assert sorted(str(one) for one in backend.aside) == ["GPU 0 of host", "GPU 1 of host"]
    assert sorted(one.partition(" (")[0] for one in said) == [
        "no worker can be started on GPU 0 of host",
        "no worker can be started on GPU 1 of host",
    ]
    assert made.workers == 2


def test_where_no_worker_can_start_the_error_names_device_and_cause():
    clock = Clock()
    backend = failing_hello(Gpus(clock, FOUR, lambda job, device: False), set(FOUR))
    with pytest.raises(StudyError, match="could not be started: RuntimeError: No CUDA GPUs are available") as caught:
        pool_on(backend, clock, 4)
    assert caught.value.status == 1
    assert "of host" in caught.value.where


def test_a_device_that_dies_for_good_is_set_aside_when_no_process_starts_on_it():
    clock, said = Clock(), []
    bad = set()
    backend = failing_hello(Gpus(clock, FOUR, lambda job, device: job == 20 and not bad), bad)
    made = pool_on(backend, clock, 4, said)
    value = backend.value

    def dying(ref):
        try:
            return value(ref)
        except DeviceLost as error:
            bad.add(error.device.name)
            raise

    backend.value = dying
    assert ends(hundred(made, clock)) == (list(range(100)), [])
    assert {one.name for one in backend.aside} == bad
    assert len(said) == 1
    assert "no worker can be started on GPU" in said[0]


def spot(clock, away, **limits):
    """One worker, whose machine is lost at `away[0]` and comes back at `away[1]`."""
    gone = lambda: away[0] <= clock.now < away[1]  # noqa: E731

    class Spot(Broken):
        def wait(self, refs, seconds):
            return [] if gone() and not self.lose() else super().wait(refs, seconds)

        def lose(self):
            return any(actor not in self.dead and job != "hello" for actor, job in self.running.values())

        def value(self, ref):
            actor, job = self.running[ref]
            if gone() and job != "hello":
                self.running.pop(ref)
                self.dead.add(actor)
                raise MachineLost("the machine of an actor has died")
            return super().value(ref)

    backend = Spot(clock, ["GPU 0"], lambda job, device: None, lambda job, device: 1)
    backend.machines = lambda: [] if gone() else [Machine(1.0)]
    said = []
    return pool_on(backend, clock, 1, said, **limits), said


def test_lost_machines_are_waited_for_as_long_as_was_asked():
    clock = Clock()
    made, said = spot(clock, (20, 2000), lost_seconds=3000)
    for job in range(40):
        made.add(Task("craft", {"m": None}, job, lambda: "pixels", 1.0, job))
    events = wound(made, clock, 4000)
    assert sorted(event.task.job for event in events) == list(range(40))
    assert all(isinstance(event, Done) for event in events)
    assert 2000 < clock.now < 2100
    (line,) = said
    assert line.endswith("waiting up to 3000 s (run.lost_seconds) for a machine")


def test_machines_that_stay_away_end_the_study_after_that_time():
    clock = Clock()
    made, _ = spot(clock, (20, 1e9), lost_seconds=100)
    for job in range(40):
        made.add(Task("craft", {"m": None}, job, lambda: "pixels", 1.0, job))
    with pytest.raises(StudyError, match="all workers are gone") as caught:
        wound(made, clock, 4000)
    assert 120 < clock.now < 130
    assert caught.value.status == 1
    assert "run.lost_seconds" in caught.value.todo
