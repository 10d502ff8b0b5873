"""`study table`: print or write one experiment in the layout of the papers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from rich.console import Console

from study.errors import StudyError, names
from study.report.tables import table_formats
from study.report.tables.layout import Layout
from study.report.tables.paper_table import TableOptions, layouts
from study.results import integrity
from study.results.run_reader import open_run
from study.terminal.prose import exactly, say

__all__ = ["TableOptions", "print_table"]

FORMATS: Mapping[str, Callable[[Iterable[Layout]], str] | None] = {
    "rich": None,
    "markdown": table_formats.markdown,
    "latex": table_formats.latex,
    "csv": table_formats.csv,
}
"""The writer of each format; None: the terminal."""


@integrity.reads
def print_table(run: str, console: Console, options: TableOptions) -> None:
    """Print or write an experiment of the run at `run`, one table per goal.

    Raises StudyError if the format, experiment, metric or run is unknown, or the run has no rows of the experiment yet.
    """
    if options.format not in FORMATS:
        raise StudyError(f"there is no format '{options.format}'", accepted=names(FORMATS, options.format))
    write = FORMATS[options.format]
    if write is None and options.to is not None:
        raise StudyError("rich tables are for the terminal", accepted="--format markdown, latex or csv with --to")
    finished = open_run(run, options.spec)
    made = [
        replace(one, clean=tuple(finished.clean.get(target) for target in one.targets))
        for one in layouts(finished.spec, finished.rows, options)
    ]
    if not any(one.rows for one in made):
        raise StudyError(f"{run} has no rows of '{options.experiment}' yet", todo="launch the study first", status=1)
    if write is None:
        for layout in made:
            console.print(table_formats.rich(layout))
            for note in layout.notes:
                say(console, note)
    elif options.to is None:
        exactly(console, write(made), end="")
    else:
        try:
            options.to.write_text(write(made), encoding="utf-8")
        except OSError as error:
            raise StudyError(
                f"{options.to} cannot be written: {error.strerror}", todo="name another file with --to"
            ) from None
