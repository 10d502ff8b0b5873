"""The smallest RMSD at which an image transfers: a linear search up its ray, against one target model.

Liu et al. 2017, section 3.2.2: linear, not by bisection, for success does not rise with the RMSD.
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

Show = Callable[[NDArray[np.uint8], tuple[str, ...]], Prediction]
"""Shows images (V, C, H, W), variants of the one with this id, to a target."""


@dataclass(frozen=True)
class Smallest:
    """Per image: the level where the search ended, the first that succeeds or the last there is; how far the image had
    moved there, (N, 3): RMSD, L-infinity, L2; and what the target said of it."""

    levels: NDArray[np.float64]
    moved: NDArray[np.float64]
    said: Prediction


def smallest(show: Show, rays: NDArray[np.float32], search: Search, *, batch: int) -> Smallest:
    """Search along `rays`, float32 (2, N, C, H, W), clean images and directions; `batch` levels are shown at once."""
    ended, moved, labels, probabilities, sizes = [], [], [], [], []
    for image, label, clean, direction in zip(search.images, search.labels, rays[0], rays[1], strict=True):
        before = clean.astype(np.uint8)
        ray = PerturbationRay(before, direction, draws(before.size, *search.key, image, "rounding"))
        level, there, said, row = _first(show, ray, search, image=image, label=label, batch=batch)
        ended.append(level)
        moved.append(distances(before, there))
        labels.append(said.top5[row])
        probabilities.append(said.top5_prob[row])
        sizes.append(said.size)
    said = Prediction(np.stack(labels), np.stack(probabilities), None, min(sizes))
    return Smallest(np.array(ended), np.array(moved), said)


def _first(
    show: Show, ray: PerturbationRay, search: Search, *, image: str, label: int, batch: int
) -> tuple[float, NDArray[np.uint8], Prediction, int]:
    """The first level that succeeds, or the last; the image there, and where in a prediction it stands."""
    levels: Sequence[float] = search.levels
    for start in range(0, len(levels), batch):
        part = levels[start : start + batch]
        images = np.stack([ray.at(level) for level in part])
        said = show(images, (image,))
        hits = (said.top5[:, 0] == label) == (search.goal == "targeted")
        if hits.any() or start + batch >= len(levels):
            row = int(hits.argmax()) if hits.any() else len(part) - 1
            return part[row], images[row], said, row
    raise AssertionError("a range has at least one level")
