"""Short calls that start together: what starts so, and what happens if one of them fails, hangs or kills its actor."""

from __future__ import annotations

from types import SimpleNamespace

from actors.backends.interface import ActorLost, BundleFailed, PixelsLost
from actors.scheduling.backlog import Task
from actors.scheduling.call_durations import CallDurations
from actors.scheduling.limits import Limits
from actors.scheduling.messages import CraftJob
from actors.scheduling.scheduler import Failed
from study.events import repairs
from tests.actors.scheduling.test_scheduler import Clock, Flaky, scheduler


class Bundles(Flaky):
    """Notes the jobs that started together; every call takes `seconds` of a clock that the test winds."""

    def __init__(self, seconds, fate=lambda job, attempt: None):
        super().__init__(fate)
        self.clock, self.seconds, self.together, self.attempted = Clock(), seconds, [], []

    def bundle(self, actor, requests):
        self.together.append([request.arguments[1] for request in requests])
        return super().bundle(actor, requests)

    def answer(self, ref):
        self.clock.now += self.seconds
        self.attempted.append(self.running[ref][1])
        return super().answer(ref)


def short_tasks(backend, count=60, **more):
    """The events of `count` tasks for one model, after six tasks that show how long they take."""
    made = scheduler(backend, clock=backend.clock, **more)
    events = []
    for jobs in (range(1000, 1006), range(count)):
        for job in jobs:
            made.add(Task("predict", {"m": None}, job, lambda: "pixels", 1.0, job))
        while not made.idle:
            events += made.step(0.01)
    assert sorted(event.task.job for event in events) == [*range(count), *range(1000, 1006)]
    return made, events


def test_short_tasks_start_together_and_long_ones_do_not():
    quick, slow = Bundles(0.001), Bundles(0.02)
    short_tasks(quick)
    assert quick.together
    assert all(2 <= len(jobs) <= 4 for jobs in quick.together)
    assert max(max(jobs) for jobs in quick.together) < 1000, "how long these take was not known yet"
    assert sorted(job for job in quick.attempted if job != "hello") == [*range(60), *range(1000, 1006)]
    short_tasks(slow)
    assert slow.together == []


def test_a_task_that_kills_the_actor_of_a_bundle_is_found_alone():
    """The others of its bundle are repeated, count no failure and no loss, and start in no bundle again."""
    backend = Bundles(0.001, lambda job, attempt: ActorLost("out of memory") if job == 7 else None)
    made, events = short_tasks(backend)
    (failed,) = [event.task for event in events if isinstance(event, Failed)]
    assert failed.job == 7
    assert (failed.losses, backend.attempts[7]) == (3, 4)
    assert made.replaced == 4
    (fatal,) = [jobs for jobs in backend.together if 7 in jobs]
    others = [event.task for event in events if event.task.job in fatal and event.task is not failed]
    assert others
    assert all(task.alone and not (task.losses or task.failures or task.machines) for task in others)
    whole = [job for jobs in backend.together for job in jobs if job in fatal]
    assert sorted(whole) == sorted(fatal), "each only once in a bundle"


def test_errors_in_a_bundle_belong_to_their_tasks():
    backend = Bundles(0.001, lambda job, attempt: RuntimeError("always") if job in (5, 6) else None)
    _, events = short_tasks(backend)
    failed = {event.task.job: str(event.error) for event in events if isinstance(event, Failed)}
    assert failed == {5: "always", 6: "always"}
    assert all(backend.attempts[job] == (3 if job in failed else 1) for job in range(60))


def test_a_bundle_that_fails_as_a_whole_is_started_again_one_by_one():
    """As where Ray has lost the pixels of one call: only that call fails, and its neighbours count no failure."""

    class Losing(Bundles):
        def value(self, ref):
            if 7 in [self.running[one][1] for one in self.bundles.get(ref, ()) if one in self.running]:
                self.lost = self.bundles[ref]
            if ref in getattr(self, "lost", ()):
                self.running.pop(ref)
                raise BundleFailed("the pixels are lost")
            return super().value(ref)

    backend = Losing(0.001, lambda job, attempt: PixelsLost("gone") if job == 7 else None)
    repairs.taken()
    _, events = short_tasks(backend)
    assert [event.task.job for event in events if isinstance(event, Failed)] == [7]
    assert sum(7 in jobs for jobs in backend.together) == 1
    assert all(event.task.job == 7 or not (event.task.failures or event.task.losses) for event in events)
    (fatal,) = [jobs for jobs in backend.together if 7 in jobs]
    assert {event.task.job for event in events if event.task.alone} == set(fatal)
    said = [str(one) for one in repairs.taken()]
    assert len(said) == len(fatal)
    assert all("predict m failed with other calls, and starts again alone: the pixels are lost" in one for one in said)


def test_a_failed_task_does_not_wait_until_all_short_work_is_done():
    backend = Bundles(0.001, lambda job, attempt: RuntimeError("once") if job == 7 and attempt == 1 else None)
    short_tasks(backend, 600)
    places = [place for place, job in enumerate(backend.attempted) if job == 7]
    assert len(places) == 2
    assert places[1] - places[0] < 60


def test_long_tasks_among_short_ones_of_the_same_models_start_alone():
    """How long each takes follows from its cost."""
    backend = Bundles(0.001)
    made = scheduler(backend, clock=backend.clock)
    events, costs = [], {job: 200.0 if job < 12 else 1.0 for job in range(200)}
    for jobs in (range(1000, 1006), costs):
        for job in jobs:
            made.add(Task("predict", {"m": None}, job, lambda: "pixels", costs.get(job, 1.0), job))
        while not made.idle:
            events += made.step(0.01)
    assert len(events) == 206
    assert backend.together
    assert min(min(jobs) for jobs in backend.together) >= 12


def test_attacks_of_other_libraries_are_never_bundled():
    durations, job = CallDurations(), object.__new__(CraftJob)
    for external in (None, "torchattacks:PGD"):
        object.__setattr__(job, "attack", SimpleNamespace(external=external))
        task = Task("craft", {"m": None}, job, lambda: "pixels", 1.0, None)
        durations.learn(task, None, 0.001)
        assert durations.is_short(task) is (external is None)


def test_a_short_task_that_hangs_is_repeated_alone():
    """Its bundle is silent for too long, then the actor counts as dead; the others are repeated and succeed."""

    class Hangs(Bundles):
        def wait(self, refs, seconds):
            self.clock.now += 0.5
            return [ref for ref in super().wait(refs, seconds) if 7 not in self.jobs_with(ref)]

        def jobs_with(self, ref):
            return [self.running[one][1] for one in self.bundles.get(ref, (ref,)) if one in self.running]

    backend = Hangs(0.001)
    made = scheduler(backend, clock=backend.clock)
    made._limits = Limits(2, 5, call_seconds=20, straggler_seconds=1e9)
    events = []
    for jobs in (range(1000, 1006), range(60)):
        for job in jobs:
            made.add(Task("predict", {"m": None}, job, lambda: "pixels", 1.0, job))
        while not made.idle:
            events += made.step(0.01)
    assert [event.task.job for event in events if isinstance(event, Failed)] == [7]
    assert len(events) == 66
