"""The passes before the attack loop, in which an objective of features reads the clean images."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from study.attacks.kinds import FeatureObjective, Goal, Pool, StepDraws
from study.attacks.passes import Logits, forward, full, module_of
from study.models.features import captured
from study.models.layers.named import network_of
from study.reproducibility import numerics
from study.reproducibility.numerics import Precision


def layers_of(objective: FeatureObjective, model: Logits) -> Sequence[str]:
    """Return the names of the layers in a source model's network that an objective of features reads."""
    return objective.layers(network_of(module_of(model)))


@dataclass
class Preparing:
    """One source model and the clean images of a batch, before the loop. Implements
    `study.attacks.kinds.PreparingSource`."""

    model: Logits
    names: Sequence[str]
    origin: Tensor
    labels: Tensor
    goal: Goal
    draws: StepDraws
    true: Tensor
    wanted: NDArray[np.int64]
    first: Tensor | None = None
    path: Sequence[Tensor] = ()
    pool: Pool | None = None
    precision: Precision = "float32"

    def features(self, image: Tensor) -> Mapping[str, Tensor]:
        found, _ = self.forward(image)
        return found

    def forward(self, image: Tensor) -> tuple[Mapping[str, Tensor], Tensor]:
        with torch.no_grad(), self._pass(), captured(module_of(self.model), self.names) as found:
            logits = forward(self.model, image, self.precision)
        return {name: full(one.detach()) for name, one in found.items()}, logits

    def feature_gradients(self, image: Tensor, loss: Callable[[Tensor], Tensor]) -> Mapping[str, Tensor]:
        # Parameters may require no gradient. The image must require one, so that the features require one too.
        with self._pass():
            with captured(module_of(self.model), self.names) as found:
                logits = forward(self.model, image.detach().requires_grad_(True), self.precision)
            names = list(found)
            gradients = torch.autograd.grad(loss(logits).sum(), [found[name] for name in names])
        return {name: full(one) for name, one in zip(names, gradients, strict=True)}

    def image_gradient(self, image: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
        leaf = image.detach().requires_grad_(True)
        with self._pass():
            logits = forward(self.model, leaf, self.precision)
            (gradient,) = torch.autograd.grad(loss(logits).sum(), leaf)
        return gradient

    def _pass(self) -> contextlib.AbstractContextManager[None]:
        return numerics.network_pass(self.precision, self.origin.device.type)
