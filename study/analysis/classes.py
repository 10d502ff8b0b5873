"""Computes success rates by true label, and the wrong labels that targets predict most often."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from study.analysis.cell_counts import check_keys, sources_as_text
from study.analysis.rates import Among, success_rates
from study.errors import StudyError
from study.images.labels import LabelSet

_KEYS = ("attack", "goal", "target")


def per_class(
    rows: pl.LazyFrame,
    labels: LabelSet,
    *,
    top: int = 1,
    by: Sequence[str] = _KEYS,
    among: Among = "all",
    confidence: float = 0.95,
) -> pl.DataFrame:
    """Return success rates by true label, as `success_rates` does, with the keys `by` and `label`.

    The column `name` has the name of the label. `labels` is the label set of the study (`spec.labels`). There are no
    rows for labels without images.
    """
    cells = success_rates(rows, top=top, by=(*by, "label"), among=among, confidence=confidence)
    return cells.with_columns(_named(cells["label"], labels)).select(
        *by, "label", "name", pl.exclude(*by, "label", "name")
    )


def wrong_labels(
    rows: pl.LazyFrame, labels: LabelSet, *, most: int = 5, by: Sequence[str] = ("target",)
) -> pl.DataFrame:
    """Return the most frequent wrong labels of adversarial images, as in table 32 of Liu et al. 2017.

    There are up to `most` labels for each cell (rows with equal values of the keys `by`). Columns:

    - the keys `by`;
    - `rank` (`uint32`): the rank of the label, from 1. Among equally frequent labels, the lower label comes first;
    - `label` (`int32`) and `name`: the wrong label;
    - `answers` (`uint32`): the number of rows in which the target predicts this label;
    - `share` (`float64` 0..1): the share of these rows among all rows of the cell with a wrong label.

    In the rows of a targeted attack, the target label also counts as wrong, so filter the rows by `goal`. Remote
    services are left out, because they have their own labels. A row in which a voting target gave no answer is left out
    too.
    """
    check_keys(rows, by)
    if most < 1:
        raise StudyError(f"the number of labels cannot be {most}", accepted="1 or more")
    wrong = rows.filter(pl.col("top1") >= 0, pl.col("top1") != pl.col("label"))
    counted = wrong.group_by(*sources_as_text(by), "top1").agg(pl.len().alias("answers")).collect(engine="streaming")
    total, place = pl.col("answers").sum(), pl.int_range(1, pl.len() + 1, dtype=pl.UInt32)
    ranked = counted.sort(*by, "answers", "top1", descending=[*(False for _ in by), True, False]).with_columns(
        (pl.col("answers") / (total.over(by) if by else total)).alias("share"),
        (place.over(by) if by else place).alias("rank"),
    )
    best = ranked.filter(pl.col("rank") <= most).rename({"top1": "label"})
    return best.with_columns(_named(best["label"], labels)).select(*by, "rank", "label", "name", "answers", "share")


def _named(column: pl.Series, labels: LabelSet) -> pl.Series:
    words = {index: labels.words(index)[0] for index in column.unique().to_list()}
    return pl.Series("name", [words[index] for index in column.to_list()], dtype=pl.String)
