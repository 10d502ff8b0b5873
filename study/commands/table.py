"""`study table`: print or write the tables of experiments in the layout of the papers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from rich.console import Console
from rich.table import Table

from study.errors import StudyError, names
from study.report import plausibility
from study.report.tables import table_formats
from study.report.tables.grid import grid
from study.report.tables.layout import Layout
from study.report.tables.paper_table import TableOptions, layouts
from study.report.tables.short_names import legend, shortened
from study.report.tables.splitting import split
from study.results import integrity
from study.results.run_reader import open_run
from study.terminal.prose import exactly, say
from study.terminal.screen import counted

__all__ = ["TableOptions", "print_table"]

FORMATS: Mapping[str, Callable[[Iterable[Layout]], str] | None] = {
    "rich": None,
    "markdown": table_formats.markdown,
    "latex": table_formats.latex,
    "siunitx": table_formats.siunitx,
    "typst": table_formats.typst,
    "csv": table_formats.csv,
}
"""The function that turns tables into text, for each format. `rich` has none, because it prints on the terminal."""


@integrity.reads
def print_table(run: str, console: Console, options: TableOptions) -> None:
    """Print or write experiments of the run at `run`, one table per experiment and goal.

    Raises StudyError if the format, experiment, metric or run is unknown, or if the run has no rows of these
    experiments.
    """
    if options.format not in FORMATS:
        raise StudyError(f"there is no format '{options.format}'", accepted=names(FORMATS, options.format))
    write = FORMATS[options.format]
    if write is None and options.to is not None:
        raise StudyError(
            "--to needs a format for files, but --format rich is for the terminal",
            accepted="--format markdown, latex, siunitx, typst or csv with --to",
        )
    finished = open_run(run, options.spec)
    guessing = plausibility.guessing(finished.spec, finished.clean)
    made = [
        replace(
            one,
            clean=tuple(finished.clean.get(target) for target in one.targets),
            guessing=tuple(name for name in one.targets if name in guessing),
        )
        for one in layouts(finished.spec, finished.rows, options)
    ]
    if not any(one.rows for one in made):
        of = f" of {' and '.join(options.experiments)}" if options.experiments else ""
        raise StudyError(f"{run} has no rows{of} yet", todo="launch the study first", status=1)
    made = [one for one in made if one.rows]
    for one in plausibility.of_models(finished.spec, finished.clean, finished.models):
        # Not on standard output, which may be the text of a table.
        say(Console(stderr=True), f"warning: {one}")
    if write is None:
        for layout in made:
            _print(layout, console)
    elif options.to is None:
        exactly(console, write(made), end="")
    else:
        try:
            options.to.write_text(write(made), encoding="utf-8")
        except OSError as error:
            raise StudyError(
                f"{options.to} cannot be written: {error.strerror}", todo="name another file with --to"
            ) from None
        say(console, f"{options.to}: {counted(len(made), 'table')}")


def names_to_print(given: Iterable[str]) -> dict[str, str]:
    """Parse texts of the form `ours=printed`. Returns a dict from the name in the spec to the name to print.

    Raises StudyError for a text of another form.
    """
    found = {}
    for one in given:
        ours, equals, printed = one.partition("=")
        if not ours or not equals or not printed.strip():
            raise StudyError(
                f"'{one}' is not a pair of names", where="--name", accepted="<name in the spec>=<name to print>"
            )
        found[ours.strip()] = printed.strip()
    return found


def _print(layout: Layout, console: Console) -> None:
    """Print a table with its notes.

    If the table is wider than the terminal, models get shorter names, with a legend. If the table is still too wide,
    standard deviations are left out. If the table is then still too wide, its columns are split over several tables.
    """
    style = layout.style
    used = [*layout.targets, *(name for row in layout.rows for name in row.sources.split("+"))]
    models = [name for name in dict.fromkeys(used) if name not in style.names]
    shorter: list[Mapping[str, str]] = [{}, *shortened(models)]
    found = []
    for short, spread in [*((one, True) for one in shorter), (shorter[-1], False)]:
        shown = replace(layout, style=replace(style, names={**style.names, **short}, spread=spread))
        found.append((list(_tables(shown, console)), shown, short, spread))
        if len(found[-1][0]) == 1:
            break
    # Shorter names are of use only if they give fewer tables.
    tables, shown, short, spread = min(found, key=lambda one: len(one[0]))
    for table in tables:
        console.print(table)
    if short:
        say(console, legend(short))
    for note in shown.notes:
        say(console, note)
    if any(rate.std is not None for row in layout.rows for rate in row.rates if rate is not None) and not spread:
        say(console, "To see standard deviations over seeds, use a wider terminal or another --format")


def _tables(layout: Layout, console: Console) -> Iterator[Table]:
    """Yield the layout as one table if it fits the terminal, else as several tables with some of its columns each.

    Each table begins with the column of the RMSD, unless attacks are the columns.
    """
    first = [] if layout.style.across else [0]
    left = list(range(len(first), len(grid(layout).columns)))
    return split(lambda some: table_formats.rich(layout, [*first, *left[some]]), len(left), console)
