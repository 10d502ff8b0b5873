"""The Skip Gradient Method: where networks have residual branches, and how gradients are made smaller at their ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from study.errors import StudyError

Compatibility = Literal["paper", "authors"]


@dataclass(frozen=True)
class Branch:
    """One residual branch, or one dense layer, of a network.

    Attributes:
        block: Dotted name, within the network, of the block that the branch is in.
        end: The module whose output is the branch's output, before the addition or concatenation; what a block still
            does with that output alone (a constant scale, a permutation) does not change what a decay there means.
        dense: Whether this is a dense layer, whose new features are concatenated instead of added.
    """

    block: str
    end: nn.Module
    dense: bool


def branches(network: nn.Module) -> list[Branch]:
    """The branches of `network` in blocks that we know, in the network's own order; none where it has no such block.

    A block is known by the class whose `forward` it runs, so a subclass with a `forward` of its own is another block,
    and a branch in a block that we do not know is not found. No end is an `nn.Identity`, so batch norms may have been
    folded into their convolutions, even where one Identity stands for all of them.
    """
    found = []
    for name, block in network.named_modules():
        known = _known(block)
        if known is None or (known.only_if and not getattr(block, known.only_if)):
            continue
        for candidates in known.ends:
            end = _end(block, candidates)
            if end is not None:
                found.append(Branch(name, end, known.family == "densenet"))
    return found


@contextmanager
def decayed(
    network: nn.Module, *, residual: float, dense: float, compatibility: Compatibility = "paper"
) -> Iterator[int]:
    """Multiply the gradient, never the value, at the end of every branch of `network`; yields the number of branches.

    Wu et al. 2020 (arXiv:2002.05990), equation 9: a block z + f(z) is differentiated as if it were z + gamma f(z);
    gamma is `residual`. What stands in a skip connection (a downsampling convolution) is left alone. In a DenseNet the
    branch is a layer's new features, and gamma is `dense`. A gamma of 1 touches nothing and counts as none.

    Holds for every forward inside the context, whenever its backward comes, and for no other. Afterwards, and after an
    exception, the network has the hooks and parameters that it had before.

    `authors` gives what the authors' released code does to the gradient of the images, up to one positive factor for a
    batch. They scale the gradient at ReLUs, inside branches and after additions, except where a ReLU's name contains
    "0.relu", which is meant for layerN.0 and is also true of layer3.10, layer3.20 and layer3.30: in a ResNet, blocks
    whose index ends in 0 are not decayed. A DenseNet is decayed as in the paper. Their code knows the plain ResNets and
    DenseNets; we apply its rule to every network made of the same blocks, ResNeXt for one.

    Raises StudyError where `authors` is asked of any other network.
    """
    chosen = branches(network)
    if compatibility == "authors":
        chosen = _as_the_authors(network, chosen)
    factors = [(branch.end, dense if branch.dense else residual) for branch in chosen]
    factors = [(end, factor) for end, factor in factors if factor != 1]
    with ExitStack() as hooks:
        for end, factor in factors:
            hooks.enter_context(end.register_forward_hook(_Decay(factor)))
        yield len(factors)


@dataclass(frozen=True)
class _Decay:
    """A forward hook: the gradient of a module's output is multiplied by `factor`, and the output is as it was.

    A hook on the tensor sees the gradient of the value that the tensor has now, so a block may add its skip connection
    in place afterwards. A module's backward hook could not stand in-place operations.
    """

    factor: float

    def __call__(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        if output.requires_grad:
            output.register_hook(self._scale)  # type: ignore[no-untyped-call]

    def _scale(self, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * self.factor


def _as_the_authors(network: nn.Module, found: list[Branch]) -> list[Branch]:
    families = {known.family for branch in found if (known := _known(network.get_submodule(branch.block)))}
    if not families or "other" in families:
        raise StudyError(
            f"the authors' code of the Skip Gradient Method does not know networks like this {type(network).__name__}",
            accepted="with compatibility 'authors': ResNets and DenseNets",
            todo="use compatibility 'paper', or a ResNet or DenseNet as source",
        )
    return [branch for branch in found if branch.dense or not branch.block.endswith("0")]


@dataclass(frozen=True)
class _Block:
    """How a class of blocks ends its branches.

    Attributes:
        ends: For each branch, the names of the modules at its end, the last to run first; "" is the block itself. The
            first that is there, and not an Identity, is the end.
        only_if: Attribute of the block that says whether it has a skip connection; None where it always has one.
        family: What the authors' code takes the network for.
    """

    ends: tuple[tuple[str, ...], ...]
    only_if: str | None = None
    family: Literal["resnet", "densenet", "other"] = "other"


def _known(module: nn.Module) -> _Block | None:
    """Names instead of classes: nothing is imported that the network has not imported."""
    running = next(each for each in type(module).__mro__ if "forward" in vars(each))
    return _BLOCKS.get(f"{running.__module__}.{running.__qualname__}")


def _end(block: nn.Module, candidates: tuple[str, ...]) -> nn.Module | None:
    for name in candidates:
        module = getattr(block, name, None) if name else block
        # An Identity hands on its input, which others may use too, and one instance may stand in many places.
        if isinstance(module, nn.Module) and not isinstance(module, nn.Identity):
            return module
    return None


_TIMM_RESIDUAL = "timm.models._efficientnet_blocks"
_RESNET = _Block((("bn3", "conv3", "bn2", "conv2"),), family="resnet")
_TIMM_RESNET = _Block((("drop_path", "se", "bn3", "conv3", "bn2", "conv2"),), family="resnet")
_DENSE = _Block((("",),), family="densenet")
_SENET = _Block((("se_module",),))
_INCEPTION_RESNET = _Block((("conv2d",),))

_BLOCKS: dict[str, _Block] = {
    "study.models.networks.CifarBlock": _RESNET,
    "torchvision.models.resnet.BasicBlock": _RESNET,
    "torchvision.models.resnet.Bottleneck": _RESNET,
    "torchvision.models.densenet._DenseLayer": _DENSE,
    "torchvision.models.efficientnet.MBConv": _Block((("stochastic_depth", "block"),), only_if="use_res_connect"),
    "torchvision.models.efficientnet.FusedMBConv": _Block((("stochastic_depth", "block"),), only_if="use_res_connect"),
    "torchvision.models.mobilenetv2.InvertedResidual": _Block((("conv",),), only_if="use_res_connect"),
    "torchvision.models.mobilenetv3.InvertedResidual": _Block((("block",),), only_if="use_res_connect"),
    "torchvision.models.mnasnet._InvertedResidual": _Block((("layers",),), only_if="apply_residual"),
    "torchvision.models.regnet.ResBottleneckBlock": _Block((("f",),)),
    "torchvision.models.convnext.CNBlock": _Block((("stochastic_depth", "block"),)),
    "torchvision.models.vision_transformer.EncoderBlock": _Block((("dropout",), ("mlp",))),
    "timm.models.resnet.BasicBlock": _TIMM_RESNET,
    "timm.models.resnet.Bottleneck": _TIMM_RESNET,
    "timm.models.densenet.DenseLayer": _DENSE,
    "timm.models.senet.Bottleneck": _SENET,
    "timm.models.senet.SEResNetBlock": _SENET,
    "timm.models.inception_resnet_v2.Block35": _INCEPTION_RESNET,
    "timm.models.inception_resnet_v2.Block17": _INCEPTION_RESNET,
    "timm.models.inception_resnet_v2.Block8": _INCEPTION_RESNET,
    f"{_TIMM_RESIDUAL}.ConvBnAct": _Block((("drop_path", "aa", "bn1", "conv"),), only_if="has_skip"),
    f"{_TIMM_RESIDUAL}.DepthwiseSeparableConv": _Block((("drop_path", "bn2", "conv_pw"),), only_if="has_skip"),
    f"{_TIMM_RESIDUAL}.InvertedResidual": _Block((("drop_path", "bn3", "conv_pwl"),), only_if="has_skip"),
    f"{_TIMM_RESIDUAL}.CondConvResidual": _Block((("drop_path", "bn3", "conv_pwl"),), only_if="has_skip"),
    f"{_TIMM_RESIDUAL}.EdgeResidual": _Block((("drop_path", "bn2", "conv_pwl"),), only_if="has_skip"),
    f"{_TIMM_RESIDUAL}.UniversalInvertedResidual": _Block(
        (("drop_path", "layer_scale", "dw_end", "pw_proj"),), only_if="has_skip"
    ),
    f"{_TIMM_RESIDUAL}.MobileAttention": _Block(
        (("conv_cpe_dw",), ("drop_path", "layer_scale", "attn")), only_if="has_skip"
    ),
    "timm.models.convnext.ConvNeXtBlock": _Block((("drop_path", "mlp"),)),
    "timm.models.vision_transformer.Block": _Block((("drop_path1", "ls1", "attn"), ("drop_path2", "ls2", "mlp"))),
    "pretrainedmodels.models.cafferesnet.Bottleneck": _RESNET,
    "pretrainedmodels.models.fbresnet.BasicBlock": _RESNET,
    "pretrainedmodels.models.fbresnet.Bottleneck": _RESNET,
    "pretrainedmodels.models.senet.Bottleneck": _SENET,
    "pretrainedmodels.models.inceptionresnetv2.Block35": _INCEPTION_RESNET,
    "pretrainedmodels.models.inceptionresnetv2.Block17": _INCEPTION_RESNET,
    "pretrainedmodels.models.inceptionresnetv2.Block8": _INCEPTION_RESNET,
    # Two children: the branch, and what stands in the skip connection.
    "pretrainedmodels.models.resnext_features.resnext101_32x4d_features.LambdaMap": _Block((("0",),)),
    "pretrainedmodels.models.resnext_features.resnext101_64x4d_features.LambdaMap": _Block((("0",),)),
}
