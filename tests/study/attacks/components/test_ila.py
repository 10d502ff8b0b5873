"""ILA against the formula written out, after a first stage that is our own attack."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from study.attacks import Attack
from study.attacks.loop import Engine, ImageBatch, craft
from tests.study.attacks.components.feature_networks import (
    BUDGET,
    IDS,
    KEY,
    LABELS,
    LAYER,
    Net,
    clean,
    climbed,
    features,
    gradient_of,
    moved,
    origin,
)

FIRST = {"step": "sign", "steps": 2, "momentum": 1}


def first_stage(net):
    """The finished images of the first stage."""
    given = ImageBatch(clean(), LABELS, IDS)
    attack = Attack.model_validate(FIRST | {"epsilon": 9})
    engine = Engine(batch=3, layout="contiguous")
    made = craft([net], attack, "untargeted", given, key=(*KEY, "first stage"), engine=engine)
    assert made.linf.max() == 9
    return torch.from_numpy(made.pixels).double()


@pytest.mark.parametrize("form", ["projection", "flexible"])
def test_is_the_formula(form):
    net = Net()
    start = features(net, origin()).detach()
    ways = (features(net, first_stage(net)) - start).detach()

    def loss(image):
        total = 0
        for now, before, way in zip(features(net, image), start, ways, strict=True):
            along = ((now - before) * way).sum()
            if form == "projection":
                total = total + along
            elif (now == before).all():
                # At the clean image: the length has no gradient, and the cosine is not defined.
                total = total + along / way.norm()
            else:
                length = (now - before).norm()
                total = total + along / (length * way.norm()) + 0.5 * length / way.norm()
        return total

    expected = climbed(gradient_of(loss))
    keys = BUDGET | {"objective": {"ila": {"layer": LAYER, "form": form, "magnitude": 0.5}}, "first": FIRST}
    found = moved(net, keys)
    assert (found - expected).abs().max() < 1e-4
    other = moved(net, keys | {"objective": {"ila": {"layer": "trunk.1", "form": form}}})
    assert (found - other).abs().max() > 1


def test_moves_features_further_than_its_first_stage():
    """What the method is for: the same direction, more of it."""
    net = Net()
    start = features(net, origin())
    way = features(net, first_stage(net)) - start
    keys = BUDGET | {"objective": {"ila": {"layer": LAYER}}, "first": FIRST}
    own = features(net, moved(net, keys)) - start
    assert ((own * way).flatten(1).sum(1) > 1.03 * (way * way).flatten(1).sum(1)).all()


def test_needs_a_first_stage():
    with pytest.raises(ValueError, match="`ila` needs a `first` stage"):
        Attack.model_validate(BUDGET | {"objective": {"ila": {"layer": LAYER}}})


def test_a_first_stage_that_moves_nothing_leaves_the_image():
    class Flat(Net):
        def forward(self, pixels):
            return super().forward(pixels) * 0

    keys = BUDGET | {"objective": {"ila": {"layer": LAYER}}, "first": FIRST}
    np.testing.assert_array_equal(moved(Flat(), keys).numpy(), clean())
