"""Reads the rows of a run's geometry probes for commands and for the report."""

from __future__ import annotations

import polars as pl

from study.geometry import analysis, store
from study.geometry.spec import Probe
from study.results.scanning import collect
from study.spec.schema import Spec


def probe_rows(run: str, name: str, probe: Probe) -> pl.DataFrame:
    """Return the rows of probe `name`, sorted by image.

    If the division of images into shards has changed, two units may have measured the same image. Of such equal rows,
    only one is returned.
    """
    rows = collect(run, store.scan(run, name, probe.probe).drop("unit", "probe"))
    keys = [column for column in rows.columns if column not in {"cosine", "logit", "top1"}]
    return rows.unique(keys, keep="first", maintain_order=True).sort("image", maintain_order=True)


def cosine_rows(run: str, spec: Spec) -> pl.LazyFrame | None:
    """Return the rows of all gradient-cosine probes; None if the spec has no such probe."""
    probes = [name for name, probe in spec.geometry.items() if probe.probe == "gradient-cosine"]
    return pl.concat([store.scan(run, name, "gradient-cosine") for name in probes]) if probes else None


def plain_cosines(run: str, spec: Spec) -> pl.DataFrame:
    """Return the mean cosine between the gradients of each pair of models.

    Only gradients without smoothing and with an untargeted goal are used. Columns: first, second, cosine, images. If
    several probes have measured the same pair, the first probe counts.
    """
    probes = {
        name: probe
        for name, probe in spec.geometry.items()
        if probe.probe == "gradient-cosine" and probe.goal == "untargeted"
    }
    schema = {"first": pl.String, "second": pl.String, "cosine": pl.Float64, "images": pl.Int64}
    means = [
        analysis.mean_cosines(probe_rows(run, name, probe).filter(pl.col("copies").is_null())).select(list(schema))
        for name, probe in probes.items()
    ]
    empty = pl.DataFrame(schema=schema)
    return pl.concat([empty, *means]).unique(["first", "second"], keep="first", maintain_order=True)
