"""Crops against torch's `interpolate` of the part of the image, with the same random numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from study.attacks.components.crop import Crop
from tests.view_trials import STREAMS, made, pixels


def direct(image, step, copy, crop, streams=STREAMS):
    """Each crop cut out and resized; its sides and place from the words of the image, in Python's numbers."""
    size, copies = image.shape[-1], []
    for one, words in zip(image, streams.integers(5, "crop", step, copy).tolist(), strict=True):
        area = crop.low + (crop.high - crop.low) * words[0] / 2**64
        ratio = 1 + (crop.ratio - 1) * words[1] / 2**64
        long, short = (min(size, round(size * math.sqrt(each))) for each in (area * ratio, area / ratio))
        height, width = (long, short) if words[2] % 2 else (short, long)
        top, left = words[3] % (size - height + 1), words[4] % (size - width + 1)
        part = one[None, :, top : top + height, left : left + width]
        copies.append(interpolate(part, (size, size), mode="bilinear", align_corners=False)[0])
    return torch.stack(copies)


@pytest.mark.parametrize("crop", [Crop(), Crop(low=0.05, high=1, ratio=4), Crop(low=1, high=1, ratio=1)])
def test_they_are_torchs(crop):
    image = torch.from_numpy(pixels(23)).double()
    seen = set()
    for copy in range(8):
        expected = direct(image, 3, copy, crop)
        torch.testing.assert_close(made([crop], image, copy, step=3), expected, rtol=0, atol=1e-9)
        seen.add(float(expected.mean()))
    assert len(seen) == (1 if crop.low == 1 else 8)


def test_areas_and_sides_are_within_their_limits():
    crop = Crop()
    words = torch.from_numpy(np.random.default_rng(0).integers(0, 2**64, (4000, 5), dtype=np.uint64).view(np.int64))
    (height, top), (width, left) = crop.sides(224, words)
    assert ((top >= 0) & (left >= 0) & (top + height <= 224) & (left + width <= 224)).all()
    area, ratio = height * width / 224**2, height / width
    assert 0.49 < area.min() < 0.52
    assert 0.88 < area.max() < 0.91
    assert abs(area.mean() - 0.7) < 0.01
    assert 0.73 < ratio.min() < 0.77
    assert 1.3 < ratio.max() < 1.36
    assert abs((ratio > 1).float().mean() - 0.5) < 0.03


def test_a_wrong_order():
    with pytest.raises(ValueError, match="above its `high`"):
        Crop(low=0.9, high=0.5)
