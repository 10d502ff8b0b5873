"""GRA against the library torchattack, with our draws in the place of its own."""

from __future__ import annotations

import pytest
import torch
from torchattack.gra import GRA

from study.attacks.components.gra import DecayIndicator
from study.attacks.presets import keys_of
from tests.study.attacks.components.point_oracles import (
    LABELS,
    Pixels,
    assert_same,
    clipped,
    double,
    drawn,
    mean_one,
    ours,
    slope,
)

STEPS, SAMPLES = 6, 4


class Scaled(torch.nn.Module):
    """What torchattack calls: images in 0..1."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, x):
        return self.model(x * 255)


class Signs(GRA):
    """torchattack's GRA with the paper's comparison: of signs."""

    def _get_decay_indicator(self, m, delta, cur_noise, prev_noise):
        return super()._get_decay_indicator(m, delta, cur_noise.sign(), prev_noise.sign())


@pytest.fixture
def our_draws(monkeypatch):
    """Each `uniform_` takes the engine's next numbers."""
    numbers = iter([(step, sample) for step in range(STEPS) for sample in range(1, SAMPLES + 1)])

    def uniform(self, low, high):
        assert low == -high
        return self.copy_(high * drawn("gra", *next(numbers)))

    monkeypatch.setattr(torch.Tensor, "uniform_", uniform)
    return numbers


def keys(**changes):
    return keys_of("gra", {"steps": STEPS, "points": [{"gra": {"samples": SAMPLES}}], **changes})


def test_equals_torchattack(small_model, small_images, our_draws):
    model = Pixels(small_model)
    theirs = Signs(Scaled(model), device=torch.device("cpu"), eps=16 / 255, steps=STEPS, num_neighbors=SAMPLES)
    found = theirs(double(small_images) / 255, torch.from_numpy(LABELS)).detach() * 255
    assert next(our_draws, None) is None
    assert_same(ours(model, keys(), small_images), found)


def test_a_targets_neighbours_climb_to_it(small_model, small_images):
    """The formula in a plain loop, where torchattack's neighbours go the other way."""
    model, clean = Pixels(small_model), double(small_images)
    x, momentum = clean, torch.zeros_like(clean)
    factor, last = torch.full_like(clean, 1 / 0.94), torch.zeros_like(clean)
    for step in range(STEPS):
        here = slope(model, x, sign=-1)
        mean = sum(
            slope(model, x + 56 * drawn("gra", step, sample), sign=-1) / SAMPLES for sample in range(1, SAMPLES + 1)
        )
        mixed = torch.stack(
            [
                (cosine := float((a * b).sum() / a.norm() / b.norm())) * a + (1 - cosine) * b
                for a, b in zip(here, mean, strict=True)
            ]
        )
        momentum = momentum + mean_one(mixed)
        factor = torch.where(momentum.sign() == last, factor, factor * 0.94)
        last = momentum.sign()
        x = clipped(x + 16 / STEPS * factor * last, clean)
    assert_same(ours(model, keys(), small_images, "targeted"), x)


def test_the_indicator_shrinks_with_each_change_of_the_sign():
    step, state = DecayIndicator(eta=0.5), {}
    gradients = torch.tensor([[1.0, 1.0, 0.0], [2.0, -1.0, 3.0], [3.0, 1.0, 0.5]])
    found = [step.direction(gradient, None, state) for gradient in gradients]
    expected = [[1.0, 1.0, 0.0], [1.0, -0.5, 1.0], [1.0, 0.25, 1.0]]
    assert torch.stack(found).tolist() == expected
