"""Compares the numbers of a run with published numbers. A cell is one published number."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import polars as pl

from study.analysis.intervals import wilson
from study.analysis.mistakes import agreements
from study.analysis.rates import clean_accuracies, success_rates
from study.models.catalogue import SHORT_NAMES
from study.models.reference import Model
from study.spec.schema import Spec

Measure = Callable[[pl.LazyFrame, pl.DataFrame], pl.DataFrame]
"""A function that computes one metric for published rows.

Its arguments are the run's rows with the column `level` (the budget), and the published rows that match a planned cell.
The result has columns of _FOUND, at least `paper`, `row`, `ours` and `images`."""

_KEYS = ("sources", "attack", "goal", "seed", "steps", "level", "target")
_CELL = ("paper", "row")
_FOUND = pl.Schema(
    {
        "paper": pl.String(),
        "row": pl.Int64(),
        "ours": pl.Float64(),
        "ours_std": pl.Float64(),
        "images": pl.Int64(),
        "of": pl.Float64(),
        "seeds_done": pl.Int64(),
        "ours_rmsd": pl.Float64(),
    }
)
"""The columns of our numbers for published rows.

`ours` is our number in the paper's unit. `images` is the number of images of each seed. `of` is the denominator of a
share; null for other numbers. `seeds_done` is the number of seeds with rows."""


def compare(
    matched: pl.DataFrame,
    rows: pl.LazyFrame,
    spec: Spec,
    selected: int | None = None,
    cosines: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Return all published rows `matched` with our numbers in further columns.

    `matched`: the result of `study.papers.published_matching.match`. Further columns:

    - `ours`: our number in the paper's unit, which is percent except for cosines;
    - `ours_std`: the standard deviation over seeds, with n - 1;
    - `images`: the number of images of each seed; `of`: the denominator of a share;
    - `ours_rmsd`: our mean RMSD;
    - `low`, `high`: the 95 % Wilson interval of our number, in percent. Each image is counted once for all seeds;
    - `difference`: our number minus the published number;
    - `within`: whether the published number is in our interval;
    - `comparable`: whether both numbers can be compared. If not, the column `reason` says why.

    `selected`: the number of selected images. A number over fewer images is not comparable; None to skip this test.
    `cosines`: the mean cosines of plain gradients from probes, with the columns first, second, cosine, images.
    """
    wanted = matched.filter(pl.col("reason").is_null()).with_columns(pl.col("our_target").alias("target"))
    is_rate = pl.col("metric").str.starts_with("top") & (pl.col("our_attack") != "none")
    is_clean = pl.col("metric").str.starts_with("top") & (pl.col("our_attack") == "none")
    searched = [name for name, attack in spec.attacks.items() if attack.budget.minimal is not None]
    level = pl.when(pl.col("attack").is_in(searched)).then(None).otherwise(pl.col("budget")).alias("level")
    shown = rows.filter(pl.col("attack").is_in(wanted["our_attack"].unique().to_list())).with_columns(level)
    found = [
        pl.DataFrame(schema=_FOUND),
        _rates(wanted.filter(is_rate), shown),
        _clean(wanted.filter(is_clean), rows),
    ]
    for metric, measure in MEASURES.items():
        cells = wanted.filter(pl.col("metric") == metric)
        if not cells.is_empty():
            found.append(measure(shown, cells))
    if cosines is not None:
        found.append(_cosines(cosines, wanted.filter(pl.col("metric") == "cosine")))
    joined = matched.join(pl.concat(found, how="diagonal_relaxed"), on=_CELL, how="left", maintain_order="left")
    reasons = [one["reason"] or _missing(one, spec, selected) for one in joined.iter_rows(named=True)]
    joined = joined.with_columns(pl.Series("reason", reasons, dtype=pl.String))
    low, high = wilson(pl.col("ours") / 100 * pl.col("of"), pl.col("of"))
    return joined.with_columns(
        (100 * low).alias("low"),
        (100 * high).alias("high"),
        # Rounding removes float errors. Adding 0.0 turns -0.0 into 0.0.
        ((pl.col("ours") - pl.col("value")).round(9) + 0.0).alias("difference"),
        pl.col("reason").is_null().alias("comparable"),
    ).with_columns(pl.when("comparable").then(_inside()).alias("within"))


def _inside() -> pl.Expr:
    return pl.col("value").is_between(pl.col("low") - 1e-9, pl.col("high") + 1e-9)


def summary(compared: pl.DataFrame) -> pl.DataFrame:
    """Return a summary of each published table in one row, in the order of the papers.

    `compared`: the result of `compare`. Columns:

    - `paper`, `table`; `cells`: the number of published numbers; `comparable`: how many of them are comparable;
    - `off`: the mean absolute difference between our numbers and the published numbers;
    - `rank`: Spearman's correlation of our numbers and the published numbers; ties have their mean rank. Null if all
      our numbers are equal, if all published numbers are equal, or if fewer than two are comparable;
    - `within`: the number of published numbers that are in our intervals; `intervals`: the number of our intervals.
    """
    good = pl.col("comparable")
    # Rounding makes values that differ only by a float error equal, so that they are ties.
    ranks = [pl.col(name).round(9).filter(good).rank("average") for name in ("ours", "value")]
    return (
        compared.group_by("paper", "table", maintain_order=True)
        .agg(
            pl.len().alias("cells"),
            good.sum().alias("comparable"),
            pl.col("difference").filter(good).abs().mean().alias("off"),
            pl.corr(*ranks).alias("rank"),
            pl.col("within").sum(),
            pl.col("within").count().alias("intervals"),
        )
        .with_columns(pl.when(pl.col("rank").is_finite() & (pl.col("comparable") > 1)).then("rank").alias("rank"))
    )


def weights(paper: str, spec: Spec, models: Sequence[str]) -> Mapping[str, str]:
    """Return a text about the weights of each of `models`, by name of the model.

    The text is "the paper's" if the run uses the weights of the paper. Otherwise it says which weights the run uses
    instead.
    """
    return {name: _weights(paper, name, spec.models[name]) for name in models if name in spec.models}


def _weights(paper: str, name: str, model: Model) -> str:
    here = f"{model.network or model.model or 'a service'}" + (f", {model.weights}" if model.weights else "")
    if paper == "liu2017":
        return f"other weights: {here} here; trained with Caffe in the paper"
    short = SHORT_NAMES.get(name)
    if short is None or str(short["network"]).startswith("study:"):
        return f"other weights: {here} here; no zoo has the weights of the paper"
    theirs = Model.model_validate(short)
    if (model.network, model.weights, model.arguments) != (theirs.network, theirs.weights, theirs.arguments):
        return f"other weights: {here} here; {theirs.network} in the paper"
    return "the nearest weights in a zoo" if name == "inceptionresnetv2_ens3" else "the paper's"


def _crafts(cells: pl.DataFrame) -> pl.DataFrame:
    """Return the cells (published numbers) with one row for each seed, and with the column names of a run's rows."""
    return cells.select(
        *(*_CELL, "metric", "top", "goal", "target", "level", "steps"),
        pl.col("our_attack").alias("attack"),
        pl.col("our_sources").alias("sources"),
        pl.col("seeds").alias("seed"),
    ).explode("seed")


def _rates(cells: pl.DataFrame, rows: pl.LazyFrame) -> pl.DataFrame:
    """Return our success rate, accuracy or matching rate (percent) for each of the published `cells`."""
    if cells.is_empty():
        return pl.DataFrame(schema=_FOUND)
    each = _crafts(cells)
    found = []
    for top in sorted(set(each["top"].to_list())):
        rates = success_rates(rows, top=top, by=_KEYS).with_columns(pl.col("steps", "seed").cast(pl.Int64))
        found.append(each.filter(top=top).join(rates, on=_KEYS, how="inner", nulls_equal=True))
    is_accuracy = pl.col("metric").str.ends_with("accuracy")
    share = 100 * pl.when(is_accuracy).then(1 - pl.col("success")).otherwise("success")
    return _over_seeds(pl.concat(found).with_columns(share.alias("share"), pl.col("images").alias("of")))


def _same_mistakes(rows: pl.LazyFrame, cells: pl.DataFrame) -> pl.DataFrame:
    """Return, for each published cell with a pair of targets, how often both targets make the same mistake.

    The number is a share in percent. Of the images that both targets misclassify, it is the share of images to which
    both targets give the same label.
    """
    keys = [key for key in _KEYS if key != "target"]
    pairs = agreements(rows, by=keys).with_columns(
        pl.col("steps", "seed").cast(pl.Int64),
        pl.concat_str("first", "second", separator="+").alias("target"),
        (100 * pl.col("same_mistake")).alias("share"),
        pl.col("both_wrong").alias("of"),
        pl.lit(None, pl.Float64).alias("rmsd"),
    )
    return _over_seeds(_crafts(cells).join(pairs, on=_KEYS, how="inner", nulls_equal=True))


def _over_seeds(each: pl.DataFrame) -> pl.DataFrame:
    """Return the mean and standard deviation over seeds of the column `share` (percent), for each published row."""
    return each.group_by(_CELL, maintain_order=True).agg(
        pl.col("share").mean().alias("ours"),
        pl.col("share").std().alias("ours_std"),
        pl.col("images").min().cast(pl.Int64),
        pl.col("of").mean(),
        pl.len().cast(pl.Int64).alias("seeds_done"),
        pl.col("rmsd").mean().alias("ours_rmsd"),
    )


MEASURES: dict[str, Measure] = {"same-mistake": _same_mistakes}
"""Functions for further metrics, by name of the metric. Success rates and cosines are computed elsewhere."""


def _cosines(means: pl.DataFrame, cells: pl.DataFrame) -> pl.DataFrame:
    """Return, for each published cell, our mean cosine between the gradients of two models. Cosines have no unit."""
    found = means.select(
        pl.col("first").alias("our_sources"),
        pl.col("second").alias("target"),
        pl.col("cosine").alias("ours"),
        pl.col("images").cast(pl.Int64),
    )
    return (
        cells.select(*_CELL, "our_sources", "target")
        .join(found, on=["our_sources", "target"])
        .select(*_CELL, "ours", "images")
    )


def _clean(cells: pl.DataFrame, rows: pl.LazyFrame) -> pl.DataFrame:
    """Return our clean top-1 accuracy (percent) for each published cell.

    Rows of all attacks are used, because each row has the target's prediction for the clean image.
    """
    cells = cells.filter(pl.col("top") == 1)
    if cells.is_empty():
        return pl.DataFrame(schema=_FOUND)
    shown = rows.filter(pl.col("target").is_in(cells["target"].unique().to_list()))
    right = clean_accuracies(shown).select(
        "target",
        pl.col("images").cast(pl.Int64),
        pl.col("images").cast(pl.Float64).alias("of"),
        (100 * pl.col("accuracy")).alias("ours"),
    )
    return cells.select(*_CELL, "target").join(right, on="target").drop("target")


def _missing(cell: Mapping[str, object], spec: Spec, selected: int | None) -> str | None:
    """Return the reason why our number cannot be compared with a published number; None if it can be compared.

    `cell`: a row that has matched a planned number, with our number in the column `ours`.
    """
    metric = str(cell["metric"])
    if metric == "cosine":
        return "no probe has computed this cosine yet" if cell["ours"] is None else _unfinished(cell, selected)
    if not metric.startswith("top") and metric not in MEASURES:
        return f"study does not compute {metric}"
    is_clean = metric.startswith("top") and cell["our_attack"] == "none"
    if is_clean and cell["top"] != 1:
        return "rows contain the clean top-1 label only"
    if is_clean and spec.images.keep != "all":
        return "`images.keep` selects correctly classified images, so clean accuracy is biased"
    return _unfinished(cell, selected) or (
        None if cell["ours"] is not None else "no image that both models misclassify"
    )


def _unfinished(cell: Mapping[str, object], selected: int | None) -> str | None:
    images, seeds, done = cell["images"], cell["seeds"], cell["seeds_done"]
    if not isinstance(images, int):
        return "not finished: no rows yet"
    if selected is not None and images < selected:
        return f"not finished: {images} of {selected} images"
    if isinstance(seeds, list) and isinstance(done, int) and done < len(seeds):
        return f"not finished: {done} of {len(seeds)} seeds"
    return None
