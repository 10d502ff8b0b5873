"""Counts how often two targets predict the same label, and how often they make the same mistake."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from study.analysis.cell_counts import check_keys, sources_as_text
from study.errors import StudyError, names

_KEYS = ("sources", "attack", "goal", "seed", "steps", "budget")


def agreements(rows: pl.LazyFrame, *, by: Sequence[str] = _KEYS) -> pl.DataFrame:
    """Return the agreement of every pair of targets on the adversarial images that both targets have classified.

    Columns:

    - the keys `by`;
    - `first`, `second`: the two targets. Each unordered pair occurs once, including a target with itself;
    - `images` (`uint32`): the number of adversarial images for which both targets have a top-1 label;
    - `agree` (`uint32`): the number of images for which both labels are equal;
    - `both_wrong` (`uint32`): the number of images that both targets misclassify;
    - `same_wrong` (`uint32`): the number of images for which both targets predict the same wrong label;
    - `agreement` = `agree` / `images` and `same_mistake` = `same_wrong` / `both_wrong` (`float64` 0..1); null if the
      denominator is 0.

    `same_mistake` is defined as in Liu et al. 2017, tables 9, 26 and 27. In the rows of a targeted attack, the target
    label also counts as wrong. If a voting target gives no answer, this counts as wrong, but as no label: two targets
    without an answer do not agree. Remote services are left out, because they have their own labels. In a search for
    the minimal RMSD, every target has its own adversarial image. Then two targets are compared on an image only if both
    searches ended at the same budget. Raises StudyError if `by` contains `target`.
    """
    check_keys(rows, by)
    if "target" in by:
        raise StudyError("'target' cannot be a key, because pairs of targets are compared", todo="remove it from by=")
    local = rows.filter(pl.col("top1").is_not_null())
    targets = sorted(local.select(pl.col("target").unique()).collect()["target"].to_list())
    labels = {name: f"label {place}" for place, name in enumerate(targets)}
    per_image = local.group_by("craft", "steps", "budget", "image").agg(
        pl.col("label").first(),
        *(pl.col(key).first() for key in by if key not in {"craft", "steps", "budget", "image", "label"}),
        *(pl.col("top1").filter(pl.col("target") == name).first().alias(column) for name, column in labels.items()),
    )
    pairs = [(one, other) for place, one in enumerate(targets) for other in targets[place:]]
    counts = [count for pair in enumerate(pairs) for count in _counts(*pair, labels)]
    wide = per_image.group_by(sources_as_text(by)).agg(counts) if by else per_image.select(counts)
    cells = wide.collect(engine="streaming")
    parts = [
        cells.select(
            *by,
            pl.lit(one).alias("first"),
            pl.lit(other).alias("second"),
            *(pl.col(f"{name} {place}").cast(pl.UInt32).alias(name) for name in _COUNTS),
        )
        for place, (one, other) in enumerate(pairs)
    ]
    nothing = cells.select(
        *by,
        *(pl.lit(None, pl.String).alias(name) for name in ("first", "second")),
        *(pl.lit(None, pl.UInt32).alias(name) for name in _COUNTS),
    ).clear()
    return (
        pl.concat([nothing, *parts])
        .filter(pl.col("images") > 0)
        .with_columns(
            agreement=pl.col("agree") / pl.col("images"),
            same_mistake=pl.when(pl.col("both_wrong") > 0).then(pl.col("same_wrong") / pl.col("both_wrong")),
        )
        .sort(*by, "first", "second")
    )


def agreement_matrix(pairs: pl.DataFrame, value: str = "same_mistake", *, by: Sequence[str] = ()) -> pl.DataFrame:
    """Return one column of `agreements` as a symmetric matrix.

    `pairs`: the result of `agreements`. `value`: the name of the column. The matrix has the columns `by`, `target`, and
    one column for each target, sorted by name. Raises StudyError if there is no column `value`, or if a pair of targets
    has several values for the same keys `by`.
    """
    if value not in pairs.columns:
        raise StudyError(f"there is no column '{value}'", accepted=names(pairs.columns, value))
    mirrored = pairs.filter(pl.col("first") != pl.col("second")).with_columns(
        pl.col("second").alias("first"), pl.col("first").alias("second")
    )
    both = pl.concat([pairs, mirrored]).select(*by, pl.col("first").alias("target"), "second", value)
    if both.select(*by, "target", "second").is_duplicated().any():
        raise StudyError(
            "a pair of targets has several values",
            todo="filter the pairs to one craft (attack run), or add keys to by=",
        )
    targets = sorted(set(both["target"]))
    wide = both.group_by([*by, "target"]).agg(
        pl.col(value).filter(pl.col("second") == name).first().alias(name) for name in targets
    )
    return wide.sort([*by, "target"])


_COUNTS = ("images", "agree", "both_wrong", "same_wrong")


def _counts(place: int, pair: tuple[str, str], labels: dict[str, str]) -> list[pl.Expr]:
    one, other, label = pl.col(labels[pair[0]]), pl.col(labels[pair[1]]), pl.col("label")
    wrong = (one != label) & (other != label)
    # A voting target that gives no answer has -1 in place of a label.
    equal = (one == other) & (one >= 0)
    found = ((one.is_not_null() & other.is_not_null()), equal, wrong, wrong & equal)
    return [count.sum().alias(f"{name} {place}") for name, count in zip(_COUNTS, found, strict=True)]
