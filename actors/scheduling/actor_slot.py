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
        error: The last error of a call.
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
        calls: The calls that it runs or that wait for it, in this order, by reference.
        since: The time when its running call began.
        began: The time when the actor was started; once it is up, the time when it came up.
        busy: Seconds in which calls ran.
        proven: Whether it has ever answered. Actors that never answer are replaced a limited number of times.
        done: Number of calls that succeeded.
        device: Its device; None until its first answer names it.
        capacity: How many models it may hold, from the memory in its first answer; None: as planned.
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
        """The number of its lineage, and its device if that is known."""
        return {self.lineage.number} if self.device is None else {self.lineage.number, self.device}

    def state(self, now: float, activity: str = "") -> SlotState:
        """Its state at time `now`, for displays; `activity` is what its process last told of its call."""
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
