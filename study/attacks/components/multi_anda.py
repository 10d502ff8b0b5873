"""MultiANDA: several ANDA attacks with different noise, which are combined in the last step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from study.attacks.component import AttackOutline
from study.attacks.kinds import Program, ProgramContext
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register
class MultiAnda(Program):
    """MultiANDA: `paths` ANDA attacks with different noise, combined by one step from the mean of their images.

    Fang et al. 2024 (arXiv:2209.11964), algorithm A.1, output (a). A path is one ANDA attack, whose shifted copies come
    from the views `translations`. Each path sums the gradients of all its steps, and moves by the sign of the sum,
    within the budget. The attack's image after n steps is computed as follows. The images of all paths before their
    n-th step are averaged. The mean image is moved by one step, along the sign of the sum of all paths' gradients up to
    and including step n.

    Before each gradient, uniform noise within +-`noise` pixel values is added to the image. The noise is drawn for each
    image, step and path. The authors' code draws different noise for each of the shifted copies. Output (b) of the
    paper, a draw from a mixture of normal distributions, is not implemented.
    """

    name: ClassVar[str] = "multi-anda"
    main: ClassVar[str | None] = "paths"

    paths: Annotated[int, Field(ge=1, le=100)] = 3
    noise: Annotated[float, Field(ge=0, le=255)] = 0.5

    def conflicts(self, attack: AttackOutline) -> Iterator[str]:
        for kind in ("point", "update", "start"):
            if attack.parts.get(kind):
                yield f"the program multi-anda takes its own sign steps: remove all components of kind {kind}"

    def cost(self, steps: int, sources: int, views: int) -> int:
        return views * steps * self.paths

    def run(self, given: ProgramContext) -> Sequence[Tensor]:
        import torch

        deltas = [torch.zeros_like(given.origin) for _ in range(self.paths)]
        sums = [torch.zeros_like(given.origin) for _ in range(self.paths)]
        found: dict[int, Tensor] = {}
        stops = {steps for steps, _ in given.points}
        for step in range(given.steps):
            before = sum(deltas[1:], deltas[0]) / self.paths
            for path in range(self.paths):
                noise = self.noise * given.draws(self, step, path).uniform(given.origin.shape[1:])
                place = given.origin + deltas[path] + noise.to(given.origin.dtype)
                sums[path] = sums[path] + given.gradient(place, step, path)
                deltas[path] = given.project(deltas[path] + given.size * sums[path].sign())
            if step + 1 in stops:
                mean = sum(sums[1:], sums[0])
                found[step + 1] = given.project(before + given.size * mean.sign())
        return [found[steps] for steps, _ in given.points]
