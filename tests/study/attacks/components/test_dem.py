"""DEM against torch's own resizing and padding, image by image, and against its loop written out."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from study.attacks.components.dem import DiversityEnsemble
from study.attacks.presets import keys_of
from tests.view_trials import (
    STREAMS,
    ascent,
    attacked,
    classifier,
    differing,
    gradient,
    logits_of,
    made,
    pixels,
)

FRAMES = (1.14, 1.27, 1.4, 1.53, 1.66)


def direct(image, words, frame, mode="bilinear"):
    """One image (1, C, S, S): resized, padded and resized back."""
    size = image.shape[-1]
    whole = round(frame * size)
    inner = size + words[1] % max(1, whole - size)
    top, left = words[2] % (whole - inner + 1), words[3] % (whole - inner + 1)
    more = {} if mode == "nearest" else {"align_corners": False}
    small = functional.interpolate(image, (inner, inner), mode=mode, **more)
    padded = functional.pad(small, (left, whole - inner - left, top, whole - inner - top))
    return functional.interpolate(padded, (size, size), mode="bilinear", align_corners=False)


def every_copy(image, step):
    copies = []
    for copy, frame in enumerate(FRAMES):
        words = STREAMS.integers(4, "dem", step, copy).tolist()
        copies.append(torch.cat([direct(one[None], word, frame) for one, word in zip(image, words, strict=True)]))
    return copies


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_copies_are_torchs_resize_and_pad(mode):
    image = torch.from_numpy(pixels(40)).double()
    view = DiversityEnsemble(interpolation=mode)
    assert view.count == 5
    for copy, frame in enumerate(FRAMES):
        words = STREAMS.integers(4, "dem", 3, copy).tolist()
        expected = torch.cat([direct(one[None], word, frame, mode) for one, word in zip(image, words, strict=True)])
        torch.testing.assert_close(made([view], image, copy, step=3), expected, rtol=0, atol=1e-9)


def test_the_attack_takes_the_loss_of_the_mean_logits():
    """Three steps of epsilon, with momentum: the loop of the paper, with torch's own operations."""
    images = pixels(24)
    model = logits_of(classifier(24))

    def direction(image, step):
        image = image.detach().requires_grad_(True)
        mean = torch.stack([model(copy) for copy in every_copy(image, step)]).mean(0, keepdim=True)
        return gradient(mean, image)

    expected = ascent(direction, torch.from_numpy(images).double(), 3, 16)
    assert differing(attacked(model, keys_of("dem", {"steps": 3}), images), expected) < 1e-3

    def mean_gradients(image, step):
        image = image.detach().requires_grad_(True)
        return gradient(torch.stack([model(copy) for copy in every_copy(image, step)]), image)

    other = ascent(mean_gradients, torch.from_numpy(images).double(), 3, 16)
    assert differing(attacked(model, keys_of("dem", {"steps": 3}), images), other) > 1e-2


def test_rdi_is_one_such_copy():
    images = pixels(24)
    model = logits_of(classifier(24))

    def direction(image, step):
        image = image.detach().requires_grad_(True)
        words = STREAMS.integers(4, "diversity", step, 0).tolist()
        copy = torch.cat([direct(one[None], word, 1.14) for one, word in zip(image, words, strict=True)])
        return gradient(model(copy)[None], image)

    expected = ascent(direction, torch.from_numpy(images).double(), 3, 16 / 3)
    assert differing(attacked(model, keys_of("rdi", {"steps": 3}), images), expected) < 1e-3
