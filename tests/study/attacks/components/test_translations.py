"""ANDA against torch's own sampling of shifted images."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from study.attacks.components.translations import Translations
from study.attacks.views import Views
from tests.study.attacks.components.written_out import GOALS, PIXELS, LABELS, attacked, clip, gradient, streams


def shifted(x, across, down):
    """Torch's bilinear sampling of images shifted by shares of half their width."""
    theta = torch.tensor([[1, 0, across], [0, 1, down]], dtype=x.dtype).expand(len(x), 2, 3)
    return functional.grid_sample(x, functional.affine_grid(theta, x.shape, align_corners=False), align_corners=False)


def test_every_copy_is_torchs_shift():
    x = torch.rand(3, 3, 10, 14, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 255
    view = Translations(side=3, reach=0.4)
    views = Views([view], streams(), LABELS[:3], None, origin=x)
    for copy in range(view.count):
        across, down = (-0.4, 0.0, 0.4)[copy // 3], (-0.4, 0.0, 0.4)[copy % 3]
        torch.testing.assert_close(views.make(x, 0, copy, lambda view: view), shifted(x, across, down))
    torch.testing.assert_close(
        Views([Translations(side=1)], streams(), LABELS[:3], None, origin=x).make(x, 0, 0, lambda view: view), x
    )


@pytest.mark.parametrize("goal", GOALS)
def test_anda_is_the_mean_over_copies_and_steps(small_images, goal):
    """Fang et al. 2024, algorithm 1, output (a): the running mean of all gradients, as the authors update it."""
    x = clean = torch.from_numpy(small_images).double()
    mean, count = torch.zeros_like(clean), 0
    places = torch.linspace(-0.3, 0.3, 5, dtype=torch.float64).tolist()
    for _ in range(4):
        for across in places:
            for down in places:
                g = gradient(lambda x, across=across, down=down: PIXELS(shifted(x, across, down)), x, goal)
                mean = mean * count / (count + 1) + g / (count + 1)
                count += 1
        x = clip(x + 4 * mean.sign(), clean)
    assert count == 100
    assert (attacked(PIXELS, "anda", {"steps": 4}, small_images, goal) - x).abs().max() < 1e-4
