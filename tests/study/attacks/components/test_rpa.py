"""RPA against the formula written out, patch by patch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.study.attacks.components.feature_networks import (
    BUDGET,
    LAYER,
    SIZE,
    Net,
    climbed,
    drawn,
    feature_gradient,
    features,
    gradient_of,
    logit,
    moved,
    origin,
    probability,
    unit,
)


def attack(**more):
    return BUDGET | {"momentum": 1, "objective": {"rpa": {"layer": LAYER, "masks": 5} | more}}


def mask(number, sizes):
    """One mask: 16 pixels hold five patches of 3, and three of 5; the last pixel is never changed."""
    size = sizes[number % len(sizes)]
    cells = SIZE // size
    chosen = drawn().uniform((3, cells, cells), "cpu", f"rpa.patches{number}").numpy()
    noise = drawn().uniform((3, SIZE, SIZE), "cpu", f"rpa.noise{number}").numpy()
    found = np.ones((3, 3, SIZE, SIZE))
    for image, channel, row, column in np.ndindex(chosen.shape):
        if chosen[image, channel, row, column] < 2 * 0.3 - 1:
            for down, right in np.ndindex(size, size):
                place = image, channel, row * size + down, column * size + right
                found[place] = (noise[place] + 1) / 2
    return torch.from_numpy(found)


@pytest.mark.parametrize("score", ["logit", "probability"])
@pytest.mark.parametrize("sizes", [(1, 3, 5, 7), (1,)])
def test_is_the_formula(score, sizes):
    net = Net()
    of = logit if score == "logit" else probability
    weights = unit(sum(feature_gradient(net, origin() * mask(number, sizes), of) for number in range(5)))
    expected = climbed(gradient_of(lambda image: -(weights * features(net, image)).sum()), momentum=1)
    assert (moved(net, attack(score=score, sizes=sizes)) - expected).abs().max() < 1e-4


def test_patches_change_their_share():
    changed = torch.stack([mask(number, (1, 3, 5)) < 1 for number in range(30)]).double().mean()
    # 15 of 16 rows and columns hold whole patches, of every size.
    assert abs(changed - 0.3 * (1 + 2 * (15 / 16) ** 2) / 3) < 0.02


def test_patches_larger_than_the_image_change_nothing():
    net = Net()
    plain = moved(net, attack(sizes=[100], masks=1))
    weights = unit(feature_gradient(net, origin(), logit))
    expected = climbed(gradient_of(lambda image: -(weights * features(net, image)).sum()), momentum=1)
    assert (plain - expected).abs().max() < 1e-4
