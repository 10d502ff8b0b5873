"""Convolutions written another way compute what they did."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from study.images.labels import label_set
from study.models import Model, loading
from study.models.rewrites.cpu import Stem, rewrite_convolutions


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "size"),
    [(7, 2, 3, 56), (7, 2, 3, 33), (7, 2, 0, 50), (5, 2, 1, 32), (5, 2, 0, 31), (5, 3, 2, 40), (11, 4, 2, 67)],
)
def test_equals_autograd(kernel, stride, padding, size):
    """Values to the last bit, gradients to double rounding; even and odd sizes, pixels that no output sees."""
    generator = torch.Generator().manual_seed(0)
    conv = nn.Conv2d(3, 16, kernel, stride, padding).double().requires_grad_(False)
    image = torch.randn(2, 3, size, size + 3, dtype=torch.double, generator=generator, requires_grad=True)
    plain, ours = conv(image), Stem(conv)(image)
    assert torch.equal(plain, ours)
    upstream = torch.randn(plain.shape, dtype=torch.double, generator=generator)
    (expected,) = torch.autograd.grad(plain, image, upstream)
    (found,) = torch.autograd.grad(ours, image, upstream)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("network", "given"),
    [
        ("torchvision:resnet18", True),
        ("torchvision:alexnet", True),
        ("timm:tf_efficientnet_lite0", False),
        ("cifar_resnet20", False),
        # Their first convolutions are those of a resnet18 and of a lite0.
        pytest.param("torchvision:densenet121", True, marks=pytest.mark.slow),
        pytest.param("torchvision:inception_v3", False, marks=pytest.mark.slow),
    ],
)
def test_only_large_strided_first_convolutions(network, given):
    reference = Model.model_validate({"network": network, "weights": "random:1", "size": 64})
    labels = label_set("cifar10" if network.startswith("cifar") else "imagenet")
    plain = loading.load("m", reference, labels=labels)
    digest = plain.digest
    changed = loading.load("m", reference, labels=labels, fold=True)
    assert changed.digest == digest
    rewrite_convolutions(changed.network)
    assert sum(isinstance(one, Stem) for one in changed.modules()) == given
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1), dtype=torch.double) * 255
    image.requires_grad_(True)
    found = [torch.autograd.grad(one.double()(image).square().sum(), image)[0] for one in (plain, changed)]
    assert (found[0] - found[1]).abs().max() < 1e-5 * found[0].abs().max()
