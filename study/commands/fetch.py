"""`study fetch`: every download of a spec, once, before anything is run."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from study.models.weights.fetch import fetch_all
from study.spec.loading import SpecFile
from study.terminal.prose import exactly, say


def fetch(file: SpecFile, console: Console) -> None:
    """Download what the models of a spec need and this machine lacks. Raises StudyError once all were tried."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        shown = _Shown(bars)
        fetch_all(file.spec.models, say=shown.say, progress=shown.progress)
    exactly(console, f"all weights of {file.spec.study} are on this machine")


class _Shown:
    """Lines that stay, and a bar for each file on its way."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._known: dict[str, TaskID] = {}

    def say(self, line: str) -> None:
        say(self._bars.console, line)

    def progress(self, what: str, done: int, total: int | None) -> None:
        if what not in self._known:
            self._known[what] = self._bars.add_task(what, total=total)
        self._bars.update(self._known[what], completed=done, total=total)
