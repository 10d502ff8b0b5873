"""Answers by label: success per class, and which wrong labels a target gives."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from study.analysis.cell_counts import check_keys, sources_as_text
from study.analysis.transfer import Among, success_rates
from study.errors import StudyError
from study.images.labels import LabelSet

_WHOLE = ("attack", "goal", "target")


def per_class(
    rows: pl.LazyFrame,
    labels: LabelSet,
    *,
    top: int = 1,
    by: Sequence[str] = _WHOLE,
    among: Among = "all",
    confidence: float = 0.95,
) -> pl.DataFrame:
    """Success rates per true label: those of `success_rates` by (`by`, `label`), and `name`, what people call it.

    `labels` are the study's (`spec.labels`). Labels without images have no rows.
    """
    cells = success_rates(rows, top=top, by=(*by, "label"), among=among, confidence=confidence)
    return cells.with_columns(_named(cells["label"], labels)).select(
        *by, "label", "name", pl.exclude(*by, "label", "name")
    )


def wrong_labels(
    rows: pl.LazyFrame, labels: LabelSet, *, most: int = 5, by: Sequence[str] = ("target",)
) -> pl.DataFrame:
    """The labels that a target gives most often to adversarial images they are wrong for (Liu et al. 2017, table 32).

    Columns: the keys; `rank` (`uint32`, from 1; up to `most`; of equally frequent labels the lower comes first);
    `label` (`int32`), `name`; `images` (`uint32`, rows with this wrong top-1 label); `share` (`float64` 0..1, of all
    rows of the cell with a wrong one). A target label that is reached is a wrong one too: filter by `goal`. Remote
    services have labels of their own and are left out.
    """
    check_keys(rows, by)
    if most < 1:
        raise StudyError(f"the {most} most frequent labels are none", accepted="1 or more")
    wrong = rows.filter(pl.col("top1").is_not_null(), pl.col("top1") != pl.col("label"))
    counted = wrong.group_by(*sources_as_text(by), "top1").agg(pl.len().alias("images")).collect(engine="streaming")
    total, place = pl.col("images").sum(), pl.int_range(1, pl.len() + 1, dtype=pl.UInt32)
    ranked = counted.sort(*by, "images", "top1", descending=[*(False for _ in by), True, False]).with_columns(
        (pl.col("images") / (total.over(by) if by else total)).alias("share"),
        (place.over(by) if by else place).alias("rank"),
    )
    best = ranked.filter(pl.col("rank") <= most).rename({"top1": "label"})
    return best.with_columns(_named(best["label"], labels)).select(*by, "rank", "label", "name", "images", "share")


def _named(column: pl.Series, labels: LabelSet) -> pl.Series:
    words = {index: labels.words(index)[0] for index in column.unique().to_list()}
    return pl.Series("name", [words[index] for index in column.to_list()], dtype=pl.String)
