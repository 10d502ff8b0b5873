"""ILA++ against the formula written out, after a first stage that is our own attack."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

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

FIRST = {"step": "sign", "steps": 4, "checkpoints": [1, 2, 3]}


def way_of_the_first_stage(net, goal):
    """Its images at all steps: (steps, N, C, H, W)."""
    given = ImageBatch(clean(), LABELS, IDS)
    attack = Attack.model_validate(FIRST | {"epsilon": 9})
    engine = Engine(batch=3, layout="contiguous")
    made = craft([net], attack, goal, given, key=(*KEY, "first stage"), engine=engine)
    return torch.from_numpy(made.pixels).double().unflatten(0, (4, 3))


@pytest.mark.parametrize("goal", ["untargeted", "targeted"])
@pytest.mark.parametrize("ridge", [None, 0.5])
def test_is_the_formula(ridge, goal):
    net = Net()
    start = features(net, origin()).detach().flatten(1)
    images = way_of_the_first_stage(net, goal)
    directions = []
    for index in range(3):
        rows, losses = [], []
        for image in images[:, index]:
            row = (features(net, image[None]).flatten() - start[index]).detach()
            rows.append(row / row.norm())
            entropy = functional.cross_entropy(net(image[None]), torch.tensor([LABELS[index]]))
            losses.append(float((-entropy if goal == "targeted" else entropy).detach()))
        matrix, losses = torch.stack(rows), torch.tensor(losses).double()
        if ridge is None:
            found = matrix.T @ losses
        else:
            square = matrix.T @ matrix + ridge * torch.eye(matrix.shape[1], dtype=torch.float64)
            found = torch.linalg.inv(square) @ matrix.T @ losses
        directions.append(found)
    directions = torch.stack(directions)
    expected = climbed(gradient_of(lambda image: (features(net, image).flatten(1) * directions).sum()))
    keys = BUDGET | {"objective": {"ila++": {"layer": LAYER, "iterates": 4, "ridge": ridge}}, "first": FIRST}
    assert (moved(net, keys, goal) - expected).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("objective", "first", "said"),
    [
        ({"ila++": {"iterates": 4}}, FIRST | {"checkpoints": [2]}, "reads 4 images of the `first` stage, which has 2"),
        ({"ila": {}}, FIRST, "cannot have checkpoints"),
        ({"ila++": {"iterates": 4}}, None, "needs a `first` stage"),
    ],
)
def test_the_first_stage_has_as_many_images_as_are_read(objective, first, said):
    keys = BUDGET | {"objective": objective} | ({} if first is None else {"first": first})
    with pytest.raises(ValueError, match=said):
        Attack.model_validate(keys)


def test_cost_counts_all_images_of_the_first_stage():
    attack = Attack.model_validate(BUDGET | {"objective": {"ila++": {"layer": LAYER, "iterates": 4}}, "first": FIRST})
    assert attack.gradients(3, 1) == 7
    assert attack.forwards(3, 1) == 5
    np.testing.assert_equal(attack.first.gradients(4, 1), 4)
