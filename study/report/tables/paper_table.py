"""`study table`: one experiment in the papers' own layout: rows are sources, columns targets, sections attacks."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from study.analysis.experiments import POINT, cells, of_experiment
from study.errors import StudyError, names
from study.images.clean_accuracy import Right
from study.planning.relation import MARKS, Relation, marked
from study.report.tables import table_formats
from study.report.tables.matrices import _variant as variant
from study.results import integrity
from study.results.run_reader import open_run
from study.spec.schema import Experiment, Spec
from study.terminal.prose import exactly, say

METRICS = ("accuracy", "success", "match")
FORMATS = ("rich", "markdown", "latex", "csv")

_CLEAN = "clean images: % that the target model gives their true label first, of all that the clean pass asked about"
_MEANING = {
    "accuracy": "% of adversarial images whose true label is still {top}; lower is stronger",
    "success": "% of adversarial images whose true label is no longer {top}",
    "match": "% of adversarial images whose target label is {top}",
}


@dataclass(frozen=True)
class Number:
    """One cell: percent, its standard deviation over seeds (n - 1; None for one seed), and what is marked about it."""

    value: float
    std: float | None
    images: int
    seeds: int
    relation: Relation
    rmsd: float
    """Mean, of pixel values; of a search of the minimal RMSD what this target needed."""
    best: bool = False

    @property
    def black(self) -> bool:
        return self.relation == "black"

    @property
    def mark(self) -> str:
        return MARKS.get(self.relation, "")

    def text(self, plus_minus: str = "±") -> str:
        decimals = 0 if self.images <= 100 else 1 if self.images <= 1000 else 2
        spread = "" if self.std is None else f" {plus_minus} {self.std:.{max(1, decimals)}f}"
        return f"{self.value:.{decimals}f}{spread}"


@dataclass(frozen=True)
class Line:
    """One row of a table: an attack (or one of its points) on one source set."""

    attack: str
    variant: str
    sources: str
    rmsd: tuple[float, float]
    """From the least to the greatest of its cells: they differ where each target searched for its own."""
    numbers: tuple[Number | None, ...]

    @property
    def moved(self) -> str:
        low, high = self.rmsd
        return f"{low:.2f}" if high - low < 0.005 else f"{low:.2f} to {high:.2f}"


@dataclass(frozen=True)
class Layout:
    """A table before it is written: `lines` in the order of the experiment's attacks and sources."""

    experiment: str
    goal: str
    metric: str
    top: int
    targets: tuple[str, ...]
    lines: tuple[Line, ...]
    clean: tuple[Right | None, ...] = ()
    """How often each target is right about clean images; None where that is not known."""

    @property
    def title(self) -> str:
        return f"{self.experiment}, {self.goal}, top-{self.top} {self.metric}"

    @property
    def notes(self) -> list[str]:
        best = "attack on the same sources" if len({line.variant for line in self.lines}) > 1 else "source"
        label = "the target model's first" if self.top == 1 else f"among the target model's first {self.top}"
        meaning = _MEANING["success" if self.metric == "success" and self.goal == "untargeted" else self.metric]
        if self.metric == "success" and self.goal == "targeted":
            meaning = _MEANING["match"]
        numbers = [one for line in self.lines for one in line.numbers if one is not None]
        seeds = max((one.seeds for one in numbers), default=1)
        return [
            meaning.format(top=label),
            *marked(one.relation for one in numbers),
            f"bold: the strongest {best}, among black-box cells; RMSD: mean, of pixel values 0..255"
            + (f"; ±: over {seeds} seeds" if seeds > 1 else ""),
            *([_CLEAN] if any(self.clean) else []),
        ]

    @property
    def rights(self) -> tuple[str, ...]:
        """The clean accuracy of each target in percent, for a line of the table; nothing where none is known."""
        shown = ("–" if one is None or not one.images else f"{100 * one.share:.0f}" for one in self.clean)
        return tuple(shown) if any(self.clean) else ()


@dataclass(frozen=True)
class TableOptions:
    """What is asked for: an experiment, among how many labels, by which metric, in which format, to which file."""

    experiment: str
    top: int = 1
    metric: str | None = None
    format: str = "rich"
    to: Path | None = None
    spec: Path | None = None


@integrity.reads
def table(run: str, order: TableOptions, console: Console) -> None:
    """Print or write an experiment of the run at `run`, a table for each goal. StudyError for what is not there."""
    if order.format not in FORMATS:
        raise StudyError(f"there is no format '{order.format}'", accepted=names(FORMATS, order.format))
    if order.format == "rich" and order.to is not None:
        raise StudyError("rich tables are for the terminal", accepted="--format markdown, latex or csv with --to")
    finished = open_run(run, order.spec)
    made = [
        replace(one, clean=tuple(finished.clean.get(target) for target in one.targets))
        for one in layouts(finished.spec, finished.rows, order)
    ]
    if not any(one.lines for one in made):
        raise StudyError(f"{run} has no rows of '{order.experiment}' yet", todo="launch the study first", status=1)
    if order.format == "rich":
        for layout in made:
            console.print(rich(layout))
            for note in layout.notes:
                say(console, note)
        return
    writers: Mapping[str, Callable[[Iterable[Layout]], str]] = {
        "markdown": table_formats.markdown,
        "latex": table_formats.latex,
        "csv": table_formats.csv,
    }
    text = writers[order.format](made)
    if order.to is None:
        exactly(console, text, end="")
        return
    try:
        order.to.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StudyError(
            f"{order.to} cannot be written: {error.strerror}", todo="name another file with --to"
        ) from None


def layouts(spec: Spec, rows: pl.LazyFrame, order: TableOptions) -> list[Layout]:
    """An experiment's tables, one for each goal. Without a metric of its own it is the one that its paper prints.

    `accuracy` (1 - success) is of untargeted images, `match` of targeted ones, `success` of either.
    """
    if order.experiment not in spec.experiments:
        known = names(spec.experiments, order.experiment)
        raise StudyError(f"there is no experiment named '{order.experiment}'", accepted=known)
    if not 1 <= order.top <= 5:
        raise StudyError(f"top {order.top} is not known: rows hold five labels", accepted="--top 1 to 5")
    experiment = spec.experiments[order.experiment]
    asked = rows.filter(pl.col("attack").is_in(list(experiment.attacks)))
    found: dict[tuple[object, ...], list[dict[str, object]]] = {}
    for cell in of_experiment(cells(asked, spec, top=order.top), spec, order.experiment).to_dicts():
        found.setdefault(tuple(cell[name] for name in POINT), []).append(cell)
    goals = dict.fromkeys(experiment.goal)
    chosen = {goal: order.metric or _printed(experiment, goal) for goal in goals}
    for goal, metric in chosen.items():
        accepted = ("accuracy", "success") if goal == "untargeted" else ("match", "success")
        if metric not in accepted:
            raise StudyError(
                f"'{metric}' is no metric of {goal} images, which {order.experiment} has",
                accepted=f"--metric {' or '.join(accepted)}",
            )
    return [_layout(spec, order, goal, metric, found) for goal, metric in chosen.items()]


def _printed(experiment: Experiment, goal: str) -> str:
    from study.papers import registry

    own = {"untargeted": "accuracy", "targeted": "match"}
    for one in experiment.published.tables if experiment.published else ():
        paper, _, table = one.partition(":")
        for row in registry.rows(paper):
            kind = row["metric"].partition("-")[2]
            if row["table"] == table and row["goal"] == goal and kind in ("success", own[goal]):
                return kind
    return "success"


def _layout(
    spec: Spec,
    order: TableOptions,
    goal: str,
    metric: str,
    found: Mapping[tuple[object, ...], Sequence[Mapping[str, object]]],
) -> Layout:
    experiment = spec.experiments[order.experiment]
    targets = spec.targets(experiment)
    lines = []
    for attack in dict.fromkeys(experiment.attacks):
        recipe = spec.attacks[attack]
        for steps, level in recipe.points:
            for sources in spec.source_sets(experiment):
                key = ("+".join(sources), attack, goal, steps, level)
                numbers = tuple(_number(found.get((*key, target), ()), metric) for target in targets)
                moved = [one.rmsd for one in numbers if one is not None]
                if moved:
                    shown = variant(attack, recipe, steps, level)
                    lines.append(Line(attack, shown, key[0] or "elsewhere", (min(moved), max(moved)), numbers))
    return Layout(order.experiment, goal, metric, order.top, targets, _with_best(lines, metric))


def _number(seeds: Sequence[Mapping[str, object]], metric: str) -> Number | None:
    if not seeds:
        return None
    rates = [100 * float(str(one["success"])) for one in seeds]
    rates = [100 - rate for rate in rates] if metric == "accuracy" else rates
    std = statistics.stdev(rates) if len(rates) > 1 else None
    images = min(int(str(one["images"])) for one in seeds)
    moved = statistics.fmean(float(str(one["rmsd"])) for one in seeds)
    kind: Any = seeds[0]["relation"]
    return Number(statistics.fmean(rates), std, images, len(seeds), kind, moved)


def _with_best(lines: Sequence[Line], metric: str) -> tuple[Line, ...]:
    """The strongest black-box cells marked: of attacks on the same sources, or of sources where there is one attack."""
    several = len({line.variant for line in lines}) > 1
    marked = []
    for line in lines:
        rivals = [other for other in lines if other.sources == line.sources or not several]
        numbers = []
        for at, one in enumerate(line.numbers):
            values = [each.value for other in rivals if (each := other.numbers[at]) is not None and each.black]
            strongest = min(values, default=None) if metric == "accuracy" else max(values, default=None)
            best = one is not None and one.black and len(values) > 1 and one.value == strongest
            numbers.append(one and replace(one, best=best))
        marked.append(replace(line, numbers=tuple(numbers)))
    return tuple(marked)


def rich(layout: Layout) -> Table:
    """For the terminal."""
    made = Table(title=layout.title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    made.add_column("attack")
    made.add_column("sources")
    for heading in ("RMSD", *layout.targets):
        made.add_column(heading, justify="right")
    last = None
    for line in layout.lines:
        if last not in (None, line.variant):
            made.add_section()
        made.add_row(
            "" if last == line.variant else line.variant,
            line.sources.replace("+", " + "),
            line.moved,
            *(Text("–") if one is None else _styled(one) for one in line.numbers),
        )
        last = line.variant
    if layout.rights:
        made.add_section()
        made.add_row("clean images", "", "", *layout.rights, style="dim")
    return made


def _styled(number: Number) -> Text:
    style = "bold" if number.best else "" if number.black else "dim"
    return Text(number.text() + number.mark, style=style)
