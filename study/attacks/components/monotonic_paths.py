"""Monotonic paths, MuMoDIG: integrated gradients of transformed copies, on paths that start at quantised copies."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field

from study.attacks.components.diversity import Diversity, diversify
from study.attacks.kinds import Draws, Inner, Point, State, StepContext
from study.attacks.registry import register
from study.devices.copies import uploaded

if TYPE_CHECKING:
    from torch import Tensor

_RESIZED = Diversity(probability=1.0, low=1.0, high=245 / 224, interpolation="bilinear")
_KINDS = 5
_DEGREES = 45


@register
class MonotonicPaths(Point):
    """Monotonic paths, MuMoDIG: the sum of integrated gradients of the image and of `transforms` random copies.

    Ren et al. 2025, arXiv:2412.18844. A path leads from b to t. t is the image or a transformed copy of the image, and
    b is a quantised version of t. The image and each copy have `bases` paths. A path takes `points` gradients, at the
    places b + share (t - b). The shares are (k + position) / points, for k from 0 to points - 1. Each gradient is
    multiplied by its share, and the products are summed. The sum is propagated back through the transform, and then
    multiplied by t - b.

    Quantisation cuts the range of values of each channel at `regions` - 1 uniformly random places. Each value is
    replaced by the lower end of the region that contains the value. Every value of b is therefore at most the
    corresponding value of t, and the path is monotonic.

    With probability 1/2, a transform is an enlargement to at most 245/224, at a random place of a frame. Otherwise, the
    transform is one of five changes: a roll downwards, a roll to the right, one of two flips, or a rotation by up to 45
    degrees.

    The rule is that of the authors' code, but all numbers are drawn for each image. In their code, the enlarged image
    never touches the lower or the right edge of the frame. Here, the enlarged image may touch these edges. In all
    paths, torchattack takes the gradient of the untransformed image, and uses the transformed copy only for the
    quantisation. The paths of torchattack are therefore neither monotonic nor diverse.
    """

    name: ClassVar[str] = "monotonic-paths"
    version: ClassVar[int] = 2

    transforms: Annotated[int, Field(ge=0, le=1000)] = 6
    bases: Annotated[int, Field(ge=1, le=100)] = 1
    points: Annotated[int, Field(ge=1, le=1000)] = 1
    regions: Annotated[int, Field(ge=2, le=256)] = 2
    position: Annotated[float, Field(gt=0, le=1)] = 0.65

    def calls(self, steps: int) -> tuple[int, int]:
        return steps, steps * ((1 + self.transforms) * self.bases * self.points - 1)

    def gradient(self, delta: Tensor, step: StepContext, inner: Inner, state: State) -> Tensor:
        import torch

        image, total = step.origin + delta, torch.zeros_like(delta)
        for path in range((1 + self.transforms) * self.bases):
            transform = path // self.bases
            leaf = image.detach().requires_grad_(True)
            seen = self._transformed(leaf, step.draws(self, transform)) if transform else leaf
            ends = step.draws(self, path).uniform((image.shape[1], self.regions - 1), "regions")
            base = quantised(seen.detach(), ends)
            way = seen.detach() - base
            upstream = torch.zeros_like(way)
            for point in range(self.points):
                share = (point + self.position) / self.points
                place, number = base + share * way, path * self.points + point
                upstream += share * (step.gradient(place, number) if number else inner(place - step.origin))
            if transform:
                (upstream,) = torch.autograd.grad(seen, leaf, upstream)
            total += way * upstream
        return total

    def _transformed(self, image: Tensor, draws: Draws) -> Tensor:
        """Return a randomly transformed copy of each image (N, C, H, W). The result is differentiable in `image`."""
        import torch

        words = draws.integers(7)
        resized = diversify(image, _RESIZED, uploaded(words[:, 3:].view(np.int64), image.device))
        rows = [
            _affine(image[row], which, amount) if family % 2 == 0 else resized[row]
            for row, (family, which, amount) in enumerate(words[:, :3].tolist())
        ]
        return torch.stack(rows)


def quantised(image: Tensor, ends: Tensor) -> Tensor:
    """Return `image` (N, C, H, W) with each value lowered to the lower end of its region.

    R cuts divide the range of values of each channel of an image into R + 1 regions. `ends` (N, C, R), in -1..1, are
    the positions of the cuts in this range: -1 is the minimum of the channel, and 1 is the maximum. The lowest region
    begins at the minimum.
    """
    low, high = image.amin((2, 3), keepdim=True), image.amax((2, 3), keepdim=True)
    lowered = low.expand_as(image)
    for end in ends.sort(dim=-1).values.unbind(-1):
        cut = low + (high - low) * (end[..., None, None] + 1) / 2
        lowered = cut.where(image >= cut, lowered)
    return lowered


def _affine(image: Tensor, which: int, amount: int) -> Tensor:
    """Return an image (C, H, W) after one of five changes: a roll or a flip along either axis, or a rotation.

    `which` and `amount` are random 64-bit integers. `which` selects the change. `amount` determines the distance of a
    roll or the angle of a rotation.
    """
    height, width = image.shape[1:]
    match which % _KINDS:
        case 0:
            return image.roll(amount % height, 1)
        case 1:
            return image.roll(amount % width, 2)
        case 2:
            return image.flip(1)
        case 3:
            return image.flip(2)
        case _:
            return rotated(image, math.radians(_DEGREES * (2 * amount / 2**64 - 1)))


def rotated(image: Tensor, angle: float) -> Tensor:
    """Return an image (C, H, W) rotated about its centre by `angle` radians.

    The interpolation is bilinear, and values outside the image are 0.
    """
    import torch

    height, width = image.shape[1:]
    down = (torch.arange(height, device=image.device, dtype=image.dtype) - (height - 1) / 2)[:, None]
    right = (torch.arange(width, device=image.device, dtype=image.dtype) - (width - 1) / 2)[None]
    across = math.cos(angle) * right + math.sin(angle) * down
    along = math.cos(angle) * down - math.sin(angle) * right
    grid = torch.stack([across * 2 / max(1, width - 1), along * 2 / max(1, height - 1)], -1)
    return torch.nn.functional.grid_sample(image[None], grid[None], align_corners=True)[0]
