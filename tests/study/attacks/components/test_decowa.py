"""DeCoWA against scipy's thin-plate spline, torch's grid_sample and torchattack's warp."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.interpolate import RBFInterpolator
from torch.nn import functional
from torchattack.decowa import DeCoWA

from study.attacks.components.decowa import sampled, sampled_in_order, warped
from study.attacks.presets import keys_of
from tests.study.attacks.components.transforms_by_hand import LABELS, Draws, by_hand, in_double, loss, ours


def spline_grid(theta, mesh, height, width):
    """Where each pixel's value comes from (1, H, W, 2), by scipy; linear in theta (points, 2), through its basis."""
    line = np.linspace(-1, 1, mesh)
    control = np.array([(x, y) for y in line for x in line])
    pixels = np.array([(x, y) for y in np.linspace(-1, 1, height) for x in np.linspace(-1, 1, width)])
    inner = [y * mesh + x for y in range(1, mesh - 1) for x in range(1, mesh - 1)]
    moved = np.eye(mesh * mesh)[:, inner]
    basis = RBFInterpolator(control, moved, kernel="thin_plate_spline", degree=1)(pixels)
    places = torch.from_numpy(pixels) + torch.from_numpy(basis) @ theta
    return places.view(1, height, width, 2)


@pytest.mark.parametrize("mesh", [3, 5])
@pytest.mark.parametrize("aligned", [True, False])
def test_a_warp_is_scipys_spline_and_torchs_sampling(mesh, aligned):
    random = torch.Generator().manual_seed(1)
    image = torch.rand(3, 2, 20, 26, generator=random, dtype=torch.float64) * 255
    theta = torch.rand(3, (mesh - 2) ** 2, 2, generator=random, dtype=torch.float64) * 2 - 1
    expected = torch.cat(
        [
            functional.grid_sample(one[None], spline_grid(own, mesh, 20, 26), align_corners=aligned)
            for one, own in zip(image, theta, strict=True)
        ]
    )
    torch.testing.assert_close(warped(image, theta, mesh, aligned=aligned), expected, rtol=0, atol=1e-6)
    if aligned:
        still = warped(image, torch.zeros_like(theta), mesh, aligned=True)
        torch.testing.assert_close(still, image, rtol=0, atol=1e-9)


@pytest.mark.parametrize("aligned", [True, False])
def test_the_sampling_for_gpus_is_torchs(aligned):
    """Values, and the gradients of both the image and the places."""
    random = torch.Generator().manual_seed(2)
    image = torch.rand(2, 3, 9, 11, generator=random, dtype=torch.float64, requires_grad=True)
    grid = torch.rand(2, 9, 11, 2, generator=random, dtype=torch.float64) * 2.6 - 1.3
    grid.requires_grad_(True)
    weight = torch.rand(2, 3, 9, 11, generator=random, dtype=torch.float64)
    found = [one(image, grid, aligned=aligned) for one in (sampled, sampled_in_order)]
    slopes = [torch.autograd.grad((one * weight).sum(), (image, grid)) for one in found]
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(slopes[0], slopes[1])


def test_the_warp_of_the_authors_is_torchattacks():
    """Its grid is float32, and adds 1e-9 to the squared distances inside the logarithm."""
    theirs = DeCoWA(torch.nn.Identity(), device=torch.device("cpu"))
    image = torch.rand(1, 3, 5, 5, generator=torch.Generator().manual_seed(3)) * 255
    image = functional.interpolate(image, (32, 32), mode="bilinear")
    for theta in ((0.6, -0.9), (-0.2, 0.3), (0.0, 0.0)):
        moved = torch.tensor(theta)
        expected = theirs._vwt(image, moved.view(1, 1, 2))
        torch.testing.assert_close(warped(image, moved.view(1, 1, 2), 3, aligned=False), expected, rtol=0, atol=3e-3)


@pytest.mark.parametrize("variant", ["paper", "authors"])
def test_the_attack_is_the_printed_algorithm(small_model, small_images, variant):
    """Three steps of two copies: theta takes one step down the image's own gain, and the gradient is taken there."""
    model = in_double(small_model.double())

    def warp(image, theta):
        grid = spline_grid(theta, 3, 12, 12).to(image.dtype)
        return functional.grid_sample(image, grid, align_corners=variant == "paper")

    def gradient(image, row, step):
        total = torch.zeros_like(image)
        for copy in range(2):
            theta = Draws(row, "decowa").uniform((1, 2), step=step, number=copy).double().requires_grad_(True)
            (slope,) = torch.autograd.grad(loss(model, warp(image, theta), LABELS[row]), theta)
            leaf = image.detach().requires_grad_(True)
            at = loss(model, warp(leaf, theta.detach() - 0.01 * slope), LABELS[row])
            total += torch.autograd.grad(at, leaf)[0]
        return total / 2

    keys = keys_of("decowa", {"steps": 3, "views": [{"decowa": {"copies": 2, "variant": variant}}]})
    expected = by_hand(small_images, gradient, steps=3, epsilon=16, size=16 / 3)
    torch.testing.assert_close(ours(model, keys, small_images), expected, rtol=0, atol=1e-4)
    small_model.float()
