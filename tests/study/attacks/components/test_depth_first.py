"""SMI-FGRM, with its random walk and its rescaled steps, against its formula."""

from __future__ import annotations

import pytest
import torch

from study.attacks.components.rescaled import Rescaled
from tests.study.attacks.components.written_out import GOALS, PIXELS, attacked, clip, gradient, n, uniform


def rescaled(g):
    logarithm = g.abs().log2()
    z = (logarithm - logarithm.mean((1, 2, 3), keepdim=True)) / logarithm.std((1, 2, 3), keepdim=True)
    return 2 * g.sign() / (1 + torch.exp(-z))


@pytest.mark.parametrize("goal", GOALS)
def test_smi_fgrm_is_the_printed_algorithm(small_images, goal):
    """Han et al. 2023: N + 1 gradients along a walk, momentum, and a step by the logarithm of the momentum."""
    x = clean = torch.from_numpy(small_images).double()
    momentum = torch.zeros_like(clean)
    for step in range(4):
        place, total = x, gradient(PIXELS, x, goal)
        for sample in range(1, 13):
            place = place + 1.5 * 16 * uniform((3, 12, 12), "depth-first-sampling", step, sample)
            total = total + gradient(PIXELS, place, goal)
        momentum = momentum + n(total / 13)
        x = clip(x + 4 * rescaled(momentum), clean)
    assert (attacked(PIXELS, "smi-fgrm", {"steps": 4}, small_images, goal) - x).abs().max() < 1e-4


def test_places_wander_further_than_neighbours(small_images):
    """A walk is not a ball: with the same draws around the image, the images differ."""
    walk = attacked(PIXELS, "smi-fgrm", {"steps": 2}, small_images)
    near = attacked(PIXELS, "smi-fgrm", {"steps": 2, "points": [{"depth-first-sampling": {"beta": 0.1}}]}, small_images)
    assert (walk - near).abs().max() > 1


def test_pixels_without_a_gradient_do_not_move_and_do_not_count():
    g = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    padded = torch.cat([g, torch.zeros_like(g)], dim=-1)
    found = Rescaled().direction(padded, None, {})
    torch.testing.assert_close(found[..., :8], rescaled(g))
    assert not found[..., 8:].any()
    assert not Rescaled().direction(torch.zeros_like(g), None, {}).any()


def test_the_authors_variant_is_their_rule_in_each_channel():
    """Pixel by pixel: weight 2 log(1 + ceil(m - e + 1e-9) / m) for e = -log2 |g|."""
    g = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = Rescaled(variant="authors").direction(g, None, {})
    for image in range(2):
        for channel in range(3):
            exponents = -torch.log2(g[image, channel].abs())
            largest = exponents.max()
            for row in range(5):
                for column in range(5):
                    stair = torch.ceil(largest - exponents[row, column] + 1e-9)
                    weight = 2 * torch.log(1 + stair / largest)
                    expected = weight * g[image, channel, row, column].sign()
                    torch.testing.assert_close(found[image, channel, row, column], expected)
