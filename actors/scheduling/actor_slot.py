"""The scheduler's record of one actor: its models, its calls, and the failures of the actors that it replaced."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from actors.backends.interface import Call, Device, Ref
from actors.resources.placement import ModelCapacity, Role
from actors.scheduling.backlog import Place, Task
from study.events.observer import SlotState


@dataclass
class Lineage:
    """An actor and all actors that replaced it, one after the other.

    Attributes:
        number: The id of the first of these actors.
        strikes: Number of times in a row that an actor of the lineage was found at fault for several failed calls in a
            row. Other actors have executed such a call, or there was no other actor. A successful call resets this
            number to 0.
        starts: Number of failed starts in a row.
        error: The error of the last failed call that may be the fault of the actor. None if there was no such call.
        device: The device that failed last under one of these actors. None if no device has failed.
    """

    number: int
    strikes: int = 0
    starts: int = 0
    error: Exception | None = None
    device: Device | None = None


@dataclass
class ActorSlot:
    """One actor, as the scheduler sees it.

    Attributes:
        id: The number of the actor.
        role: The role of the actor: `worker`, or `service <name>`.
        actor: The backend's handle of the actor.
        hello: The reference of the call that returns once the actor is up. None once the actor is up.
        holds: The models that the actor holds, the least recently used first.
        calls: The calls of the actor, by reference. The first call is running. The other calls wait until it ends.
        bundles: The number of the bundle of each short call, by the reference of the call. Calls with the same number
            started together, so any call of the first bundle may be the running one.
        since: The time when the running call began.
        began: The time when the actor was started. Once the actor is up, the time when it came up.
        busy: Total duration of the calls that have ended, in seconds.
        proven: Whether the actor has answered a call, or came up at the start of the study. The study ends if too many
            actors in a row die before this is True.
        done: Number of calls that succeeded.
        device: The device of the actor. None until the actor's first answer names the device.
        capacity: How many models the actor may hold on its device. None until an answer of the actor names the device;
            the planned capacity is used until then.
        lineage: The record of this actor and of the actors that it replaced.
    """

    id: int
    role: Role
    actor: Any
    hello: Ref | None
    holds: tuple[str, ...] = ()
    calls: dict[Ref, tuple[Task, Call]] = field(default_factory=dict)
    bundles: dict[Ref, int] = field(default_factory=dict)
    since: float = 0.0
    began: float = 0.0
    busy: float = 0.0
    proven: bool = False
    done: int = 0
    device: Device | None = None
    capacity: ModelCapacity | None = None
    lineage: Lineage = field(default_factory=lambda: Lineage(-1))

    @property
    def up(self) -> bool:
        return self.hello is None

    @property
    def places(self) -> set[Place]:
        """The places where calls of this actor run: the number of its lineage, and its device if that is known."""
        return {self.lineage.number} if self.device is None else {self.lineage.number, self.device}

    @property
    def first(self) -> list[Task]:
        """The tasks of which one is running: that of the first call, or all tasks of the first bundle."""
        ref = next(iter(self.calls), None)
        number = self.bundles.get(ref, 0)
        return [task for other, (task, _) in self.calls.items() if other == ref or number == self.bundles.get(other)]

    def state(self, now: float, activity: str = "") -> SlotState:
        """Return the state of the actor at time `now`, for displays.

        `activity`: the progress of the running call, such as `step 34 of 100`, as the actor's process last reported it.
        """
        running = next((task for task, _ in self.calls.values()), None)
        busy = self.busy + (now - self.since if self.calls else 0.0)
        return SlotState(
            id=self.id,
            role=self.role,
            up=self.up,
            holds=self.holds,
            queued=len(self.calls),
            doing="" if running is None else running.title or running.description,
            activity="" if running is None else activity,
            busy_share=min(1.0, busy / max(now - self.began, 1e-9)) if self.up else 0.0,
        )
