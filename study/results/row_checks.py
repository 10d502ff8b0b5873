"""Checks the rows of a run: values must be possible, and must agree with the record of selected images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import polars as pl

from study.images.labels import ABSTAINED
from study.images.selection import Selection
from study.planning.relation import RELATIONS

PART = "part"
"""The name of a column with the path of the part (Parquet file) that each row comes from."""

_TOLERANCE = 1e-5
"""The amount by which a float32 probability may exceed 1 through rounding."""

Rule = tuple[str, pl.Expr]
"""A rule: the text of the problem, and the condition that is true for rows with this problem.

The text completes a sentence such as "2 rows have …", for example with "an unknown relation"."""

_Schema = dict[str, pl.DataType | type[pl.DataType]]
_SELECTED: _Schema = {"image": pl.String, "selected": pl.Int32, "selected_target": pl.Int32}
_CLEAN: _Schema = {
    "image": pl.String,
    "target": pl.String,
    "selected_top1": pl.Int32,
    "selected_names": pl.List(pl.String),
}


def impossible(rows: pl.LazyFrame, labels: int | None) -> Iterator[tuple[str, int, str]]:
    """Yield each problem of impossible values, the number of rows with this problem, and the place of one such row.

    `rows` have the column `PART`. `labels`: the number of labels of the study; None if it is not known, so that labels
    are not checked.
    """
    yield from _violations(rows, _value_rules(labels))


def contradicting(rows: pl.LazyFrame, selection: Selection) -> Iterator[tuple[str, int, str]]:
    """Find the rows that contradict images.parquet.

    Yields a text for each kind of contradiction, the number of its rows, and the place of one of these rows.

    `rows` have the column `PART`. `selection`: the content of images.parquet.
    """
    images = [image for shard in selection.shards for image in shard.images]
    selected = [(image.image, image.label, image.target_label) for image in images]
    clean = [
        (image.image, model, answer.top1, None if answer.names is None else list(answer.names))
        for image in images
        for model, answer in image.clean.items()
    ]
    columns = ("unit", "target", "image", "goal", "label", "target_label", "clean_top1", "names", "clean_names")
    joined = (
        rows.select(PART, *columns)
        .join(pl.LazyFrame(selected, _SELECTED, orient="row"), on="image", how="left")
        .join(
            pl.LazyFrame(clean, _CLEAN, orient="row").with_columns(known=pl.lit(True)),
            on=["image", "target"],
            how="left",
        )
    )
    yield from _violations(joined, _selection_rules())


def _violations(rows: pl.LazyFrame, rules: Sequence[Rule]) -> Iterator[tuple[str, int, str]]:
    counts = rows.select(rule.fill_null(False).sum().alias(str(index)) for index, (_, rule) in enumerate(rules))
    for (problem, rule), count in zip(rules, counts.collect(engine="streaming").row(0), strict=True):
        if count:
            first = rows.filter(rule).select(PART, "unit", "target", "image").head(1).collect().row(0)
            yield problem, count, "{}: unit {}, target {}, image {}".format(*first)


def _value_rules(labels: int | None) -> list[Rule]:
    top5, probabilities = pl.col("top5"), pl.col("top5_prob")
    element = pl.element()
    rules = [
        ("an RMSD outside 0 to 255", _outside("rmsd", 255.0)),
        ("an L-infinity distance outside 0 to 255", _outside("linf", 255.0)),
        ("an L2 distance that is negative or not finite", _outside("l2", float("inf")) | pl.col("l2").is_infinite()),
        ("an RMSD above the L-infinity distance", pl.col("rmsd") > pl.col("linf") * (1 + 1e-9) + 1e-9),
        ("a budget that is negative or not a number", _outside("budget", float("inf"))),
        ("a negative number of steps or gradients", (pl.col("steps") < 0) | (pl.col("gradients") < 0)),
        ("probabilities outside 0 to 1", probabilities.list.eval(
            element.is_null() | element.is_nan() | ~element.is_between(0, 1 + _TOLERANCE)).list.any()),
        ("probabilities that sum to more than 1", probabilities.list.sum() > 1 + 10 * _TOLERANCE),
        ("probabilities that are not sorted", probabilities.list.eval(element.diff() > 0).list.any()),
        ("different numbers of labels and probabilities", top5.list.len() != probabilities.list.len()),
        ("a label twice in top5", top5.list.n_unique() != top5.list.len()),
        ("a top1 that is not the first of top5",
         pl.col("top1").ne_missing(top5.list.first()) & pl.col("top1").ne_missing(ABSTAINED)),
        ("an unknown relation, or a relation that contradicts the sources",
         ~pl.col("relation").is_in(RELATIONS)
         | ((pl.col("relation") == "white") != pl.col("sources").list.contains(pl.col("target")))),
        ("a target label without a targeted goal, or a targeted goal without a target label",
         (pl.col("goal") == "targeted") == pl.col("target_label").is_null()),
        ("different numbers of names and scores", (pl.col("scores").list.len() > 0)
         & (pl.col("names").list.len() != pl.col("scores").list.len())),
    ]  # fmt: skip
    if labels is not None:
        known = [pl.col(name).is_between(0, labels - 1) for name in ("label", "target_label")]
        known.append(pl.col("clean_top1").is_between(ABSTAINED, labels - 1))
        right = pl.all_horizontal(each.fill_null(True) for each in known)
        wrong = top5.list.eval(~element.is_between(0, labels - 1)).list.any()
        rules.append((f"a label outside 0 to {labels - 1}", ~right))
        rules.append((f"a predicted label outside 0 to {labels - 1}", wrong))
    return rules


def _outside(column: str, most: float) -> pl.Expr:
    value = pl.col(column)
    return value.is_nan() | ~value.is_between(0, most)


def _selection_rules() -> list[Rule]:
    selected, known = pl.col("selected").is_not_null(), pl.col("known").is_not_null()
    service = pl.col("names").is_not_null()
    return [
        ("an image that is not in images.parquet", ~selected),
        ("a label that differs from images.parquet", selected & (pl.col("label") != pl.col("selected"))),
        ("a target label that differs from images.parquet",
         selected & (pl.col("goal") == "targeted") & pl.col("target_label").ne_missing(pl.col("selected_target"))),
        ("a clean prediction that differs from images.parquet",
         known & (pl.col("clean_top1").ne_missing(pl.col("selected_top1"))
                  | (service & pl.col("clean_names").ne_missing(pl.col("selected_names"))))),
    ]  # fmt: skip
