"""Makes the section of the report that compares the run with published numbers, as `study compare` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from study.papers import paper_comparison
from study.papers.run_comparison import OTHER_IMAGES, cell_texts, compare_run, papers_of, provenance, reasons
from study.report.html.components import MISSING, HtmlTable, TableCell, number_cell, text_cells
from study.report.html.report_data import ReportData


@dataclass(frozen=True)
class PaperResults:
    """The comparison of the run with one paper.

    Attributes:
        name: The paper's short name.
        title: The paper's title.
        images: Sentences about the images of the paper and of the run.
        summary: A table with the agreement for each published table; None without tables.
        tables: Two items for each published table. The first is the table of compared numbers; None without any. The
            second is a title, and a table of the reasons why numbers are not compared; None if all are compared.
        weights: A table with the weights of the compared models; None without models.
    """

    name: str
    title: str
    images: str
    summary: HtmlTable | None
    tables: Sequence[tuple[HtmlTable | None, tuple[str, HtmlTable] | None]]
    weights: HtmlTable | None


def comparison(data: ReportData) -> list[PaperResults]:
    """Return the comparison with each paper that an experiment names; empty if no experiment names a paper."""
    if not any(one.published is not None for one in data.spec.experiments.values()):
        return []
    names = papers_of(data.spec)
    compared = compare_run(data.run, data.finished, names)
    digests = {name: one.get("digest") for name, one in data.finished.models.items()}
    return [
        _paper(
            name, compared.filter(paper=name), provenance(name, compared, data.spec, digests, data.finished.selected)
        )
        for name in names
    ]


def _paper(name: str, compared: pl.DataFrame, origin: Mapping[str, Any]) -> PaperResults:
    tables = [one for one in compared.partition_by("table", maintain_order=True) if one["experiment"].count()]
    names = [one["table"][0] for one in tables]
    weights = [text_cells(model, one["weights"], str(one["digest"])[:16]) for model, one in origin["models"].items()]
    return PaperResults(
        name,
        origin["paper"],
        _images(name, names, origin["images"]),
        _summary(paper_comparison.summary(compared).filter(pl.col("table").is_in(names))),
        [(_numbers(one), _not_compared(one)) for one in tables],
        HtmlTable("Weights", ["model", "weights", "digest"], weights) if weights else None,
    )


def _images(paper: str, tables: Sequence[str], images: Mapping[str, Any]) -> str:
    other = [f"Table {table} of the paper: {OTHER_IMAGES[paper, table]}." for table in tables
             if (paper, table) in OTHER_IMAGES]  # fmt: skip
    here = f"This run has {images['here']:,} images, which may be other images than the paper's."
    return " ".join([f"Images of the paper: {images['there']}.", *other, here])


def _numbers(table: pl.DataFrame) -> HtmlTable | None:
    shown = table.filter("comparable")
    if shown.is_empty():
        return None
    rows = []
    for one in shown.iter_rows(named=True):
        published, ours, interval, difference = (TableCell(text, number=True) for text in cell_texts(one))
        within = {True: "yes", False: "no"}.get(one["within"], "–")
        first = text_cells(*(one[key] or "–" for key in ("attack", "sources", "target", "metric")))
        rows.append([*first, published, ours, interval, difference, TableCell(within)])
    head = ["attack", "sources", "target", "metric", "published", "ours", "95 % of ours", "ours - published", "inside"]
    notes = ["Inside: whether the published number is in our 95 % interval."]
    metrics = ", ".join(shown["metric"].unique(maintain_order=True))
    return HtmlTable(f"Table {table['table'][0]}: {metrics}", head, rows, notes=notes)


def _not_compared(table: pl.DataFrame) -> tuple[str, HtmlTable] | None:
    rows = [[number_cell(count), TableCell(reason)] for reason, count in reasons(table)]
    if not rows:
        return None
    title = f"Table {table['table'][0]}"
    count = sum(count for _, count in reasons(table))
    listed = HtmlTable(f"{title}: numbers that are not compared", ["numbers", "reason"], rows)
    return f"{title}: {count} of {table.height} numbers are not compared", listed


def _summary(summary: pl.DataFrame) -> HtmlTable | None:
    rows = [
        [
            TableCell(one["table"]),
            number_cell(one["cells"]),
            number_cell(one["comparable"]),
            number_cell(one["off"], ".2f"),
            number_cell(one["rank"], ".2f"),
            TableCell(f"{one['within']} of {one['intervals']}", number=True) if one["intervals"] else MISSING,
        ]
        for one in summary.iter_rows(named=True)
    ]
    head = ["table", "numbers", "comparable", "mean |ours - published|", "rank", "published inside our interval"]
    notes = ["Rank: Spearman correlation of our and the published numbers. Interval: 95 %, Wilson."]
    return HtmlTable("Agreement", head, rows, notes=notes) if rows else None
