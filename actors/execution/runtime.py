"""The surroundings of a workload: backend, scheduler, observers, interrupt."""

from __future__ import annotations

from dataclasses import dataclass

from actors.backends.interface import Backend
from actors.resources.object_store import PixelBudgets
from actors.scheduling.scheduler import Scheduler
from study.events.observer import Observer
from study.process.interrupt import Interrupt


@dataclass(frozen=True)
class Runtime:
    """Started workers with their surroundings. `budgets` limit the object stores; None: as in the spec."""

    backend: Backend
    scheduler: Scheduler
    display: Observer
    interrupt: Interrupt
    budgets: PixelBudgets | None = None
