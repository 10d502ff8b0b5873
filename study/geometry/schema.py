"""The Parquet schemas of probes' rows, one for each kind of probe. Each probe has a folder of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from study.geometry.spec import Kind

VERSION = 1
"""Version of the columns: every change increases it."""

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
"""`label` is the true label, `top1` the predicted label at the point. `u` and `v` (along `along` and `across`) and
`distance` are RMSDs in pixel values. `copies` and `sigma` are null for plain gradients; otherwise the gradient of
`first` is smoothed, or both gradients. `cosine` is null if a gradient is zero. `shown` is the label of a logit, and
`rank` its rank for this model at the image itself (1 is the likeliest); the true label always has rows."""
