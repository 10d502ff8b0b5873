"""Whether two targets say the same of an image, and whether they make the same mistake."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from study.analysis.cell_counts import check_keys, sources_as_text
from study.errors import StudyError, names

_CRAFT = ("sources", "attack", "goal", "seed", "steps", "budget")


def agreements(rows: pl.LazyFrame, *, by: Sequence[str] = _CRAFT) -> pl.DataFrame:
    """Every pair of targets on the adversarial images that both were shown.

    Columns: the keys; `first`, `second`, each unordered pair once, a target with itself too; `images`, `uint32`, that
    both have a top-1 label of; `agree`, `uint32`, where it is the same; `both_wrong`, `uint32`, where both labels are
    not the true one; `same_wrong`, `uint32`, where these are the same; `agreement` = `agree` / `images` and
    `same_mistake` = `same_wrong` / `both_wrong`, `float64` 0..1, null where they would divide by 0.

    `same_mistake` is that of Liu et al. 2017, tables 9, 26 and 27: over all adversarial images that both models get
    wrong, the share that both give the same wrong label. In targeted rows the target label is a wrong label as well.
    Remote services have labels of their own and are left out. A search of the minimal RMSD shows every target an image
    of its own: such rows meet only where they ended at the same budget.
    """
    check_keys(rows, by)
    if "target" in by:
        raise StudyError("pairs of targets are what is compared: 'target' cannot be a key as well")
    local = rows.filter(pl.col("top1").is_not_null())
    targets = sorted(local.select(pl.col("target").unique()).collect()["target"].to_list())
    said = {name: f"said {place}" for place, name in enumerate(targets)}
    per_image = local.group_by("craft", "steps", "budget", "image").agg(
        pl.col("label").first(),
        *(pl.col(key).first() for key in by if key not in {"craft", "steps", "budget", "image", "label"}),
        *(pl.col("top1").filter(pl.col("target") == name).first().alias(column) for name, column in said.items()),
    )
    pairs = [(one, other) for place, one in enumerate(targets) for other in targets[place:]]
    counts = [count for pair in enumerate(pairs) for count in _counts(*pair, said)]
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
    """What `agreements` found as a symmetric matrix: `by`, `target`, then a column for each target, sorted.

    `value` is one of its columns. Raises StudyError where a pair has several values for one row of `by`.
    """
    if value not in pairs.columns:
        raise StudyError(f"there is no column '{value}'", accepted=names(pairs.columns, value))
    mirrored = pairs.filter(pl.col("first") != pl.col("second")).with_columns(
        pl.col("second").alias("first"), pl.col("first").alias("second")
    )
    both = pl.concat([pairs, mirrored]).select(*by, pl.col("first").alias("target"), "second", value)
    if both.select(*by, "target", "second").is_duplicated().any():
        raise StudyError(
            "a pair of targets has several values", todo="filter the pairs to one craft, or give keys (by=)"
        )
    targets = sorted(set(both["target"]))
    wide = both.group_by([*by, "target"]).agg(
        pl.col(value).filter(pl.col("second") == name).first().alias(name) for name in targets
    )
    return wide.sort([*by, "target"])


_COUNTS = ("images", "agree", "both_wrong", "same_wrong")


def _counts(place: int, pair: tuple[str, str], said: dict[str, str]) -> list[pl.Expr]:
    one, other, label = pl.col(said[pair[0]]), pl.col(said[pair[1]]), pl.col("label")
    wrong = (one != label) & (other != label)
    found = ((one.is_not_null() & other.is_not_null()), one == other, wrong, wrong & (one == other))
    return [count.sum().alias(f"{name} {place}") for name, count in zip(_COUNTS, found, strict=True)]
