"""Ours beside theirs in the report: what `study compare` prints, for the papers that the experiments name."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from study.papers import paper_comparison
from study.papers.run_comparison import cell_texts, compare_run, papers_of, provenance, reasons
from study.report.html.data import Gathered
from study.report.html.page import NOTHING, Cell, Room, Table, folded, note, section, words


def comparison(gathered: Gathered, room: Room) -> str:
    """The section; nothing where no experiment says which published table it reproduces."""
    spec = gathered.spec
    if not any(one.published is not None for one in spec.experiments.values()):
        return ""
    asked = papers_of(spec)
    compared = compare_run(gathered.run, gathered.finished, asked)
    digests = {name: one.get("digest") for name, one in gathered.finished.models.items()}
    parts = []
    for paper in asked:
        told = provenance(paper, compared, spec, digests, gathered.finished.selected)
        mine = compared.filter(paper=paper)
        parts.append(section(f"paper-{paper}", told["paper"], _paper(mine, told, room), level=3))
    return section("comparison", "Beside the papers", parts)


def _paper(compared: pl.DataFrame, told: dict[str, object], room: Room) -> Iterator[str]:
    tables = compared.partition_by("table", maintain_order=True)
    here = [one for one in tables if one["experiment"].null_count() < one.height]
    names = [one["table"][0] for one in here]
    yield _summary(paper_comparison.summary(compared).filter(pl.col("table").is_in(names)), room)
    for one in here:
        shown = one.filter("comparable")
        title = f"Table {one['table'][0]}"
        if shown.height:
            yield _cells(shown, title, room)
        why = [words(count, reason) for reason, count in reasons(one)]
        if why:
            left = Table(f"{title}: what is not compared", ["numbers", "why"], why).html(room)
            yield folded(
                f"{title}: {sum(count for _, count in reasons(one))} of {one.height} numbers are not compared", left
            )
    images, models = told["images"], told["models"]
    assert isinstance(images, dict), "provenance gives mappings"
    assert isinstance(models, dict), "provenance gives mappings"
    yield note(f"Images: there {images['there']}; here {images['here']}, and not the same ones.")
    if models:
        lines = [words(name, one["weights"], str(one["digest"])[:16]) for name, one in models.items()]
        yield folded("Whose weights", Table("Weights", ["model", "weights", "digest"], lines).html(room))


def _cells(shown: pl.DataFrame, title: str, room: Room) -> str:
    metric = shown["metric"].unique().to_list()
    lines = []
    for one in shown.iter_rows(named=True):
        theirs, ours, interval, off = (Cell(said, number=True) for said in cell_texts(one))
        first = words(*(one[key] or "–" for key in ("attack", "sources", "target", "metric")))
        lines.append([*first, theirs, ours, interval, off, Cell({True: "yes", False: "no"}.get(one["within"], "–"))])
    head = ["attack", "sources", "target", "metric", "theirs", "ours", "95 % of ours", "ours - theirs", "theirs inside"]
    return Table(f"{title}: {', '.join(metric)}", head, lines).html(room)


def _summary(summary: pl.DataFrame, room: Room) -> str:
    lines = [
        [
            Cell(one["table"]),
            *words(one["cells"], one["comparable"]),
            NOTHING if one["off"] is None else Cell(f"{one['off']:.2f}", number=True),
            NOTHING if one["rank"] is None else Cell(f"{one['rank']:.2f}", number=True),
            Cell(f"{one['within']} of {one['intervals']}", number=True) if one["intervals"] else NOTHING,
        ]
        for one in summary.iter_rows(named=True)
    ]
    head = ["table", "numbers", "comparable", "mean |ours - theirs|", "rank", "theirs in our interval"]
    notes = ["Rank: Spearman's correlation of ours and theirs. Interval: 95 %, Wilson."]
    return Table("How near", head, lines, notes=notes).html(room) if lines else ""
