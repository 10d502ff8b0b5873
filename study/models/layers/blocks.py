"""Find the residual branches and the dense layers of a network, by the classes of its blocks."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn

Family = Literal["resnet", "densenet", "other"]


@dataclass(frozen=True)
class Branch:
    """One residual branch f of a block x + f(x), or one dense layer (a layer in a block of a DenseNet).

    Attributes:
        block: Dotted name of the branch's block within the network.
        end: The module whose output is the branch's output, before the addition or concatenation. A constant scale, a
            permutation or a crop may follow this module, because a factor on the module's gradient has the same effect
            before and after these operations.
        dense: Whether this is a dense layer, which concatenates its new features instead of adding them.
        name: Dotted name of `end`.
        start: Dotted name of the module whose input is x. This is the block itself, or, in a transformer's block, the
            first module of the branch.
        skip: Dotted name of the module whose output is added in place of x (usually a downsampling); None if there is
            no such module.
        identity: Whether x is added without a module; false for a dense layer. If this is false and `skip` is None in
            another block, the block changes x by functions, and no module returns the value of the skip connection.
        family: The block's family. The authors' code of the Skip Gradient Method distinguishes these families.
    """

    block: str
    end: nn.Module
    dense: bool
    name: str = ""
    start: str = ""
    skip: str | None = None
    identity: bool = False
    family: Family = "other"


def has_known_blocks(network: nn.Module) -> bool:
    """Return whether `network` has a known block. A network of known blocks may still have no skip connection."""
    return any(_known(module) is not None for module in network.modules())


def unknown_blocks(network: nn.Module) -> tuple[str, ...]:
    """Return the names of unknown blocks: modules with the class name of a block, but of an unknown class.

    A module that contains a known block, or is inside a known block, is left out.
    """
    known = [name for name, module in network.named_modules() if _known(module) is not None]
    holding = {name[:at] for name in known for at, sign in enumerate(name) if sign == "."}
    inside = tuple(f"{name}." for name in known)
    return tuple(
        name
        for name, module in network.named_modules()
        if name not in known
        and name not in holding
        and not name.startswith(inside)
        and _CALLED_BLOCKS.search(type(module).__name__)
        and type(module).__name__ not in _OTHER_BLOCKS
    )


def branches(network: nn.Module) -> list[Branch]:
    """Return the branches of all known blocks in `network`, in the network's order.

    A block is known if the class that defines its `forward` is known. A subclass of a known class that has its own
    `forward` is an unknown block. Branches of unknown blocks are left out. The end of a branch is never an
    `nn.Identity`. Therefore batch norms may be folded, even if a single Identity replaces all batch norms.
    """
    found = []
    for name, block in network.named_modules():
        known = _known(block)
        if known is None or (known.only_if and not getattr(block, known.only_if)):
            continue
        found += [branch for arm in known.arms if (branch := _branch(name, block, known, arm)) is not None]
    return found


@dataclass(frozen=True)
class _Arm:
    """The description of one branch, for all blocks of one class.

    Attributes:
        ends: Names of modules that may be the end of the branch; "" is the block itself. They are tried in this order.
            The end is the first one that exists in the block and is not an Identity.
        start: Name of the module whose input is also the input of the skip connection; "" is the block itself.
        skip: Name of the module in the skip connection; "" if the skip connection never has a module.
        plain: A function that takes a block whose skip connection has no module, and returns whether the skip
            connection adds its own input unchanged.
    """

    ends: tuple[str, ...]
    start: str = ""
    skip: str = ""
    plain: Callable[[nn.Module], bool] = lambda _: True


@dataclass(frozen=True)
class _Block:
    """The descriptions of all branches, for all blocks of one class.

    `only_if` is the name of the attribute that tells whether a block has a skip connection; None if all blocks have
    one.
    """

    arms: tuple[_Arm, ...]
    only_if: str | None = None
    family: Family = "other"


def _known(module: nn.Module) -> _Block | None:
    """Return the entry of a module's class in `_BLOCKS`; None if the class is unknown.

    The keys of `_BLOCKS` are names of classes, so that unused zoos need not be imported.
    """
    running = next(each for each in type(module).__mro__ if "forward" in vars(each))
    return _BLOCKS.get(f"{running.__module__}.{running.__qualname__}")


def _branch(name: str, block: nn.Module, known: _Block, arm: _Arm) -> Branch | None:
    for candidate in arm.ends:
        module = getattr(block, candidate, None) if candidate else block
        # An Identity is never the end of a branch, because it returns its input, which other modules may use too. One
        # Identity may also be in several places of the network.
        if isinstance(module, nn.Module) and not isinstance(module, nn.Identity):
            skip = getattr(block, arm.skip, None) if arm.skip else None
            moved = isinstance(skip, nn.Module) and not isinstance(skip, nn.Identity)
            dense = known.family == "densenet"
            return Branch(
                block=name,
                end=module,
                dense=dense,
                name=_inside(name, candidate),
                start=_inside(name, arm.start),
                skip=_inside(name, arm.skip) if moved else None,
                identity=not dense and not moved and arm.plain(block),
                family=known.family,
            )
    return None


def _inside(block: str, name: str) -> str:
    return ".".join(part for part in (block, name) if part)


def _same_shape(block: nn.Module) -> bool:
    return bool(not block.added and block.stride == 1)


def _never(_: nn.Module) -> bool:
    return False


def _one(*ends: str, skip: str = "", only_if: str | None = None, family: Family = "other") -> _Block:
    return _Block((_Arm(ends, skip=skip),), only_if, family)


def _two(first: tuple[str, ...], second: tuple[str, ...], starts: tuple[str, str] = ("norm1", "norm2")) -> _Block:
    """Return the entry of a block with two branches, usually attention and MLP, each with its own skip connection."""
    return _Block((_Arm(first, starts[0]), _Arm(second, starts[1])))


_CALLED_BLOCKS = re.compile("Block|Bottleneck|Residual|MBConv|MbConv")
_OTHER_BLOCKS = {"ClassAttentionBlock"}
"""Classes that are not blocks in the sense of this module: XCiT's last blocks.

Their attention computes only the class token. Every other token is added to its own normalised value."""

_TIMM_RESIDUAL = "timm.models._efficientnet_blocks"
_LAST = ("bn3", "conv3", "bn2", "conv2")
_RESNET = _one(*_LAST, skip="downsample", family="resnet")
_TIMM_RESNET = _one("drop_path", "se", *_LAST, skip="downsample", family="resnet")
_DENSE = _one("", family="densenet")
_SENET = _one("se_module", skip="downsample")
_INCEPTION_RESNET = _one("conv2d")
_XCEPTION = _one("rep", skip="skipbn")
_TRANSFORMER = _two(("drop_path1", "attn"), ("drop_path2", "mlp"))
# One drop-path module serves both branches, so it is not the end of either branch.
_SHARED_DROP = _two(("attn",), ("mlp",))

_BLOCKS: dict[str, _Block] = {
    "study.models.networks.CifarBlock": _Block((_Arm(_LAST, plain=_same_shape),), family="resnet"),
    "torchvision.models.resnet.BasicBlock": _RESNET,
    "torchvision.models.resnet.Bottleneck": _RESNET,
    "torchvision.models.densenet._DenseLayer": _DENSE,
    "torchvision.models.efficientnet.MBConv": _one("stochastic_depth", "block", only_if="use_res_connect"),
    "torchvision.models.efficientnet.FusedMBConv": _one("stochastic_depth", "block", only_if="use_res_connect"),
    "torchvision.models.mobilenetv2.InvertedResidual": _one("conv", only_if="use_res_connect"),
    "torchvision.models.mobilenetv3.InvertedResidual": _one("block", only_if="use_res_connect"),
    "torchvision.models.mnasnet._InvertedResidual": _one("layers", only_if="apply_residual"),
    "torchvision.models.regnet.ResBottleneckBlock": _one("f", skip="proj"),
    "torchvision.models.convnext.CNBlock": _one("stochastic_depth", "block"),
    "torchvision.models.vision_transformer.EncoderBlock": _two(("dropout",), ("mlp",), ("ln_1", "ln_2")),
    "torchvision.models.swin_transformer.SwinTransformerBlock": _SHARED_DROP,
    "torchvision.models.swin_transformer.SwinTransformerBlockV2": _two(("norm1",), ("norm2",), ("attn", "mlp")),
    "timm.models.resnet.BasicBlock": _TIMM_RESNET,
    "timm.models.resnet.Bottleneck": _TIMM_RESNET,
    "timm.models.resnetv2.PreActBasic": _one("drop_path", "conv2", skip="downsample"),
    "timm.models.resnetv2.PreActBottleneck": _one("drop_path", "conv3", skip="downsample"),
    "timm.models.resnetv2.Bottleneck": _one("drop_path", "norm3", skip="downsample"),
    "timm.models.densenet.DenseLayer": _DENSE,
    "timm.models.senet.Bottleneck": _SENET,
    "timm.models.senet.SEResNetBlock": _SENET,
    "timm.models.regnet.Bottleneck": _one("drop_path", "conv3", skip="downsample", only_if="downsample"),
    "timm.models.xception.Block": _XCEPTION,
    "timm.models.inception_resnet_v2.Block35": _INCEPTION_RESNET,
    "timm.models.inception_resnet_v2.Block17": _INCEPTION_RESNET,
    "timm.models.inception_resnet_v2.Block8": _INCEPTION_RESNET,
    f"{_TIMM_RESIDUAL}.ConvBnAct": _one("drop_path", "aa", "bn1", "conv", only_if="has_skip"),
    f"{_TIMM_RESIDUAL}.DepthwiseSeparableConv": _one("drop_path", "bn2", "conv_pw", only_if="has_skip"),
    f"{_TIMM_RESIDUAL}.InvertedResidual": _one("drop_path", "bn3", "conv_pwl", only_if="has_skip"),
    f"{_TIMM_RESIDUAL}.CondConvResidual": _one("drop_path", "bn3", "conv_pwl", only_if="has_skip"),
    f"{_TIMM_RESIDUAL}.EdgeResidual": _one("drop_path", "bn2", "conv_pwl", only_if="has_skip"),
    f"{_TIMM_RESIDUAL}.UniversalInvertedResidual": _one(
        "drop_path", "layer_scale", "dw_end", "pw_proj", only_if="has_skip"
    ),
    f"{_TIMM_RESIDUAL}.MobileAttention": _Block(
        (_Arm(("conv_cpe_dw",)), _Arm(("drop_path", "layer_scale", "attn"), "norm")), only_if="has_skip"
    ),
    "timm.models.convnext.ConvNeXtBlock": _one("drop_path", "mlp", skip="shortcut"),
    "timm.models.convmixer.Residual": _one("fn"),
    "timm.models.vision_transformer.Block": _two(("drop_path1", "ls1", "attn"), ("drop_path2", "ls2", "mlp")),
    "timm.models.beit.Block": _TRANSFORMER,
    "timm.models.eva.EvaBlock": _TRANSFORMER,
    "timm.models.convit.Block": _SHARED_DROP,
    "timm.models.cait.LayerScaleBlock": _SHARED_DROP,
    # The attention of this block reads all tokens, but the skip connection adds only the class token.
    "timm.models.cait.LayerScaleBlockClassAttn": _Block((_Arm(("attn",), plain=_never), _Arm(("mlp",), "norm2"))),
    "timm.models.xcit.XCABlock": _Block(
        (
            _Arm(("drop_path1", "attn"), "norm1"),
            _Arm(("drop_path3", "local_mp"), "norm3"),
            _Arm(("drop_path2", "mlp"), "norm2"),
        )
    ),
    "timm.models.visformer.Block": _SHARED_DROP,
    "timm.models.swin_transformer.SwinTransformerBlock": _TRANSFORMER,
    "timm.models.swin_transformer_v2.SwinTransformerV2Block": _two(
        ("drop_path1", "norm1"), ("drop_path2", "norm2"), ("", "mlp")
    ),
    "timm.models.levit.LevitBlock": _two(("drop_path1", "attn"), ("drop_path2", "mlp"), ("attn", "mlp")),
    "timm.models.levit.LevitDownsample": _Block((_Arm(("drop_path", "mlp"), "mlp"),)),
    "timm.models.mlp_mixer.MixerBlock": _two(("mlp_tokens",), ("mlp_channels",)),
    "timm.models.mlp_mixer.ResBlock": _two(("linear_tokens",), ("mlp_channels",)),
    "pretrainedmodels.models.cafferesnet.Bottleneck": _RESNET,
    "pretrainedmodels.models.fbresnet.BasicBlock": _RESNET,
    "pretrainedmodels.models.fbresnet.Bottleneck": _RESNET,
    "pretrainedmodels.models.senet.Bottleneck": _SENET,
    "pretrainedmodels.models.xception.Block": _XCEPTION,
    "pretrainedmodels.models.inceptionresnetv2.Block35": _INCEPTION_RESNET,
    "pretrainedmodels.models.inceptionresnetv2.Block17": _INCEPTION_RESNET,
    "pretrainedmodels.models.inceptionresnetv2.Block8": _INCEPTION_RESNET,
    # These modules have two children: the branch, and the skip connection.
    "pretrainedmodels.models.resnext_features.resnext101_32x4d_features.LambdaMap": _one("0", skip="1"),
    "pretrainedmodels.models.resnext_features.resnext101_64x4d_features.LambdaMap": _one("0", skip="1"),
}
