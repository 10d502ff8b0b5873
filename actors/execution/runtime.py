"""What everything that runs work is given: where it runs, who carries it out, who watches, who may stop it."""

from __future__ import annotations

from dataclasses import dataclass

from actors.backend import Backend
from actors.scheduler import Scheduler
from actors.stores import Budgets
from study.interrupt import Interrupt
from study.watching import Watcher


@dataclass(frozen=True)
class Runtime:
    """A started crew with its surroundings."""

    backend: Backend
    scheduler: Scheduler
    display: Watcher
    interrupt: Interrupt
    budgets: Budgets | None = None
    """What object stores hold, where that is less than the spec asks for."""
