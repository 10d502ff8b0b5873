"""Compares a run with the papers that its spec names, for `study compare` and the report."""

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
"""The images of tables that use other images than the rest of their paper, by (paper, table)."""


def papers_of(spec: Spec, paper: str | None = None) -> list[str]:
    """Return the papers to compare a run with: only `paper`, or all papers whose tables the spec names.

    A spec names tables under the key `published` of its experiments. The papers are in the order of the registry.
    Raises StudyError if there is no paper named `paper`, or if `paper` is None and no experiment names a table.
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
    """Return all published numbers of `papers` with the run's numbers.

    The columns are those of `paper_comparison.compare`.
    """
    matched = match(pl.concat([published.load(paper) for paper in papers]), finished.spec)
    return paper_comparison.compare(
        matched, finished.rows, finished.spec, finished.selected, plain_cosines(run, finished.spec)
    )


def provenance(
    paper: str, compared: pl.DataFrame, spec: Spec, digests: Mapping[str, object], selected: int
) -> dict[str, Any]:
    """Return the origin of the compared numbers, by key.

    - `paper`: the title of the paper;
    - `images`: a description of the paper's images, and the number of images in the run;
    - `models`: the weights and the digest of each compared model.
    """
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
    """Return the reasons why numbers of a table are not comparable, each with the number of cases.

    `table`: the rows of one published table from `compare_run`.
    """
    counted = table.filter(~pl.col("comparable")).group_by("reason", maintain_order=True).len()
    return list(counted.iter_rows())


def cell_texts(cell: Mapping[str, Any]) -> list[str]:
    """Return four texts for a row of `compare_run`.

    They are the paper's number, our number, our 95 % interval, and our number minus the paper's. A number that is
    missing is "–".
    """
    decimals = max(1, len(cell["printed"].partition(".")[2]))
    theirs = cell["printed"] + (f" ± {cell['std']:.2f}" if cell["std"] is not None else "")
    if cell["ours"] is None:
        return [theirs, "–", "–", "–"]
    ours = f"{cell['ours']:.{decimals}f}" + (f" ± {cell['ours_std']:.2f}" if cell["ours_std"] is not None else "")
    interval = f"{cell['low']:.0f} to {cell['high']:.0f}" if cell["low"] is not None else "–"
    # Round before printing, so that a difference that rounds to 0 has no minus sign.
    difference = round(cell["difference"], decimals) + 0.0
    return [theirs, ours, interval, f"{difference:+.{decimals}f}"]
