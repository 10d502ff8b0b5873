"""A launch beside which a W&B run may be kept: who watches it, and what a complete study still has to send."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from actors.ending import again
from actors.reckoning import steps
from study.plan import Plan
from study.run_folder import RunFolder
from study.spec import Spec
from study.tracking.settings import mode
from study.watching import Ended, Many, Started, Watcher

if TYPE_CHECKING:
    from actors.launch import Order
    from study.tracking.tracker import Tracker


@dataclass(frozen=True)
class Watch:
    """`display` is told of everything: the front, and the tracker where there is one."""

    display: Watcher
    tracker: Tracker | None

    def complete(self, plan: Plan, models: Mapping[str, Mapping[str, Any]], folder: RunFolder) -> None:
        """There is nothing to run: the tracker sends what W&B lacks, all of it from the parts."""
        if self.tracker is None:
            return
        totals, _, _ = steps(plan, {})
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
        alone = Many(_Lines(self.display), [self.tracker])
        alone.started(event)
        alone.ended(Ended(0, 0, 0, 0.0))

    def ended(self, status: int) -> None:
        """End the W&B run, and wait for its process."""
        if self.tracker is not None:
            Many(_Lines(self.display), [self.tracker]).ended(Ended(status, None, 0, 0.0))

    @contextlib.contextmanager
    def ending(self) -> Iterator[None]:
        """However this is left, W&B has ended: a backend that is closed afterwards finds nothing of it."""
        try:
            yield
        finally:
            if self.tracker is not None:
                self.tracker.close()


class _Lines(Watcher):
    """Only what is said: the front has nothing to show of a launch that runs nothing."""

    def __init__(self, front: Watcher) -> None:
        self._front = front

    def say(self, line: str) -> None:
        self._front.say(line)


@contextlib.contextmanager
def tracked(order: Order, spec: Spec, folder: RunFolder, front: Watcher) -> Iterator[Watch]:
    """The watch of one launch. Its tracker is over when the context is left. StudyError for an unknown mode."""
    chosen = mode(spec.tracking, order.wandb, os.environ)
    if chosen == "disabled":
        yield Watch(front, None)
        return
    from study.tracking.tracker import Tracker, Wish

    online = again(replace(order, wandb="online"))
    tracker = Tracker(Wish(chosen, spec, os.environ, online), folder, front.say)
    watch = Watch(Many(front, [tracker]), tracker)
    with watch.ending():
        yield watch
