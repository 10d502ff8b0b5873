"""The objects that every workload runs with: backend, scheduler, observers, interrupt."""

from __future__ import annotations

from dataclasses import dataclass

from actors.backends.interface import Backend
from actors.resources.object_store import PixelBudgets
from actors.scheduling.scheduler import Scheduler
from study.events.observer import Observer
from study.process.interrupt import Interrupt


@dataclass(frozen=True)
class Runtime:
    """The objects that a workload runs with; the workers of `scheduler` have started.

    `budgets` limit the pixels in the object stores; None takes the limits from the spec.
    """

    backend: Backend
    scheduler: Scheduler
    display: Observer
    interrupt: Interrupt
    budgets: PixelBudgets | None = None
