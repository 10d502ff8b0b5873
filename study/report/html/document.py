"""`study report`: a run as one HTML file that needs nothing else, neither a network nor this package."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from study.errors import StudyError
from study.report.figures import Album
from study.report.html import sections as hooks
from study.report.html import summary
from study.report.html.compare import comparison
from study.report.html.data import Gathered, gather
from study.report.html.experiments import experiment, key
from study.report.html.gallery import gallery
from study.report.html.page import Room, page, section, text
from study.results import integrity
from study.storage.paths import storage_path
from study.terminal.prose import say


@dataclass(frozen=True)
class ReportOptions:
    """What is asked for: where the page goes, a folder for its figures, a spec whose `published` has changed."""

    to: Path | None = None
    figures: Path | None = None
    spec: Path | None = None


@integrity.reads
def report(run: str, order: ReportOptions, console: Console) -> None:
    """Write the report of the run at `run` and say where it is. Raises StudyError where there is no run."""
    gathered = gather(run, order.spec)
    where = storage_path(run)
    # An object store is no place that a browser opens: there the page lies where the command was given.
    default = where / "report.html" if isinstance(where, Path) else Path(f"{gathered.spec.study}-report.html")
    to = order.to or default
    made = _made(gathered, order.figures)
    _write(to, made)
    said = f"{to}: {len(made.encode()) / 2**20:.1f} MiB, {gathered.count:,} rows"
    say(console, said)
    if order.figures is not None:
        say(console, f"figures: {order.figures}")


@integrity.reads
def write(run: Path, to: Path, *, figures: Path | None = None, spec: Path | None = None) -> None:
    """Write the report of the run in folder `run` to the file `to`; the same run gives the same bytes.

    `figures` is a folder for every figure as SVG and PNG; `spec` stands for the run's own, see `finished.opened`.
    Raises StudyError where there is no run, it cannot be read, or the file cannot be written.
    """
    _write(to, _made(gather(str(run), spec), figures))


def _write(to: Path, made: str) -> None:
    try:
        to.write_text(made, encoding="utf-8")
    except OSError as error:
        raise StudyError(f"{to} cannot be written: {error.strerror}", todo="name another file with --to") from None


def _made(gathered: Gathered, figures: Path | None) -> str:
    room, drawn, spec = Room(), Album(figures), gathered.spec
    parts = list(_sections(gathered, drawn, room))
    titles = {
        **{f"experiment-{name}": name for name in spec.experiments},
        "models": "Models",
        "findings": "Findings",
        "comparison": "Papers",
        "geometry": "Geometry",
        "gallery": "Gallery",
        "failures": "Failures",
        "provenance": "Provenance",
    }
    nav = [(name, titles[name]) for name, part in parts if part and name in titles]
    body = "\n".join(part for _, part in parts)
    return page(f"{spec.study}: report", nav, body)


def _sections(gathered: Gathered, drawn: Album, room: Room) -> Iterator[tuple[str, str]]:
    """Every part of the page with its name, in order; empty ones too."""
    spec = gathered.spec
    yield "top", f"<h1>{text(spec.study)}</h1>\n{summary.alert(gathered)}\n{summary.facts(gathered)}"
    yield "findings", hooks.findings(gathered, room)
    yield "key", key()
    for name in spec.experiments:
        yield f"experiment-{name}", experiment(gathered, name, drawn, room)
    yield "comparison", comparison(gathered, room)
    yield "geometry", hooks.geometry(gathered, drawn, room)
    yield "models", section("models", "Models", [summary.models(gathered, room)])
    yield "gallery", gallery(gathered, room)
    yield "failures", section("failures", "Failures", [summary.failures(gathered, room)])
    yield "provenance", section("provenance", "Provenance", summary.provenance(gathered, room))
