"""`study board` and `study card`: runs of one protocol side by side, and one page about the protocol of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from study.analysis.visibility import Measure
from study.errors import StudyError
from study.report.board.card import card_html, card_markdown
from study.report.board.formats import board_csv, board_latex
from study.report.board.lines import BoardTable, Entry, board_tables
from study.report.board.page import SEEN, board_page
from study.report.board.protocol import differences, facts
from study.report.wording import fixed
from study.results import integrity
from study.results.run_reader import open_run
from study.terminal.prose import exactly, say

_FORMATS = (".html", ".csv", ".tex")
_MEASURES: tuple[Measure, ...] = ("rmsd", "ssim")
_NOTE = (
    "mean: mean of the black-box rates; 95 %: interval of this mean, by a bootstrap over images, or Wilson's if all "
    "images have the same result; correct: the mean over the images that each target classifies correctly when clean; "
    "cost: gradients for one image; front: * if no other line is at least as good in mean, cost and visibility, and "
    "better in at least one of the three"
)


def print_board(runs: Sequence[str], console: Console, *, to: Path | None, experiments: Sequence[str]) -> None:
    """Print the board of some runs: a table that ranks their attacks, for each experiment and goal.

    With `to`, also write the board to this HTML, CSV or LaTeX file, or into this folder as all three files. Raises
    StudyError if a run is missing or damaged, if no run has rows of the experiments, or if a file cannot be written.
    """
    entries = _entries(runs)
    tables = board_tables(entries, experiments)
    if not tables:
        raise StudyError("these runs have no rows yet of the compared experiments", todo="launch them first", status=1)
    for table in tables:
        console.print(_rich(table, several=len(entries) > 1))
    say(console, _NOTE)
    for line in differences({entry.name: facts(entry) for entry in entries}):
        say(console, f"warning: {line}")
    if to is not None:
        for path in _written(to, entries, tables):
            say(console, f"{path}: {path.stat().st_size / 1024:,.0f} KiB")


def _entries(runs: Sequence[str]) -> list[Entry]:
    """Open the runs and give each run a unique name.

    The names are the names of the studies. If two studies have the same name, the names are the names of the run
    folders. If two run folders have the same name too, the names are the paths of the run folders.
    """
    with integrity.reading(runs[0]):
        found = [(run, open_run(run)) for run in dict.fromkeys(runs)]
    choices = (
        [data.spec.study for _, data in found],
        [Path(run).name for run, _ in found],
        [run for run, _ in found],
    )
    called = next(one for one in choices if len(set(one)) == len(one))
    return [Entry(name, run, data) for name, (run, data) in zip(called, found, strict=True)]


def _written(to: Path, entries: Sequence[Entry], tables: Sequence[BoardTable]) -> list[Path]:
    title = "Board: " + ", ".join(entry.name for entry in entries)
    contents: dict[str, Callable[[], str]] = {
        ".html": lambda: board_page(title, entries, tables),
        ".csv": lambda: board_csv(tables),
        ".tex": lambda: board_latex(tables),
    }
    if to.suffix and to.suffix not in _FORMATS:
        raise StudyError(
            f"a board cannot have the format '{to.suffix}'", accepted=f"a folder, or a file with {', '.join(_FORMATS)}"
        )
    files = {to.suffix: to} if to.suffix else {suffix: to / f"board{suffix}" for suffix in _FORMATS}
    for suffix, path in files.items():
        _write(path, contents[suffix]())
    return list(files.values())


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StudyError(f"{path} cannot be written: {error.strerror}", todo="name another file with --to") from None


def _rich(table: BoardTable, *, several: bool) -> Table:
    shown = Table(
        title=f"{table.experiment}, {table.goal}: success rates, %",
        box=box.SIMPLE_HEAD,
        title_justify="left",
        title_style="bold",
        collapse_padding=True,
        pad_edge=False,
    )
    measures = [one for one in _MEASURES if any(line.visible[one] is not None for line in table.lines)]
    shown.add_column("#", no_wrap=True)
    for head in [*(["run"] if several else []), "attack", "sources"]:
        # Without a minimum width, the columns of numbers would leave no space for names on a narrow terminal.
        shown.add_column(head, min_width=8, overflow="fold")
    for head in ("mean", "95 %", "correct", "cost", *(SEEN[one][0] for one in measures), "front"):
        shown.add_column(head, justify="right", no_wrap=True)
    for place, line in enumerate(table.lines, 1):
        ends = (
            "–" if line.low is None or line.high is None else f"{fixed(100 * line.low, 1)}–{fixed(100 * line.high, 1)}"
        )
        numbers = [
            "–" if line.mean is None else fixed(100 * line.mean, 1),
            ends,
            "–" if line.correct_mean is None else fixed(100 * line.correct_mean, 1),
            "–" if line.gradients is None else f"{line.gradients:,.0f}",
            *("–" if (value := line.visible[one]) is None else format(value, SEEN[one][1]) for one in measures),
            "*" if line.front else "",
        ]
        first = [line.run] if several else []
        shown.add_row(str(place), *first, line.attack, line.sources.replace("+", " + "), *numbers)
    return shown


def print_card(run: str, console: Console, to: Path | None) -> None:
    """Print the card of a run, a page about its protocol, as Markdown; or write the card to the file `to`.

    The file is HTML if its name ends with .html, else Markdown. Raises StudyError if the run is missing or damaged, or
    if the file cannot be written.
    """
    (entry,) = _entries([run])
    if to is None:
        exactly(console, card_markdown(entry))
        return
    _write(to, card_html(entry) if to.suffix == ".html" else card_markdown(entry))
    say(console, f"{to}: {to.stat().st_size / 1024:,.0f} KiB")
