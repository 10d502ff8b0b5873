"""A unit's question, answered: from clean images and models to rows."""

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
from study.geometry import look
from study.geometry.directions import axes
from study.geometry.gradients import batches, cosine, gradients
from study.geometry.plan import Question
from study.geometry.schema import SCHEMAS
from study.models.classifier import Classifier
from study.reproducibility import numerics

_Columns = dict[str, list[Any]]


def answer(
    unit: str, question: Question, models: Mapping[str, Classifier], clean: NDArray[np.uint8], *, engine: Engine
) -> pa.Table:
    """The rows of unit `unit`, whose images are `clean`, `uint8` (N, C, H, W); `models` are all that it needs.

    Gradients have the engine's precision, what models say is in float32. Raises StudyError where a gradient or a
    logit is not finite, or an image has no such direction.
    """
    probe = question.probe
    numerics.set_precision(engine.precision)
    if probe.probe == "gradient-cosine":
        columns = _cosines(question, models, clean, engine)
    else:
        found = axes(question, models, clean, engine=engine)
        numerics.set_precision("float32")
        (name,) = question.models
        looks = [_Look(models[name], one, way, engine) for one, way in zip(clean, found, strict=True)]
        parts = []
        for row, one in enumerate(looks):
            try:
                parts.append(_POINTS[probe.probe](question, row, one))
            except StudyError as error:
                raise error.located(f"model '{name}', image {question.images[row]}") from None
        columns = {name: [value for part in parts for value in part[name]] for name in parts[0]}
    schema = SCHEMAS[probe.probe]
    count = len(columns["image"])
    columns |= {"probe": [question.name] * count, "unit": [unit] * count}
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def _cosines(
    question: Question, models: Mapping[str, Classifier], clean: NDArray[np.uint8], engine: Engine
) -> _Columns:
    """All ordered pairs of models: of the first one's gradient, plain or smoothed, and the second one's."""
    probe, curve = question.probe, question.probe.smoothing
    true = np.array(question.labels, dtype=np.int64)
    wanted = np.array(question.targets, dtype=np.int64) if probe.goal == "targeted" else true
    rows: list[tuple[str, int, str, str, int | None, float | None, float | None]] = []
    counts = tuple(dict.fromkeys(curve.copies)) if curve else ()
    sigmas = tuple(dict.fromkeys(curve.sigma)) if curve else ()
    for batch in batches(ImageBatch(clean, wanted, question.images, own=true), engine):
        found: dict[tuple[str, int | None, float | None], NDArray[np.float32]] = {}
        for name in question.models:
            of = functools.partial(
                gradients,
                models[name],
                name,
                batch,
                engine=engine,
                seed=question.seed,
                goal=probe.goal,
                objective=probe.objective,
            )
            (found[name, None, None],) = of()
            for sigma in sigmas:
                smooth = of(smoothing=(counts, sigma))
                found |= {(name, count, sigma): one for count, one in zip(counts, smooth, strict=True)}
        for first, second in itertools.product(question.models, repeat=2):
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
class _Look:
    """One model, one image and the axes through it."""

    model: Classifier
    clean: NDArray[np.uint8]
    axes: NDArray[np.float64]
    engine: Engine

    def labels(self, places: Sequence[Sequence[float]]) -> list[int]:
        engine = self.engine
        found = look.labels(self.model, self.clean, self.axes, places, batch=engine.batch, device=engine.device)
        return [int(one) for one in found]

    def logits(self, places: Sequence[Sequence[float]]) -> NDArray[np.float32]:
        engine = self.engine
        found = look.logits(self.model, self.clean, self.axes, places, batch=engine.batch, device=engine.device)
        return np.concatenate(list(found))


def _regions(question: Question, row: int, look: _Look) -> _Columns:
    places = list(itertools.product(question.probe.axis, repeat=2))
    return _of_image(question, row, len(places)) | {
        "target_label": [question.targets[row]] * len(places),
        "u": [u for u, _ in places],
        "v": [v for _, v in places],
        "top1": look.labels(places),
    }


def _intervals(question: Question, row: int, look: _Look) -> _Columns:
    levels = _levels(question)
    return _of_image(question, row, len(levels)) | {
        "distance": levels,
        "top1": look.labels([(level,) for level in levels]),
    }


def _linearity(question: Question, row: int, look: _Look) -> _Columns:
    levels, label = _levels(question), question.labels[row]
    here = look.logits([(0.0,)])[0]
    # Among equals the lower label comes first.
    order = np.argsort(-here, kind="stable")
    ranks = {int(one): rank for rank, one in enumerate(order, 1)}
    shown = sorted({label, *(int(one) for one in order[: question.probe.labels])}, key=lambda one: ranks[one])
    found = look.logits([(level,) for level in levels])[:, shown]
    return _of_image(question, row, found.size) | {
        "distance": [level for level in levels for _ in shown],
        "shown": shown * len(levels),
        "rank": [ranks[one] for one in shown] * len(levels),
        "logit": found.astype(np.float64).ravel().tolist(),
    }


def _levels(question: Question) -> list[float]:
    assert question.probe.distances is not None, "the probe's validator asks for them"
    return list(question.probe.distances.levels)


def _of_image(question: Question, row: int, count: int) -> _Columns:
    (model,) = question.models
    values = {"image": question.images[row], "label": question.labels[row], "model": model}
    return {name: [value] * count for name, value in values.items()}


_POINTS: Mapping[str, Callable[[Question, int, _Look], _Columns]] = {
    "regions": _regions,
    "linearity": _linearity,
    "intervals": _intervals,
}
