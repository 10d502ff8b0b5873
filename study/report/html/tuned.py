"""Makes the section of tuned parameters: the values that a launch has tried, and the success with these values."""

from __future__ import annotations

import json
from collections.abc import Mapping

from study.report.html.components import HtmlTable, percent_cell, text_cells
from study.report.html.report_data import ReportData
from study.storage.run_folder import RunFolder


def tuned(data: ReportData) -> HtmlTable | None:
    """Return the table of tuned parameters; None if no launch has tuned an attack.

    It has a row for each combination of values that was tried for an attack.
    """
    record = RunFolder(data.run).tuned
    if not record.is_file():
        return None
    rows = []
    images = 0
    for one in json.loads(record.read_text(encoding="utf-8"))["attacks"]:
        images = one["images"]
        for choice in one["choices"]:
            mark = "chosen" if choice["numbers"] == one["chosen"] else ""
            rows.append([*text_cells(one["attack"], _named(choice["numbers"]), mark), percent_cell(choice["success"])])
    note = f"Mean black-box success on {images:,} images that the tables of this study do not use."
    return HtmlTable("Tuned numbers", ["attack", "numbers", "", "success"], rows, "", notes=[note])


def _named(numbers: Mapping[str, float]) -> str:
    return ", ".join(f"{key} {value:g}" for key, value in numbers.items())
