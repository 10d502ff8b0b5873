"""PI's look-ahead against its formula in a plain loop."""

from __future__ import annotations

import pytest
import torch

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


@pytest.mark.parametrize(("goal", "sign"), [("untargeted", 1), ("targeted", -1)])
@pytest.mark.parametrize("reach", [1.0, 3.0])
def test_the_look_ahead_follows_the_last_gradient(small_model, small_images, goal, sign, reach):
    model, clean = Pixels(small_model), double(small_images)
    x, momentum, last = clean, torch.zeros_like(clean), torch.zeros_like(clean)
    for _ in range(10):
        gradient = slope(model, x + reach * 1.6 * last, sign=sign)
        last = mean_one(gradient)
        momentum = momentum + last
        x = clipped(x + 1.6 * momentum.sign(), clean)
    keys = keys_of("pi", {"points": [{"pre_gradient": reach}]})
    assert_same(ours(model, keys, small_images, goal), x)


def test_it_is_not_nesterovs_from_the_third_step_on(small_model, small_images):
    """The first look-ahead of both is along the first gradient; then Nesterov's follows the sum."""
    model = Pixels(small_model)
    for steps, same in ((2, True), (6, False)):
        keys = {"steps": steps, "step_size": 1.6}
        pi, ni = (ours(model, keys_of(name, keys), small_images) for name in ("pi", "ni"))
        assert torch.equal(pi, ni) == same
