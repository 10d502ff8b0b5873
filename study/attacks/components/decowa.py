"""DeCoWA: a view that warps the image at random. Each warp is first adjusted so that it lowers the attack's loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from study.attacks.budget_spec import Positive
from study.attacks.kinds import View, ViewContext
from study.attacks.registry import register
from study.devices.copies import uploaded
from study.devices.tables import kept

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@register
class ConstrainedWarp(View):
    """DeCoWA: `copies` random thin-plate warps of the image, each changed by one step that lowers the loss.

    Source: Lin et al., AAAI 2024, arXiv:2402.03951, algorithm 1. A mesh of `mesh` x `mesh` control points covers the
    image. The outer points stay in place. Each inner point moves by theta, which is uniform from -`reach` to `reach`
    along both axes. The unit of `reach` is half the side of the image. A thin-plate spline through the control points
    moves every pixel.

    The attack maximises the loss, and the warp opposes the attack: theta takes one step down the loss. The new theta is
    theta - `rate` * d loss / d theta. The copy is the image, warped with the new theta.

    Every image and copy has its own theta, which follows the gradient of the image's own loss. In the authors' code,
    TransferAttack and torchattack, all images of a batch share one theta, which follows the gradient of their mean
    loss.

    `variant: authors` uses the sampling grid of the authors' code. This grid extends half a pixel beyond the centres of
    the outermost pixels. Even a warp by 0 then shrinks the content of the image by 1 / (side in pixels), and mixes
    zeros into the edges.
    """

    name: ClassVar[str] = "decowa"

    copies: Annotated[int, Field(ge=1, le=10_000)] = 20
    mesh: Annotated[int, Field(ge=3, le=32)] = 3
    reach: Positive = 1.0
    rate: Positive = 0.01
    variant: Literal["paper", "authors"] = "paper"

    @property
    def inner_gradients(self) -> int:
        return 1

    def make(self, image: Tensor, given: ViewContext) -> Tensor:
        import torch

        inner = self.mesh - 2
        theta = self.reach * given.draws.uniform((inner * inner, 2)).to(image.dtype)
        theta.requires_grad_(True)
        first = self._warped(image.detach(), theta)
        (slope,) = torch.autograd.grad(first, theta, given.gradient(first))
        return self._warped(image, theta.detach() - self.rate * slope)

    def _warped(self, image: Tensor, theta: Tensor) -> Tensor:
        return warped(image, theta, self.mesh, aligned=self.variant == "paper")


def warped(image: Tensor, theta: Tensor, mesh: int, *, aligned: bool) -> Tensor:
    """Return the images (N, C, H, W) after a thin-plate warp of a mesh of `mesh` x `mesh` control points.

    The inner points of the mesh, in row order, move by `theta` (N, points, 2). A movement is (right, down), in half
    sides of the image. If `aligned`, the coordinates -1 and 1 are the centres of the outermost pixels; otherwise they
    are the edges of the image.
    """
    height, width = image.shape[2:]
    still, basis = _plate(mesh, height, width, image.device, image.dtype)
    # Each image has a product of its own, because the rounding of one large product may depend on the number of images.
    moved = basis.expand(len(image), -1, -1) @ theta
    return sampled(image, (still + moved).view(len(image), height, width, 2), aligned=aligned)


def sampled(image: Tensor, grid: Tensor, *, aligned: bool) -> Tensor:
    """Return the values of `image` (N, C, H, W) at the positions `grid` (N, H, W, 2), bilinear, with zeros outside.

    Positions are (x, y). If `aligned`, -1 and 1 are the centres of the outermost pixels; otherwise they are the edges
    of the image. On a CPU, the function calls torch's `grid_sample`. On a GPU, the gradient of `grid_sample` sums in
    random order, so the function calls `sampled_in_order`.
    """
    import torch

    if image.device.type != "cpu":
        return sampled_in_order(image, grid, aligned=aligned)
    return torch.nn.functional.grid_sample(image, grid, "bilinear", "zeros", align_corners=aligned)


def sampled_in_order(image: Tensor, grid: Tensor, *, aligned: bool) -> Tensor:
    """Return the values that `sampled` describes, by operations whose gradients sum in a fixed order on any device."""
    import torch

    batch, channels, height, width = image.shape
    sizes = uploaded(np.array((width, height)), image.device, image.dtype)
    places = (grid + 1) / 2 * (sizes - 1) if aligned else ((grid + 1) * sizes - 1) / 2
    corner = places.detach().floor()
    share = places - corner
    left, top = corner.long().unbind(-1)
    first = torch.arange(batch, device=image.device).view(-1, 1, 1) * (height * width)
    taken, weights = [], []
    for down in (0, 1):
        for right in (0, 1):
            row, column = top + down, left + right
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            taken.append(first + row.clamp(0, height - 1) * width + column.clamp(0, width - 1))
            across = share[..., 0] if right else 1 - share[..., 0]
            along = share[..., 1] if down else 1 - share[..., 1]
            weights.append(across * along * inside)
    pixels = image.permute(0, 2, 3, 1).reshape(-1, channels)
    # The backward pass of this indexing sums gradients in the order of the index, which is always the same.
    values = pixels[torch.stack(taken)] * torch.stack(weights).unsqueeze(-1)
    return values.sum(0).permute(0, 3, 1, 2)


@kept
def _plate(mesh: int, height: int, width: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the positions of all pixels (H * W, 2), and the matrix (H * W, points) that gives their movements.

    The movement of a pixel is linear in the movements of the inner control points. The matrix times the movements
    (points, 2) of the inner points gives the movements (H * W, 2) of all pixels.
    """
    line = np.linspace(-1, 1, mesh)
    control = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    pixels = np.stack(np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height)), -1).reshape(-1, 2)
    points = len(control)
    system = np.zeros((points + 3, points + 3))
    system[:points] = _terms(control, control)
    system[points:, :points] = system[:points, points:].T
    inner = np.arange(points).reshape(mesh, mesh)[1:-1, 1:-1].ravel()
    basis = _terms(pixels, control) @ np.linalg.solve(system, np.eye(points + 3)[:, inner])
    return uploaded(pixels, device, dtype), uploaded(basis, device, dtype)


def _terms(places: NDArray[np.float64], control: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the terms of a thin-plate spline at `places` (P, 2), for control points (K, 2): (P, K + 3).

    The terms are r^2 log r^2 for each control point, then 1, x and y. r is the distance of the place from the control
    point.
    """
    squared = np.square(places[:, None] - control).sum(-1)
    radial = squared * np.log(np.where(squared > 0, squared, 1))
    return np.concatenate([radial, np.ones((len(places), 1)), places], axis=1)
