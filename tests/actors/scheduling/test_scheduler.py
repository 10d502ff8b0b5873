"""The loop on a backend that fails: bounded retries, replaced actors, nothing done twice, nothing forgotten."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from actors.backends.interface import (
    ActorInfo,
    ActorLost,
    Call,
    CallFailed,
    Device,
    MachineLost,
    MemoryLost,
    PixelsLost,
)
from actors.resources.placement import Machine, ModelCapacity, ResourceRequest, WorkerPool
from actors.scheduling.backlog import Task
from actors.scheduling.limits import Limits
from actors.scheduling.scheduler import Done, Failed, Scheduler
from study.errors import StudyError
from study.events import repairs


class Clock:
    """A clock that the test winds."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Flaky:
    """Actors answer in a random order, each its calls in theirs; `fate(job, attempt)` may be an error, or ActorLost.

    The calls of a bundle are answered together; if the actor dies in one of them, all their answers are lost.
    """

    name = "flaky"

    def __init__(self, fate, seed=0):
        self.fate, self.random, self.ids = fate, random.Random(seed), itertools.count()
        self.attempts, self.running, self.dead, self.stopped = {}, {}, set(), []
        self.bundles, self.answers = {}, {}

    def start(self, role, resources, config):
        return next(self.ids)

    def hello(self, actor):
        ref = next(self.ids)
        self.running[ref] = (actor, "hello")
        return ref

    def call(self, actor, method, arguments, pixels):
        assert actor not in self.dead, "a dead actor is given no work"
        queue = sum(owner == actor for owner, _ in self.running.values())
        assert queue < 8, "at most eight short calls are queued"
        ref = next(self.ids)
        self.running[ref] = (actor, arguments[1])
        return Call(ref, next(self.ids) if method == "craft" else None)

    def bundle(self, actor, requests):
        assert 1 < len(requests) <= 4
        calls = [self.call(actor, *request) for request in requests]
        self.bundles |= dict.fromkeys((call.value for call in calls), tuple(call.value for call in calls))
        return calls

    def wait(self, refs, seconds):
        first = {}
        for ref in sorted(refs):
            first.setdefault(self.running[ref][0], ref)
        chosen = self.random.sample(sorted(first.values()), min(len(first), 2))
        return [part for ref in chosen for part in self.bundles.get(ref, (ref,)) if part in refs]

    def value(self, ref):
        if ref not in self.answers:
            for one in self.bundles.get(ref, (ref,)):
                if one in self.running:
                    self.answers[one] = self.answer(one)
        _, job = self.running.pop(ref)
        error = self.answers.pop(ref)
        lost = [one for one in self.bundles.get(ref, ()) if isinstance(self.answers.get(one), ActorLost)]
        if lost:
            raise self.answers[lost[0]]
        if error is not None:
            raise error
        return None if job == "hello" else job

    def answer(self, ref):
        """The error of a call, or None."""
        actor, job = self.running[ref]
        if actor in self.dead:
            return ActorLost("died earlier")
        if job == "hello":
            return None
        self.attempts[job] = self.attempts.get(job, 0) + 1
        error = self.fate(job, self.attempts[job])
        if isinstance(error, ActorLost):
            self.dead.add(actor)
        return error

    def put(self, pixels):
        return next(self.ids)

    def stop(self, actor):
        self.stopped.append(actor)
        self.running = {ref: (owner, job) for ref, (owner, job) in self.running.items() if owner != actor}

    def machines(self):
        return [Machine(4.0)]

    def set_aside(self, device, actors):
        for actor in actors:
            self.stop(actor)

    def close(self):
        self.running.clear()


def pool_of(workers):
    return WorkerPool(workers, ResourceRequest(1, 0), capacity=ModelCapacity(2))


def scheduler(backend, attempts=3, **more):
    made = Scheduler(
        backend,
        pool_of(3),
        None,
        limits=Limits(attempts, 5),
        **more,
    )
    made.start(lambda: None)
    return made


def execute(made, jobs):
    for job in jobs:
        method = "predict" if job % 3 == 0 else "craft"
        made.add(Task(method, {f"m{job % 4}": None}, job, lambda: "pixels", float(job), job))
    events = []
    for _ in range(100_000):
        if made.idle:
            return events
        events += made.step(0.01)
    raise AssertionError("the loop does not end")


@pytest.mark.parametrize("seed", range(10))
def test_every_task_ends_exactly_once_whatever_dies(seed):
    draw = random.Random(seed)

    def fate(job, attempt):
        lot = draw.random()
        return ActorLost("killed") if lot < 0.1 else RuntimeError("hiccup") if lot < 0.2 else None

    backend = Flaky(fate, seed)
    made = scheduler(backend, attempts=50)
    events = execute(made, range(60))
    assert sorted(event.task.job for event in events) == list(range(60))
    assert all(isinstance(event, Done) for event in events)
    assert made.replaced == len(backend.stopped) > 0


def test_a_failing_task_is_tried_a_bounded_number_of_times():
    backend = Flaky(lambda job, attempt: RuntimeError("always") if job == 7 else None)
    events = execute(scheduler(backend), range(20))
    (failed,) = [event for event in events if isinstance(event, Failed)]
    assert failed.task.job == 7
    assert str(failed.error) == "always"
    assert backend.attempts[7] == 3
    assert len(events) == 20


@pytest.mark.parametrize("error", [StudyError("bad weights"), PixelsLost("gone")])
def test_what_repetition_cannot_fix_is_not_repeated(error):
    backend = Flaky(lambda job, attempt: error if job == 7 else None)
    events = execute(scheduler(backend), range(20))
    assert [event.error for event in events if isinstance(event, Failed)] == [error]
    assert backend.attempts[7] == 1


def test_a_task_that_kills_its_actors_is_set_aside_and_its_neighbours_are_not():
    backend = Flaky(lambda job, attempt: ActorLost("out of memory") if job == 7 else None)
    made = scheduler(backend)
    events = execute(made, range(20))
    assert [event.task.job for event in events if isinstance(event, Failed)] == [7]
    assert made.replaced in (3, 4), "an actor that dies during a bundle does not show which task killed it"


def test_actors_that_never_live_end_the_study():
    with pytest.raises(StudyError, match=r"worker actors in a row died before they answered"):
        execute(scheduler(Flaky(lambda job, attempt: ActorLost("no torch"))), range(20))


def test_a_pool_that_does_not_come_up_in_time():
    class Never(Flaky):
        def wait(self, refs, seconds):
            return []

    backend = Never(lambda job, attempt: None)
    made = Scheduler(backend, pool_of(3), None, limits=Limits(3, 0.05))
    with pytest.raises(StudyError, match=r"3 of 3 actors did not start within 0\.05 s") as caught:
        made.start(lambda: None)
    assert "the cluster has 4 cores" in str(caught.value)


def test_paused_crafts_are_not_given_out():
    made = scheduler(Flaky(lambda job, attempt: None))
    for job in (1, 3):
        made.add(Task("predict" if job == 3 else "craft", {"m": None}, job, lambda: "pixels", 1.0, job))
    done = [event.task.job for _ in range(5) for event in made.step(0.01, crafts=False)]
    assert done == [3]
    assert not made.idle
    assert [event.task.job for _ in range(5) for event in made.step(0.01)] == [1]


def test_pixels_are_asked_for_when_the_task_is_given_out():
    made = scheduler(Flaky(lambda job, attempt: None))
    asked = []
    for job in range(1, 12):
        made.add(Task("craft", {"m": None}, job, lambda job=job: asked.append(job), float(job), job))
    made.step(0.01)
    assert 0 < len(asked) <= 6
    assert np.all(np.diff(asked) < 0), "the longest first"


class Timed(Flaky):
    """Answers each call `seconds(job, actor)` after it came to be first in its actor's queue; None: never."""

    def __init__(self, clock, seconds):
        super().__init__(lambda job, attempt: None)
        self.clock, self.seconds, self.due = clock, seconds, {}

    def wait(self, refs, seconds):
        ready = []
        for ref in sorted(refs):
            actor, job = self.running[ref]
            if min(one for one, (owner, _) in self.running.items() if owner == actor) != ref:
                continue
            took = 0 if job == "hello" else self.seconds(job, actor)
            due = self.due.setdefault(ref, None if took is None else self.clock.now + took)
            if due is not None and due <= self.clock.now:
                ready.append(ref)
        return ready

    def stop(self, actor):
        super().stop(actor)
        self.dead.add(actor)


def wound(made, clock, seconds, step=1.0):
    events = []
    for _ in range(int(seconds / step)):
        if made.idle:
            return events
        events += made.step(0)
        clock.now += step
    return events


def test_a_straggler_is_done_again_and_counts_once():
    """One actor is a hundred times slower than the others: its call is made again, its late answer never seen."""
    clock = Clock()
    backend = Timed(clock, lambda job, actor: 1000 if actor == 0 else 10)
    made = scheduler(backend, clock=clock)
    for job in range(12):
        made.add(Task("craft", {"m": None}, job, lambda: "pixels", 1.0, job))
    events = wound(made, clock, 400)
    assert sorted(event.task.job for event in events) == list(range(12))
    assert made.repeated == 2
    assert clock.now < 150


def test_an_actor_that_never_answers_is_held_to_be_dead():
    clock = Clock()
    backend = Timed(clock, lambda job, actor: None if job == 3 and actor < 3 else 1)
    made = Scheduler(
        backend,
        pool_of(1),
        None,
        limits=Limits(3, 5, call_seconds=60),
        clock=clock,
    )
    made.start(lambda: None)
    for job in range(5):
        made.add(Task("craft", {"m": None}, job, lambda: "pixels", 1.0, job))
    events = wound(made, clock, 1000)
    assert sorted(event.task.job for event in events) == list(range(5))
    assert made.replaced >= 1


def test_no_machine_left_is_an_error_within_a_minute():
    """The only actor dies, and its successor never comes up."""
    clock = Clock()

    class Gone(Timed):
        def wait(self, refs, seconds):
            return [ref for ref in super().wait(refs, seconds) if self.running[ref][0] == 0]

        def value(self, ref):
            if self.running[ref][1] == 2:
                self.fate = lambda job, attempt: ActorLost("the node has died")
            return super().value(ref)

    backend = Gone(clock, lambda job, actor: 1)
    backend.machines = lambda: [Machine(4.0)] if clock.now < 10 else [Machine(0.5)]
    made = Scheduler(
        backend,
        pool_of(1),
        None,
        limits=Limits(3, 300),
        clock=clock,
    )
    made.start(lambda: None)
    for job in range(5):
        made.add(Task("craft", {"m": None}, job, lambda: "pixels", float(5 - job), job))
    with pytest.raises(StudyError, match="all workers are gone") as caught:
        wound(made, clock, 1000)
    assert clock.now < 60
    assert caught.value.status == 1
    assert "the cluster has 0.5 cores" in str(caught.value)


def test_machines_that_join_are_used_and_none_is_waited_for_that_has_left():
    clock = Clock()
    backend = Timed(clock, lambda job, actor: 5)
    cores = [2.0]
    backend.machines = lambda: [Machine(cores[0])]
    made = Scheduler(
        backend,
        pool_of(2),
        None,
        limits=Limits(3, 5),
        elastic=True,
        clock=clock,
    )
    made.start(lambda: None)
    for job in range(200):
        made.add(Task("craft", {"m": None}, job, lambda: "pixels", 1.0, job))
    events = wound(made, clock, 20)
    slow = len(events)
    cores[0] = 8.0
    events += wound(made, clock, 40)
    assert len(events) - slow > 3 * slow
    cores[0] = 2.0
    events += wound(made, clock, 1000)
    assert sorted(event.task.job for event in events) == list(range(200))


def test_a_machine_that_is_lost_is_not_blamed_until_it_is_lost_very_often():
    lost = MachineLost("its node has died")
    made = scheduler(Flaky(lambda job, attempt: lost if attempt <= 20 else None), attempts=3)
    assert all(isinstance(event, Done) for event in execute(made, [1]))
    made = scheduler(Flaky(lambda job, attempt: lost), attempts=3)
    (event,) = execute(made, [1])
    assert isinstance(event, Failed)


def test_a_machine_that_dies_while_the_pool_comes_up_is_not_waited_for():
    """Two of three workers come up; the third was counted on a machine that is gone a little later."""
    clock = Clock()

    class Lost(Timed):
        def wait(self, refs, seconds):
            here = super().wait([ref for ref in refs if self.running[ref][0] != 2], seconds)
            clock.now += 0 if here else seconds
            return here

    backend = Lost(clock, lambda job, actor: 1)
    backend.machines = lambda: [Machine(3.0 if clock.now < 12 else 2.0)]
    made = Scheduler(
        backend,
        pool_of(3),
        None,
        limits=Limits(3, 300),
        elastic=True,
        clock=clock,
    )
    made.start(lambda: None)
    assert clock.now < 30
    assert made.workers == 2


class Broken(Timed):
    """Actors on devices, as many as `devices`, each the next one that is free; `fate(job, device)` may be an error."""

    def __init__(self, clock, devices, fate, seconds=lambda job, device: 10):
        super().__init__(clock, lambda job, actor: seconds(job, self.on[actor]))
        self.devices, self.on, self.of_device, self.aside = list(devices), {}, fate, []
        self.failures = {}

    def start(self, role, resources, config):
        actor = super().start(role, resources, config)
        used = [self.on[one] for one in self.on if one not in self.dead]
        free = [device for device in self.devices if used.count(device) < self.devices.count(device)]
        self.on[actor] = free[0] if free else None
        return actor

    def machines(self):
        return [Machine(float(len(self.devices)))]

    def set_aside(self, device, actors):
        self.aside.append(device)
        self.devices = [one for one in self.devices if one != device.name]
        for actor in actors:
            self.stop(actor)

    def wait(self, refs, seconds):
        return super().wait([ref for ref in refs if self.on[self.running[ref][0]] is not None], seconds)

    def value(self, ref):
        actor, job = self.running[ref]
        device = self.on[actor]
        if job == "hello":
            self.running.pop(ref)
            return ActorInfo(Device("node", "host", device), "a processor")
        error = self.of_device(job, device)
        if error is None:
            return super().value(ref)
        self.running.pop(ref)
        self.failures[device] = self.failures.get(device, 0) + 1
        if isinstance(error, ActorLost):
            self.dead.add(actor)
        raise error


def pool_on(backend, clock, workers, said=None, **limits):
    made = Scheduler(
        backend,
        pool_of(workers),
        None,
        limits=Limits(3, 5, **limits),
        clock=clock,
        say=(said if said is not None else []).append,
    )
    made.start(lambda: None)
    return made


def hundred(made, clock, jobs=100):
    for job in range(jobs):
        made.add(Task("craft", {f"m{job % 2}": None}, job, lambda: "pixels", 1.0, job))
    return wound(made, clock, 10_000)


def ends(events):
    """The jobs that were done, and the jobs that were set aside."""
    done = sorted(event.task.job for event in events if isinstance(event, Done))
    return done, sorted(event.task.job for event in events if isinstance(event, Failed))


@pytest.mark.parametrize("how", [CallFailed("OSError: no such file"), ActorLost("Xid")])
def test_a_device_that_fails_every_call_costs_no_unit_and_is_set_aside(how):
    """It fails within milliseconds, where three good ones take ten seconds: it would go through all that there is."""
    clock, said = Clock(), []
    quick = lambda job, device: 0 if device == "GPU 1" else 10  # noqa: E731
    backend = Broken(
        clock, ["GPU 0", "GPU 1", "GPU 2", "GPU 3"], lambda job, device: how if device == "GPU 1" else None, quick
    )
    made = pool_on(backend, clock, 4, said)
    assert ends(hundred(made, clock)) == (list(range(100)), [])
    assert [str(one) for one in backend.aside] == ["GPU 1 of host"]
    assert backend.failures["GPU 1"] <= 12
    assert made.workers == 3
    assert made.replaced >= 1
    assert len(said) == 2
    assert "GPU 1 of host fails several calls in a row" in said[0]
    assert said[1].endswith("GPU 1 of host is set aside, 3 workers from now on")
    assert clock.now < 100 / 3 * 10 + 60


def test_a_process_that_went_wrong_is_replaced_and_its_device_is_kept():
    clock, said = Clock(), []
    backend = Broken(clock, ["GPU 0", "GPU 1"], lambda job, device: None)
    backend.of_device = lambda job, device: (
        CallFailed("AcceleratorError: device-side assert") if device == "GPU 1" and made.replaced == 0 else None
    )
    made = pool_on(backend, clock, 2, said)
    assert ends(hundred(made, clock)) == (list(range(100)), [])
    assert (made.replaced, backend.aside, made.workers) == (1, [], 2)


@pytest.mark.parametrize("how", [CallFailed("RuntimeError: a white image"), ActorLost("died")])
def test_poison_units_are_set_aside_and_cost_no_actor_its_device(how):
    clock, said = Clock(), []
    poison = set(range(0, 100, 7))
    backend = Broken(
        clock,
        ["a", "b", "c"],
        lambda job, device: how if job in poison else None,
        lambda job, device: job in poison or 9,
    )
    made = pool_on(backend, clock, 3, said)
    assert ends(hundred(made, clock)) == (sorted(set(range(100)) - poison), sorted(poison))
    assert (backend.aside, said, made.workers) == ([], [], 3)
    assert sum(backend.failures.values()) == 3 * len(poison)
    assert made.replaced == (0 if isinstance(how, CallFailed) else 3 * len(poison))


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_where_every_unit_fails_it_is_the_units(workers):
    clock = Clock()
    backend = Broken(clock, ["a", "b", "c"][:workers], lambda job, device: CallFailed("ValueError: shapes"))
    made = pool_on(backend, clock, workers)
    assert ends(hundred(made, clock)) == ([], list(range(100)))
    assert backend.aside == []
    assert made.workers == workers
    assert made.replaced == (1 if workers == 1 else 0), "a fresh process is tried once, where there is no other"


@pytest.mark.parametrize("workers", [1, 2])
def test_an_actor_whose_process_went_wrong_alone(workers):
    """Everything fails on the first actor after some units: a fresh one does them all."""
    clock = Clock()
    backend = Broken(clock, ["a", "b"][:workers], lambda job, device: None)
    backend.of_device = lambda job, device: (
        CallFailed("AcceleratorError") if made.replaced == 0 and made.calls > 20 and device == "a" else None
    )
    made = pool_on(backend, clock, workers)
    assert ends(hundred(made, clock)) == (list(range(100)), [])
    assert (made.replaced, backend.aside) == (1, [])


def test_a_machine_of_which_one_worker_fails_goes_on_with_fewer():
    """Others succeed on the same processor: it is not set aside, and there is no end of replacements."""
    clock, said = Clock(), []
    backend = Broken(clock, ["a", "a", "a"], lambda job, device: None)
    bad = lambda: sorted(one for one in backend.on if one not in backend.dead)[-1]  # noqa: E731
    value = backend.value

    def failing(ref):
        actor, job = backend.running[ref]
        if job != "hello" and actor == bad() and made.workers == 3:
            backend.running.pop(ref)
            raise CallFailed("OSError: a limit")
        return value(ref)

    backend.value = failing
    made = pool_on(backend, clock, 3, said)
    assert ends(hundred(made, clock)) == (list(range(100)), [])
    assert (backend.aside, made.workers, made.replaced) == ([], 2, 1)
    assert said[-1].endswith("2 workers from now on")


def test_a_service_has_one_actor_and_its_errors_are_its_units():
    clock = Clock()
    backend = Broken(clock, ["a", "b"], lambda job, device: CallFailed("OSError: disk") if job < 40 else None)
    made = Scheduler(
        backend,
        WorkerPool(1, ResourceRequest(1, 0), ("s",), capacity=ModelCapacity(2)),
        None,
        limits=Limits(3, 5),
        clock=clock,
    )
    made.start(lambda: None)
    for job in range(60):
        made.add(Task("predict", {"s": None}, job, lambda: "pixels", 60.0 - job, job, service=True))
    assert ends(wound(made, clock, 10_000)) == (list(range(40, 60)), list(range(40)))
    assert backend.aside == []
    assert made.replaced <= 1


def test_actors_that_cannot_be_made_say_why():
    class Unmade(Flaky):
        def value(self, ref):
            self.running.pop(ref)
            raise CallFailed(
                "ModuleNotFoundError: No module named 'timm'", "Traceback …", Device("n", "host7", "GPU 0")
            )

    with pytest.raises(StudyError, match="4 worker actors in a row could not be started: ModuleN") as caught:
        scheduler(Unmade(lambda job, attempt: None))
    assert caught.value.where == "GPU 0 of host7"
    assert caught.value.status == 1


def test_a_device_on_which_no_actor_can_be_made_is_set_aside_while_others_work():
    clock, said = Clock(), []
    backend = Broken(clock, ["GPU 0", "GPU 1", "GPU 2"], lambda job, device: None)
    value = backend.value

    def failing(ref):
        actor, job = backend.running[ref]
        if job == "hello" and backend.on[actor] == "GPU 1":
            backend.running.pop(ref)
            raise CallFailed("AcceleratorError: no device", "", Device("node", "host", "GPU 1"))
        return value(ref)

    backend.value = failing
    made = pool_on(backend, clock, 3, said)
    assert ends(hundred(made, clock)) == (list(range(100)), [])
    assert [str(one) for one in backend.aside] == ["GPU 1 of host"]
    assert "no worker can be started on GPU 1 of host (AcceleratorError: no device)" in said[0]


def test_a_worker_in_the_place_of_the_last_may_take_as_long_as_the_first():
    """Three minutes until it is up, with its machine there all the time."""
    clock = Clock()

    class Slow(Timed):
        def wait(self, refs, seconds):
            late = {one for one, (actor, job) in self.running.items() if job == "hello" and actor and clock.now < 200}
            return [ref for ref in super().wait(refs, seconds) if ref not in late]

        def value(self, ref):
            last = self.running[ref] == (0, 2)
            self.fate = lambda job, attempt: ActorLost("killed") if last else None
            return super().value(ref)

    made = Scheduler(
        Slow(clock, lambda job, actor: 1),
        pool_of(1),
        None,
        limits=Limits(3, 300),
        clock=clock,
    )
    made.start(lambda: None)
    assert ends(hundred(made, clock, 5)) == ([0, 1, 2, 3, 4], [])
    assert clock.now > 200
    assert made.replaced == 1


def out_of_memory(clock, since, until):
    """All calls are lost for want of memory from `since` to `until`, and actors cannot start either."""
    backend = Broken(clock, ["a", "b"], lambda job, device: None)
    value = backend.value

    def short(ref):
        if since <= clock.now < until:
            actor, _ = backend.running.pop(ref)
            backend.dead.add(actor)
            raise MemoryLost("memory ran out on host: 9.0 of 10.0 GiB were in use")
        return value(ref)

    backend.value = short
    return backend


def test_memory_that_others_take_for_a_while_is_waited_for():
    clock, said = Clock(), []
    repairs.taken()
    made = pool_on(out_of_memory(clock, 50, 250), clock, 2, said)
    assert ends(hundred(made, clock)) == (list(range(100)), [])
    assert len(said) == 1
    assert said[0].startswith("memory ran out on host: 9.0 of 10.0 GiB were in use; another actor starts after a pause")
    assert 4 < made.replaced < 40, "ever longer pauses"
    told = repairs.taken()
    assert len(told) == made.replaced, "every replacement is announced, not only the first"
    assert str(told[0]) == (
        "repaired: actor: worker 0 has died, and another takes its place: memory ran out on host: 9.0 of 10.0 GiB were "
        "in use"
    )
    assert made.workers == 2


def test_memory_that_stays_short_ends_the_study_with_the_numbers():
    clock = Clock()
    made = pool_on(out_of_memory(clock, 50, 1e9), clock, 2, memory_seconds=120)
    with pytest.raises(StudyError, match=r"memory has been short for 120 s: memory ran out on host: 9\.0 of") as caught:
        hundred(made, clock)
    assert 170 <= clock.now < 230
    assert caught.value.status == 1


def test_memory_that_is_short_while_the_pool_starts_is_waited_for():
    clock, said = Clock(), []
    backend = out_of_memory(clock, 0, 40)
    wait = backend.wait

    def winding(refs, seconds):
        found = wait(refs, seconds)
        clock.now += 0 if found else seconds
        return found

    backend.wait = winding
    made = pool_on(backend, clock, 2, said)
    backend.wait = wait
    assert clock.now >= 40
    assert ends(hundred(made, clock)) == (list(range(100)), [])
    backend = out_of_memory(clock, 0, 1e9)
    wait, backend.wait = backend.wait, winding
    with pytest.raises(StudyError, match="memory has been short for 60 s"):
        pool_on(backend, clock, 2, memory_seconds=60)
