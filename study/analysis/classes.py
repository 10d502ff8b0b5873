"""Success by true label, and the wrong labels that targets give most often."""

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
    """Success rates by true label: `success_rates` by (`by`, `label`), with the `name` of the label.

    `labels` is the label set of the study (`spec.labels`). Labels without images have no rows.
    """
    cells = success_rates(rows, top=top, by=(*by, "label"), among=among, confidence=confidence)
    return cells.with_columns(_named(cells["label"], labels)).select(
        *by, "label", "name", pl.exclude(*by, "label", "name")
    )


def wrong_labels(
    rows: pl.LazyFrame, labels: LabelSet, *, most: int = 5, by: Sequence[str] = ("target",)
) -> pl.DataFrame:
    """The most frequent wrong labels of adversarial images, `most` for each cell: Liu et al. 2017, table 32.

    Columns: the keys; `rank` (`uint32`, from 1; among equally frequent labels, the lower label comes first); `label`
    (`int32`), `name`; `answers` (`uint32`, rows with this wrong top-1 label); `share` (`float64` 0..1, of all rows of
    the cell with a wrong label).

    In targeted rows the target label is a wrong label too: filter by `goal`. Remote services, which have
    their own labels, and abstentions of voting targets are left out.
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
