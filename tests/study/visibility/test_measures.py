"""Measures of visibility agree with scikit-image, and with the numbers that the paper of CIEDE2000 prints."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from study.images.image_sets import ImageSet
from study.visibility.ciede2000 import ciede2000, colour_difference, lab
from study.visibility.measures import visibility
from study.visibility.ssim import ssim
from tests.conftest import photographs

metrics = pytest.importorskip("skimage.metrics", reason="scikit-image comes with the dev extra")
color = pytest.importorskip("skimage.color", reason="scikit-image comes with the dev extra")


@pytest.fixture(scope="module")
def pairs():
    """Photographs (N, C, H, W), and changed ones: noise, a shift in colour, a grey image, hardly anything."""
    clean, _ = photographs(ImageSet.model_validate({"sample": "foolbox", "size": 64}), slice(0, 4))
    noise = np.random.default_rng(0).integers(-16, 17, clean.shape)
    changed = np.clip(clean.astype(np.int64) + noise, 0, 255).astype(np.uint8)
    changed[1] = np.clip(clean[1].astype(np.int64) + np.array([30, -10, 0])[:, None, None], 0, 255)
    changed[2] = clean[2].mean(0).astype(np.uint8)
    changed[3] = clean[3]
    changed[3, :, :4] ^= 1
    return clean, changed


def floats(images):
    return torch.from_numpy(images).double()


def test_ssim_is_that_of_scikit_image(pairs):
    found = ssim(*map(floats, pairs))
    for clean, changed, ours in zip(*pairs, found.tolist(), strict=True):
        theirs = metrics.structural_similarity(
            clean.transpose(1, 2, 0),
            changed.transpose(1, 2, 0),
            channel_axis=2,
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        assert ours == pytest.approx(theirs, abs=1e-9)


def test_colour_differences_are_those_of_scikit_image(pairs):
    found = colour_difference(*map(floats, pairs))
    for clean, changed, ours in zip(*pairs, found.tolist(), strict=True):
        first, second = (color.rgb2lab(one.transpose(1, 2, 0)) for one in (clean, changed))
        assert ours == pytest.approx(color.deltaE_ciede2000(first, second).mean(), abs=1e-6)


SHARMA = [
    ((50.0000, 2.6772, -79.7751), (50.0000, 0.0000, -82.7485), 2.0425),
    ((50.0000, 2.4900, -0.0010), (50.0000, -2.4900, 0.0011), 7.2195),
    ((50.0000, -0.0010, 2.4900), (50.0000, 0.0011, -2.4900), 4.7461),
    ((50.0000, 2.5000, 0.0000), (73.0000, 25.0000, -18.0000), 27.1492),
    ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ((22.7233, 20.0904, -46.6940), (23.0331, 14.9730, -42.5619), 2.0373),
    ((90.8027, -2.0831, 1.4410), (91.1528, -1.6435, 0.0447), 1.4441),
    ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
]
"""Pairs in CIELAB and their difference: table 1 of Sharma et al. 2005."""


@pytest.mark.parametrize(("first", "second", "printed"), SHARMA)
def test_pairs_of_the_paper(first, second, printed):
    one, other = (torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1) for values in (first, second))
    assert ciede2000(one, other).item() == pytest.approx(printed, abs=5e-5)
    assert ciede2000(other, one).item() == pytest.approx(printed, abs=5e-5)


def test_grey_images_have_no_colour():
    grey = torch.full((1, 1, 2, 2), 120.0, dtype=torch.float64)
    lightness, a, b = lab(grey).unbind(1)
    assert lightness.mean().item() == pytest.approx(color.rgb2lab(np.full((1, 1, 3), 120 / 255))[0, 0, 0])
    assert max(a.abs().max().item(), b.abs().max().item()) < 0.01


def test_equal_images():
    image = np.random.default_rng(1).integers(0, 256, (2, 3, 16, 16), dtype=np.uint8)
    same = visibility(image, image)
    assert same.ssim.tolist() == [1, 1]
    assert same.ciede2000.tolist() == [0, 0]


def test_variants_of_images_and_no_neighbour(pairs):
    """Two variants of every image in one call, and each image alone."""
    clean, changed = pairs
    both = visibility(clean, np.concatenate([changed, clean]))
    assert both.ssim[len(clean) :].tolist() == [1.0] * len(clean)
    for place in range(len(clean)):
        alone = visibility(clean[place : place + 1], changed[place : place + 1])
        assert (alone.ssim[0], alone.ciede2000[0]) == (both.ssim[place], both.ciede2000[place])
    exact = ssim(*map(floats, pairs)).numpy()
    assert np.abs(both.ssim[: len(clean)] - exact).max() < 2e-5


def test_images_smaller_than_the_window():
    image = np.zeros((1, 3, 8, 8), dtype=np.uint8)
    seen = visibility(image, image + np.uint8(9))
    assert np.isnan(seen.ssim).all()
    assert seen.ciede2000[0] > 1
    nothing = visibility(image[:0], image[:0])
    assert len(nothing.ssim) == len(nothing.ciede2000) == 0
