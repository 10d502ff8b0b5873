"""Estimates against sums done by hand, what PyTorch's profiler saw being allocated, and published numbers."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torchvision import models as torchvision_models

from study.errors import StudyError
from study.models import Model, loading, memory
from study.models.zoos import ZOOS

FLOAT = 4


def model(given) -> Model:
    return Model.model_validate(given)


def test_a_network_done_by_hand():
    """2 x 3 x 8 x 8 images; both convolutions keep the size; the linear layer sees 4 x 8 x 8 numbers."""
    network = nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 4, 1), nn.Sigmoid(), nn.Flatten(), nn.Linear(256, 10)
    )
    found = memory.estimate(network, channels=3, size=8, batch=2)
    assert memory.parameters(network) == (27 * 5 + 5) + (5 * 4 + 4) + (2560 + 10)
    held = FLOAT * memory.parameters(network)
    assert found.parameters == held
    images, wide, narrow, logits = (FLOAT * 2 * numbers for numbers in (3 * 64, 5 * 64, 4 * 64, 10))
    # Highest while the first ReLU has what it takes and what it makes.
    assert found.forward == held + images + 2 * wide
    # Forth, what the ReLU and the sigmoid make is kept; what the others saw is not, as their weights are frozen. Back,
    # highest at the sigmoid, with the gradients on both its sides: what it made is let go before the ReLU needs more.
    # Until the end live the logits, their sum and the gradient of that.
    kept = wide + narrow
    assert found.gradient == held + images + kept + 2 * narrow + logits + 2 * FLOAT


def test_what_is_shared_counts_once():
    """In place, as a view, tied, or another view of one storage: nothing more to hold."""
    plain = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    tied = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    tied[1].weight = tied[0].weight
    both = torch.zeros(2, 64, 64)
    viewed = nn.Sequential(nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False))
    viewed[0].weight, viewed[1].weight = (nn.Parameter(one) for one in both)

    class Seen(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, images):
            return self.network((images + 1).flatten(1).view(-1, 64).relu_())

    found = [memory.estimate(Seen(one), channels=1, size=8, batch=3) for one in (plain, tied, viewed)]
    assert [one.parameters for one in found] == [FLOAT * n for n in (2 * (4096 + 64), 4096 + 128, 2 * 4096)]
    # The images, what the first layer sees (its caller holds it), and what each layer makes.
    assert all(one.forward == one.parameters + 4 * FLOAT * 3 * 64 for one in found)


def test_the_network_stays_as_it_was(small_model):
    before = {name: tensor.clone() for name, tensor in small_model.state_dict().items()}
    small_model.train()
    memory.estimate(small_model, channels=3, size=12, batch=2)
    assert small_model.training
    small_model.eval()
    assert all(torch.equal(before[name], tensor) for name, tensor in small_model.state_dict().items())


def _measured(network: nn.Module, shape: tuple[int, ...], *, gradient: bool) -> int:
    """The height of all that was allocated on the CPU since the images were there, and not yet freed."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        images = torch.zeros(shape, requires_grad=gradient)
        with torch.set_grad_enabled(gradient):
            logits = network(images)
            if gradient:
                torch.autograd.grad(logits.sum(), images)
    live = most = 0
    for event in sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            live += event.nbytes()
            most = max(most, live)
    return most + FLOAT * sum(tensor.numel() for tensor in network.state_dict().values())


@pytest.mark.parametrize(
    "make",
    [
        torchvision_models.resnet18,
        partial(torchvision_models.DenseNet, 32, (3, 6, 6, 3)),
        partial(torchvision_models.VisionTransformer, 224, 32, 4, 12, 768, 3072),
        # More of what the shorter ones have.
        pytest.param(torchvision_models.densenet121, marks=pytest.mark.slow),
        pytest.param(torchvision_models.vit_b_32, marks=pytest.mark.slow),
    ],
    ids=["resnet18", "a short densenet", "a short vit", "densenet121", "vit_b_32"],
)
def test_what_the_profiler_sees(make):
    network = make().eval().requires_grad_(False)
    found = memory.estimate(network, channels=3, size=224, batch=4)
    assert found.forward == pytest.approx(_measured(network, (4, 3, 224, 224), gradient=False), rel=0.15)
    assert found.gradient == pytest.approx(_measured(network, (4, 3, 224, 224), gradient=True), rel=0.15)


def test_a_folded_classifier_with_its_preprocessing():
    """Big enough that what the CPU's library takes for itself, a copy of one layer's weights, matters little."""
    asked = model({"network": "torchvision:resnet18", "weights": "random:1", "size": 192})
    classifier = loading.load("a", asked, fold=True)
    found = memory.estimate(classifier, channels=3, size=160, batch=8)
    assert found.forward == pytest.approx(_measured(classifier, (8, 3, 160, 160), gradient=False), rel=0.15)
    assert found.gradient == pytest.approx(_measured(classifier, (8, 3, 160, 160), gradient=True), rel=0.15)


@pytest.mark.parametrize(
    "given",
    [
        "torchvision:resnet152/IMAGENET1K_V1",
        "torchvision:inception_v3/IMAGENET1K_V1",
        "torchvision:googlenet/IMAGENET1K_V1",
        "torchvision:regnet_x_400mf/IMAGENET1K_V1",
        "torchvision:vit_b_16/IMAGENET1K_V1",
    ],
)
def test_as_many_parameters_as_torchvision_publishes(given):
    built = memory.build_meta(model(given))
    name, _, tag = given.partition(":")[2].partition("/")
    assert memory.parameters(built) == torchvision_models.get_model_weights(name)[tag].meta["num_params"]
    assert {tensor.device.type for tensor in built.state_dict().values()} == {"meta"}


@pytest.mark.parametrize(
    "given",
    [
        {"network": "timm:vit_small_r26_s32_224", "weights": "random:1"},
        {"network": "timm:swin_tiny_patch4_window7_224", "weights": "random:1"},
        {"network": "pretrainedmodels:se_resnet50", "weights": "random:1"},
        {"network": "study:cifar_resnet20", "weights": "random:1"},
        {"network": "study:mnist_fnn2", "weights": "random:1"},
    ],
    ids=lambda given: given["network"],
)
def test_networks_of_every_zoo_weigh_what_they_weigh_when_built(given):
    asked = model(given)
    built = memory.build_meta(asked)
    real = loading.load("a", asked).network if asked.zoo != "study" else ZOOS["study"].build(asked.name, None, {})
    shapes = {name: tensor.shape for name, tensor in real.state_dict().items()}
    assert {name: tensor.shape for name, tensor in built.state_dict().items()} == shapes


def test_senet154_without_a_number_of_it():
    built = memory.build_meta(model("senet154"))
    assert memory.parameters(built) == 115_088_984
    found = memory.estimate(built, channels=3, size=224, batch=8)
    assert found.parameters < found.forward < found.gradient
    assert found.parameters == pytest.approx(FLOAT * 115_088_984, rel=0.01)


def test_outputs_follow_the_weights():
    wide = memory.build_meta(model("pretrainedmodels:inceptionv4/imagenet+background"))
    assert wide.last_linear.out_features == 1001
    named = memory.build_meta(
        model({"network": "timm:test_resnet", "weights": "random:1", "classes": ["a", "b", "c"]}),
    )
    assert named.num_classes == 3


def test_a_network_that_looks_at_values():
    class Looks(nn.Module):
        def forward(self, images):
            return images.flatten(1) if images.sum() > 0 else images.flatten(1) * 2

    with pytest.raises(StudyError, match="2 images with 3 channels and 8 x 8 pixels"):
        memory.estimate(Looks(), channels=3, size=8, batch=2)
    with pytest.raises(StudyError, match="has no network"):
        memory.build_meta(model({"model": "other", "transform": {"jpeg": 75}}))


def test_modules_that_a_library_makes_once_are_no_ones_own():
    """pretrainedmodels holds the features of its ResNeXts once in the process: models share no weights, and an estimate
    leaves them their memory."""
    name = "pretrainedmodels:resnext101_32x4d"
    memory.build_meta(model(name))
    one, other = (
        loading.load("m", Model.model_validate({"network": name, "weights": f"random:{seed}"})).network
        for seed in (1, 2)
    )
    pairs = list(zip(one.features.parameters(), other.features.parameters(), strict=True))
    assert pairs
    assert all(first is not second for first, second in pairs)
    assert any(not bool((first == second).all()) for first, second in pairs)
