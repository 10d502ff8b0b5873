"""MEF against its formula in a plain loop, for both signs of the move by memory."""

from __future__ import annotations

import pytest
import torch

from study.attacks.presets import keys_of
from tests.study.attacks.components.point_oracles import (
    Pixels,
    assert_same,
    clipped,
    double,
    drawn,
    mean_one,
    ours,
    slope,
)


@pytest.mark.parametrize(("variant", "sign"), [("paper", -1), ("authors", 1)])
def test_each_neighbour_moves_by_its_memory(small_model, small_images, variant, sign):
    model, clean = Pixels(small_model), double(small_images)
    x, momentum = clean, torch.zeros_like(clean)
    memories = [torch.zeros_like(clean) for _ in range(4)]
    for step in range(4):
        gradients = []
        for number in range(4):
            near = x + 2 * 16 * drawn("mef", step, number) + sign * 0.15 * 16 * memories[number]
            gradients.append(slope(model, near))
            memories[number] = mean_one(gradients[-1]) - 0.9 * memories[number]
        momentum = 0.5 * momentum + mean_one(sum(gradients) / 4)
        x = clipped(x + 1.6 * momentum.sign(), clean)
    rule = {"mef": {"samples": 4, "variant": variant}}
    assert_same(ours(model, keys_of("mef", {"steps": 4, "points": [rule]}), small_images), x)


def test_the_papers_move_lowers_the_gain(small_model, small_images):
    """The derivation: at a new neighbour, the move of `paper` finds a lower gain than that of `authors`."""
    model, clean = Pixels(small_model), double(small_images)
    memory = mean_one(slope(model, clean + 32 * drawn("mef", 0, 0)))
    near = clean + 32 * drawn("mef", 1, 0)
    labels = torch.arange(1, 7)
    gains = [
        torch.nn.functional.cross_entropy(model(near + sign * 2.4 * memory), labels, reduction="none").detach()
        for sign in (-1, 0, 1)
    ]
    assert (gains[0] < gains[1]).all()
    assert (gains[1] < gains[2]).all()
