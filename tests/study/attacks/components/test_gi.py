"""GI against its algorithm in a plain loop."""

from __future__ import annotations

import pytest
import torch

from study.attacks import Attack
from study.attacks.presets import keys_of
from tests.study.attacks.components.point_oracles import (
    Pixels,
    assert_same,
    clipped,
    double,
    mean_one,
    ours,
    slope,
)


@pytest.mark.parametrize("variant", ["paper", "authors"])
def test_momentum_is_warmed_up_and_the_image_begins_again(small_model, small_images, variant):
    model, clean = Pixels(small_model), double(small_images)
    x, momentum = clean, torch.zeros_like(clean)
    for _ in range(5):
        momentum = momentum + mean_one(slope(model, x))
        x = clipped(x + 16 * momentum.sign(), clean)
    warm, x = x, clean
    for step in range(10):
        at = warm if step == 0 and variant == "authors" else x
        momentum = momentum + mean_one(slope(model, at))
        x = clipped(x + 1.6 * momentum.sign(), clean)
    keys = keys_of("gi", {"step": {"gi": {"variant": variant}}, "step_size": 1.6})
    assert_same(ours(model, keys, small_images), x)


def test_it_begins_again_where_it_began(small_model, small_images):
    """From a random start: after the warm-up's last step the image is the start again."""
    model = Pixels(small_model)
    start = {"start": "random", "step_size": 1.6}
    again = ours(model, keys_of("gi", start | {"steps": 6, "checkpoints": [5], "momentum": 0}), small_images)
    began = ours(model, keys_of("bim", start | {"steps": 1}), small_images)
    assert_same(again, began)
    short = ours(model, keys_of("gi", {"steps": 5}), small_images)
    assert (short - double(small_images)).abs().max() == 16


def test_summed_updates_are_refused():
    with pytest.raises(ValueError, match="begins again for all source models at once"):
        Attack.model_validate(keys_of("gi", {"fusion": "summed-updates"}))
