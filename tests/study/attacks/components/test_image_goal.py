"""The objective with another image as its goal against the formula written out, and M-Attack on an image encoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from study.attacks import Attack
from study.attacks.components.image_goal import ImageGoal
from study.attacks.kinds import Pool
from study.attacks.loop import Engine, ImageBatch, perturbations
from study.attacks.presets import keys_of
from study.errors import StudyError
from study.models.classifier import Preprocessing
from study.models.zero_shot import ZeroShot
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
from tests.study.attacks.components.test_crop import direct

OTHERS = np.random.default_rng(9).integers(0, 256, (7, 3, SIZE, SIZE), dtype=np.uint8)
OTHER_LABELS = np.array([3, 3, 1, 4, 4, 4, 8])


def moved(net, keys, goal, labels=OTHER_LABELS):
    given = ImageBatch(clean(), LABELS, IDS)
    found = perturbations(
        [net],
        Attack.model_validate(keys),
        goal,
        given,
        key=KEY,
        engine=Engine(batch=3, layout="contiguous"),
        pool=Pool(OTHERS, labels),
    )
    return (origin() + torch.cat([deltas[-1] for _, deltas, _ in found]).double().clamp(-9, 9)).clamp(0, 255)


def goal_images(goal):
    words = drawn().integers(1, "image-goal")[:, 0].tolist()
    chosen = []
    for label, word in zip(LABELS, words, strict=True):
        fitting = [number for number, one in enumerate(OTHER_LABELS) if (one == label) == (goal == "targeted")]
        chosen.append(OTHERS[fitting[word % len(fitting)]])
    return torch.from_numpy(np.stack(chosen)).double()


def cosines(here, there):
    return nn.functional.cosine_similarity(here.flatten(1), there.flatten(1), dim=1)


@pytest.mark.parametrize("goal", ["targeted", "untargeted"])
def test_is_the_formula(goal):
    net = Net()
    wanted = features(net, goal_images(goal)).detach()

    def loss(image):
        return cosines(features(net, image), wanted).sum()

    found = moved(net, BUDGET | {"objective": {"image-goal": {"layer": LAYER}}}, goal)
    assert (found - climbed(gradient_of(loss))).abs().max() < 1e-4
    assert (cosines(features(net, found), wanted) > cosines(features(net, origin()), wanted)).all()


class Encoder(nn.Module):
    """The trunk of the small network and a projection, as the image encoder of a zero-shot classifier."""

    def __init__(self, net):
        super().__init__()
        self.trunk, self.scale = net.trunk, 1

    def forward(self, pixels):
        return self.trunk(pixels.double() / 255 - 0.5).mean((2, 3))


def zero_shot():
    generator = torch.Generator().manual_seed(1)
    text = nn.functional.normalize(torch.randn(10, 8, generator=generator).double(), dim=1)
    return ZeroShot(Encoder(Net()), text, 20.0, 0.0, Preprocessing(SIZE, "bilinear", (0.0,) * 3, (1.0,) * 3)).eval()


def test_m_attack_raises_the_cosine_of_embeddings_of_crops():
    model, step = zero_shot(), iter(range(3))
    wanted = model.image(goal_images("targeted")).detach()
    assert ImageGoal().layers(model) == ["image"]
    crop = Attack.model_validate(keys_of("m-attack", {})).assembly.views[0]

    def found(image):
        now = next(step)
        return gradient_of(lambda one: cosines(model.image(direct(one, now, 0, crop, drawn())), wanted).sum())(image)

    keys = keys_of("m-attack", {"steps": 3, "step_size": 3, "epsilon": 9})
    images = moved(model, keys, "targeted")
    assert (images - climbed(found)).abs().max() < 1e-4
    assert cosines(model.image(images), wanted).mean() > cosines(model.image(origin()), wanted).mean()


def test_a_target_that_no_image_of_the_pool_has_is_refused():
    keys = BUDGET | {"objective": {"image-goal": {"layer": LAYER}}}
    with pytest.raises(StudyError, match="none of the 7 images of the attack's pool has the target label 3") as refused:
        moved(Net(), keys, "targeted", np.array([1, 4, 4, 4, 4, 4, 4]))
    assert "raise the `pool` of `image-goal`" in str(refused.value)
