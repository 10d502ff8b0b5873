"""The place of an actor: what it holds, what it is at, and what became of the actors that were there before."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from actors.backends.interface import Call, Device, Ref
from actors.resources.placement import Role
from actors.scheduling.backlog import Task
from study.events.observer import SlotState


@dataclass
class ActorLine:
    """An actor and those that took its place: how often the last ones failed, at their calls or at their start."""

    number: int
    strikes: int = 0
    starts: int = 0
    error: Exception | None = None


@dataclass
class ActorSlot:
    """The place of an actor."""

    id: int
    role: Role
    actor: Any
    hello: Ref | None
    """Until this is answered the actor is not up."""
    holds: tuple[str, ...] = ()
    calls: dict[Ref, tuple[Task, Call]] = field(default_factory=dict)
    since: float = 0.0
    """When its first call came to be first."""
    began: float = 0.0
    """When it was asked for, and, once it is up, when it came up."""
    busy: float = 0.0
    """Seconds that it was at calls."""
    proven: bool = False
    """Whether an actor of this slot has ever answered: one that never did is not worth replacing for ever."""
    done: int = 0
    """Calls that succeeded."""
    device: Device | None = None
    """What it computes on, as it said."""
    line: ActorLine = field(default_factory=lambda: ActorLine(-1))

    @property
    def up(self) -> bool:
        return self.hello is None

    def state(self, now: float) -> SlotState:
        """How it stands at `now`, for those who watch."""
        doing = next((task for task, _ in self.calls.values()), None)
        at_it = self.busy + (now - self.since if self.calls else 0.0)
        return SlotState(
            id=self.id,
            role=self.role,
            up=self.up,
            holds=self.holds,
            queued=len(self.calls),
            doing="" if doing is None else doing.called,
            busy_share=min(1.0, at_it / max(now - self.began, 1e-9)) if self.up else 0.0,
        )
