"""Changed functions: ReLUs as modules, as functions and in place, everywhere, inside layers, or after one."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from study.errors import StudyError
from study.models.functions import changed_functions
from study.models.layers import layers_of
from tests.study.models.layers.small import images, network


def gradient(built, x) -> torch.Tensor:
    x = x.detach().requires_grad_()
    return torch.autograd.grad(functional.cross_entropy(built(x), torch.arange(len(x))), x)[0]


def same(call, *given, **options):
    return call(*given, **options)


@pytest.mark.parametrize(
    "name",
    [
        "torchvision:resnet18",
        "torchvision:googlenet",
        "timm:legacy_xception",
        "study:cifar_resnet20",
        "timm:test_resnet",
    ],
)
def test_a_replacement_that_changes_nothing_keeps_every_bit(name):
    """Also where a network relies on ReLUs that work in place, or calls functions in its forward."""
    built, x = network(name), images(name)
    with torch.no_grad():
        logits = built(x)
    with changed_functions(built, {"relu": same, "max_pool2d": same}):
        assert torch.equal(built(x), logits)
        inside = gradient(built, x)
    assert torch.equal(inside, gradient(built, x))


class Everywhere(nn.Module):
    """A ReLU in each of the forms in which networks call it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Identity()
        self.module, self.in_place = nn.ReLU(), nn.ReLU(inplace=True)

    def forward(self, x):
        kept = self.first(x) * 1
        forms = [
            self.module(x),
            self.in_place(x * 1),
            functional.relu(x),
            functional.relu(x * 1, inplace=True),
            torch.relu(x),
            x.relu(),
            torch.relu_(x * 1),
            (x * 1).relu_(),
        ]
        # In place: what was written to `kept` counts.
        self.in_place(kept)
        return torch.stack([*forms, kept]).sum((0, 2))


def test_every_form_of_a_function_is_reached():
    x = torch.tensor([[-1.0, 2.0]])
    calls = []

    def negated(call, given):
        calls.append(call)
        return -given

    with changed_functions(Everywhere(), {"relu": negated}):
        pass
    built = Everywhere()
    assert built(x).item() == 9 * 2
    with changed_functions(built, {"relu": negated}):
        assert built(x).item() == 9 * (1 - 2)
    assert len(calls) == 9
    assert all(torch.equal(call(x), x.relu()) for call in calls)
    assert x.tolist() == [[-1.0, 2.0]]


class Straight(torch.autograd.Function):
    """ReLU's value with the gradient of the identity, as in LinBP."""

    @staticmethod
    def forward(ctx, given):
        return given.relu()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


@pytest.mark.parametrize("name", ["torchvision:resnet18", "torchvision:googlenet"])
def test_only_what_runs_after_a_layer_is_changed(name):
    """Against the same network while torch's own ReLU is another after the layer has run."""
    built, x = network(name), images(name)
    middle = layers_of(built).middle
    with changed_functions(built, {"relu": lambda _, given: Straight.apply(given)}, after=middle):
        given = gradient(built, x)
        with torch.no_grad():
            assert torch.equal(built(x), network(name)(x))
    real, ran = functional.relu, []

    def relu(given, inplace=False):
        return Straight.apply(given) if ran else real(given, inplace)

    reset = built.register_forward_pre_hook(lambda *_: ran.clear())
    note = built.get_submodule(middle).register_forward_hook(lambda *_: ran.append(1))
    functional.relu = relu
    try:
        wanted = gradient(built, x)
    finally:
        functional.relu = real
        reset.remove()
        note.remove()
    largest = wanted.abs().max()
    assert (given - wanted).abs().max() < 1e-4 * largest
    assert (given - gradient(built, x)).abs().max() > 0.1 * largest


def test_only_inside_named_layers():
    built, x, calls = network("torchvision:resnet18"), images("torchvision:resnet18"), []

    def counted(call, *given):
        calls.append(call)
        return call(*given)

    with changed_functions(built, {"relu": counted}, within=["layer2", "layer2.0", "layer4.1"]), torch.no_grad():
        built(x)
    assert len(calls) == 4 + 2
    with changed_functions(built, {"relu": counted}), torch.no_grad():
        built(x)
    assert len(calls) == 6 + 17


def test_functions_that_are_not_called_are_an_error():
    built, x = network("torchvision:resnet18"), images("torchvision:resnet18")
    with pytest.raises(StudyError, match="calls none of gelu"), changed_functions(built, {"gelu": same}):
        built(x)
    late = changed_functions(built, {"max_pool2d": same}, after="layer1")
    with pytest.raises(StudyError, match="calls none of max_pool2d after 'layer1'"), late:
        built(x)
    with pytest.raises(StudyError, match="no layer 'layer9'"), changed_functions(built, {"relu": same}, after="layer9"):
        pass
