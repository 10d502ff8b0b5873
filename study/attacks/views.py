"""The views of one batch: all copies of each image that the views in an attack's list make.

Each view is applied to the copies that the view before makes: with a view v_1 of 3 copies and a view v_2 of 5 copies,
an image has 15 copies v_2(v_1(image)). The random numbers of a copy depend on its index, not on the number of copies in
a pass.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from study.attacks.component import Component
from study.attacks.kinds import Pool, StepDraws, View, ViewContext
from study.reproducibility.rng import Streams


class Views:
    """All views of an attack, applied to one batch of images."""

    def __init__(
        self,
        views: Sequence[View],
        streams: Streams,
        true: NDArray[np.int64],
        pool: Pool | None,
        wanted: NDArray[np.int64] | None = None,
        *,
        origin: Tensor,
        steps: int = 1,
        epsilon: float | None = None,
    ) -> None:
        """Prepare the views for one batch. `true` (N,) are the true labels.

        `wanted` (N,) are the labels of the objective; None if they are the true labels. `origin` (N, C, H, W) are the
        clean images. `epsilon` is the budget's L-infinity norm, or None.

        Raises ValueError if a view mixes in other images, and there is no `pool`.
        """
        if pool is None and any(view.others for view in views):
            raise ValueError("a view that mixes in other images needs a pool of images")
        self._views = [(view, math.prod(one.count for one in views[place + 1 :])) for place, view in enumerate(views)]
        self._purposes = own_streams(views)
        self._streams = streams
        self._true = true
        self._wanted = true if wanted is None else wanted
        self._pool = pool
        self._origin = origin
        self._steps = steps
        self._epsilon = epsilon
        self._common: dict[int, tuple[Tensor, Tensor | None]] = {}
        """For each place in the list of views, the image of the last call, and what its copies have in common."""

    @property
    def wanted(self) -> NDArray[np.int64]:
        """The labels (N,) of the objective, on the host."""
        return self._wanted

    def make(self, image: Tensor, step: int, copy: int, gradient: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the copy of `image` with the index `copy` at a step, float (N, C, H, W), differentiable in `image`.

        `gradient(view)` returns the gradient of the loss at a view. Some views call this function.
        """
        device = str(image.device)
        for place, ((view, later), purpose) in enumerate(zip(self._views, self._purposes, strict=True)):
            number = copy // later
            draws = StepDraws(self._streams, purpose, device, step, number)
            given = ViewContext(
                copy=number % view.count,
                draws=draws,
                true=self._true,
                wanted=self._wanted,
                pool=self._pool,
                origin=self._origin,
                step=step,
                steps=self._steps,
                epsilon=self._epsilon,
                gradient=gradient,
                common=self._common_of(place, view, image),
            )
            image = view.make(image, given)
        return image

    def _common_of(self, place: int, view: View, image: Tensor) -> Tensor | None:
        """Return what all copies of `image` have in common, for the view at this place of the list."""
        if type(view).of_all_copies is View.of_all_copies:
            return None
        with torch.no_grad():
            if not image.is_leaf:
                # Another view has made this image for one copy only. Keeping it would keep its autograd graph.
                return view.of_all_copies(image)
            held = self._common.get(place)
            if held is None or held[0] is not image:
                held = self._common[place] = image, view.of_all_copies(image)
            return held[1]


def own_streams(components: Sequence[Component]) -> list[str]:
    """Return a name of random streams for each component. A second component of the same name gets the suffix `#2`."""
    seen: Counter[str] = Counter()
    found = []
    for component in components:
        seen[component.stream] += 1
        often = seen[component.stream]
        found.append(component.stream if often == 1 else f"{component.stream}#{often}")
    return found
