"""Integrated gradients: the image times the mean of the gradients on the way from a black image to the image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from study.attacks.component import AttackOutline
from study.attacks.kinds import Inner, Point, State, StepContext
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register
class IntegratedGradients(Point):
    """Integrated gradients: (x + d) times the mean gradient at points on the way from a black image to x + d.

    x is the clean image and d the perturbation. The gradients are taken at the images (k / `samples`) (x + d), for
    these k:

    - Ma et al. 2023 (MIG, ICCV 2023): k = 1 ... `samples`, which is `first: 1`;
    - Huang and Kong 2022 (TAIG, arXiv:2205.13152): k = 0 ... `samples`, which is `first: 0`.

    `noise` above 0 gives the TAIG-R of Huang and Kong: each point gets uniform noise within `noise` times epsilon. In
    place of x + d, the factor is then the last point minus the point k = 0, as in the authors' code. With `first: 1`,
    the point k = 0 is a black image without noise. The path in the paper is a random broken line, and the authors call
    their code an approximation of this path.

    `weighting: scaled` gives the gradient at point k the weight k / `samples`. This weight arises if the gradient is
    taken with respect to x + d, not with respect to the point. torchattack and TransferAttack do this for MIG. In the
    definition of integrated gradients, and in the authors' code for TAIG, all points have the same weight.
    """

    name: ClassVar[str] = "integrated-gradients"
    main: ClassVar[str | None] = "samples"

    samples: Annotated[int, Field(ge=1, le=10_000)] = 20
    first: Literal[0, 1] = 1
    noise: Annotated[float, Field(ge=0, le=100)] = 0.0
    weighting: Literal["even", "scaled"] = "even"

    def conflicts(self, attack: AttackOutline) -> Iterator[str]:
        if self.noise and attack.budget.epsilon is None:
            yield "the noise of integrated-gradients needs a budget with an epsilon"

    def calls(self, steps: int) -> tuple[int, int]:
        return steps, steps * (self.samples - self.first)

    def gradient(self, delta: Tensor, step: StepContext, inner: Inner, state: State) -> Tensor:
        import torch

        image, total = step.origin + delta, torch.zeros_like(delta)
        for number in range(self.first, self.samples):
            share = number / self.samples
            found = step.gradient(share * image + self._noise(delta, step, number), number + 1)
            total += found * share if self.weighting == "scaled" else found
        end = self._noise(delta, step, self.samples)
        total += inner(delta + end)
        start = self._noise(delta, step, 0) if self.first == 0 else torch.zeros_like(delta)
        return (image + end - start) * total / (self.samples + 1 - self.first)

    def _noise(self, delta: Tensor, step: StepContext, number: int) -> Tensor:
        import torch

        if not self.noise:
            return torch.zeros_like(delta)
        epsilon = step.epsilon
        assert epsilon is not None, "conflicts() requires an epsilon"
        return self.noise * epsilon * step.draws(self, number).uniform(delta.shape[1:])
