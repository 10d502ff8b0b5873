"""The rows of a run's probes, as the commands and the report read them."""

from __future__ import annotations

import polars as pl

from study.geometry import analysis, store
from study.geometry.spec import Probe
from study.results.scanning import collect
from study.spec.schema import Spec


def probe_rows(run: str, name: str, probe: Probe) -> pl.DataFrame:
    """The rows of probe `name`, sorted by image.

    Each row occurs once: where shards have changed, units of different shards may have measured the same image.
    """
    rows = collect(run, store.scan(run, name, probe.probe).drop("unit", "probe"))
    keys = [column for column in rows.columns if column not in {"cosine", "logit", "top1"}]
    return rows.unique(keys, keep="first", maintain_order=True).sort("image", maintain_order=True)


def cosine_rows(run: str, spec: Spec) -> pl.LazyFrame | None:
    """The rows of all gradient-cosine probes; None if the spec has no such probe."""
    probes = [name for name, probe in spec.geometry.items() if probe.probe == "gradient-cosine"]
    return pl.concat([store.scan(run, name, "gradient-cosine") for name in probes]) if probes else None


def plain_cosines(run: str, spec: Spec) -> pl.DataFrame:
    """The mean cosine of each pair of models, from plain (not smoothed) gradients of untargeted attacks.

    Columns: first, second, cosine, images. If several probes measured a pair, the first probe counts.
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
