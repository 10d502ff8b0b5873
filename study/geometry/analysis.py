"""Statistics of the rows of probes: functions that take and return polars frames."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

_PLANE = ("image", "model")
_LINE = ("image", "model")


def mean_cosines(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the mean cosine over images for every pair of models and smoothing, from rows of a gradient-cosine probe.

    Columns: first, second, copies, sigma, cosine, std (with n - 1), images (the number of images for which both
    gradients are nonzero). If `copies` is null, the gradients are plain and the cosine is symmetric in the pair.
    """
    cosine = pl.col("cosine")
    keys = ("first", "second", "copies", "sigma")
    found = rows.group_by(keys, maintain_order=True).agg(
        cosine.mean(), cosine.std().alias("std"), cosine.count().cast(pl.Int64).alias("images")
    )
    return found.sort("sigma", "copies", nulls_last=False, maintain_order=True)


def labels_in_planes(rows: pl.DataFrame) -> pl.DataFrame:
    """Count the labels in the plane of every image and model, from rows of a regions probe (Liu et al. 2017, table 5).

    Columns: image, model, label, labels, regions, true_regions, true_share, targeted_share. A region is a connected set
    of points with one label; each point is adjacent to four others. `true_regions` counts the regions of the true
    label; `true_share` and `targeted_share` are the shares of points with the true label and the target label.
    """
    found = []
    for (image, model), plane in rows.group_by(_PLANE, maintain_order=True):
        grid, _ = grid_of(plane)
        first = plane.row(0, named=True)
        true = grid == first["label"]
        found.append(
            {
                "image": image,
                "model": model,
                "label": first["label"],
                "labels": len(np.unique(grid)),
                "regions": count_regions(grid),
                "true_regions": count_regions(grid, first["label"]),
                "true_share": float(true.mean()),
                "targeted_share": float((grid == first["target_label"]).mean()),
            }
        )
    schema: dict[str, type[pl.DataType]] = {"image": pl.String, "model": pl.String, "label": pl.Int32}
    schema |= dict.fromkeys(("labels", "regions", "true_regions"), pl.Int64)
    return pl.DataFrame(found, schema=schema | {"true_share": pl.Float64, "targeted_share": pl.Float64})


def diameters(rows: pl.DataFrame) -> pl.DataFrame:
    """Measure how far the true label extends from the image on both axes, from rows of a regions probe.

    Columns: image, model, back, ahead, down, up. The last four are RMSDs: the distance of the last point before the
    label changes, at most the plane's extent; null if the image itself is misclassified.
    """
    found = []
    for (image, model), plane in rows.group_by(_PLANE, maintain_order=True):
        grid, axis = grid_of(plane)
        middle = len(axis) // 2
        right = grid == plane["label"][0]
        arms = {
            "back": right[middle, : middle + 1][::-1],
            "ahead": right[middle, middle:],
            "down": right[: middle + 1, middle][::-1],
            "up": right[middle:, middle],
        }
        reach = {name: _reach(arm, axis[middle:]) for name, arm in arms.items()}
        found.append({"image": image, "model": model, **reach})
    schema = {"image": pl.String, "model": pl.String} | dict.fromkeys(("back", "ahead", "down", "up"), pl.Float64)
    return pl.DataFrame(found, schema=schema)


def _reach(right: NDArray[np.bool_], axis: NDArray[np.float64]) -> float | None:
    if not right[0]:
        return None
    return float(axis[-1] if right.all() else axis[int(right.argmin()) - 1])


def grid_of(plane: pl.DataFrame) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Return one plane's labels (V, U), sorted by `v` and `u`, and the coordinates of its points on each axis (U,)."""
    ordered = plane.sort("v", "u")
    axis = ordered["u"].unique().sort().to_numpy()
    return ordered["top1"].to_numpy().reshape(len(axis), len(axis)), axis


def count_regions(grid: NDArray[np.int32], label: int | None = None) -> int:
    """Count the regions of a grid (V, U), or only those of `label`: connected sets of equal points (4-connectivity)."""
    names = np.arange(grid.size).reshape(grid.shape)
    right, down = grid[:, 1:] == grid[:, :-1], grid[1:] == grid[:-1]
    ends = np.concatenate([names[:, 1:][right], names[1:][down]])
    starts = np.concatenate([names[:, :-1][right], names[:-1][down]])
    root = names.ravel().copy()
    # Union-find on arrays: every point takes its neighbours' lowest root, then its root's root, until all are stable.
    while True:
        low = np.minimum(root[starts], root[ends])
        new = root.copy()
        for side in (root[starts], root[ends], starts, ends):
            np.minimum.at(new, side, low)
        new = new[new]
        if np.array_equal(new, root):
            break
        root = new
    roots = np.unique(root)
    return len(roots) if label is None else int((grid.ravel()[roots] == label).sum())


def straightness(rows: pl.DataFrame) -> pl.DataFrame:
    """Fit a straight line to each logit by least squares, from rows of a linearity probe.

    Columns: image, model, label, shown, rank, slope (logits per RMSD of 1), r2 (null if the logit is constant), true
    (whether it is the logit of the true label).
    """
    slope = pl.cov("distance", "logit") / pl.col("distance").var()
    r2 = pl.corr("distance", "logit").pow(2)
    found = rows.group_by("image", "model", "label", "shown", "rank", maintain_order=True).agg(
        slope.alias("slope"), r2.alias("r2")
    )
    return found.with_columns(
        pl.when(pl.col("r2").is_finite()).then("r2").alias("r2"),
        (pl.col("label") == pl.col("shown")).alias("true"),
    )


def wrong_intervals(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the intervals of distances with a wrong label, from rows of an intervals probe (Liu et al. 2017, fig. 6).

    Columns: image, model, first, last (RMSD of the outermost points), points; ordered by distance.
    """
    wrong = pl.col("top1") != pl.col("label")
    return (
        rows.sort(*_LINE, "distance")
        .with_columns(wrong.alias("wrong"), wrong.rle_id().over(_LINE).alias("run"))
        .filter("wrong")
        .group_by(*_LINE, "run", maintain_order=True)
        .agg(
            pl.col("distance").first().alias("first"),
            pl.col("distance").last().alias("last"),
            pl.len().cast(pl.Int64).alias("points"),
        )
        .drop("run")
    )


def interval_counts(rows: pl.DataFrame) -> pl.DataFrame:
    """Count the intervals with a wrong label for every image and model, from rows of an intervals probe.

    Columns: image, model, intervals, least (the smallest distance from 0 with a wrong label; null if there is none),
    returns (whether the label is correct again at a larger distance).
    """
    lines = rows.select(_LINE).unique(maintain_order=True)
    runs = wrong_intervals(rows).group_by(_LINE).agg(pl.len().cast(pl.Int64).alias("intervals"))
    ahead = rows.filter(pl.col("distance") >= 0).sort("distance")
    wrong = pl.col("top1") != pl.col("label")
    first = ahead.group_by(_LINE).agg(
        pl.col("distance").filter(wrong).first().alias("least"),
        pl.col("distance").filter(~wrong).max().alias("last_right"),
    )
    joined = lines.join(runs, on=_LINE, how="left").join(first, on=_LINE, how="left")
    return joined.select(
        *_LINE,
        pl.col("intervals").fill_null(0),
        "least",
        (pl.col("last_right") > pl.col("least")).fill_null(False).alias("returns"),
    )
