"""Find the modules that end the stages of a network.

In a CNN, and in a transformer with a pyramid of resolutions, a stage is the part that computes at one resolution. The
stem is not a stage. In VGG, AlexNet and SqueezeNet, a stage ends before each max-pooling. Every block of a plain
transformer is a stage.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn


def stage_ends(network: nn.Module) -> tuple[str, ...] | None:
    """Return the names of the modules whose outputs end the stages, in order; None if the stages are not known."""
    known = _NETWORKS.get(f"{type(network).__module__}.{type(network).__qualname__}")
    ends = known(network) if known is not None else _of_timm(network)
    # An nn.ModuleList has no forward pass, so it cannot end a stage.
    modules = network.named_modules(remove_duplicate=False)
    held = {name for name, one in modules if name and not isinstance(one, nn.ModuleList)}
    return ends if ends and held.issuperset(ends) and len(set(ends)) == len(ends) else None


def _of_timm(network: nn.Module) -> tuple[str, ...]:
    """Return the ends of the stages that timm records in `feature_info`, without the stem; empty without a record."""
    record: Any = getattr(network, "feature_info", None)
    if not isinstance(record, list):
        return ()
    held = dict(network.named_modules())
    return tuple(
        str(one["module"])
        for one in record
        if one["module"] in held and (one["reduction"] > 2 or _convolutions(held[one["module"]]) > 1)
    )


def _convolutions(module: nn.Module) -> int:
    return sum(isinstance(one, nn.Conv2d) for one in module.modules())


def _names(*ends: str) -> Callable[[nn.Module], tuple[str, ...]]:
    return lambda _: ends


def _children(trunk: str, *, every: int = 1, first: int = 0) -> Callable[[nn.Module], tuple[str, ...]]:
    """Return a function that lists the children of a network's module `trunk`.

    The list starts at index `first` and has every `every`-th child.
    """

    def ends(network: nn.Module) -> tuple[str, ...]:
        found = [f"{trunk}.{name}" for name, _ in network.get_submodule(trunk).named_children()]
        return tuple(found[first::every])

    return ends


def _matching(trunk: str, pattern: str) -> Callable[[nn.Module], tuple[str, ...]]:
    """Return a function that lists children of a network's module `trunk` whose names match `pattern`.

    For each value of the group in `pattern`, only the last matching child is listed.
    """

    def ends(network: nn.Module) -> tuple[str, ...]:
        last: dict[str, str] = {}
        for name, _ in network.get_submodule(trunk).named_children():
            if found := re.fullmatch(pattern, name):
                last[found[1]] = f"{trunk}.{name}"
        return tuple(last.values())

    return ends


def _pooled(network: nn.Module) -> tuple[str, ...]:
    """Return the names of the modules before each max-pooling in a network's `features`.

    The last module is also returned if it is not a max-pooling. The layers must be direct children of `features`.
    """
    trunk = "features" if isinstance(getattr(network, "features", None), nn.Module) else "_features"
    before, ends, blocks = "", [], 0
    for name, module in network.get_submodule(trunk).named_children():
        if isinstance(module, nn.MaxPool2d):
            ends.append((before, blocks))
        elif before and not isinstance(module, nn.ReLU | nn.BatchNorm2d):
            blocks += 1
        before = f"{trunk}.{name}"
    if not ends or not isinstance(module, nn.MaxPool2d):
        ends.append((before, blocks))
    fires = any(type(one).__name__ == "Fire" for one in network.modules())
    # The first convolution of a SqueezeNet is its stem, which is not a stage.
    return tuple(name for name, count in ends if count or not fires)


def _strided(trunk: str) -> Callable[[nn.Module], tuple[str, ...]]:
    """Return a function that lists, in a network's module `trunk`, the block before each block that halves the image.

    The last block is also listed. Children with a single convolution, such as a stem, do not count as blocks.
    """

    def ends(network: nn.Module) -> tuple[str, ...]:
        children = [(f"{trunk}.{name}", one) for name, one in network.get_submodule(trunk).named_children()]
        blocks = [(name, one) for name, one in children if _convolutions(one) > 1]
        halving = [index for index, (_, one) in enumerate(blocks) if index and _halves(one)]
        return tuple(blocks[index - 1][0] for index in (*halving, len(blocks)))

    return ends


def _halves(module: nn.Module) -> bool:
    strides = [one.stride for one in module.modules() if isinstance(one, nn.Conv2d)]
    return any(stride[0] > 1 for stride in strides)


def _hidden(network: nn.Module) -> tuple[str, ...]:
    return tuple(f"hidden.{name}" for name, _ in network.get_submodule("hidden").named_children())


def _last_blocks(network: nn.Module) -> tuple[str, ...]:
    """Return the name of the last block of each transformer in a PiT.

    The transformers themselves do not end stages, because they return image tokens and class token separately.
    """
    return tuple(_last_block(network))


def _last_block(network: nn.Module) -> Iterator[str]:
    for name, one in network.get_submodule("transformers").named_children():
        blocks = [inner for inner, _ in one.get_submodule("blocks").named_children()]
        yield f"transformers.{name}.blocks.{blocks[-1]}"


_LAYERS = _names("layer1", "layer2", "layer3", "layer4")
_INCEPTION = _names("Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e", "Mixed_7c")
_INCEPTION_RESNET = _names("conv2d_4a", "repeat", "repeat_1", "conv2d_7b")

_NETWORKS: dict[str, Callable[[nn.Module], tuple[str, ...]]] = {
    "study.models.networks.CifarResNet": _names("layer1", "layer2", "layer3"),
    "study.models.networks.FullyConnected": _hidden,
    "torchvision.models.resnet.ResNet": _LAYERS,
    "torchvision.models.densenet.DenseNet": _matching("features", r"denseblock(\d)"),
    "torchvision.models.vgg.VGG": _pooled,
    "torchvision.models.alexnet.AlexNet": _pooled,
    "torchvision.models.squeezenet.SqueezeNet": _pooled,
    "torchvision.models.inception.Inception3": _INCEPTION,
    "torchvision.models.googlenet.GoogLeNet": _names("conv3", "inception3b", "inception4e", "inception5b"),
    "torchvision.models.mobilenetv2.MobileNetV2": _strided("features"),
    "torchvision.models.mobilenetv3.MobileNetV3": _strided("features"),
    "torchvision.models.efficientnet.EfficientNet": _strided("features"),
    "torchvision.models.mnasnet.MNASNet": _strided("layers"),
    # Table 5 of the ShuffleNet v2 paper counts the first convolution and pooling as stage 1.
    "torchvision.models.shufflenetv2.ShuffleNetV2": _names("maxpool", "stage2", "stage3", "stage4"),
    "torchvision.models.regnet.RegNet": _children("trunk_output"),
    # Modules at even indices are the stem and the downsamplings.
    "torchvision.models.convnext.ConvNeXt": _children("features", every=2, first=1),
    "torchvision.models.swin_transformer.SwinTransformer": _children("features", every=2, first=1),
    "torchvision.models.maxvit.MaxVit": _children("blocks"),
    "torchvision.models.vision_transformer.VisionTransformer": _children("encoder.layers"),
    "timm.models.senet.SENet": _LAYERS,
    "timm.models.vgg.VGG": _pooled,
    # For these networks, timm's record names modules that belong to the next stage.
    "timm.models.xception.Xception": _names("block1", "block2", "block11", "act4"),
    "timm.models.nasnet.NASNetALarge": _names("cell_stem_0", "cell_5", "cell_11", "cell_17"),
    "timm.models.pnasnet.PNASNet5Large": _names("cell_stem_0", "cell_3", "cell_7", "cell_11"),
    "timm.models.pit.PoolingVisionTransformer": _last_blocks,
    "pretrainedmodels.models.senet.SENet": _LAYERS,
    "pretrainedmodels.models.cafferesnet.ResNet": _LAYERS,
    "pretrainedmodels.models.fbresnet.FBResNet": _LAYERS,
    "pretrainedmodels.models.resnext.ResNeXt101_32x4d": _children("features", first=4),
    "pretrainedmodels.models.resnext.ResNeXt101_64x4d": _children("features", first=4),
    "pretrainedmodels.models.inceptionv4.InceptionV4": _names("features.3", "features.9", "features.17", "features.21"),
    "pretrainedmodels.models.inceptionresnetv2.InceptionResNetV2": _INCEPTION_RESNET,
    "pretrainedmodels.models.dpn.DPN": _matching("features", r"conv([2-5])_\d+"),
    "pretrainedmodels.models.xception.Xception": _names("block1", "block2", "block11", "bn4"),
    "pretrainedmodels.models.nasnet.NASNetALarge": _names("cell_stem_0", "cell_5", "cell_11", "cell_17"),
    "pretrainedmodels.models.nasnet_mobile.NASNetAMobile": _names("cell_stem_0", "cell_3", "cell_9", "cell_15"),
    "pretrainedmodels.models.pnasnet.PNASNet5Large": _names("cell_stem_0", "cell_3", "cell_7", "cell_11"),
}
