"""Resizing and pooling in a fixed order: the values and gradients of torch's own operations."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from study.models.resizing import resized, resized_in_order
from study.models.rewrites.gpu import OrderedPool, order_gradients
from study.reproducibility import numerics


def gradient(function, images, upstream):
    leaf = images.clone().requires_grad_(True)
    made = function(leaf)
    return made, *torch.autograd.grad(made, leaf, upstream[..., : made.shape[-2], : made.shape[-1]])


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("old", "new"), [((48, 48), 31), ((31, 40), 48), ((64, 64), 16)])
def test_matrices_resize_like_interpolate(old, new, interpolation):
    draw = torch.Generator().manual_seed(0)
    images, upstream = torch.rand(2, 3, *old, generator=draw) * 255, torch.randn(2, 3, new, new, generator=draw)
    expected = gradient(lambda one: resized(one, new, interpolation), images, upstream)
    found = gradient(lambda one: resized_in_order(one, new, interpolation), images, upstream)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-3)


def test_they_are_pixel_algebra_within_a_network_pass():
    allowed = set()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function.name().startswith(("aten::mm", "aten::bmm")):
                allowed.add((torch.backends.cuda.matmul.allow_tf32, args[0].dtype))
            return function(*args, **(kwargs or {}))

    leaf = torch.rand(1, 3, 8, 8).requires_grad_(True)
    with Watch(), numerics.network_pass("tf32", "cpu"), numerics.autocast("bfloat16", "cpu"):
        made = resized_in_order(leaf, 6, "bilinear")
        torch.autograd.grad(made.float().sum(), leaf)
        assert torch.backends.cuda.matmul.allow_tf32
    assert allowed == {(False, torch.float32)}


@pytest.mark.parametrize(("old", "new"), [(7, 7), (14, 7), (10, 7), (3, 7), (9, (2, 4)), (8, (None, 3))])
def test_pools_have_the_means_of_adaptive_pooling(old, new):
    draw = torch.Generator().manual_seed(0)
    images, upstream = torch.rand(2, 3, old, old, generator=draw), torch.randn(2, 3, 9, 9, generator=draw)
    expected = gradient(lambda one: functional.adaptive_avg_pool2d(one, new), images, upstream)
    found = gradient(OrderedPool(new), images, upstream)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_pools_of_a_network_are_replaced_by_name():
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(7), torch.nn.Sequential(torch.nn.AdaptiveMaxPool2d(2)))
    order_gradients(network)
    assert [type(one).__name__ for one in network.modules()][1:] == ["OrderedPool", "Sequential", "AdaptiveMaxPool2d"]
