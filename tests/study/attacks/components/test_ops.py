"""OPS written out image by image, with torch's and torchvision's own operations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from study.attacks.components.ops import OperationSampling
from study.attacks.presets import keys_of
from tests.study.attacks.components.transforms_by_hand import LABELS, Draws, by_hand, in_double, loss, ours, turned


def framed(image, rate, words):
    size = image.shape[-1]
    frame = int(size * rate)
    inner = size + words[1] % max(1, frame - size)
    top, left = (word % max(1, frame - inner) for word in words[2:4])
    image = functional.interpolate(image, (inner, inner), mode="bilinear")
    image = functional.pad(image, (left, frame - inner - left, top, frame - inner - top))
    return functional.interpolate(image, (size, size), mode="bilinear")


OPERATIONS = [
    lambda image, words: image,
    lambda image, words: image.flip(2),
    lambda image, words: image.flip(3),
    lambda image, words: image.roll(words[1] % 12, 2),
    lambda image, words: image.roll(words[1] % 12, 3),
    *(lambda image, words, angle=angle: turned(image, angle) for angle in (5, -5, 15, -15, 45, -45, 90, -90, 180)),
    *(lambda image, words, divisor=divisor: image / divisor for divisor in range(2, 9)),
    *(
        lambda image, words, rate=rate: framed(image, rate, words)
        for rate in (1.1, 1.3, 1.5, 1.7, 1.9, 2.1, 2.3, 2.5, 2.7, 2.9)
    ),
]


@pytest.mark.parametrize("variant", ["paper", "authors"])
def test_the_attack_is_the_mean_over_neighbours_and_compositions(small_model, small_images, variant):
    model = in_double(small_model.double())
    ratios = np.arange(0.25, 1.6, 0.25)
    levels, kept = set(), set()

    def neighbour(row, step, number):
        first = 1 + 3 * number
        draws = Draws(row, "ops")
        if variant == "paper":
            (word,) = draws.words(1, "ratio", step, first)
            return 2 * 16 * ratios[word % 6] * draws.uniform((3, 12, 12), "noise", step, first)
        chosen = int(np.argsort(draws.words(12, "choice", step, 1))[number])
        kept.add((row, chosen))
        return 2 * 16 * ratios[chosen // 2] * draws.uniform((3, 12, 12), "kept", 0, chosen)

    def gradient(image, row, step):
        leaf = image.requires_grad_(True)
        total = torch.autograd.grad(loss(model, leaf, LABELS[row]), leaf)[0]
        for copy in range(6):
            view = leaf + neighbour(row, step, copy // 3)[None]
            draws = Draws(row, "ops")
            level, *chosen = draws.words(5, "composition", step, copy + 1)
            levels.add(2 + level % 3)
            for place, one in enumerate(chosen[: 2 + level % 3]):
                view = OPERATIONS[one % 31](view, draws.words(4, f"operation{place}", step, copy + 1))
            total = total + torch.autograd.grad(loss(model, view, LABELS[row]), leaf)[0]
        return (total / 7).detach()

    keys = keys_of("ops", {"steps": 2, "views": [{"ops": {"samples": 2, "operators": 3, "variant": variant}}]})
    expected = by_hand(small_images, gradient, steps=2, epsilon=16, size=8)
    torch.testing.assert_close(ours(model, keys, small_images), expected, rtol=0, atol=1e-4)
    assert levels == {2, 3, 4}
    assert variant == "paper" or 6 * 2 < len(kept) < 6 * 4
    small_model.float()


def test_the_number_of_copies():
    assert OperationSampling().count == 901
    assert len(OPERATIONS) == 31
