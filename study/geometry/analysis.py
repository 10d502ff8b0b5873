"""Statistics of the rows of geometry probes. Most functions take and return polars frames."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

_PLANE = ("image", "model")
_LINE = ("image", "model")


def mean_cosines(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the mean over images of the cosine between the gradients of two models, for every pair of models.

    `rows` are those of a gradient-cosine probe. There is one row for each pair and each smoothing (number of copies and
    sigma). Columns: first, second, copies, sigma, cosine, std (standard deviation with n - 1), images (the number of
    images for which both gradients are nonzero). If `copies` is null, neither gradient is smoothed, and the cosine is
    symmetric in the pair.
    """
    cosine = pl.col("cosine")
    keys = ("first", "second", "copies", "sigma")
    found = rows.group_by(keys, maintain_order=True).agg(
        cosine.mean(), cosine.std().alias("std"), cosine.count().cast(pl.Int64).alias("images")
    )
    return found.sort("sigma", "copies", nulls_last=False, maintain_order=True)


def labels_in_planes(rows: pl.DataFrame) -> pl.DataFrame:
    """Return statistics of the predicted labels in the plane of every image and model (Liu et al. 2017, table 5).

    `rows` are those of a regions probe. Columns: image, model, label, labels, regions, true_regions, true_share,
    targeted_share. `labels` is the number of different labels. A region is a connected set of points with the same
    label; each point is connected to its four nearest points. `regions` counts all regions, and `true_regions` those of
    the true label. `true_share` and `targeted_share` are the shares (0..1) of points with the true label and with the
    target label.
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
    """Return how far from an image the prediction stays correct, along both axes of a plane, in both directions.

    `rows` are those of a regions probe. Columns: `image` and `model`; `back` and `ahead`, along the first axis; `down`
    and `up`, along the second axis. The last four are RMSDs: the distance from the image to the last point before the
    label changes. If the label never changes, the distance is the plane's extent. All four are null if the image itself
    is misclassified.
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
    """Return the predicted labels (V, U) of one plane, and the coordinates (U,) of its points on an axis.

    Rows of the array have ascending `v`, columns have ascending `u`. Both axes have the same coordinates, so U = V.
    """
    ordered = plane.sort("v", "u")
    axis = ordered["u"].unique().sort().to_numpy()
    return ordered["top1"].to_numpy().reshape(len(axis), len(axis)), axis


def count_regions(grid: NDArray[np.int32], label: int | None = None) -> int:
    """Return the number of regions in a grid of labels (V, U), or only of the regions with the label `label`.

    A region is a connected set of points with the same label (4-connectivity).
    """
    names = np.arange(grid.size).reshape(grid.shape)
    right, down = grid[:, 1:] == grid[:, :-1], grid[1:] == grid[:-1]
    ends = np.concatenate([names[:, 1:][right], names[1:][down]])
    starts = np.concatenate([names[:, :-1][right], names[:-1][down]])
    root = names.ravel().copy()
    # Union-find on arrays. Each round gives every point the lowest root among its adjacent equal points, and then the
    # root of this root. The loop ends when no root changes.
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
    """Return a least-squares fit of a straight line to each logit over the distance, from rows of a linearity probe.

    Columns: image, model, label, shown, rank, slope, r2, true. `label` is the true label, and `shown` the label of the
    logit. `rank` is the rank of this logit at the image itself. `slope` is the change of the logit per RMSD of 1. `r2`
    is the coefficient of determination; null if the logit is constant. `true` says whether `shown` is the true label.
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
    """Return the intervals of distances in which the predicted label is wrong (Liu et al. 2017, figure 6).

    `rows` are those of an intervals probe. An interval is a sequence of adjacent points with wrong labels. Columns:
    image, model, first and last (distances of the interval's two end points, as RMSDs), points (their number). The
    intervals of an image and model are sorted by distance.
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
    """Return the number of intervals with a wrong label for every image and model, from rows of an intervals probe.

    Columns: image, model, intervals, least, returns. `least` is the smallest distance, at least 0, with a wrong label;
    null if there is none. `returns` says whether the label is correct again at a larger distance than `least`.
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
