"""Calls of actors: gives tasks to actors as the policy decides, starts calls, and ends them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from actors.backends.interface import Backend, Call, CallRequest, Ref
from actors.resources.placement import WORKER, ModelCapacity, Role
from actors.scheduling import policy
from actors.scheduling.actor_slot import ActorSlot
from actors.scheduling.backlog import Backlog, Task
from actors.scheduling.blame import Blame, retry_slot
from actors.scheduling.call_durations import CallDurations
from actors.scheduling.supervisor import ActorSupervisor
from actors.workers.model_cache import ModelRequest

_BUNDLE = policy.SHORT_QUEUE // 2
"""Largest number of short calls that start together. While an actor executes one bundle, the next one waits there."""


class Dispatcher:
    """Gives the tasks of a backlog to actors, and counts the calls."""

    def __init__(
        self,
        backend: Backend,
        actors: ActorSupervisor,
        blame: Blame,
        *,
        capacity: ModelCapacity,
        clock: Callable[[], float],
    ) -> None:
        """Create the dispatcher, without tasks.

        `capacity`: how many models a worker may hold, as planned. A worker on a larger GPU may hold more. `clock`
        returns a time in seconds.
        """
        self.backlog = Backlog()
        self.durations = CallDurations()
        self.retries: list[Task] = []
        """Failed tasks that will be tried again."""
        self.calls = 0
        """Number of calls that have ended."""
        self._backend = backend
        self._actors = actors
        self._blame = blame
        self._capacity = capacity
        self._clock = clock
        self._bundled = 0
        self._as_of = self._models_as_of = -1
        """The versions of the actors, and of their models, for which the next five attributes were computed."""
        self._workers = 0
        self._up: list[ActorSlot] = []
        self._up_counts: Counter[Role] = Counter()
        self._running: dict[Ref, ActorSlot] = {}
        self._held: dict[object, int] = {}

    @property
    def workers(self) -> int:
        """Number of workers, including those that are still starting."""
        self._refresh()
        return self._workers

    @property
    def running(self) -> dict[Ref, ActorSlot]:
        """The actor of each call that runs or waits at an actor. The call of an actor that starts is its greeting."""
        self._refresh()
        return self._running

    def give_out(self, crafts: bool) -> None:
        """Give waiting tasks to actors. `crafts`: whether new attacks and probes may start."""
        self._give_out_again(crafts, elsewhere=True)
        self._refresh()
        waiting = self.backlog.groups(crafts=crafts)
        most = policy.QUEUE
        count = sum(group.count for group in waiting)
        # A task that is tried again needs a place, so no long queues are filled while such a task waits.
        if count > len(self._up) and not self.retries and all(map(self.durations.are_short, waiting)):
            # An actor gets further tasks only when a whole bundle fits.
            most = policy.SHORT_QUEUE - _BUNDLE + 1
        up = self._up if count else []
        free = [self._view(slot, most) for slot in up if len(slot.calls) < most and not self.suspect(slot)]
        if free:
            groups = [self.durations.in_seconds(group) for group in waiting]
            holders = {group.key: self._holding(group) for group in groups}
            counts, loads = self._up_counts, self.durations.loads
            given: dict[int, list[tuple[Task, ModelRequest]]] = {}
            for chosen in policy.assign(groups, free, holders=holders, actor_counts=counts, loads=loads):
                task = self.backlog.take(chosen.group)  # type: ignore[arg-type]
                if task is not None:
                    slot = self._actors[chosen.slot]
                    task.short = self.durations.is_short(task) and task.models.keys() <= set(slot.holds)
                    self._actors.hold(slot, policy.after(self._view(slot), task.models))
                    given.setdefault(slot.id, []).append((task, ModelRequest(task.models, chosen.drop)))
            # Every actor gets its first call before any actor gets a call that waits.
            for turn in itertools.zip_longest(*map(_bundles, given.values())):
                for number, together in zip(given, turn, strict=True):
                    if together is not None:
                        self._start(self._actors[number], together)
        self._give_out_again(crafts, elsewhere=False)

    def _give_out_again(self, crafts: bool, *, elsewhere: bool) -> None:
        """Give failed tasks to actors again. `elsewhere`: as in `retry_slot`."""
        waiting, self.retries = [task for task in self.retries if not task.ended], []
        for task in waiting:
            up = [slot for slot in self._actors if slot.up and slot.role == task.key[0]]
            allowed = crafts or task.method == "predict"
            slot = retry_slot(task, up, self.suspect, elsewhere=elsewhere) if allowed else None
            if slot is None:
                self.retries.append(task)
            else:
                self.call(slot, task)

    def suspect(self, slot: ActorSlot) -> bool:
        """Return whether an actor gets no new work for now, because its device or its lineage is suspect.

        A lineage is an actor and its replacements. If no other lineage can do the work, a replacement still gets work.
        """
        if slot.device is not None and self._blame.suspect(slot.device):
            return True
        return self._blame.suspect(slot.lineage.number) and not (slot.lineage.strikes and self.alone(slot))

    def alone(self, slot: ActorSlot) -> bool:
        """Return whether no other lineage (an actor and its replacements) could do the work of this actor."""
        return not any(
            other.up and other.role == slot.role and other.lineage is not slot.lineage for other in self._actors
        )

    def call(self, slot: ActorSlot, task: Task) -> None:
        """Give one task to an actor, even if the actor has other calls."""
        task.short = False
        view = self._view(slot)
        self._actors.hold(slot, policy.after(view, task.models))
        self._start(slot, [(task, ModelRequest(task.models, policy.drops(view, task.models)))])

    def end(self, slot: ActorSlot, ref: Ref) -> tuple[Task, Call]:
        """Note that the call `ref` of an actor has ended. Return its task and the call."""
        task, call = slot.calls.pop(ref)
        slot.bundles.pop(ref, None)
        self._running.pop(ref, None)
        task.copies -= 1
        slot.busy += self._clock() - slot.since
        slot.since = self._clock()
        self.calls += 1
        return task, call

    def _refresh(self) -> None:
        """Compute the attributes about all actors again, if an actor has started, ended or come up since the last time.

        Also forget how many actors hold which models, if an actor holds other models.
        """
        if self._models_as_of != self._actors.models_version:
            self._models_as_of = self._actors.models_version
            self._held = {}
        if self._as_of == self._actors.version:
            return
        self._as_of = self._actors.version
        self._workers = sum(slot.role == WORKER for slot in self._actors)
        self._up = [slot for slot in self._actors if slot.up]
        self._up_counts = Counter(slot.role for slot in self._up)
        self._running = {slot.hello: slot for slot in self._actors if not slot.up}
        self._running |= {ref: slot for slot in self._actors for ref in slot.calls}
        self._held = {}

    def _holding(self, group: policy.Group) -> int:
        """Return the number of actors that hold the models of a group. The number is cached until an actor changes."""
        if group.key not in self._held:
            holding = (slot.role == group.role and group.models <= set(slot.holds) for slot in self._up)
            self._held[group.key] = sum(holding)
        return self._held[group.key]

    def _start(self, slot: ActorSlot, tasks: Sequence[tuple[Task, ModelRequest]]) -> None:
        """Start the calls of tasks on an actor, all together if there are several."""
        if not slot.calls:
            slot.since = self._clock()
        requests = [CallRequest(task.method, (models, task.job), task.pixels()) for task, models in tasks]
        if len(requests) == 1:
            calls = [self._backend.call(slot.actor, *requests[0])]
        else:
            calls = self._backend.bundle(slot.actor, requests)
        self._bundled += 1
        for (task, _), call in zip(tasks, calls, strict=True):
            task.copies += 1
            slot.calls[call.value] = (task, call)
            if task.short:
                slot.bundles[call.value] = self._bundled
            self._running[call.value] = slot

    def _view(self, slot: ActorSlot, most: int = policy.QUEUE) -> policy.SlotView:
        """Return the actor as the policy sees it.

        If `most` is above `QUEUE`, an actor whose calls are all short may have `SHORT_QUEUE` calls, and others `QUEUE`.
        """
        if most > policy.QUEUE:
            most = policy.SHORT_QUEUE if len(slot.bundles) == len(slot.calls) else policy.QUEUE
        capacity = slot.capacity or self._capacity
        return policy.SlotView(slot.id, slot.role, slot.holds, len(slot.calls), capacity, most)


def _bundles(tasks: Sequence[tuple[Task, ModelRequest]]) -> Iterator[list[tuple[Task, ModelRequest]]]:
    """Yield the tasks of an actor in their order: short tasks in bundles, all other tasks one by one.

    A short task is also yielded by itself if it must start alone, or has failed in some place.
    """
    bundle: list[tuple[Task, ModelRequest]] = []
    for one in tasks:
        alone = not one[0].short or one[0].alone or bool(one[0].tried)
        if bundle and (alone or len(bundle) == _BUNDLE):
            yield bundle
            bundle = []
        if alone:
            yield [one]
        else:
            bundle.append(one)
    if bundle:
        yield bundle
