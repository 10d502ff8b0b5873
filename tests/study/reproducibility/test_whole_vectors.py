"""Activations have the same bits at every place in a batch, for any size, layout and number of threads."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from study.models.classifier import Classifier, Preprocessing
from study.reproducibility import numerics, whole_vectors

FUNCTIONS = {
    "sigmoid": torch.sigmoid,
    "sigmoid of a tensor": lambda x: x.sigmoid(),
    "sigmoid in place": lambda x: (x * 1).sigmoid_(),
    "silu": functional.silu,
    "silu in place": lambda x: functional.silu(x * 1, inplace=True),
    "gelu by tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu": functional.gelu,
    "mish": functional.mish,
    "softplus": functional.softplus,
    "elu": functional.elu,
    "elu in place": lambda x: functional.elu(x * 1, 1.0, True),
    "celu": functional.celu,
    "selu": functional.selu,
    "glu": lambda x: functional.glu(torch.cat([x, 0.7 * x], 1), 1),
    "power": lambda x: (x.abs() + 0.1) ** 2.5,
    "torch.pow": lambda x: torch.pow(x.abs() + 0.1, -1.5),
    "power of a number": lambda x: 1.7**x,
    "tanh": torch.tanh,
    "hardswish": functional.hardswish,
}
SHAPES = [(4, 12), (3, 7), (5, 3), (5, 20, 7, 7), (2, 3, 5, 5), (4, 16), (4, 16, 8, 8)]


def places(function, shape, changed=lambda x: x, trials=8):
    """The results and gradients of one image at all places of a batch, among other images."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(trials):
        image, upstream = (2 * torch.randn(shape[1:], generator=generator) for _ in range(2))
        found = []
        for place in range(shape[0]):
            batch, gradient = (2 * torch.randn(shape, generator=generator) for _ in range(2))
            batch[place], gradient[place] = image, upstream
            leaf = changed(batch).detach().requires_grad_(True)
            result = function(leaf)
            (through,) = torch.autograd.grad(result, leaf, gradient)
            found.append((result[place].detach(), through[place]))
        yield found


def steady(function, shape, **more):
    return all(
        torch.equal(one, first)
        for found in places(function, shape, **more)
        for results in zip(*found, strict=True)
        for first, *others in [results]
        for one in others
    )


def channels_last(batch):
    return batch.to(memory_format=torch.channels_last) if batch.dim() == 4 else batch


def every_second(batch):
    return torch.stack([batch, batch], -1)[..., 0]


@pytest.mark.parametrize("changed", [lambda x: x, channels_last, every_second], ids=["plain", "channels-last", "gaps"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_place_changes_no_bit(name, changed):
    with numerics.elementwise("cpu"):
        assert all(steady(FUNCTIONS[name], shape, changed=changed, trials=4) for shape in SHAPES)


def test_without_it_some_places_differ():
    """Why there is such a context at all; if this fails, PyTorch has mended it."""
    assert not all(steady(functional.silu, shape) for shape in SHAPES)


def test_threads_share_whole_vectors():
    """Four threads split a tensor of four images in places that no image begins at."""
    torch.set_num_threads(4)
    with numerics.elementwise("cpu"):
        assert steady(functional.silu, (4, 9, 61, 67), trials=2)
        assert steady(functional.silu, (4, 9, 61, 67), trials=2, changed=channels_last)
        assert steady(functional.silu, (4, 9, 61, 67), trials=2, changed=every_second)


@pytest.mark.parametrize("threads", [1, 2, 3, 7, 16])
def test_the_size_is_the_smallest_that_threads_split_into_whole_vectors(threads):
    def split(size):
        return max(1, min(threads, -(-size // 2**15)))

    for count in (1, 63, 64, 65, 2**15, 2**15 + 1, 2**16 + 5, 3 * 2**15 - 1, 10**6 + 3):
        size = whole_vectors.whole_size(count, threads)
        assert size >= count
        assert size % (64 * split(size)) == 0
        smaller = [n for n in range(count, size) if n % (64 * split(n)) == 0]
        assert smaller == []


@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_are_those_of_pytorch(name):
    for shape in SHAPES:
        leaf = torch.randn(shape, dtype=torch.float64).requires_grad_(True)
        plain = FUNCTIONS[name](leaf)
        with numerics.elementwise("cpu"):
            padded = FUNCTIONS[name](leaf)
        torch.testing.assert_close(padded, plain, rtol=1e-12, atol=1e-12)
        gradients = [torch.autograd.grad(one.sum(), leaf)[0] for one in (plain, padded)]
        torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


def test_it_can_be_switched_off_inside():
    given = torch.randn(3, 7)
    outside = functional.silu(given)
    with numerics.elementwise("cpu"):
        with whole_vectors.without_whole_vectors():
            assert torch.equal(functional.silu(given), outside)
        assert steady(functional.silu, (3, 7))
    with whole_vectors.without_whole_vectors():
        assert not all(steady(functional.silu, shape) for shape in SHAPES)


def test_in_place_changes_the_tensor_itself():
    given = torch.randn(3, 7)
    wanted = functional.silu(given)
    with numerics.elementwise("cpu"):
        found = functional.silu(given, inplace=True)
    assert found is given
    torch.testing.assert_close(given, wanted)


class Gated(nn.Module):
    """Squeeze and excitation with few channels: 4 images have 12 numbers each after the pool."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.reduce, self.expand = nn.Conv2d(3, 24, 3, 2), nn.Conv2d(24, 3, 1), nn.Conv2d(3, 24, 1)
        self.head = nn.Linear(24, 10)

    def forward(self, x):
        x = functional.silu(self.stem(x))
        gate = torch.sigmoid(self.expand(functional.silu(self.reduce(x.mean((2, 3), keepdim=True)))))
        return self.head((x * gate).mean((2, 3)))


def test_a_network_in_a_pass():
    model = Classifier(Gated(), Preprocessing(15, "bilinear", (0.5,) * 3, (0.5,) * 3), labels=10, identity="gated")

    def logits(pixels):
        with numerics.network_pass("float32", "cpu"):
            return model(100 + 20 * pixels)

    def plain(pixels):
        return model(100 + 20 * pixels)

    shape = (5, 3, 15, 15)
    generator = torch.Generator().manual_seed(0)
    differ = {logits: 0, plain: 0}
    for _ in range(20):
        image = torch.randn(shape[1:], generator=generator)
        for function in differ:
            found = []
            for place in range(5):
                batch = torch.randn(shape, generator=generator)
                batch[place] = image
                leaf = batch.requires_grad_(True)
                result = function(leaf)
                (gradient,) = torch.autograd.grad(result.logsumexp(1).sum(), leaf)
                found.append((result[place].detach(), gradient[place]))
            differ[function] += any(
                not torch.equal(one, first)
                for pair in zip(*found, strict=True)
                for first, *more in [pair]
                for one in more
            )
    assert differ[logits] == 0
    assert differ[plain] > 0
