"""Starts and ends the tracking (W&B) of one launch. If the study is already complete, it is tracked from its rows."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from actors.launch.options import LaunchOptions
from actors.launch.progress import unit_progress
from study.errors import StudyError
from study.events.observer import Ended, Observer, Observers, Started
from study.planning.plan import Plan
from study.spec.schema import Spec
from study.storage.run_folder import RunFolder
from study.terminal import Display
from study.tracking.settings import mode, require_package

if TYPE_CHECKING:
    from study.tracking.client import TrackingClient


@dataclass(frozen=True)
class TrackingSession:
    """The tracking of one launch.

    `display` receives all events, and passes them to the terminal and to `tracker`. If the launch is not tracked,
    `tracker` is None.
    """

    display: Observer
    tracker: TrackingClient | None

    def complete(self, plan: Plan, models: Mapping[str, Mapping[str, Any]], folder: RunFolder) -> None:
        """Send W&B those data of a complete study that it does not have yet. They come from the rows of the study."""
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
        """End the W&B run with this exit status, and wait for the tracking process."""
        if self.tracker is not None:
            Observers(_Lines(self.display), [self.tracker]).ended(Ended(status, None, 0, 0.0))

    @contextlib.contextmanager
    def ending(self) -> Iterator[None]:
        """Return a context. When it is left, the tracking process and its child processes are ended."""
        try:
            yield
        finally:
            if self.tracker is not None:
                self.tracker.close()


class _Lines(Observer):
    """Passes on messages, and no other events. At the end of a launch, the terminal needs only messages."""

    def __init__(self, front: Observer) -> None:
        self._front = front

    def say(self, line: str) -> None:
        self._front.say(line)


@contextlib.contextmanager
def tracked(order: LaunchOptions, spec: Spec, folder: RunFolder, front: Display) -> Iterator[TrackingSession]:
    """Return a context with the tracking of one launch. Tracking ends when the context is left.

    Raises StudyError if the tracking mode is unknown. Also raises StudyError if the launch or its spec asks for W&B and
    the package `wandb` is missing.
    """
    chosen = mode(spec.tracking, order.wandb, os.environ)
    if chosen != "disabled":
        try:
            require_package()
        except StudyError as error:
            if order.wandb is not None or spec.tracking.wandb is not None:
                raise
            front.say(f"WANDB_MODE is {chosen}, but this launch is not tracked: {error.what} ({error.todo})")
            chosen = "disabled"
    if chosen == "disabled":
        yield TrackingSession(front, None)
        return
    from study.tracking.client import TrackingClient, TrackingOptions

    online = replace(order, wandb="online").command()
    tracker = TrackingClient(TrackingOptions(chosen, spec, os.environ, online), folder, front.run_state, front.say)
    watch = TrackingSession(Observers(front, [tracker]), tracker)
    with watch.ending():
        yield watch
