"""A launch beside which a W&B run may be kept: who watches it, and what a complete study still has to send."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from actors.launch.options import LaunchOptions
from actors.launch.progress import unit_progress
from study.events.observer import Ended, Observer, Observers, Started
from study.planning.plan import Plan
from study.spec.schema import Spec
from study.storage.run_folder import RunFolder
from study.terminal import Display
from study.tracking.settings import mode

if TYPE_CHECKING:
    from study.tracking.client import TrackingClient


@dataclass(frozen=True)
class TrackingSession:
    """`display` is told of everything: the front, and the tracker where there is one."""

    display: Observer
    tracker: TrackingClient | None

    def complete(self, plan: Plan, models: Mapping[str, Mapping[str, Any]], folder: RunFolder) -> None:
        """There is nothing to run: the tracker sends what W&B lacks, all of it from the parts."""
        if self.tracker is None:
            return
        totals = unit_progress(plan, {}).totals
        event = Started(
            plan=plan,
            folder=str(folder.path),
            models=models,
            totals=totals,
            finished=totals,
            left=0,
            workers=0,
            device="",
            backend="",
        )
        alone = Observers(_Lines(self.display), [self.tracker])
        alone.started(event)
        alone.ended(Ended(0, 0, 0, 0.0))

    def ended(self, status: int) -> None:
        """End the W&B run, and wait for its process."""
        if self.tracker is not None:
            Observers(_Lines(self.display), [self.tracker]).ended(Ended(status, None, 0, 0.0))

    @contextlib.contextmanager
    def ending(self) -> Iterator[None]:
        """However this is left, W&B has ended: a backend that is closed afterwards finds nothing of it."""
        try:
            yield
        finally:
            if self.tracker is not None:
                self.tracker.close()


class _Lines(Observer):
    """Only what is said: the front has nothing to show of a launch that runs nothing."""

    def __init__(self, front: Observer) -> None:
        self._front = front

    def say(self, line: str) -> None:
        self._front.say(line)


@contextlib.contextmanager
def tracked(order: LaunchOptions, spec: Spec, folder: RunFolder, front: Display) -> Iterator[TrackingSession]:
    """The watch of one launch. Its tracker is over when the context is left. StudyError for an unknown mode."""
    chosen = mode(spec.tracking, order.wandb, os.environ)
    if chosen == "disabled":
        yield TrackingSession(front, None)
        return
    from study.tracking.client import TrackingClient, TrackingOptions

    online = replace(order, wandb="online").command()
    tracker = TrackingClient(TrackingOptions(chosen, spec, os.environ, online), folder, front.run_state, front.say)
    watch = TrackingSession(Observers(front, [tracker]), tracker)
    with watch.ending():
        yield watch
