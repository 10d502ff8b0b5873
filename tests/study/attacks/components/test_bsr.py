"""BSR against torchvision's rotation of cut out blocks, image by image, and its gradient."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchvision.transforms import functional as tv

from study.attacks import block_turns
from study.attacks.components.bsr import BlockShuffleRotation, truncated_normal
from study.attacks.presets import keys_of
from tests.view_trials import STREAMS, ascent, attacked, classifier, differing, gradient, logits_of, made, pixels


def lengths(words, total):
    shares = [(word >> 11) + 1 for word in words]
    found = [round(share / sum(shares) * total) for share in shares]
    found[found.index(max(found))] += total - sum(found)
    return found


def direct(image, words, count, angle):
    """One image (C, H, W): cut, turned, and put together in the drawn order."""
    part = [words[at : at + count] for at in range(0, 4 * count, count)]
    high, wide = lengths(part[0], image.shape[1]), lengths(part[2], image.shape[2])
    turns = iter(words[4 * count :])
    strips = []
    for strip in image.split(high, 1):
        blocks = []
        for block in strip.split(wide, 2):
            degrees = angle(next(turns))
            empty = 0 in block.shape
            blocks.append(block if empty else tv.rotate(block[None], degrees, tv.InterpolationMode.BILINEAR)[0])
        strips.append(torch.cat([blocks[at] for at in np.argsort(part[3])], 2))
    return torch.cat([strips[at] for at in np.argsort(part[1])], 1)


def within_24(word):
    return 24 * (2 * (word >> 11) / 2**53 - 1)


def all_direct(image, step, copy, count=2, angle=within_24):
    words = STREAMS.integers(4 * count + count**2, "bsr", step, copy).tolist()
    return torch.stack([direct(one, word, count, angle) for one, word in zip(image, words, strict=True)])


@pytest.mark.parametrize(("height", "width", "count"), [(32, 32, 2), (31, 44, 2), (40, 40, 3), (17, 9, 4), (12, 12, 1)])
def test_copies_are_torchvisions_turned_blocks(height, width, count):
    image = torch.from_numpy(pixels(height, width)).double()
    for copy in (0, 5):
        ours = made([BlockShuffleRotation(blocks=count)], image, copy, step=1)
        torch.testing.assert_close(ours, all_direct(image, 1, copy, count), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("height", "width", "count"), [(32, 32, 2), (31, 44, 3), (17, 9, 4)])
@pytest.mark.parametrize("angle", [0.0, 24.0, 180.0])
def test_a_cpu_and_a_gpu_compute_the_same_map(height, width, count, angle):
    """What a GPU runs, on this CPU: values, and both gradients, to the digits of double precision."""
    image = torch.from_numpy(pixels(height, width)).double().requires_grad_(True)
    words = STREAMS.integers(4 * count + count**2, "bsr", 0, 0)
    cuts = words[:, : 4 * count].reshape(len(words), 4, count)
    long = [np.array([lengths(one[at].tolist(), total) for one in cuts]) for at, total in ((0, height), (2, width))]
    order = [np.argsort(cuts[:, at], 1) for at in (1, 3)]
    angles = math.radians(angle) * (2 * ((words[:, 4 * count :] >> np.uint64(11)) / 2**53) - 1)
    turns = block_turns.Turns(*map(block_turns.Strips, long, order), angles)
    ours = made([BlockShuffleRotation(blocks=count, angle=angle)], image, 0)
    weights = torch.randn(image.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = []
    for function in (block_turns.sampled, block_turns.gathered):
        result = function(image, turns)
        found.append((result, *torch.autograd.grad((result * weights).sum(), image)))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-9)
    assert torch.equal(found[0][0], ours)


@pytest.mark.parametrize("angle", [0.0, 24.0, 45.0, 180.0])
def test_the_gradient_is_the_transposed_map(angle):
    """That of torch through the blocks that torchvision has turned."""
    image = torch.from_numpy(pixels(26, 33)).double().requires_grad_(True)
    weights = torch.randn(image.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours = made([BlockShuffleRotation(angle=angle)], image, 3)
    expected = all_direct(image, 0, 3, angle=lambda word: angle / 24 * within_24(word))
    found, wanted = (torch.autograd.grad((one * weights).sum(), image)[0] for one in (ours, expected))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_the_authors_angles_are_a_truncated_normal():
    """Their standard deviation is 0.2 rad, and no angle is above 0.4."""
    image = torch.from_numpy(pixels(20)).double()

    def angle(word):
        return math.degrees(0.2 * float(truncated_normal(np.array([(word >> 11) / 2**53]))[0]))

    ours = made([BlockShuffleRotation(variant="authors")], image, 2)
    torch.testing.assert_close(ours, all_direct(image, 0, 2, angle=angle), rtol=0, atol=1e-4)
    drawn = truncated_normal((np.arange(100_000) + 0.5) / 100_000)
    assert np.abs(drawn).max() <= 2
    # The variance of a standard normal number within two deviations: 1 - 2 * 2 phi(2) / (2 Phi(2) - 1).
    density, inside = math.exp(-2) / math.sqrt(2 * math.pi), math.erf(math.sqrt(2))
    assert drawn.var() == pytest.approx(1 - 4 * density / inside, rel=1e-3)


def test_the_attack_is_the_mean_gradient_through_the_copies():
    images = pixels(24)
    model = logits_of(classifier(24))

    def direction(image, step):
        image = image.detach().requires_grad_(True)
        return gradient(torch.stack([model(all_direct(image, step, copy)) for copy in range(3)]), image)

    expected = ascent(direction, torch.from_numpy(images).double(), 3, 16 / 3)
    keys = keys_of("bsr", {"steps": 3, "views": [{"bsr": {"copies": 3}}]})
    assert differing(attacked(model, keys, images), expected) < 2e-3
