"""The staircase sign against the authors' loop over percentiles."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from study.attacks.components.staircase import StaircaseSign
from tests.study.attacks.components.written_out import GOALS, PIXELS, attacked, clip, gradient


def staircase(g, stairs):
    """Class by class: what is at most the j-th percentile and has no weight yet gets (2 j - 1) / stairs."""
    found = torch.zeros_like(g)
    for image in range(g.shape[0]):
        for channel in range(g.shape[1]):
            size, done = g[image, channel].abs(), torch.zeros(g.shape[2:], dtype=torch.bool)
            for stair in range(1, stairs + 1):
                end = float(np.percentile(size.numpy(), 100 * stair / stairs, method="lower"))
                these = (size <= end) & ~done
                found[image, channel][these] = (2 * stair - 1) / stairs
                done |= these
            assert done.all()
    return found * g.sign()


@pytest.mark.parametrize("host", [True, False])
@pytest.mark.parametrize("stairs", [1, 4, 64, 300])
def test_weights_are_those_of_the_percentiles(stairs, host, monkeypatch):
    """On a CPU, and as a GPU does it; with ties, and with more stairs than values."""
    monkeypatch.setattr("study.attacks.components.staircase.is_host", lambda device: host)
    g = torch.randn(2, 3, 9, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    g[0, 0, :3] = 0
    g[1, 1] = g[1, 1].round()
    found = StaircaseSign(stairs=stairs).direction(g, None, {})
    torch.testing.assert_close(found, staircase(g, stairs))
    if stairs == 1:
        torch.testing.assert_close(found, g.sign())


@pytest.mark.parametrize("goal", GOALS)
def test_i_fgs2m_is_the_printed_algorithm(small_images, goal):
    x = clean = torch.from_numpy(small_images).double()
    for _ in range(4):
        x = clip(x + 4 * staircase(gradient(PIXELS, x, goal), 64), clean)
    assert (attacked(PIXELS, "i-fgs2m", {"steps": 4}, small_images, goal) - x).abs().max() < 1e-4
