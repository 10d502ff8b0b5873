"""The Skip Gradient Method: find the residual branches of a network, and scale the gradient at their ends."""

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
        block: Dotted name of the branch's block within the network.
        end: The module whose output is the branch's output, before the addition or concatenation. A constant scale or a
            permutation after it does not change the effect of a decay.
        dense: Whether this is a dense layer, which concatenates its new features instead of adding them.
    """

    block: str
    end: nn.Module
    dense: bool


def branches(network: nn.Module) -> list[Branch]:
    """The branches of all known blocks in `network`, in the network's order.

    A block is known by the class that defines its `forward`: a subclass with its own `forward` is another block, and
    branches of unknown blocks are not found. An end is never an `nn.Identity`, so batch norms may be folded into their
    convolutions, even if one Identity replaces all of them.
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
    """Multiply the gradient, not the value, at the end of every branch of `network`; yield the number of branches.

    Wu et al. 2020 (arXiv:2002.05990), equation 9: the gradient of a block z + f(z) is that of z + gamma f(z), where
    gamma is `residual`. Modules in a skip connection (a downsampling convolution) are left alone. In a DenseNet, the
    branch is a layer's new features, and gamma is `dense`. Branches with a gamma of 1 are skipped and not counted.

    The scaling applies to every forward pass inside the context, even if its backward pass comes later. At the end, or
    after an exception, the network has its original hooks and parameters.

    `authors` reproduces the gradient of the authors' released code, up to one positive factor for each batch. That code
    scales the gradient at ReLUs, inside branches and after additions, except at ReLUs whose name contains "0.relu". The
    exception is meant for layerN.0, but also matches layer3.10, layer3.20 and layer3.30: in a ResNet, blocks whose
    index ends in 0 have no decay. A DenseNet decays as in the paper. The released code supports plain ResNets and
    DenseNets; here its rule applies to every network of the same blocks, such as ResNeXt.

    Raises StudyError for `authors` with any other network.
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
    """A forward hook that multiplies the gradient of a module's output by `factor`.

    A hook on the tensor receives the gradient of its present value, so a block may add its skip connection in place
    afterwards. A backward hook of a module would not support in-place operations.
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
            f"the authors' code of the Skip Gradient Method does not support this {type(network).__name__}",
            accepted="with compatibility 'authors': ResNets and DenseNets",
            todo="use compatibility 'paper', or a ResNet or DenseNet as source",
        )
    return [branch for branch in found if branch.dense or not branch.block.endswith("0")]


@dataclass(frozen=True)
class _Block:
    """The ends of the branches in a class of blocks.

    Attributes:
        ends: For each branch, the names of the modules at its end, last one first; "" is the block itself. The first
            module that exists and is not an Identity is the end.
        only_if: The attribute of the block that tells whether it has a skip connection; None if it always has one.
        family: The family to which the authors' code assigns the network.
    """

    ends: tuple[tuple[str, ...], ...]
    only_if: str | None = None
    family: Literal["resnet", "densenet", "other"] = "other"


def _known(module: nn.Module) -> _Block | None:
    """The entry of a module's class. Names in place of classes avoid imports of unused zoos."""
    running = next(each for each in type(module).__mro__ if "forward" in vars(each))
    return _BLOCKS.get(f"{running.__module__}.{running.__qualname__}")


def _end(block: nn.Module, candidates: tuple[str, ...]) -> nn.Module | None:
    for name in candidates:
        module = getattr(block, name, None) if name else block
        # An Identity returns its input, which other modules may use as well, and one instance may be in many places.
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
    # Two children: the branch, and the skip connection.
    "pretrainedmodels.models.resnext_features.resnext101_32x4d_features.LambdaMap": _Block((("0",),)),
    "pretrainedmodels.models.resnext_features.resnext101_64x4d_features.LambdaMap": _Block((("0",),)),
}
