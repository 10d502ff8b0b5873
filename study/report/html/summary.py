"""Makes the sections about the whole run: warnings, counts, models, failures, and the origin of the rows."""

from __future__ import annotations

import json
from typing import Any

from study import __version__
from study.analysis.intervals import interval_of_rate
from study.report import plausibility
from study.report.html.components import MISSING, HtmlTable, TableCell, number_cell, percent_cell, text_cells
from study.report.html.report_data import ReportData
from study.spec import yaml_document

_MOST_FAILURES = 100


def alert(data: ReportData) -> tuple[str, list[str]] | None:
    """Return a warning (a heading and sentences) about the run; None if there is nothing to warn about.

    There is a warning if rows are missing, if the last launch recorded failures, or if numbers are doubtful.
    """
    missing = [
        f"{name}: {have:,} of {planned:,} rows ({min(99.9, 100 * have / planned):.1f} %)"
        for name, (have, planned) in data.progress.items()
        if have < planned
    ]
    failed = []
    if count := len(data.failures):
        failed = [f"The last launch recorded {count} failure{'s' if count > 1 else ''}: see Failures below."]
    doubts = [
        *plausibility.of_models(data.spec, data.finished.clean, data.finished.models),
        *plausibility.of_attacks(data.spec, data.cells),
    ]
    headings = {
        "This run is not complete.": missing,
        "The last launch failed in part.": failed,
        "These numbers are doubtful.": doubts,
    }
    heading = next((heading for heading, lines in headings.items() if lines), None)
    return None if heading is None else (heading, [*missing, *failed, *doubts])


def facts(data: ReportData) -> dict[str, str]:
    """Return the counts of the run, and the versions of study that wrote its rows, as texts, by name."""
    counts = {
        "images": data.finished.selected,
        "models": len(data.spec.models),
        "experiments": len(data.spec.experiments),
        "attack runs": data.crafts.height,
        "units": data.units,
        "rows": data.row_count,
        "image gradients": int(data.crafts["gradients"].sum()),
        "seeds": data.cells["seed"].n_unique(),
        "failures": len(data.failures),
    }
    versions = dict.fromkeys(record.get("version", "not recorded") for record in data.provenance)
    return {**{name: f"{count:,}" for name, count in counts.items()}, "version of study": ", ".join(versions) or "–"}


def models(data: ReportData) -> HtmlTable:
    """Return the table of models: network, weights, transform, input size, parameters, clean accuracy and digest."""
    rows = []
    for name, model in data.spec.models.items():
        recorded = data.finished.models.get(name, {})
        network = model.network or ("a remote service" if model.remote is not None else model.model)
        transform = model.transform and model.transform.model_dump(mode="json", exclude_none=True)
        described = json.dumps(transform, ensure_ascii=False).replace('"', "") if transform else "–"
        digest = str(recorded.get("digest", "–"))
        rows.append(
            [
                *text_cells(name, network or "", model.weights or "–", described),
                TableCell(str(recorded.get("size", "–")), number=True),
                number_cell(recorded.get("parameters")),
                _clean_accuracy(data, name),
                TableCell(digest[:16], tip=digest),
            ]
        )
    keep = data.spec.images.keep
    rule = keep if isinstance(keep, str) else ", ".join(keep)
    notes = [
        f"Clean top-1: accuracy on all images of the clean pass, before the rule `keep: {rule}` selected images.",
        "Digest: of all tensors, the preprocessing and the order of the classes.",
    ]
    head = ["model", "network", "weights", "transform", "input", "parameters", "clean top-1, %", "digest"]
    return HtmlTable("Models", head, rows, notes=notes)


def _clean_accuracy(data: ReportData, model: str) -> TableCell:
    one = data.finished.clean.get(model)
    if one is None or not one.images:
        return MISSING
    low, high = interval_of_rate(one.right, one.images)
    tip = f"{one.right} of {one.images}; 95 %: {100 * low:.1f} to {100 * high:.1f}"
    return percent_cell(one.share, tip, decimals=1)


def failures(data: ReportData) -> HtmlTable | None:
    """Return the table of failures: unit, target and error; None if the last launch recorded no failures."""
    if not data.failures:
        return None
    rows = [text_cells(one.unit, one.target or "all targets", one.error.strip()) for one in data.failures]
    notes = []
    if len(rows) > _MOST_FAILURES:
        notes.append(f"The first {_MOST_FAILURES} of {len(rows):,} failures; failures.json has all of them.")
    return HtmlTable("Failures of the last launch", ["unit", "target", "error"], rows[:_MOST_FAILURES], notes=notes)


def provenance(data: ReportData) -> dict[str, Any]:
    """Return the data of the section about the origin of the rows, by key.

    - `table`: a table of the recorded versions and hardware; None if there are none;
    - `version`: the version of the program that makes the page;
    - `run`: the address of the run; `spec`: its spec as YAML;
    - `code`: Python code that reads the rows.
    """
    rows = [
        [number_cell(number), *text_cells(key, value)]
        for number, record in enumerate(data.provenance, start=1)
        for key, value in record.items()
    ]
    notes = [
        "From the metadata of the result files. There are several sets if launches of this run used different "
        "versions or hardware."
    ]
    table = HtmlTable("Versions, hardware and numerics", ["set", "property", "value"], rows, notes=notes)
    return {
        "table": table if rows else None,
        "version": __version__,
        "run": data.run,
        "spec": yaml_document.dump(_without_empty(data.spec.model_dump(mode="json"))),
        "code": data.code("rows.head().collect()"),
    }


def _without_empty(value: object) -> object:
    """Return `value` without keys whose value is null or empty. A recipe has thirty keys, and most of them are null."""
    if isinstance(value, dict):
        return {key: _without_empty(inner) for key, inner in value.items() if inner not in (None, {}, [])}
    return [_without_empty(inner) for inner in value] if isinstance(value, list) else value
