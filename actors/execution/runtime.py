"""The objects that every workload runs with: backend, scheduler, observers and interrupt."""

from __future__ import annotations

from dataclasses import dataclass

from actors.backends.interface import Backend
from actors.resources.object_store import PixelBudgets
from actors.scheduling.scheduler import Scheduler
from study.events.observer import Observer
from study.process.interrupt import Interrupt


@dataclass(frozen=True)
class Runtime:
    """The objects that a workload runs with.

    Attributes:
        backend: The backend.
        scheduler: The scheduler, whose workers have started.
        display: The observers, which receive all events.
        interrupt: The record of signals that stop the launch, such as Ctrl-C.
        budgets: Limits for the pixels in the object stores; None for the limits of the spec.
    """

    backend: Backend
    scheduler: Scheduler
    display: Observer
    interrupt: Interrupt
    budgets: PixelBudgets | None = None
