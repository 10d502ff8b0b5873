"""The comparison of a run with the papers that its spec names, for `study compare` and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from study.errors import StudyError
from study.geometry.probe_rows import plain_cosines
from study.papers import paper_comparison, published, registry
from study.papers.published_matching import match
from study.results.run_reader import RunData
from study.spec.schema import Spec

OTHER_IMAGES = {
    ("liu2017", "7"): "all ILSVRC 2012 validation images",
    ("liu2017", "11"): "100 images, each with 100 draws of noise",
}
"""The images of tables that do not use their paper's usual images."""


def papers_of(spec: Spec, paper: str | None = None) -> list[str]:
    """The papers to compare with: `paper`, or all papers that `published` keys of the spec name, in registry order.

    Raises StudyError if `paper` is unknown, or if it is None and no experiment names a published table.
    """
    if paper is not None:
        published.check(paper)
        return [paper]
    named = {
        table.partition(":")[0]
        for experiment in spec.experiments.values()
        if experiment.published is not None
        for table in experiment.published.tables
    }
    if not named:
        raise StudyError(
            f"no experiment of {spec.study} names a published table",
            accepted="`published: liu2017:1A` in an experiment, or a list of tables",
            todo="add `published` to the spec, and pass the changed file with --spec; rows stay as they are",
        )
    return [known for known in registry.PAPERS if known in named]


def compare_run(run: str, finished: RunData, papers: Sequence[str]) -> pl.DataFrame:
    """All printed numbers of `papers`, with the run's numbers. Columns as in `paper_comparison.compare`."""
    matched = match(pl.concat([published.load(paper) for paper in papers]), finished.spec)
    return paper_comparison.compare(
        matched, finished.rows, finished.spec, finished.selected, plain_cosines(run, finished.spec)
    )


def provenance(
    paper: str, compared: pl.DataFrame, spec: Spec, digests: Mapping[str, object], selected: int
) -> dict[str, Any]:
    """The paper's title, the images of the paper and of the run, and weights and digest of each compared model."""
    mine = compared.filter(pl.col("paper") == paper, pl.col("experiment").is_not_null())
    used = {name for column in ("our_sources", "target") for one in mine[column] for name in one.split("+") if name}
    models = [name for name in spec.models if name in used]
    return {
        "paper": registry.PAPERS[paper].title,
        "images": {"there": registry.PAPERS[paper].images, "here": selected},
        "models": {
            name: {"weights": one, "digest": digests.get(name)}
            for name, one in paper_comparison.weights(paper, spec, models).items()
        },
    }


def reasons(table: pl.DataFrame) -> Sequence[tuple[str, int]]:
    """The reasons why numbers of a compared table are not comparable, each with the count of its numbers."""
    counted = table.filter(~pl.col("comparable")).group_by("reason", maintain_order=True).len()
    return list(counted.iter_rows())


def cell_texts(cell: Mapping[str, Any]) -> list[str]:
    """A compared row as text: the paper's number, ours, our 95 % interval, and ours - theirs."""
    decimals = max(1, len(cell["printed"].partition(".")[2]))
    theirs = cell["printed"] + (f" ± {cell['std']:.2f}" if cell["std"] is not None else "")
    if cell["ours"] is None:
        return [theirs, "–", "–", "–"]
    ours = f"{cell['ours']:.{decimals}f}" + (f" ± {cell['ours_std']:.2f}" if cell["ours_std"] is not None else "")
    interval = f"{cell['low']:.0f} to {cell['high']:.0f}" if cell["low"] is not None else "–"
    # Round before printing, so that a difference that rounds to 0 has no minus sign.
    difference = round(cell["difference"], decimals) + 0.0
    return [theirs, ours, interval, f"{difference:+.{decimals}f}"]
