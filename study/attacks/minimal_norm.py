"""The minimal RMSD at which an image transfers to one target model: a linear search along a ray.

Liu et al. 2017 (arXiv:1611.02770), section 3.2.2. Not a bisection: success is not monotone in the RMSD.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from study.attacks.budget import distances
from study.attacks.recipe import Search
from study.attacks.rounding import PerturbationRay
from study.models.predict import Prediction
from study.reproducibility.rng import draws

Predict = Callable[[NDArray[np.uint8], tuple[str, ...]], Prediction]
"""A target model: variants (V, C, H, W) of one image, and the image's id -> predictions."""


@dataclass(frozen=True)
class MinimalRmsd:
    """The end of the search for each of N images: the first level that succeeds, or the last level.

    `levels` (N,) are RMSDs in pixel values; `distances` (N, 3) are the image's RMSD, L-infinity and L2 there;
    `prediction` is the target's.
    """

    levels: NDArray[np.float64]
    distances: NDArray[np.float64]
    prediction: Prediction


def minimal_rmsd(predict: Predict, rays: NDArray[np.float32], search: Search, *, batch: int) -> MinimalRmsd:
    """Search along `rays`, float32 (2, N, C, H, W): clean images and directions. `batch` levels share one call."""
    ended, moved, labels, probabilities, sizes = [], [], [], [], []
    for image, label, clean, direction in zip(search.images, search.labels, rays[0], rays[1], strict=True):
        before = clean.astype(np.uint8)
        ray = PerturbationRay(before, direction, draws(before.size, *search.key, image, "rounding"))
        level, found, prediction, row = _first(predict, ray, search, image=image, label=label, batch=batch)
        ended.append(level)
        moved.append(distances(before, found))
        labels.append(prediction.top5[row])
        probabilities.append(prediction.top5_prob[row])
        sizes.append(prediction.size)
    predictions = Prediction(np.stack(labels), np.stack(probabilities), None, min(sizes))
    return MinimalRmsd(np.array(ended), np.array(moved), predictions)


def _first(
    predict: Predict, ray: PerturbationRay, search: Search, *, image: str, label: int, batch: int
) -> tuple[float, NDArray[np.uint8], Prediction, int]:
    """The first level that succeeds, or the last; the image there, and its row in the prediction."""
    levels: Sequence[float] = search.levels
    for start in range(0, len(levels), batch):
        part = levels[start : start + batch]
        images = np.stack([ray.at(level) for level in part])
        prediction = predict(images, (image,))
        hits = (prediction.top5[:, 0] == label) == (search.goal == "targeted")
        if hits.any() or start + batch >= len(levels):
            row = int(hits.argmax()) if hits.any() else len(part) - 1
            return part[row], images[row], prediction, row
    raise AssertionError("a range has at least one level")
