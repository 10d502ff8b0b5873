"""The cosine head against the cosine written out."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from study.attacks.presets import keys_of
from study.errors import StudyError
from study.models import Model, loading
from tests.study.attacks.components import small_sources as small

PLAIN = {"diversity": None, "kernel": None, "steps": 3, "step_size": 4}


@pytest.mark.parametrize("goal", ["targeted", "untargeted"])
@pytest.mark.parametrize("build", [small.resnet, lambda: small.vit(32, 2)], ids=["resnet", "vit"])
def test_it_turns_the_last_features_towards_the_targets_weights(build, goal):
    network, clean = build(), small.images(32)
    bare = copy.deepcopy(network)
    name = "fc" if hasattr(network, "fc") else "head"
    head = getattr(bare, name)
    setattr(bare, name, nn.Identity())

    def gradient(image, step):
        features = bare(small.normalised(image))
        weights = head.weight[torch.from_numpy(small.LABELS)]
        cosine = (features * weights).sum(1) / (features.square().sum(1).sqrt() * weights.square().sum(1).sqrt())
        return torch.autograd.grad((cosine if goal == "targeted" else -cosine).sum(), image)[0]

    source = small.source(network, 32)
    before = source(torch.from_numpy(clean).double())
    mine = small.ours(source, keys_of("logit-cosine", PLAIN), clean, goal)
    assert small.apart(mine, small.looped(gradient, clean, steps=3, size=4)) < 1e-4
    assert torch.equal(source(torch.from_numpy(clean).double()), before), "the head is as it was"


def test_a_head_that_is_no_linear_layer_is_refused():
    given = {"network": "torchvision:squeezenet1_1", "weights": "random:1", "size": 48}
    source = loading.load("squeezed", Model.model_validate(given))
    with pytest.raises(StudyError, match=r"the last layer of '0', classifier\.1, is no linear layer"):
        small.ours(source, keys_of("logit-cosine", PLAIN), small.images(48))
