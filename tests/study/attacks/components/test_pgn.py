"""PGN against its algorithm in a plain loop, for both norms."""

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


@pytest.mark.parametrize("variant", ["paper", "authors"])
def test_neighbours_and_the_places_downhill_from_them(small_model, small_images, variant):
    model, clean = Pixels(small_model), double(small_images)
    x, momentum = clean, torch.zeros_like(clean)
    for step in range(4):
        total = torch.zeros_like(clean)
        for sample in range(5):
            near = x + 3 * 16 * drawn("pgn", step, sample)
            first = slope(model, near)
            norm = first.abs().sum((1, 2, 3)) if variant == "paper" else first.abs().mean((1, 2, 3))
            second = slope(model, near - 4 * first / norm[:, None, None, None])
            total += 0.3 * first + 0.7 * second
        momentum = momentum + mean_one(total)
        x = clipped(x + 4 * momentum.sign(), clean)
    rule = {"pgn": {"samples": 5, "balance": 0.7, "variant": variant}}
    assert_same(ours(model, keys_of("pgn", {"steps": 4, "points": [rule]}), small_images), x)


def test_the_papers_norm_leaves_the_second_place_where_the_first_is(small_model, small_images):
    """The reason for the preset's variant: with the L1 norm the second gradient is the first."""
    model = Pixels(small_model)

    def attacked(variant, balance):
        rule = {"pgn": {"samples": 2, "balance": balance, "variant": variant}}
        return ours(model, keys_of("pgn", {"steps": 2, "points": [rule]}), small_images)

    def changed(variant):
        return float((attacked(variant, 0.0) != attacked(variant, 1.0)).double().mean())

    assert changed("paper") < 0.001
    assert changed("authors") > 0.01
