"""Bootstrap intervals of rates.

The bootstrap draws images, and each drawn image contributes all its rows. So rows of the same image may be dependent.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from study.analysis.cell_counts import check_keys, sources_as_text
from study.analysis.intervals import normal_quantile
from study.analysis.rates import CELL_WITHOUT_SEED, Among, hits
from study.errors import StudyError

_PAIR = tuple(key for key in CELL_WITHOUT_SEED if key not in {"attack", "steps", "budget"})
_AT_ONCE = 64
"""The number of bootstrap draws in memory at the same time. For 5,000 images, these take 2.5 MB."""
_MOST_KNOWN = 2_000_000
"""The largest size (number of images times number of draws) of a set of draws that is cached.

A set of this size, such as 2,000 draws of 1,000 images, takes 16 MB."""


def bootstrap_rates(
    rows: pl.LazyFrame,
    *,
    top: int = 1,
    by: Sequence[str] = CELL_WITHOUT_SEED,
    among: Among = "all",
    draws: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> pl.DataFrame:
    """Return success rates with percentile bootstrap intervals (Efron 1979), clustered by image.

    The result has one row for each cell (rows with equal values of the keys `by`) with images that count. Columns: the
    keys; `images` (`uint32`, number of distinct images that count); `success`, `low` and `high` (`float64` 0..1). `low`
    and `high` are the `(1 ± confidence) / 2` quantiles of the rates of `draws` draws, linearly interpolated.

    Each draw takes n of a cell's n images with replacement. A drawn image contributes all its rows that count, of all
    seeds. Images are sorted by id (as text); a draw takes those at the indices `integers(0, n, n)`, which numpy's
    default generator gives with the seed `seed`. Cells with equal numbers of images use the same draws.
    """
    check_keys(rows, by)
    cells = _by_image(rows, hits(rows, top=top, among=among), by)
    weighed = {key: np.stack([one["hits"].to_numpy(), one["rows"].to_numpy()], axis=1) for key, one in cells.items()}
    return _frame(weighed, _intervals(weighed, draws, seed, confidence), rows, by, "success")


def paired_differences(
    rows: pl.LazyFrame,
    first: str,
    second: str,
    *,
    top: int = 1,
    by: Sequence[str] = _PAIR,
    among: Among = "all",
    draws: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> pl.DataFrame:
    """Return the success rate of attack `first` minus that of attack `second`, on images for which both have rows.

    The result has one row for each cell (rows with equal values of the keys `by`) with such images. Columns: the keys;
    `images` (`uint32`); `difference`, `low` and `high` (`float64` -1..1). `low` and `high` are a bootstrap interval, as
    in `bootstrap_rates`. Each draw takes the same images for both attacks, which makes the interval narrower. Raises
    StudyError if an attack has no rows, or if its rows in one cell differ in `steps` or `budget`; the budgets of a
    search for the minimal RMSD may differ.
    """
    check_keys(rows, by)
    known = rows.select(pl.col("attack").unique()).collect()["attack"].sort().to_list()
    for name in (first, second):
        if name not in known:
            raise StudyError(
                f"there are no rows of the attack '{name}'", accepted=", ".join(known) or "any attack with rows"
            )
    both = []
    for name in (first, second):
        own = rows.filter(pl.col("attack") == name)
        points = own.select(*sources_as_text(by), "steps", "budget").unique().collect()
        searched = (
            points["budget"].n_unique() > 1 and own.select("craft", "image", "target").collect().is_unique().all()
        )
        if not searched and points.select(by).is_duplicated().any():
            raise StudyError(
                f"'{name}' has rows that differ in `steps` or `budget`, for the same values of the keys in `by`",
                accepted="one number of steps and one budget for each combination of key values",
                todo="filter the rows to one number of steps and one budget, or add 'steps' and 'budget' to by=",
            )
        both.append(_by_image(own, hits(own, top=top, among=among), by))
    weighed = {}
    for key in both[0].keys() & both[1].keys():
        joined = both[0][key].join(both[1][key], on="image", how="inner", suffix="_2").sort("image")
        if not joined.is_empty():
            weighed[key] = joined.select("hits", "rows", "hits_2", "rows_2").to_numpy()
    return _frame(weighed, _intervals(weighed, draws, seed, confidence), rows, by, "difference")


def interval_of_mean(
    values: NDArray[np.float64], *, draws: int = 2000, seed: int = 0, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean of `values`; NaN if there are no values.

    `values` (N,) has one value per image, in the order of image ids.
    """
    if len(values) == 0:
        return math.nan, math.nan
    means = np.concatenate([times @ values for times in draw_counts(len(values), draws, seed)]) / len(values)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


_Key = tuple[Any, ...]
_Weighed = Mapping[_Key, NDArray[np.int64]]
"""The numbers of each image, by cell: `int64` (images, 2) with the number of hits and the number of rows.

If two attacks are compared, the array is (images, 4): hits and rows of the first attack, then of the second."""


def _by_image(rows: pl.LazyFrame, hit: pl.Expr, by: Sequence[str]) -> Mapping[_Key, pl.DataFrame]:
    """Return a frame for each cell (rows with equal values of the keys `by`), with one row per image, sorted by id.

    Columns: `image`, `hits` (number of rows that succeed), `rows` (number of rows that count). A row counts if `hit` is
    not null.
    """
    counted = (
        rows.with_columns(hit.alias("hit"))
        .filter(pl.col("hit").is_not_null())
        .group_by(*sources_as_text(by), "image")
        .agg(pl.col("hit").sum().cast(pl.Int64).alias("hits"), pl.len().cast(pl.Int64).alias("rows"))
        .sort("image")
        .collect(engine="streaming")
    )
    if not by:
        return {(): counted} if counted.height else {}
    return counted.partition_by(list(by), as_dict=True, include_key=False)


def _intervals(weighed: _Weighed, draws: int, seed: int, confidence: float) -> dict[_Key, tuple[float, float]]:
    """Return the bootstrap interval of every cell. Cells with the same number of images use the same draws."""
    normal_quantile(confidence)
    if draws < 1:
        raise StudyError(f"{draws} draws give no interval", accepted="1 or more; 2,000 are usual")
    sizes: dict[int, list[_Key]] = {}
    for key, one in weighed.items():
        sizes.setdefault(len(one), []).append(key)
    found: dict[_Key, tuple[float, float]] = {}
    for size, keys in sizes.items():
        columns = np.concatenate([weighed[key] for key in keys], axis=1).astype(np.float64)
        # Every image has at least one row, so the number of rows in a draw is never 0.
        drawn = np.concatenate([_rates(times @ columns, len(keys)) for times in draw_counts(size, draws, seed)])
        ends = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
        found.update({key: (low, high) for key, low, high in zip(keys, *ends.tolist(), strict=True)})
    return found


def _frame(
    weighed: _Weighed, ends: Mapping[_Key, tuple[float, float]], rows: pl.LazyFrame, by: Sequence[str], name: str
) -> pl.DataFrame:
    """Return the result as a frame: the keys, the number of images, the value, and the interval of the value.

    `name`: the name of the column with the value, a rate or a difference. `ends`: the interval of each cell. The keys
    have the same types as in `rows`.
    """
    cells = [
        (*key, len(one), float(_rates(one.sum(0, dtype=np.float64)[None], 1)[0, 0]), *ends[key])
        for key, one in weighed.items()
    ]
    kinds = rows.collect_schema()
    keys = {key: pl.String() if key == "sources" else kinds[key] for key in by}
    numbers = {"images": pl.UInt32(), name: pl.Float64(), "low": pl.Float64(), "high": pl.Float64()}
    frame = pl.DataFrame(cells, schema={**keys, **numbers}, orient="row")
    return frame.sort(by) if by else frame


def _rates(sums: NDArray[np.float64], cells: int) -> NDArray[np.float64]:
    """Return the rate of every draw and cell, (draws, cells), or the difference of two rates.

    `sums` (draws, cells * 2) has the numbers of hits and rows of each cell. For differences, it is (draws, cells * 4),
    with the numbers of both attacks.
    """
    split = sums.reshape(len(sums), cells, -1)
    rate = split[..., 0] / split[..., 1]
    return rate if split.shape[2] == 2 else rate - split[..., 2] / split[..., 3]


def draw_counts(images: int, draws: int, seed: int) -> Iterable[NDArray[np.float64]]:
    """Return batches of bootstrap draws. A batch is a float64 array (draws, images).

    An element is the number of times that the draw takes the image.
    """
    return _known_counts(images, draws, seed) if images * draws <= _MOST_KNOWN else _drawn_counts(images, draws, seed)


@functools.lru_cache(maxsize=4)
def _known_counts(images: int, draws: int, seed: int) -> tuple[NDArray[np.float64], ...]:
    """Return the draws for a small number of images. They are cached, because a report needs them for each attack."""
    found = tuple(_drawn_counts(images, draws, seed))
    for counts in found:
        counts.flags.writeable = False
    return found


def _drawn_counts(images: int, draws: int, seed: int) -> Iterator[NDArray[np.float64]]:
    generator = np.random.default_rng(seed)
    for start in range(0, draws, _AT_ONCE):
        some = range(start, min(start + _AT_ONCE, draws))
        yield np.stack([np.bincount(generator.integers(0, images, images), minlength=images) for _ in some]).astype(
            np.float64
        )
