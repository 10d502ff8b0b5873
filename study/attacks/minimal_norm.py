"""The minimal RMSD at which an image transfers to one target model, by a linear search along a ray.

Liu et al. 2017 (arXiv:1611.02770), section 3.2.2. A bisection would be wrong: success is not monotone in the RMSD.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from study.attacks.budget import distances
from study.attacks.recipe import Search
from study.attacks.rounding import PerturbationRay
from study.devices.copies import is_host, uploaded
from study.models.predict import Prediction
from study.reproducibility.rng import draws, draws_on

if TYPE_CHECKING:
    from torch import Tensor

Predict = Callable[["NDArray[np.uint8] | Tensor", tuple[str, ...]], Prediction]
"""A function that predicts with a target model.

The arguments are variants (V, C, H, W) of one image, and a tuple with the id of this image.
"""

_TOGETHER = 2**21
"""Number of pixel values that are computed at once on a GPU, in all images together."""


@dataclass(frozen=True)
class MinimalRmsd:
    """The level at which the search ends for each of N images: the first level that succeeds, or the last level.

    `levels` (N,) are RMSDs in pixel values. `distances` (N, 3) are the RMSD, L-infinity and L2 of the images at these
    levels. `prediction` is the target's prediction for the images at these levels.
    """

    levels: NDArray[np.float64]
    distances: NDArray[np.float64]
    prediction: Prediction


def minimal_rmsd(
    predict: Predict, rays: NDArray[np.float32], search: Search, *, batch: int, device: str = "cpu"
) -> MinimalRmsd:
    """Search the minimal RMSD for each of N images along its ray. Return where each search ends.

    `rays`, float32 (2, N, C, H, W), are the clean images, and then the directions from them. Each call of `predict`
    gets the images at up to `batch` levels. If `device` is a GPU, the images are computed there, and `predict` gets
    tensors instead of arrays.
    """
    ended, moved, labels, probabilities, sizes, silent = [], [], [], [], [], []
    for image, label, clean, direction in zip(search.images, search.labels, rays[0], rays[1], strict=True):
        before = clean.astype(np.uint8)
        along = _ray(before, direction, (*search.key, image, "rounding"), device)
        level, found, prediction, row = _first(predict, along, search, image=image, label=label, batch=batch)
        ended.append(level)
        moved.append(distances(before, found if isinstance(found, np.ndarray) else found.cpu().numpy()))
        labels.append(prediction.top5[row])
        probabilities.append(prediction.top5_prob[row])
        sizes.append(prediction.size)
        silent.append(None if prediction.abstained is None else prediction.abstained[row])
    abstained = None if None in silent else np.array(silent, dtype=np.bool_)
    predictions = Prediction(np.stack(labels), np.stack(probabilities), None, min(sizes), abstained)
    return MinimalRmsd(np.array(ended), np.array(moved), predictions)


_Along = Callable[[Sequence[float]], "NDArray[np.uint8] | Tensor"]
"""A function from V RMSDs to the images (V, C, H, W) on a ray with these RMSDs."""


def _ray(clean: NDArray[np.uint8], direction: NDArray[np.float32], key: Sequence[object], device: str) -> _Along:
    """Return the function that computes images on the ray from one clean image (C, H, W) in `direction` (C, H, W)."""
    if is_host(device):
        ray = PerturbationRay(clean, direction, draws(clean.size, *key))
        return lambda levels: np.stack([ray.at(level) for level in levels])
    import torch

    from study.attacks.rays import Rays

    there = Rays(uploaded(clean[None], device), uploaded(direction[None], device), draws_on(device, clean.size, [key]))
    together = max(1, _TOGETHER // clean.size)

    def along(levels: Sequence[float]) -> Tensor:
        lengths = uploaded(np.array(levels, dtype=np.float64), device)
        return torch.cat([there.at(part) for part in torch.split(lengths, together)])

    return along


def _first(
    predict: Predict, along: _Along, search: Search, *, image: str, label: int, batch: int
) -> tuple[float, NDArray[np.uint8] | Tensor, Prediction, int]:
    """Search along the ray of one image. Return the end of the search.

    The result is the level at which the search ends, the image at this level, a prediction of several levels, and the
    row of this image in the prediction. The search ends at the first level that succeeds, or at the last level.
    """
    levels: Sequence[float] = search.levels
    for start in range(0, len(levels), batch):
        part = levels[start : start + batch]
        images = along(part)
        prediction = predict(images, (image,))
        hits = (prediction.top1 == label) == (search.goal == "targeted")
        if hits.any() or start + batch >= len(levels):
            row = int(hits.argmax()) if hits.any() else len(part) - 1
            return part[row], images[row], prediction, row
    raise AssertionError("a range has at least one level")
