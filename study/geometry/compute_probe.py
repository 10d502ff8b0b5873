"""Computes the rows of one unit of a geometry probe. A unit is one probe on the images of one shard."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from study.attacks.loop import Engine, ImageBatch
from study.errors import StudyError
from study.geometry import point_predictions
from study.geometry.axes import axes
from study.geometry.gradients import batches, cosine, gradients
from study.geometry.plan import ProbeTask
from study.geometry.schema import SCHEMAS
from study.models.classifier import Classifier
from study.reproducibility.numerics import Precision

_Columns = dict[str, list[Any]]


def answer(
    unit: str,
    task: ProbeTask,
    models: Mapping[str, Classifier],
    clean: NDArray[np.uint8],
    *,
    engine: Engine,
    precision: Precision = "float32",
) -> pa.Table:
    """Return the rows of one unit of a probe. A unit is one probe on the images of one shard.

    `unit`: the id of the unit. `clean`: its images, `uint8` (N, C, H, W). `models`: all models of the unit, by name.
    Gradients are computed in the engine's precision, predictions in `precision`. Raises StudyError if a gradient or a
    logit is not finite, or if a direction of the probe does not exist for an image (see `axes`).
    """
    probe = task.probe
    if probe.probe == "gradient-cosine":
        columns = _cosines(task, models, clean, engine)
    else:
        found = axes(task, models, clean, engine=engine)
        (name,) = task.models
        slices = [_Slice(models[name], one, way, engine, precision) for one, way in zip(clean, found, strict=True)]
        parts = []
        for row, one in enumerate(slices):
            try:
                parts.append(_POINTS[probe.probe](task, row, one))
            except StudyError as error:
                raise error.located(f"model '{name}', image {task.images[row]}") from None
        columns = {name: [value for part in parts for value in part[name]] for name in parts[0]}
    schema = SCHEMAS[probe.probe]
    count = len(columns["image"])
    columns |= {"probe": [task.name] * count, "unit": [unit] * count}
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def _cosines(task: ProbeTask, models: Mapping[str, Classifier], clean: NDArray[np.uint8], engine: Engine) -> _Columns:
    """Return the columns of a gradient-cosine probe: the cosines for all ordered pairs of models.

    Every pair has the cosine of the plain gradients. If the probe has `smoothing`, the pair also has a cosine for each
    number of copies and sigma; then the gradient of the first model is smoothed, or both gradients are (`of: both`).
    """
    probe, curve = task.probe, task.probe.smoothing
    true = np.array(task.labels, dtype=np.int64)
    wanted = np.array(task.targets, dtype=np.int64) if probe.goal == "targeted" else true
    rows: list[tuple[str, int, str, str, int | None, float | None, float | None]] = []
    counts = tuple(dict.fromkeys(curve.copies)) if curve else ()
    sigmas = tuple(dict.fromkeys(curve.sigma)) if curve else ()
    for batch in batches(ImageBatch(clean, wanted, task.images, own=true), engine):
        found: dict[tuple[str, int | None, float | None], NDArray[np.float32]] = {}
        for name in task.models:
            of = functools.partial(
                gradients,
                models[name],
                name,
                batch,
                engine=engine,
                seed=task.seed,
                goal=probe.goal,
                objective=probe.objective,
            )
            (found[name, None, None],) = of()
            for sigma in sigmas:
                smooth = of(smoothing=(counts, sigma))
                found |= {(name, count, sigma): one for count, one in zip(counts, smooth, strict=True)}
        for first, second in itertools.product(task.models, repeat=2):
            for point in [(None, None), *itertools.product(counts, sigmas)]:
                other = point if curve is not None and curve.of == "both" else (None, None)
                one, two = found[first, *point], found[second, *other]
                rows += [
                    (image, int(label), first, second, *point, cosine(one[row], two[row]))
                    for row, (image, label) in enumerate(zip(batch.images, batch.true, strict=True))
                ]
    names = ("image", "label", "first", "second", "copies", "sigma", "cosine")
    return {name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


@dataclass(frozen=True)
class _Slice:
    """A line or plane through one image, with the model that predicts the labels or logits of its points."""

    model: Classifier
    clean: NDArray[np.uint8]
    axes: NDArray[np.float64]
    engine: Engine
    precision: Precision

    def labels(self, points: Sequence[Sequence[float]]) -> list[int]:
        found = point_predictions.labels(self.model, self.clean, self.axes, points, **self._how())
        return [int(one) for one in found]

    def logits(self, points: Sequence[Sequence[float]]) -> NDArray[np.float32]:
        return np.concatenate(list(point_predictions.logits(self.model, self.clean, self.axes, points, **self._how())))

    def _how(self) -> dict[str, Any]:
        return {"batch": self.engine.batch, "device": self.engine.device, "precision": self.precision}


def _regions(task: ProbeTask, row: int, slice_: _Slice) -> _Columns:
    points = list(itertools.product(task.probe.axis, repeat=2))
    return _of_image(task, row, len(points)) | {
        "target_label": [task.targets[row]] * len(points),
        "u": [u for u, _ in points],
        "v": [v for _, v in points],
        "top1": slice_.labels(points),
    }


def _intervals(task: ProbeTask, row: int, slice_: _Slice) -> _Columns:
    levels = _levels(task)
    return _of_image(task, row, len(levels)) | {
        "distance": levels,
        "top1": slice_.labels([(level,) for level in levels]),
    }


def _linearity(task: ProbeTask, row: int, slice_: _Slice) -> _Columns:
    levels, label = _levels(task), task.labels[row]
    here = slice_.logits([(0.0,)])[0]
    # Among equal logits, the stable sort puts the lower label first.
    order = np.argsort(-here, kind="stable")
    ranks = {int(one): rank for rank, one in enumerate(order, 1)}
    shown = sorted({label, *(int(one) for one in order[: task.probe.labels])}, key=lambda one: ranks[one])
    found = slice_.logits([(level,) for level in levels])[:, shown]
    return _of_image(task, row, found.size) | {
        "distance": [level for level in levels for _ in shown],
        "shown": shown * len(levels),
        "rank": [ranks[one] for one in shown] * len(levels),
        "logit": found.astype(np.float64).ravel().tolist(),
    }


def _levels(task: ProbeTask) -> list[float]:
    assert task.probe.distances is not None, "the validator of probes requires distances"
    return list(task.probe.distances.levels)


def _of_image(task: ProbeTask, row: int, count: int) -> _Columns:
    (model,) = task.models
    values = {"image": task.images[row], "label": task.labels[row], "model": model}
    return {name: [value] * count for name, value in values.items()}


_POINTS: Mapping[str, Callable[[ProbeTask, int, _Slice], _Columns]] = {
    "regions": _regions,
    "linearity": _linearity,
    "intervals": _intervals,
}
