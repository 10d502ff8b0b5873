"""The Skip Gradient Method against blocks rewritten by hand, and against a replica of the authors' rule for ReLUs."""

from __future__ import annotations

import copy
from contextlib import contextmanager
from functools import partial

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from study.errors import StudyError
from study.models import Model, loading
from study.models.residual import branches, decayed
from study.models.zoos import ZOOS

RESIDUAL, DENSE = 0.2, 0.5


SMALL = 32


def network(reference, size=SMALL, **arguments) -> nn.Module:
    """Seeded weights in float64; normalised signals, so that no branch is switched off and no deep network explodes.

    Built by its zoo, for a loader tries the networks of pretrainedmodels at the one size that they take.
    """
    if reference.startswith("timm:vit"):
        arguments["img_size"] = size
    library, _, name = reference.partition(":")
    zoo = ZOOS[library]
    with torch.random.fork_rng():
        torch.manual_seed(5)
        built = zoo.build(name, None, zoo.defaults(name, None) | arguments)
    built.double().to(memory_format=torch.channels_last)
    if library == "pretrainedmodels" and size == SMALL:
        built.avg_pool = nn.AdaptiveAvgPool2d(1)  # SENet's is 7 wide, for images of 224 pixels only
    draw = torch.Generator().manual_seed(0)
    norms = [one for one in built.modules() if isinstance(one, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.0, generator=draw)
        nn.init.normal_(norm.bias, std=0.1, generator=draw)
        norm.momentum = 1.0
    for name, parameter in built.named_parameters():
        if name.endswith(("gamma", "layer_scale", "heads.head.weight")):  # that libraries begin with nothing, or nearly
            nn.init.uniform_(parameter, 0.5, 1.0, generator=draw)
    built.train().requires_grad_(False)
    with torch.no_grad(), torch.random.fork_rng():
        built(pixels(4, size))
    return built.eval()


def pixels(count=2, size=SMALL) -> torch.Tensor:
    return torch.randn(count, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def gradient(built, image) -> torch.Tensor:
    image = image.detach().requires_grad_()
    labels = torch.arange(len(image)) + 7
    return torch.autograd.grad(nn.functional.cross_entropy(built(image), labels), image)[0]


def difference(given, wanted) -> float:
    return float((given - wanted).abs().max() / wanted.abs().max())


def scaled(given, wanted) -> torch.Tensor:
    """`given` times the factor that brings it nearest to `wanted`."""
    return given * ((given * wanted).sum() / (given * given).sum())


# Blocks as their libraries' sources write them, with soft(f) where the branch f ends.


def resnet_block(block, soft, x):
    f = block.bn2(block.conv2(block.bn1(block.conv1(x)).relu()))
    if hasattr(block, "conv3"):
        f = block.bn3(block.conv3(f.relu()))
    elif hasattr(block, "se_module"):
        f = f.relu()
    recalibrate = getattr(block, "se", None) or getattr(block, "se_module", None) or nn.Identity()
    shortcut = x if block.downsample is None else block.downsample(x)
    return (soft(recalibrate(f)) + shortcut).relu()


def dense_layer(block, soft, features):
    f = block.conv1(block.norm1(torch.cat(features, 1)).relu())
    return soft(block.conv2(block.norm2(f).relu()))


def inception_block(block, soft, x):
    f = torch.cat([getattr(block, f"branch{i}")(x) for i in range(3) if hasattr(block, f"branch{i}")], 1)
    out = soft(block.scale * block.conv2d(f)) + x
    last = getattr(block, "noReLU", False) or (hasattr(block, "relu") and block.relu is None)
    return out if last else out.relu()


def chain(*names):
    """Modules in a row, with a skip connection over them where shapes allow one and the block does not refuse it."""

    def forward(block, soft, x):
        f = x
        for name in names:
            f = getattr(block, name)(f)
        return soft(f) + x if f.shape == x.shape and getattr(block, "has_skip", True) else f

    return forward


def conditional_convolution(block, soft, x):
    routes = block.routing_fn(x.mean((2, 3))).sigmoid()
    f = block.bn2(block.conv_dw(block.bn1(block.conv_pw(x, routes)), routes))
    f = block.bn3(block.conv_pwl(block.se(f), routes))
    return soft(f) + x if f.shape == x.shape else f


def timm_transformer(block, soft, x, **_):
    x = x + soft(block.ls1(block.attn(block.norm1(x))))
    return x + soft(block.ls2(block.mlp(block.norm2(x))))


def torchvision_transformer(block, soft, x):
    normed = block.ln_1(x)
    x = x + soft(block.self_attention(normed, normed, normed, need_weights=False)[0])
    return x + soft(block.mlp(block.ln_2(x)))


def timm_convnext(block, soft, x):
    f = block.conv_dw(x)
    f = block.mlp(block.norm(f)) if block.use_conv_mlp else block.mlp(block.norm(f.movedim(1, -1))).movedim(-1, 1)
    return soft(f * block.gamma[:, None, None]) + block.shortcut(x)


REWRITTEN = {  # by file and class: torchvision's, timm's and pretrainedmodels' of one name are alike
    **dict.fromkeys(["resnet.BasicBlock", "resnet.Bottleneck"], resnet_block),
    **dict.fromkeys(["fbresnet.Bottleneck", "cafferesnet.Bottleneck", "senet.SEResNetBlock"], resnet_block),
    **dict.fromkeys([f"senet.SE{one}Bottleneck" for one in ("", "ResNet", "ResNeXt")], resnet_block),
    **dict.fromkeys(["densenet._DenseLayer", "densenet.DenseLayer"], dense_layer),
    **dict.fromkeys([f"inception_resnet_v2.Block{one}" for one in (35, 17, 8)], inception_block),
    **dict.fromkeys([f"inceptionresnetv2.Block{one}" for one in (35, 17, 8)], inception_block),
    **dict.fromkeys(
        ["efficientnet.MBConv", "efficientnet.FusedMBConv", "mobilenetv3.InvertedResidual"], chain("block")
    ),
    "mobilenetv2.InvertedResidual": chain("conv"),
    "mnasnet._InvertedResidual": chain("layers"),
    "regnet.ResBottleneckBlock": lambda block, soft, x: (soft(block.f(x)) + (block.proj or nn.Identity())(x)).relu(),
    "convnext.CNBlock": lambda block, soft, x: soft(block.layer_scale * block.block(x)) + x,
    "convnext.ConvNeXtBlock": timm_convnext,
    "vision_transformer.EncoderBlock": torchvision_transformer,
    "vision_transformer.Block": timm_transformer,
    "_efficientnet_blocks.ConvBnAct": chain("conv", "bn1"),
    "_efficientnet_blocks.DepthwiseSeparableConv": chain("conv_dw", "bn1", "se", "conv_pw", "bn2"),
    "_efficientnet_blocks.InvertedResidual": chain("conv_pw", "bn1", "conv_dw", "bn2", "se", "conv_pwl", "bn3"),
    "_efficientnet_blocks.CondConvResidual": conditional_convolution,
    "_efficientnet_blocks.EdgeResidual": chain("conv_exp", "bn1", "se", "conv_pwl", "bn2"),
    "_efficientnet_blocks.UniversalInvertedResidual": chain(
        "dw_start", "pw_exp", "dw_mid", "se", "pw_proj", "dw_end", "layer_scale"
    ),
    "_efficientnet_blocks.MobileAttention": chain("norm", "attn", "layer_scale"),
    "resnext101_32x4d_features.LambdaMap": lambda block, soft, x: [soft(block[0](x)), block[1](x)],
    "resnext101_64x4d_features.LambdaMap": lambda block, soft, x: [soft(block[0](x)), block[1](x)],
}


@contextmanager
def replaced(forwards):
    """Modules that run another forward for a while."""
    for module, forward in forwards.items():
        module.forward = forward
    try:
        yield
    finally:
        for module in forwards:
            del module.forward


def rewritten(built):
    """Every branch f of `built` as gamma f + (1 - gamma) f', where f' has no gradient: equation 9 written out."""

    def soft(gamma, f):
        return gamma * f + (1 - gamma) * f.detach()

    named = [(f"{type(one).__module__.rpartition('.')[2]}.{type(one).__name__}", one) for one in built.modules()]
    found = [(REWRITTEN[name], one) for name, one in named if name in REWRITTEN]
    gammas = {write: DENSE if write is dense_layer else RESIDUAL for write, _ in found}
    return replaced({one: partial(write, one, partial(soft, gammas[write])) for write, one in found})


COUNTS = """
    torchvision: resnet18 8, resnet50 16, densenet121 58
    torchvision: efficientnet_b0 9, efficientnet_v2_s 35, mobilenet_v2 10, mobilenet_v3_small 6, mnasnet0_5 10
    torchvision: regnet_y_400mf 16, convnext_tiny 18
    timm: resnet18 8, seresnet50 16, legacy_seresnet18 8, legacy_seresnet50 16, densenet121 58
    timm: tf_efficientnet_lite0 9, efficientnetv2_rw_t 34, mobilenetv4_conv_small 10, vit_tiny_patch16_224 24
    timm: convnext_atto 12
    pretrainedmodels: resnet18 8, se_resnet50 16, resnext101_32x4d 33
"""
MORE_COUNTS = """
    torchvision: resnet152 50, resnext50_32x4d 16, densenet201 98
    timm: legacy_senet154 50
"""
"""Larger networks of blocks that the others have too."""
LARGE_COUNTS = """
    torchvision: vit_b_16 24
    timm: inception_resnet_v2 40, mobilenetv4_hybrid_medium 27, tf_efficientnet_cc_b0_4e 9
    pretrainedmodels: fbresnet152 50, cafferesnet101 33, densenet121 58, resnext101_64x4d 33, inceptionresnetv2 40
    pretrainedmodels: senet154 50
"""


def table(text):
    rows = [line.strip().split(": ") for line in text.strip().splitlines()]
    return [(f"{library}:{pair.split()[0]}", int(pair.split()[1])) for library, row in rows for pair in row.split(", ")]


@pytest.mark.parametrize(
    ("reference", "count"),
    [*table(COUNTS), *(pytest.param(*one, marks=pytest.mark.slow) for one in table(MORE_COUNTS))],
)
def test_decay_is_the_rewritten_network(reference, count):
    # At 32 pixels their last norms, of few numbers each, make rounding errors of 1e-9 of what is small.
    check(reference, count, 64 if "efficientnet_v2" in reference or "efficientnetv2" in reference else SMALL)


def test_decay_is_the_rewritten_network_in_senet154():
    """With one block of each of its four kinds."""
    check("timm:legacy_senet154", 4, SMALL, layers=[1, 1, 1, 1])


@pytest.mark.slow
@pytest.mark.parametrize(("reference", "count"), table(LARGE_COUNTS))
def test_decay_is_the_rewritten_network_at_its_own_size(reference, count):
    check(reference, count, 299 if "inception" in reference else 224)


def check(reference, count, size, **arguments):
    """The zoo's networks are in channels-last, and here the images are too."""
    built, image = network(reference, size, **arguments), pixels(1, size).contiguous(memory_format=torch.channels_last)
    assert len(branches(built)) == count
    plain = gradient(built, image)
    with rewritten(built):
        wanted = gradient(built, image)
    with decayed(built, residual=RESIDUAL, dense=DENSE) as number:
        given = gradient(built, image)
    assert number == count
    assert difference(given, wanted) < 1e-9
    assert difference(scaled(plain, wanted), wanted) > 0.1


@pytest.fixture(scope="module")
def resnet18():
    return loading.load("m", Model.model_validate({"network": "torchvision:resnet18", "weights": "random:5"}))


def hooks(built) -> int:
    return sum(len(held) for one in built.modules() for key, held in vars(one).items() if key.endswith("_hooks"))


def test_what_a_context_leaves_as_it_was(resnet18):
    """Bit for bit in float32: a gamma of 1, the logits inside, and everything after, also after an exception."""
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(2)) * 255
    state = copy.deepcopy(resnet18.state_dict())
    logits, plain = resnet18(image), gradient(resnet18, image)
    with decayed(resnet18, residual=1, dense=0.5) as number:
        assert (number, hooks(resnet18)) == (0, 0)
        assert torch.equal(gradient(resnet18, image), plain)
    with decayed(resnet18, residual=0.2, dense=1) as number:
        assert (number, hooks(resnet18)) == (8, 8)
        assert torch.equal(resnet18(image.clone().requires_grad_()), logits)
        first, second = gradient(resnet18, image), gradient(resnet18, image)
        assert torch.equal(first, second)
        assert difference(scaled(plain, first), first) > 0.1
    with pytest.raises(IndexError), decayed(resnet18, residual=0.2, dense=1):
        gradient(resnet18, image)[2]
    assert hooks(resnet18) == 0
    assert torch.equal(gradient(resnet18, image), plain)
    assert all(torch.equal(value, state[name]) for name, value in resnet18.state_dict().items())


def test_two_forwards_before_one_backward(resnet18):
    """As when several copies of an image share one gradient."""
    first, second = (gradient(resnet18, image.float()) for image in pixels(2)[:, None])
    image = pixels(2).float().requires_grad_()
    with decayed(resnet18, residual=0.5, dense=1):
        apart = [gradient(resnet18, image[i : i + 1]) for i in range(2)]
        losses = [nn.functional.cross_entropy(resnet18(image[i : i + 1]), torch.tensor([7])) for i in range(2)]
    together = torch.autograd.grad(sum(losses), image)[0]
    assert difference(together, torch.cat(apart)) < 1e-6
    assert difference(together, torch.cat([first, second])) > 0.1


@pytest.mark.parametrize(
    ("reference", "shared"),
    [
        ("torchvision:resnet50", False),
        ("timm:seresnet50", True),
        pytest.param("torchvision:resnet50", True, marks=pytest.mark.slow),  # each half of both is above
        pytest.param("timm:seresnet50", False, marks=pytest.mark.slow),
    ],
    ids=lambda one: one if isinstance(one, str) else "one Identity for all" if one else "an Identity each",
)
def test_batch_norms_folded_into_convolutions(reference, shared):
    built = network(reference)
    with decayed(built, residual=RESIDUAL, dense=DENSE):
        wanted = gradient(built, pixels())
    one = nn.Identity()
    for branch in branches(built):
        block = built.get_submodule(branch.block)
        for i in (1, 2, 3):
            conv, norm = getattr(block, f"conv{i}"), getattr(block, f"bn{i}")
            setattr(block, f"conv{i}", fuse_conv_bn_eval(conv, norm))
            setattr(block, f"bn{i}", one if shared else nn.Identity())
    assert not any(isinstance(branch.end, nn.Identity) for branch in branches(built))
    with decayed(built, residual=RESIDUAL, dense=DENSE) as number:
        assert number == 16
        assert difference(gradient(built, pixels()), wanted) < 1e-4


def authors(built, gamma):
    """The gradient times `gamma` at every use of every ReLU that the authors' rule of names selects."""

    def relu(x):
        out = nn.functional.relu(x)
        out.register_hook(lambda g: g * gamma)
        return out

    refused = "transition" if hasattr(built, "features") else "0.relu"
    named = [(name, one) for name, one in built.named_modules() if isinstance(one, nn.ReLU)]
    return replaced({one: relu for name, one in named if "relu" in name and refused not in name})


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet18", 4),
        ("resnet50", 12),
        pytest.param("resnet152", 43, marks=pytest.mark.slow),  # more of the blocks of a resnet50
        ("densenet121", 58),
    ],
)
def test_the_authors_code(name, count):
    """Two ReLUs inside a branch take the square root of gamma each; a resnet18 has one."""
    built = network(f"torchvision:{name}")
    with authors(built, RESIDUAL if name == "resnet18" else RESIDUAL**0.5):
        wanted = gradient(built, pixels())
    with decayed(built, residual=RESIDUAL, dense=RESIDUAL, compatibility="authors") as number:
        given = gradient(built, pixels())
    assert number == count
    assert (given * wanted).sum() > 0
    assert difference(scaled(wanted, given), given) < 1e-9
    with decayed(built, residual=RESIDUAL, dense=RESIDUAL):
        paper = gradient(built, pixels())
    differs = difference(scaled(paper, given), given)
    assert differs > 0.1 if "resnet" in name else differs < 1e-12


def test_networks_without_branches_that_we_know():
    """A subclass with a forward of its own is another block, and the authors' rule is for ResNets and DenseNets."""
    zoo_of = torchvision.models
    with torch.device("meta"):
        vgg, mobile, another = zoo_of.vgg11(), zoo_of.mobilenet_v2(), zoo_of.quantization.mobilenet_v2()
    for built in (vgg, another):
        assert branches(built) == []
        with decayed(built, residual=0.2, dense=0.5) as number:
            assert number == 0
    for built in (vgg, mobile):
        context = decayed(built, residual=0.2, dense=0.5, compatibility="authors")
        with pytest.raises(StudyError, match="does not support"):
            context.__enter__()
