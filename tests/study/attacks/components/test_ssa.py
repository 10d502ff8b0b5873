"""SSA against scipy's cosine transform, and against torchattack with the same draws."""

from __future__ import annotations

import numpy as np
import torch
import torchattack
from scipy import fft
from scipy.stats import kstest

from study.attacks.components.ssa import SpectrumSimulation
from study.attacks.presets import keys_of
from tests.view_trials import STREAMS, attacked, classifier, differing, logits_of, made, pixels


def natural(spectrum):
    """A spectrum with the frequencies in natural order, from one with the even frequencies first."""
    for axis in (2, 3):
        size = spectrum.shape[axis]
        spectrum = spectrum[(slice(None),) * axis + (np.argsort([*range(0, size, 2), *range(1, size, 2)]),)]
    return spectrum


def drawn(shape, step, copy):
    """Noise and mask of one copy, for each frequency, float64."""
    noise = 16 * STREAMS.normal(shape, "cpu", "ssa", step, copy).double()
    mask = 1 + 0.5 * STREAMS.uniform(shape, "cpu", "ssa.mask", step, copy).double()
    return natural(noise.numpy()), natural(mask.numpy())


def direct(image, step, copy):
    noise, mask = drawn(image.shape[1:], step, copy)
    spectrum = (fft.dctn(image.numpy(), axes=(2, 3), norm="ortho") + noise) * mask
    return torch.from_numpy(fft.idctn(spectrum, axes=(2, 3), norm="ortho"))


def test_copies_are_scipys_transform():
    for height, width in ((20, 20), (15, 22), (1, 9)):
        image = torch.from_numpy(pixels(height, width)).double()
        for copy in (0, 7):
            ours = made([SpectrumSimulation()], image, copy, step=2)
            torch.testing.assert_close(ours, direct(image, 2, copy), rtol=0, atol=1e-9)


def test_noise_in_the_spectrum_is_noise_of_pixels():
    """Without a mask, a copy is the image and normal noise of the standard deviation sigma, the same everywhere."""
    image = torch.zeros(4, 3, 40, 40, dtype=torch.float64)
    noise = torch.stack([made([SpectrumSimulation(rho=0)], image, copy) for copy in range(50)])
    assert abs(noise.std() - 16) < 0.1
    of_rows, of_columns = (noise.square().mean(axes).sqrt() for axes in ((0, 1, 2, 4), (0, 1, 2, 3)))
    assert (of_rows - 16).abs().max() < 0.5
    assert (of_columns - 16).abs().max() < 0.5
    assert kstest((noise / 16).flatten().numpy(), "norm").pvalue > 0.01


def test_the_image_is_transformed_once_for_all_copies(monkeypatch):
    seen = []
    transform = SpectrumSimulation.of_all_copies
    monkeypatch.setattr(
        SpectrumSimulation, "of_all_copies", lambda view, image: seen.append(1) or transform(view, image)
    )
    keys = keys_of("ssa", {"steps": 3, "views": [{"ssa": {"copies": 5}}]})
    attacked(logits_of(classifier(24)), keys, pixels(24))
    assert len(seen) == 3


def test_copies_are_torchattacks(monkeypatch):
    """Its own transform, with our noise and mask put in place of its draws (it knows images of 224 only)."""
    image = torch.from_numpy(pixels(224)).double()
    noise, mask = (torch.from_numpy(one) for one in drawn(image.shape[1:], 0, 1))
    noise = torch.from_numpy(fft.idctn(noise.numpy(), axes=(2, 3), norm="ortho"))
    peer = torchattack.SSA(torch.nn.Identity(), eps=16 / 255)
    monkeypatch.setattr(torch, "randn", lambda *_, **__: noise[:1] / 16)
    monkeypatch.setattr(torch, "rand_like", lambda _: mask[:1] - 0.5)
    theirs = peer.transform(image[:1] / 255) * 255
    ours = made([SpectrumSimulation()], image, 1)[:1]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_the_gradient_is_that_at_the_view():
    """Algorithm 1 of the paper: the mean gradient at the copies, no momentum."""
    images = pixels(24)
    model = logits_of(classifier(24))
    labels = torch.tensor([1, 2, 3, 4])
    clean = torch.from_numpy(images).double()
    image = clean.clone()
    for step in range(3):
        total = torch.zeros_like(image)
        for copy in range(4):
            view = direct(image, step, copy).requires_grad_(True)
            loss = torch.nn.functional.cross_entropy(model(view), labels, reduction="sum")
            total += torch.autograd.grad(loss, view)[0]
        image = (image + 16 / 3 * total.sign()).clamp(clean - 16, clean + 16).clamp(0, 255)
    keys = keys_of("ssa", {"steps": 3, "views": [{"ssa": {"copies": 4}}]})
    assert differing(attacked(model, keys, images), image) < 2e-3


def test_the_combination_has_momentum():
    assert keys_of("mi+ssa", {})["momentum"] == 1
    assert "momentum" not in keys_of("ssa", {})
    images, model = pixels(16), logits_of(classifier(16))
    changes = {"steps": 2, "views": [{"ssa": {"copies": 2}}]}
    without, with_momentum = (attacked(model, keys_of(name, changes), images) for name in ("ssa", "mi+ssa"))
    assert not np.array_equal(without, with_momentum)
