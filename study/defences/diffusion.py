"""Diffusion purification: a defence that adds noise, which hides the adversarial perturbation.

A diffusion model then removes the noise together with the perturbation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from study.defences.kinds import DefenceContext, Purifier, WeightsFile
from study.spec.frozen import rejected

if TYPE_CHECKING:
    from torch import Tensor


class DiffusionPurifier(Purifier):
    """DiffPure (Nie et al. 2022, arXiv:2205.07460) with the sampler of DDPM (Ho et al. 2020, arXiv:2006.11239).

    This is a base class. A user's subclass defines `network`, a DDPM that predicts noise. The image is scaled to -1..1
    and gets the noise of step `t` of the DDPM's schedule. The DDPM then removes this noise in `t` steps. The schedule
    has `steps` steps, and its betas rise linearly from `first` to `last`. DiffPure uses t = 150 of 1,000 steps for
    ImageNet, and t = 100 for CIFAR-10.
    """

    weights: WeightsFile | None = None
    t: Annotated[int, Field(ge=1, le=10_000)] = 150
    steps: Annotated[int, Field(ge=1, le=10_000)] = 1000
    first: Annotated[float, Field(gt=0, lt=1)] = 1e-4
    last: Annotated[float, Field(gt=0, lt=1)] = 0.02

    @model_validator(mode="after")
    def _within_the_schedule(self) -> Self:
        if self.t > self.steps:
            raise rejected(f"`t` is {self.t:,}, and the schedule has {self.steps:,} steps", "a `t` of at most `steps`")
        return self

    def noise(self, images: Tensor, step: Tensor, given: DefenceContext) -> Tensor:
        """Return the noise that the network predicts in `images` (N, C, H, W), which are images in -1..1 plus noise.

        `step` (N,) is the step of the schedule, counted from 0. By default, the predicted noise is the first C channels
        of `network(images, step)`, because the further channels of some networks are predicted variances.
        """
        assert given.network is not None, "a user's subclass defines a network"
        found: Tensor = given.network(images, step)[:, : images.shape[1]]
        return found

    def purified(self, images: Tensor, given: DefenceContext) -> Tensor:
        import torch

        betas, kept = self._schedule()
        last = self.t - 1
        noise = given.draws(self.t).normal(images.shape[1:])
        noisy = float(kept[last] ** 0.5) * (images / 127.5 - 1) + float((1 - kept[last]) ** 0.5) * noise
        for step in range(last, -1, -1):
            now, beta = float(kept[step]), float(betas[step])
            before = float(kept[step - 1]) if step else 1.0
            at = torch.full((len(images),), step, device=images.device)
            found = self.noise(noisy, at, given)
            clean = ((noisy - (1 - now) ** 0.5 * found) / now**0.5).clamp(-1, 1)
            noisy = (before**0.5 * beta * clean + (1 - beta) ** 0.5 * (1 - before) * noisy) / (1 - now)
            if step:
                spread = (beta * (1 - before) / (1 - now)) ** 0.5
                noisy = noisy + spread * given.draws(step).normal(images.shape[1:])
        return (noisy + 1) * 127.5

    def _schedule(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return two arrays (`steps`,): the betas, and the share of the image's variance that is left after a step."""
        betas = np.linspace(self.first, self.last, self.steps)
        return betas, np.cumprod(1 - betas, dtype=np.float64)
