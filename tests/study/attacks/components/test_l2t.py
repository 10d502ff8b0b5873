"""L2T: its learnt probabilities against autograd, its gradients against torchvision and torchattack's operations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional
from torchattack import l2t as theirs

from study.attacks.components.l2t import LearnedTransforms, softmax
from study.attacks.image_operations import LEARNT
from study.attacks.presets import keys_of
from tests.study.attacks.components.transforms_by_hand import (
    LABELS,
    Draws,
    by_hand,
    in_double,
    loss,
    ours,
    turned,
    unprojected,
)


@pytest.mark.parametrize("variant", ["paper", "authors"])
def test_the_ascent_is_the_gradient_of_its_aim(variant):
    """J log p for the paper's policy gradient, J p as the authors' code has it; p by torchattack."""
    drawn = np.random.default_rng(0)
    parameters = drawn.normal(size=(3, 5))
    chains = drawn.integers(0, 5, (4, 3, 2))
    gains = drawn.uniform(1, 9, (4, 3))
    found = LearnedTransforms(variant=variant).ascent(softmax(parameters), chains, gains)
    for row in range(3):
        leaf = torch.from_numpy(parameters[row]).requires_grad_(True)
        aim = 0
        for sample in range(4):
            chance = theirs.trace_prob(leaf, chains[sample, row].tolist())
            aim = aim + gains[sample, row] * (chance if variant == "authors" else chance.log()) / 4
        expected = torch.autograd.grad(aim, leaf)[0].numpy()
        np.testing.assert_allclose(found[row], expected, rtol=1e-10)


@pytest.mark.parametrize("variant", ["paper", "authors"])
def test_the_attack_is_the_printed_algorithm(small_model, small_images, variant):
    """Three steps of three chains of rotations and scales; a high rate, so that what is learnt decides the draws."""
    model = in_double(small_model.double())
    operations = [one for one in LEARNT if one.family in ("rotate", "scale")]
    learnt = {}

    def change(image, operation, word):
        amount = operation.amounts[word % len(operation.amounts)]
        return image * amount if operation.family == "scale" else turned(image, amount)

    def gradient(image, row, step):
        leaf = image.requires_grad_(True)
        weights = torch.from_numpy(learnt.get(row, np.zeros(len(operations)))).requires_grad_(True)
        chances = weights.softmax(0)
        total, aim = torch.zeros_like(image), 0
        for sample in range(3):
            draws = Draws(row, "l2t")
            view, chance = leaf, 1
            for place, word in enumerate(draws.words(2, "chain", step, sample)):
                number = int(np.searchsorted(chances.detach().cumsum(0).numpy(), word / 2**64, side="right"))
                chance = chance * chances[number]
                view = change(view, operations[number], draws.words(4, f"operation{place}", step, sample)[0])
            gain = loss(model, view, LABELS[row])
            total = total + torch.autograd.grad(gain, leaf)[0]
            aim = aim + gain.item() * (chance if variant == "authors" else chance.log()) / 3
        learnt[row] = (weights + 2.0 * torch.autograd.grad(aim, weights)[0]).detach().numpy()
        return (total / 3).detach()

    part = {"samples": 3, "rate": 2.0, "families": ["rotate", "scale"], "variant": variant}
    keys = keys_of("l2t", {"steps": 3, "points": [{"l2t": part}]})
    expected = by_hand(small_images, gradient, steps=3, epsilon=16, size=16 / 3)
    torch.testing.assert_close(ours(model, keys, small_images), expected, rtol=0, atol=1e-4)
    largest = max(np.abs(one).max() for one in learnt.values())
    assert largest > 1 if variant == "paper" else largest < 0.5
    small_model.float()


def test_the_mean_direction_is_that_of_torchattacks_operations(small_model, small_images):
    """The mean over 300 chains against that over all pairs and copies of its ten scales."""
    model = in_double(small_model.double())
    clean = torch.from_numpy(small_images[:2]).float()
    labels = torch.from_numpy(LABELS[:2])
    expected = torch.zeros_like(clean)
    changes = [other for own, other in zip(LEARNT, theirs.AUG_OPS, strict=True) if own.family == "scale"]
    assert len(changes) == 10
    for first, second in itertools.product(changes, repeat=2):
        leaf = clean.clone().requires_grad_(True)
        seen = second(first(leaf))
        gain = functional.cross_entropy(model(seen), labels.repeat(len(seen) // len(labels)))
        expected += torch.autograd.grad(gain, leaf)[0]
    part = {"samples": 300, "families": ["scale"]}
    keys = {"step": "l2", "steps": 1, "step_size": 1, "epsilon": 16, "points": [{"l2t": part}]}
    found = unprojected(model, keys, small_images[:2])
    cosine = functional.cosine_similarity(found.flatten(1), expected.flatten(1))
    assert cosine.min() > 0.99, cosine
    small_model.float()
