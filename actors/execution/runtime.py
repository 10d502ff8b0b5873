"""What everything that runs work is given: where it runs, who carries it out, who watches, who may stop it."""

from __future__ import annotations

from dataclasses import dataclass

from actors.backends.interface import Backend
from actors.resources.object_store import PixelBudgets
from actors.scheduling.scheduler import Scheduler
from study.events.observer import Observer
from study.process.interrupt import Interrupt


@dataclass(frozen=True)
class Runtime:
    """A started crew with its surroundings."""

    backend: Backend
    scheduler: Scheduler
    display: Observer
    interrupt: Interrupt
    budgets: PixelBudgets | None = None
    """What object stores hold, where that is less than the spec asks for."""
