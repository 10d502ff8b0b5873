"""`study fetch`: download the weights of a spec's models."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from study.models.weights.fetch import fetch_all, not_checked
from study.spec.spec_file import SpecFile
from study.terminal.prose import exactly, say


def fetch_weights(file: SpecFile, console: Console) -> None:
    """Download the weights of a spec's models that are not on this machine.

    Weights that only their own library can find are named, and not downloaded. If a download fails, the other downloads
    are still tried. StudyError is raised at the end.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks: dict[str, TaskID] = {}

        def progress(name: str, done: int, total: int | None) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total)
            bars.update(tasks[name], completed=done, total=total)

        fetch_all(file.spec.models, say=lambda line: say(console, line), progress=progress)
    left = not_checked(file.spec.models)
    if left:
        say(console, f"weights that only open_clip itself can find, and downloads when a study runs: {', '.join(left)}")
    exactly(console, f"all {'other ' if left else ''}weights of {file.spec.study} are on this machine")
