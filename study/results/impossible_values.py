"""Values that no row can have, whatever the study."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from study.planning.relation import RELATIONS

PART = "part"
"""The column with the path of the part that a row lies in."""

_SLACK = 1e-5
"""How far the sum of float32 probabilities may pass 1."""


def impossible(rows: pl.LazyFrame, labels: int | None) -> Iterator[tuple[str, int, str]]:
    """What is wrong, in how many rows, and one of them.

    `rows` have the path of their part in the column `PART`; `labels` is the size of the label set, where it is known.
    """
    rules = _rules(labels)
    counts = rows.select(rule.fill_null(False).sum().alias(str(index)) for index, (_, rule) in enumerate(rules))
    for (what, rule), count in zip(rules, counts.collect().row(0), strict=True):
        if count:
            first = rows.filter(rule).select(PART, "unit", "target", "image").head(1).collect().row(0)
            yield what, count, "{}: unit {}, target {}, image {}".format(*first)


def _rules(labels: int | None) -> list[tuple[str, pl.Expr]]:
    """What is wrong, and where it is so."""
    best, shares = pl.col("top5"), pl.col("top5_prob")
    element = pl.element()
    rules = [
        ("an RMSD that is no number from 0 to 255", _outside("rmsd", 255.0)),
        ("an L-infinity distance that is no number from 0 to 255", _outside("linf", 255.0)),
        ("an L2 distance that is no number from 0 on", _outside("l2", float("inf")) | pl.col("l2").is_infinite()),
        ("an RMSD above their L-infinity distance", pl.col("rmsd") > pl.col("linf") * (1 + 1e-9) + 1e-9),
        ("a budget that is no number from 0 on", _outside("budget", float("inf"))),
        ("no steps, or a negative count of gradients", (pl.col("steps") < 0) | (pl.col("gradients") < 0)),
        ("probabilities that are no numbers from 0 to 1", shares.list.eval(
            element.is_null() | element.is_nan() | ~element.is_between(0, 1 + _SLACK)).list.any()),
        ("probabilities that sum to more than 1", shares.list.sum() > 1 + 10 * _SLACK),
        ("probabilities that do not fall", shares.list.eval(element.diff() > 0).list.any()),
        ("another number of labels than of probabilities", best.list.len() != shares.list.len()),
        ("the same label twice", best.list.n_unique() != best.list.len()),
        ("a top1 that is not the first of top5", pl.col("top1").ne_missing(best.list.first())),
        ("a relation that contradicts their sources, or is none",
         ~pl.col("relation").is_in(RELATIONS)
         | ((pl.col("relation") == "white") != pl.col("sources").list.contains(pl.col("target")))),
        ("a target label without a targeted goal, or none with one",
         (pl.col("goal") == "targeted") == pl.col("target_label").is_null()),
        ("another number of names than of scores", (pl.col("scores").list.len() > 0)
         & (pl.col("names").list.len() != pl.col("scores").list.len())),
    ]  # fmt: skip
    if labels is not None:
        known = [pl.col(name).is_between(0, labels - 1) for name in ("label", "target_label", "clean_top1")]
        right = pl.all_horizontal(one.fill_null(True) for one in known)
        rules.append((f"a label that is none of the {labels}", ~right))
        rules.append((
            f"a predicted label that is none of the {labels}",
            best.list.eval(~element.is_between(0, labels - 1)).list.any(),
        ))  # fmt: skip
    return rules


def _outside(column: str, most: float) -> pl.Expr:
    value = pl.col(column)
    return value.is_nan() | ~value.is_between(0, most)
