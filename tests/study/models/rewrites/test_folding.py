"""Folding changes how a network is computed and nothing else, in every zoo; what cannot be folded is left alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from study.models import Model, loading
from study.models.rewrites.folding import fold

# How many batch norms stand right behind a convolution: all but those behind a sum or a concatenation (DenseNet's
# norm1, transitions and last) and those of auxiliary classifiers, which eval mode never calls.
NETWORKS = {
    "torchvision:resnet18": 20,
    "torchvision:resnet50": 53,
    "torchvision:densenet121": 59,
    "torchvision:mobilenet_v2": 52,
    "torchvision:inception_v3": 94,
    "torchvision:googlenet": 57,
    "torchvision:vgg11_bn": 8,
    "torchvision:squeezenet1_1": 0,
    "timm:tf_efficientnet_lite0": 49,
    "timm:legacy_seresnet50": 53,
    "timm:mobilenetv2_100": 52,
    "pretrainedmodels:resnet18": 20,
    "pretrainedmodels:bninception": 69,
}
SIZES = {"pretrainedmodels:bninception": 224, "torchvision:inception_v3": 96}  # too deep, or pooled by a fixed window


def network_of(name: str) -> nn.Module:
    # A loader tries a network at the size that it is told.
    network = loading.load(
        "m", Model.model_validate({"network": name, "weights": "random:5", "size": SIZES.get(name, 64)})
    ).network
    if name == "torchvision:vgg11_bn":  # its head has 120 million weights, which take seconds to copy
        network.avgpool, network.classifier = nn.AdaptiveAvgPool2d(1), nn.Linear(512, 1000)
    return randomised(network)


def randomised(network: nn.Module) -> nn.Module:
    """Statistics and scales as training might leave them; fresh ones (0 and 1) would hide a mistake."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            for tensor, low, high in (
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.5, 1.5),
                (module.weight, 0.7, 1.3),
                (module.bias, -0.2, 0.2),
            ):
                if tensor is not None:
                    tensor.data.copy_(low + (high - low) * torch.rand(len(tensor), generator=generator))
    return network.eval().requires_grad_(False)


def images(size: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    drawn = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return drawn.to(dtype).to(memory_format=torch.channels_last)


def logits_and_gradient(network: nn.Module, given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    given = given.clone().requires_grad_(True)
    logits = network(given)
    (gradient,) = torch.autograd.grad(logits.logsumexp(1).sum(), given)
    return logits.detach(), gradient


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / (other - other.mean()).norm())


ALIKE = {"torchvision:resnet50", "torchvision:vgg11_bn", "timm:mobilenetv2_100", "pretrainedmodels:resnet18"}
"""Networks with nothing in them to fold that the others have not."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in ALIKE else name for name in NETWORKS]
)
def test_same_function(name):
    network = network_of(name)
    example = images(SIZES.get(name, 64))
    expected = logits_and_gradient(network, example)
    exact = copy.deepcopy(network).double()
    assert fold(network, example) == NETWORKS[name]
    found = logits_and_gradient(network, example)
    assert apart(found[0], expected[0]) < 1e-4
    # Not closer: a ReLU whose input is zero to within rounding may open or close, and all behind it with it.
    assert apart(found[1], expected[1]) < 0.1
    expected = logits_and_gradient(exact, example.double())
    assert fold(exact, example.double()) == NETWORKS[name]
    found = logits_and_gradient(exact, example.double())
    assert apart(found[0], expected[0]) < 1e-9
    assert apart(found[1], expected[1]) < 1e-9


class Reused(nn.Module):
    """Each branch uses its convolution in a way that forbids folding, and `plain` in the one way that allows it."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.plain, self.plain_bn = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.conv, self.bn, self.other = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 10)
        if how == "shared weights":
            self.twin = nn.Conv2d(8, 8, 3, padding=1)
            self.twin.weight = self.conv.weight
        if how == "two names":
            self.alias = self.conv
        if how == "no statistics":
            self.bn = nn.BatchNorm2d(8, track_running_stats=False)
        if how == "no scale":
            self.bn = nn.BatchNorm2d(8, affine=False)
        if how == "weights made by a hook":
            self.conv = nn.utils.parametrizations.weight_norm(self.conv)
        if how == "a hook on the norm":
            self.bn.register_forward_hook(lambda module, given, output: 2 * output)
        if how == "another class":
            self.conv.__class__ = type("Conv2d", (nn.Conv2d,), {})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.plain_bn(self.plain(x)).relu_()
        return self.head(self.branch(x).square().mean((2, 3)))

    def branch(self, x: torch.Tensor) -> torch.Tensor:
        c = self.conv(x)
        if self.how == "changed in between":
            c = c.relu_()
        if self.how == "a slice of it":
            c = c[:, :, 1:]
        out = self.bn(c)
        if self.how in MORE:
            out = out + MORE[self.how](self, x, c)
        return out


MORE = {
    "output added": lambda self, x, c: c,
    "a view of the output read": lambda self, x, c: c.detach()[:, :1].sigmoid(),
    "two norms": lambda self, x, c: self.other(c),
    "convolution called twice": lambda self, x, c: self.conv(x + 1),
    "norm called twice": lambda self, x, c: self.bn(x),
    "shared weights": lambda self, x, c: self.twin(x),
}


@pytest.mark.parametrize(
    "how",
    [
        *MORE,
        "changed in between",
        "a slice of it",
        "two names",
        "no statistics",
        "no scale",
        "weights made by a hook",
        "a hook on the norm",
        "another class",
    ],
)
def test_left_alone(how):
    torch.manual_seed(0)
    network = randomised(Reused(how)).double()
    example = images(16, torch.float64)
    expected = logits_and_gradient(network, example)
    bn = network.bn
    assert fold(network, example) == 1
    assert network.bn is bn
    assert isinstance(network.plain_bn, nn.Identity)
    found = logits_and_gradient(network, example)
    assert apart(found[0], expected[0]) < 1e-12
    assert apart(found[1], expected[1]) < 1e-12
    assert fold(network, example) == 0


@pytest.mark.parametrize("conv", [{}, {"bias": False}, {"groups": 2}, {"groups": 8}, {"stride": 2, "dilation": 2}])
def test_kinds_of_convolutions(conv):
    torch.manual_seed(0)
    network = randomised(Reused("plainly"))
    network.conv = nn.Conv2d(8, 8, 3, **conv).eval().requires_grad_(False).to(memory_format=torch.channels_last)
    network.bn.running_var[:4] = 1e-12
    example = images(16)
    expected = logits_and_gradient(network, example)
    strides = network.conv.weight.stride()
    assert fold(network, example) == 2
    assert network.conv.weight.stride() == strides
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert apart(logits_and_gradient(network, example)[0], expected[0]) < 1e-5


def test_undone_where_logits_would_change():
    """A network that treats its batch norm's class as a switch: nothing but the logits shows it."""

    class Switch(Reused):
        def branch(self, x):
            return super().branch(x) + (1.0 if isinstance(self.bn, nn.BatchNorm2d) else 2.0) * x

    network = randomised(Switch("plainly"))
    modules = dict(network.named_modules())
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert fold(network, images(16)) == 0
    assert dict(network.named_modules()) == modules
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


def test_example_and_hooks_are_left():
    network = randomised(Reused("plainly"))
    example = images(16)
    copied = example.clone()
    fold(network, example)
    assert torch.equal(example, copied)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_refusals():
    with pytest.raises(ValueError, match="eval mode"):
        fold(Reused("plainly").train(), images(16))
    with pytest.raises(ValueError, match="float16"):
        fold(Reused("plainly").eval(), images(16, torch.float16))
