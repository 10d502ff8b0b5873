"""Makes the section of findings: each claim of a paper in the spec, and whether the rows of the run support it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from study.geometry.probe_rows import cosine_rows
from study.papers.finding_readings import EXPLANATION, NEEDED, readings, rounded
from study.papers.findings import evaluate
from study.report.html.components import HtmlTable, TableCell, number_cell, range_cell, text_cells
from study.report.html.report_data import ReportData

_VERDICTS = {"replicated": "✓ replicated", "not replicated": "✗ not replicated", "undecided": "? undecided"}


def findings(data: ReportData) -> tuple[HtmlTable, list[tuple[str, HtmlTable]]] | None:
    """Return a table of all claims, and a table of cells for each claim about several cells.

    The second result has a title and a table for each of these claims. Return None if the spec has no findings.
    """
    if not data.spec.findings:
        return None
    geometry = cosine_rows(data.run, data.spec)
    found = evaluate(data.finished.rows, data.spec, images=data.finished.selected, geometry=geometry)
    rows, details = [], []
    for one in found.iter_rows(named=True):
        for place, (of, reading) in enumerate(readings(one)):
            claim, source = ("", "") if place else (one["claim"], one["source"])
            first = text_cells(one["finding"], claim, of, _verdict(reading))
            needed = "" if reading["needed"] is None else f"about {rounded(reading['needed'])}"
            counts = [number_cell(one["images"] or 0), TableCell(needed, number=True)]
            rows.append([*first, *_numbers(reading), *counts, *text_cells(reading["reason"], source)])
        if one["cells"] and len(one["cells"]) > 1:
            cells = [
                [
                    TableCell(cell["cell"]),
                    *_numbers(cell),
                    number_cell(cell["holm"], ".3g"),
                    *text_cells(_verdict(cell), cell["reason"] or ""),
                ]
                for cell in one["cells"]
            ]
            head = ["cell", "effect", "95 %", "p", "p (Holm)", "verdict", "reason"]
            details.append((f"{one['finding']}: its {len(cells)} cells", HtmlTable(one["finding"], head, cells)))
    head = ["finding", "claim", "of", "verdict", "effect", "95 %", "p", "images", "would decide", "reason", "source"]
    return HtmlTable("Claims and evidence", head, rows, notes=[EXPLANATION, NEEDED]), details


def _verdict(reading: Mapping[str, Any]) -> str:
    verdict = str(reading["verdict"])
    return _VERDICTS.get(verdict, verdict)


def _numbers(reading: Mapping[str, Any]) -> list[TableCell]:
    interval = range_cell(reading["low"], reading["high"])
    return [number_cell(reading["effect"], ".3g"), interval, number_cell(reading["p"], ".3g")]
