"""`study report` writes the report of a run: one HTML file that works without a network and without this package."""

from __future__ import annotations

import base64
import functools
import hashlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import jinja2
from rich.console import Console

from study.commands.methods import paragraphs, versions
from study.errors import StudyError
from study.report.figures import Album
from study.report.html import summary
from study.report.html.colours import LEVELS, ramp_css
from study.report.html.comparison import comparison
from study.report.html.components import CellBudget
from study.report.html.environment import environment
from study.report.html.experiment import experiment_results
from study.report.html.findings import findings
from study.report.html.gallery import gallery
from study.report.html.geometry import geometry
from study.report.html.lead import lead
from study.report.html.report_data import ReportData, read_report_data
from study.report.html.tuned import tuned
from study.reproducibility.float_environment import recorded
from study.results import integrity
from study.storage.paths import storage_path
from study.storage.run_folder import RunFolder
from study.terminal.prose import say


@dataclass(frozen=True)
class ReportOptions:
    """The options of `study report`.

    Attributes:
        to: The file of the report; None for `report.html` in the run folder.
        figures: A folder into which all figures are also written as files; None for no files.
        spec: A spec that replaces the run's own spec, for example with another `published`.
        titles: Whether the figures in the folder have titles. In a paper, captions replace titles.
    """

    to: Path | None = None
    figures: Path | None = None
    spec: Path | None = None
    titles: bool = True


@integrity.reads
def report(run: str, options: ReportOptions, console: Console) -> None:
    """Write the report of the run at `run`, and print the path of the report. Raises StudyError as `write` does."""
    data = read_report_data(run, options.spec)
    folder = storage_path(run)
    # A browser cannot open a file in an object store. So the report of a run in S3 is written into the current folder.
    default = folder / "report.html" if isinstance(folder, Path) else Path(f"{data.spec.study}-report.html")
    to = options.to or default
    page = _page(data, options.figures, titles=options.titles)
    _write(to, page)
    say(console, f"{to}: {len(page.encode()) / 2**20:.1f} MiB, {data.row_count:,} rows")
    if options.figures is not None:
        say(console, f"figures: {options.figures}")


@integrity.reads
def write(run: Path, to: Path, *, figures: Path | None = None, spec: Path | None = None) -> None:
    """Write the report of the run in the folder `run` to the file `to`. The same run gives the same bytes.

    `figures`: a folder into which every figure is also written as SVG, PNG and PDF; None for no files. `spec` replaces
    the run's own spec, as in `run_reader.open_run`. Raises StudyError if the run is missing or damaged, or if a file
    cannot be written.
    """
    _write(to, _page(read_report_data(str(run), spec), figures))


def _write(to: Path, page: str) -> None:
    try:
        to.write_text(page, encoding="utf-8")
    except OSError as error:
        raise StudyError(f"{to} cannot be written: {error.strerror}", todo="name another file with --to") from None


def _page(data: ReportData, figures: Path | None, *, titles: bool = True) -> str:
    """Return the report as HTML. The templates escape every value except figures, our style and our script.

    The security policy of the page contains the hash of our script, so browsers run no other script.
    """
    assets = files("study.report") / "assets"
    script = (assets / "report.js").read_text(encoding="utf-8")
    album = Album(figures, titles=titles)
    return page_template().render(
        study=data.spec.study,
        style=(assets / "report.css").read_text(encoding="utf-8") + ramp_css(),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        budget=CellBudget(),
        key_levels=range(0, LEVELS + 1, 5),
        alert=summary.alert(data),
        lead=lead(data),
        facts=summary.facts(data),
        findings=findings(data),
        tuned=tuned(data),
        experiments=[experiment_results(data, name, album) for name in data.spec.experiments],
        papers=comparison(data),
        geometry=geometry(data, album),
        models=summary.models(data),
        gallery=gallery(data),
        failures=summary.failures(data),
        methods=list(paragraphs(data.finished, recorded(RunFolder(data.run)), versions(data.run))),
        provenance=summary.provenance(data),
    )


@functools.cache
def page_template() -> jinja2.Template:
    """Return the compiled template of the page.

    The template is cached, because compiling it takes a tenth of the time of a report.
    """
    templates = environment()
    for name in templates.list_templates():
        templates.get_template(name)
    return templates.get_template("page.html")
