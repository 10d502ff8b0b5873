"""Defines the columns of the rows of geometry probes, as one Parquet schema for each kind of probe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from study.geometry.spec import Kind

VERSION = 1
"""The version of the columns. Every change of the columns increases the version."""

_EVERY: list[pa.Field[Any]] = [
    pa.field("probe", pa.string(), nullable=False),
    pa.field("unit", pa.string(), nullable=False),
    pa.field("image", pa.string(), nullable=False),
    pa.field("label", pa.int32(), nullable=False),
]
_POINT: list[pa.Field[Any]] = [
    pa.field("model", pa.string(), nullable=False),
    pa.field("distance", pa.float64(), nullable=False),
]
_TOP1: pa.Field[Any] = pa.field("top1", pa.int32(), nullable=False)

SCHEMAS: Mapping[Kind, pa.Schema] = {
    "gradient-cosine": pa.schema(
        [
            *_EVERY,
            pa.field("first", pa.string(), nullable=False),
            pa.field("second", pa.string(), nullable=False),
            pa.field("copies", pa.int32()),
            pa.field("sigma", pa.float64()),
            pa.field("cosine", pa.float64()),
        ]
    ),
    "regions": pa.schema(
        [
            *_EVERY,
            pa.field("target_label", pa.int32(), nullable=False),
            pa.field("model", pa.string(), nullable=False),
            pa.field("u", pa.float64(), nullable=False),
            pa.field("v", pa.float64(), nullable=False),
            _TOP1,
        ]
    ),
    "linearity": pa.schema(
        [
            *_EVERY,
            *_POINT,
            pa.field("shown", pa.int32(), nullable=False),
            pa.field("rank", pa.int32(), nullable=False),
            pa.field("logit", pa.float64(), nullable=False),
        ]
    ),
    "intervals": pa.schema([*_EVERY, *_POINT, _TOP1]),
}
"""The columns of a row, by kind of probe.

`label` is the true label, and `top1` the predicted label at the point. `distance`, `u` and `v` are coordinates of the
point as RMSDs in pixel values: on a line, or on the axes `along` and `across` of a plane. `first` and `second` are the
two models of a pair. `copies` and `sigma` are null for plain gradients. Otherwise the gradient of `first` is smoothed,
or both gradients are, as the probe says. `cosine` is null if a gradient is zero. `shown` is the label of a logit.
`rank` is the rank of this label for the model at the image itself; the most probable label has rank 1. The true label
always has rows."""
