"""Where residual branches begin and end: with every branch switched off, only the skip connections are left."""

from __future__ import annotations

import itertools

import pytest
import torch

from study.models.features import changed_forward
from study.models.layers import layers_of
from tests.study.models.layers.small import images, network

# fmt: off
NETWORKS = [
    "study:cifar_resnet20", "torchvision:resnet18", "torchvision:mobilenet_v2", "torchvision:mnasnet0_5",
    "torchvision:swin", "torchvision:swin_v2", "torchvision:vit", "torchvision:regnet_y_400mf", "timm:test_resnet",
    "timm:tf_efficientnet_lite0", "torchvision:efficientnet_b0", "timm:legacy_seresnet18", "timm:resnetv2",
    "timm:convnext_atto", "timm:regnetx_002", "timm:legacy_xception", "timm:convmixer", "timm:mixer", "timm:vit",
    "timm:beit", "timm:eva", "timm:convit", "timm:cait", "timm:xcit", "timm:visformer", "timm:swin", "timm:swinv2",
    "timm:levit", "timm:pit", "timm:mobilenetv4_conv_small",
]
# fmt: on


@pytest.mark.parametrize("name", NETWORKS)
def test_skip_connections_are_what_is_left(name):
    """Block by block: output = skip connection, through the ReLU after the addition where there is one."""
    built = network(name)
    branches = layers_of(built).blocks
    assert branches
    last = {branch.block: branch for branch in branches}
    inputs, outputs = {}, {}

    def keep(held, one):
        def hook(module, given, output=None):
            held.setdefault(one, first(given if output is None else output))

        return hook

    handles = []
    wanted = {one for branch in branches for one in (branch.block, branch.start, branch.skip) if one}
    for one in wanted:
        handles.append(built.get_submodule(one).register_forward_pre_hook(keep(inputs, one)))
        handles.append(built.get_submodule(one).register_forward_hook(keep(outputs, one)))
    off = {branch.name: torch.zeros_like for branch in branches}
    with torch.no_grad(), changed_forward(built, off):
        built(images(name))
    for handle in handles:
        handle.remove()
    compared = 0
    for block, branch in last.items():
        if not branch.identity and branch.skip is None:
            continue
        skip = inputs[branch.start] if branch.skip is None else outputs[branch.skip]
        skip = skip.reshape(outputs[block].shape)
        compared += 1
        assert skip.abs().max() > 0
        assert torch.equal(outputs[block], skip) or torch.equal(outputs[block], skip.relu())
    assert compared >= len(last) / 2
    for before, after in itertools.pairwise(branches):
        if before.block == after.block and before.identity and after.identity:
            given = inputs[before.start]
            assert torch.equal(given, inputs[after.start].reshape(given.shape))


def first(given) -> torch.Tensor:
    """A copy, for later modules may work in place."""
    while isinstance(given, tuple | list):
        given = given[0]
    return given.clone()


@pytest.mark.parametrize("name", ["timm:test_resnet", "torchvision:swin", "timm:legacy_xception", "timm:vit"])
def test_ends_are_apart_and_in_the_order_of_the_network(name):
    built = network(name)
    names = [branch.name for branch in layers_of(built).blocks]
    assert len(set(names)) == len(names)
    ran = []
    handles = [
        built.get_submodule(one).register_forward_hook(lambda *_, one=one: ran.append(one)) for one in set(names)
    ]
    with torch.no_grad():
        built(images(name))
    for handle in handles:
        handle.remove()
    assert ran == names
