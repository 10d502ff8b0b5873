"""The state of one actor as the scheduler sees it: its models, its calls, and the failures of its predecessors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from actors.backends.interface import Call, Device, Ref
from actors.resources.placement import ModelCapacity, Role
from actors.scheduling.backlog import Place, Task
from study.events.observer import SlotState


@dataclass
class Lineage:
    """An actor and its replacements.

    Attributes:
        number: The id of its first actor.
        strikes: How often in a row its actors failed calls that other actors executed.
        starts: How often in a row its actors failed to start.
        error: The last error of a call of its actors; None without one.
        device: The device that failed in a call of its last actor; None without such a failure.
    """

    number: int
    strikes: int = 0
    starts: int = 0
    error: Exception | None = None
    device: Device | None = None


@dataclass
class ActorSlot:
    """One actor.

    Attributes:
        hello: The call that returns when the actor is up; None once it has returned.
        holds: The models that it holds, the least recently used first.
        calls: Its calls by reference: first the running call, then the calls that wait for it to end.
        since: The time when its running call began.
        began: The time when the actor was started; once it is up, the time when it came up.
        busy: Seconds in which its calls ran.
        proven: Whether it has answered a call, or came up at the start of the study. Only a limited number of actors in
            a row may die before that.
        done: Number of its calls that succeeded.
        device: Its device; None until its first answer names the device.
        capacity: How many models it may hold on its device; None until its first answer names the memory of the device,
            and then the planned capacity holds.
    """

    id: int
    role: Role
    actor: Any
    hello: Ref | None
    holds: tuple[str, ...] = ()
    calls: dict[Ref, tuple[Task, Call]] = field(default_factory=dict)
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
        """The places where its calls run: the number of its lineage, and its device if the device is known."""
        return {self.lineage.number} if self.device is None else {self.lineage.number, self.device}

    def state(self, now: float, activity: str = "") -> SlotState:
        """The state of the actor at time `now`, for displays.

        `activity`: how far the running call is, such as `step 34 of 100`, as the actor's process last reported.
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
