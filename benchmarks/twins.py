"""Compares the small studies with the papers: prints the mean black-box rate of each table, as Markdown.

    python benchmarks/twins.py [--runs runs]

Networks and images differ from those of the papers, so the numbers differ too. Only their order can be compared.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from study.attacks.recipe import Goal
from study.papers import published
from study.papers.finding_cells import select
from study.papers.finding_spec import CellSelection
from study.results.run_reader import open_run


@dataclass(frozen=True)
class Line:
    """One attack in one table of a paper, and its place in the small study.

    Attributes:
        paper: The short name of the paper.
        tables: The number of the table in the paper.
        called: The name of the attack in the paper.
        metric: The number that the table shows, such as `top1-success`.
        run: The run folder of the small study.
        experiment: The experiment in the small study.
        attack: The attack in the small study.
    """

    paper: str
    tables: str
    called: str
    metric: str
    run: str
    experiment: str
    attack: str


def liu(tables: str, called: str, metric: str, experiment: str, attack: str) -> Line:
    return Line("liu2017", tables, called, metric, "small-liu2017", experiment, attack)


def smooth(tables: str, called: str, metric: str, experiment: str, attack: str) -> Line:
    return Line("smoothed2019", tables, called, metric, "small-smoothed2019", experiment, attack)


def skip(tables: str, called: str, experiment: str, attack: str) -> Line:
    return Line("sgm2020", tables, called, "top1-success", "small-sgm2020", experiment, attack)


LINES = (
    liu("1A", "optimization", "top1-accuracy", "tables-1A-8-9-32", "optimization"),
    liu("8", "optimization", "top5-accuracy", "tables-1A-8-9-32", "optimization"),
    liu("1B", "fg", "top1-accuracy", "tables-1B-10-26-33", "fg"),
    liu("10", "fg", "top5-accuracy", "tables-1B-10-26-33", "fg"),
    liu("19", "fgs", "top1-accuracy", "tables-19-20-27", "fgs"),
    liu("20", "fgs", "top5-accuracy", "tables-19-20-27", "fgs"),
    liu("15", "optimization", "top1-accuracy", "tables-15-16", "optimization-0.125"),
    liu("2", "optimization", "top1-match", "tables-2-12", "optimization"),
    liu("12", "optimization", "top5-match", "tables-2-12", "optimization"),
    liu("17", "optimization", "top1-match", "tables-17-18", "optimization-8"),
    liu("25", "fg", "top1-match", "table-25", "fg"),
    liu("3", "optimization", "top1-match", "tables-3-13", "ensemble"),
    liu("13", "optimization", "top5-match", "tables-3-13", "ensemble"),
    liu("4", "optimization", "top1-accuracy", "tables-4-14", "ensemble"),
    liu("14", "optimization", "top5-accuracy", "tables-4-14", "ensemble"),
    liu("21", "fg", "top1-accuracy", "tables-21-22-23-24", "ensemble-fg"),
    liu("23", "fgs", "top1-accuracy", "tables-21-22-23-24", "ensemble-fgs"),
    liu("28", "fg", "top1-match", "tables-28-29-30-31", "ensemble-fg"),
    liu("30", "fgs", "top1-match", "tables-28-29-30-31", "ensemble-fgs"),
    smooth("1", "fgsm", "top1-success", "table-1", "fgsm"),
    smooth("1", "igsm", "top1-success", "table-1", "igsm"),
    smooth("3", "igsm", "top1-success", "table-3", "igsm-100-steps"),
    smooth("3", "sg-igsm", "top1-success", "table-3", "sg-igsm"),
    smooth("4", "igsm", "top5-match", "tables-4-7", "igsm-targeted"),
    smooth("4", "sg-igsm", "top5-match", "tables-4-7", "sg-igsm-targeted"),
    smooth("7", "igsm", "top1-match", "tables-4-7", "igsm-targeted"),
    smooth("7", "sg-igsm", "top1-match", "tables-4-7", "sg-igsm-targeted"),
    smooth("5", "migsm", "top1-success", "table-5", "mi"),
    smooth("5", "sg-igsm", "top1-success", "table-5", "sg-igsm"),
    smooth("5", "sg-migsm", "top1-success", "table-5", "sg-mi"),
    smooth("6", "igsm", "top1-success", "table-6", "igsm-ensemble"),
    smooth("6", "sg-igsm", "top1-success", "table-6", "sg-igsm-ensemble"),
    skip("1", "pgd", "table-1", "igsm"),
    skip("1", "sgm", "table-1", "gamma-0.5"),
    skip("2", "fgsm", "table-2", "fgsm"),
    skip("2", "ti", "table-2", "fgsm+ti"),
    skip("2", "sgm", "table-2", "fgsm+sgm"),
    skip("3", "pgd", "table-3", "igsm"),
    skip("3", "ti", "table-3", "ti"),
    skip("3", "mi", "table-3", "mi"),
    skip("3", "di", "table-3-di", "di"),
    skip("3", "sgm", "table-3", "sgm"),
    skip("4", "mi", "table-4", "mi"),
    skip("4", "mi+sgm", "table-4", "mi+sgm"),
    skip("4", "di", "table-4-di", "di"),
    skip("4", "di+sgm", "table-4-di", "di+sgm"),
    skip("4", "mi+di", "table-4-di", "mi+di"),
    skip("4", "mi+di+sgm", "table-4-di", "mi+di+sgm"),
    skip("6", "pgd", "table-6", "igsm"),
    skip("6", "ti", "table-6", "ti"),
    skip("6", "mi", "table-6", "mi"),
    skip("6", "sgm", "table-6", "sgm"),
    skip("6", "di", "table-6-di", "di"),
    skip("6", "di+sgm", "table-6-di", "di+sgm"),
)


def theirs(line: Line) -> tuple[float, int]:
    """Return the mean of the paper's black-box numbers, and how many numbers there are."""
    # For this paper, the printed numbers name the metric of a targeted success `success`, and LINES names it `match`.
    metric = line.metric.replace("match", "success") if line.paper == "smoothed2019" else line.metric
    rows = published.load(line.paper).filter(
        pl.col("cited").is_null(),
        pl.col("table") == line.tables,
        pl.col("attack") == line.called,
        pl.col("metric") == metric,
        ~pl.col("note").fill_null("").str.contains("white-box"),
    )
    value = rows["value"].mean()
    assert isinstance(value, float), f"{line} names no numbers"
    return value, rows.height


def ours(runs: Path, line: Line) -> tuple[float, float, int, int]:
    """Return the mean of the metric over black-box cells (%), the mean RMSD, and the numbers of cells and of images.

    A cell is one source set against one target.
    """
    finished = open_run(str(runs / line.run))
    goal: Goal = "targeted" if "match" in line.metric else "untargeted"
    chosen = CellSelection(experiment=line.experiment, attacks=(line.attack,), goal=goal)
    planned = pl.LazyFrame(
        [cell.key for cell in select(finished.spec, chosen)], schema=["from", "attack", "goal", "target"], orient="row"
    )
    wanted = pl.col("target_label") if goal == "targeted" else pl.col("label")
    there = pl.col("top5").list.contains(wanted) if line.metric.startswith("top5") else pl.col("top1") == wanted
    hit = ~there if line.metric.endswith("success") else there
    cells = (
        finished.rows.with_columns(pl.col("sources").list.sort().list.join("+").alias("from"))
        .join(planned, on=["from", "attack", "goal", "target"], how="semi")
        .group_by("from", "target")
        .agg(hit.mean().alias("rate"), pl.col("rmsd").mean(), pl.col("image").n_unique().alias("images"))
        .collect()
    )
    if cells.height == 0:
        return float("nan"), float("nan"), 0, 0
    return (
        100 * cells["rate"].sum() / cells.height,
        cells["rmsd"].sum() / cells.height,
        cells.height,
        cells["images"][0],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    given = parser.parse_args()
    print("| paper | table | attack | measure | paper, mean of cells | twin, mean of cells | RMSD | images |")
    print("| --- | --- | --- | --- | ---: | ---: | ---: | ---: |")
    for line in LINES:
        if not (given.runs / line.run).is_dir():
            continue
        value, cells = theirs(line)
        rate, rmsd, found, images = ours(given.runs, line)
        print(
            f"| {line.paper} | {line.tables} | {line.called} | {line.metric} | {value:.1f} ({cells}) "
            f"| {rate:.1f} ({found}) | {rmsd:.2f} | {images} |"
        )


if __name__ == "__main__":
    main()
