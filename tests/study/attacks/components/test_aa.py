"""AA against the formula written out, with guides of a pool."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from study.attacks import Attack
from study.attacks.kinds import Pool
from study.attacks.loop import Engine, ImageBatch, perturbations
from study.errors import StudyError
from tests.study.attacks.components.feature_networks import (
    BUDGET,
    IDS,
    KEY,
    LABELS,
    LAYER,
    SIZE,
    Net,
    clean,
    climbed,
    drawn,
    features,
    gradient_of,
    origin,
)

OTHERS = np.random.default_rng(9).integers(0, 256, (7, 3, SIZE, SIZE), dtype=np.uint8)
KEYS = BUDGET | {"momentum": 1, "objective": {"aa": {"layer": LAYER}}}


def moved(net, goal, pool):
    engine = Engine(batch=3, layout="contiguous")
    given = ImageBatch(clean(), LABELS, IDS)
    found = perturbations([net], Attack.model_validate(KEYS), goal, given, key=KEY, engine=engine, pool=pool)
    return (origin() + torch.cat([deltas[-1] for _, deltas, _ in found]).double().clamp(-9, 9)).clamp(0, 255)


@pytest.mark.parametrize("goal", ["targeted", "untargeted"])
def test_is_the_formula(goal):
    net, labels = Net(), np.array([3, 3, 1, 4, 4, 4, 8])
    words = drawn().integers(1, "aa")[:, 0].tolist()
    guides = []
    for label, word in zip(LABELS, words, strict=True):
        fitting = [number for number, one in enumerate(labels) if (one == label) == (goal == "targeted")]
        guides.append(OTHERS[fitting[word % len(fitting)]])
    wanted = features(net, torch.from_numpy(np.stack(guides))).detach()

    def loss(image):
        pairs = zip(features(net, image), wanted, strict=True)
        return -sum((now - there).square().sum().sqrt() for now, there in pairs)

    found = moved(net, goal, Pool(OTHERS, labels))
    assert (found - climbed(gradient_of(loss), momentum=1)).abs().max() < 1e-4
    before, after = loss(origin()), loss(found)
    assert after > before


def test_a_target_that_no_image_of_the_pool_has_is_refused():
    with pytest.raises(StudyError, match="none of the 7 images of the attack's pool has the target label 3"):
        moved(Net(), "targeted", Pool(OTHERS, np.array([1, 4, 4, 4, 4, 4, 4])))


def test_at_the_guide_nothing_pulls():
    """An image that is its own guide: the norm is 0 there, and its gradient too."""
    found = moved(Net(), "targeted", Pool(clean(), LABELS))
    assert torch.equal(found, origin())
