"""The layers of real architectures against the tables of their papers, on networks without weights or memory."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch import nn

from study.errors import StudyError
from study.models import Model, memory
from study.models.features import captured, output_shapes
from study.models.layers import layers_of
from study.models.rewrites.cpu import Stem, rewrite_convolutions
from study.models.visible_attention import visible_attention
from tests.study.models.layers import small

# By reference: pixels; channels at the ends of the stages; residual branches or dense layers; attention modules.
# The numbers are those of the papers' tables.
CNNS = {
    "torchvision:resnet18": (64, [64, 128, 256, 512], 8),
    "torchvision:resnet50": (64, [256, 512, 1024, 2048], 16),
    "torchvision:densenet121": (64, [256, 512, 1024, 1024], 58),
    "torchvision:vgg16_bn": (64, [64, 128, 256, 512, 512], 0),
    "torchvision:alexnet": (224, [64, 192, 256], 0),
    "torchvision:squeezenet1_1": (224, [128, 256, 512], 0),
    "torchvision:inception_v3": (299, [192, 288, 768, 2048], 0),
    "torchvision:googlenet": (224, [192, 480, 832, 1024], 0),
    "torchvision:mobilenet_v2": (64, [16, 24, 32, 96, 320], 10),
    "torchvision:mobilenet_v3_large": (64, [16, 24, 40, 112, 160], 10),
    "torchvision:efficientnet_b0": (64, [16, 24, 40, 112, 320], 9),
    "torchvision:convnext_tiny": (64, [96, 192, 384, 768], 18),
    "torchvision:regnet_y_400mf": (64, [48, 104, 208, 440], 16),
    "torchvision:shufflenet_v2_x1_0": (64, [24, 116, 232, 464], 0),
    "timm:efficientnet_b0": (64, [16, 24, 40, 112, 320], 9),
    "timm:resnet50": (64, [256, 512, 1024, 2048], 16),
    "timm:resnetv2_50": (64, [256, 512, 1024, 2048], 16),
    "timm:densenet121": (64, [256, 512, 1024, 1024], 58),
    "timm:regnety_004": (64, [48, 104, 208, 440], 16),
    "timm:legacy_senet154": (224, [256, 512, 1024, 2048], 50),
    "timm:inception_v3": (299, [192, 288, 768, 2048], 0),
    "timm:inception_v4": (299, [160, 384, 1024, 1536], 0),
    "timm:inception_resnet_v2": (299, [192, 320, 1088, 1536], 40),
    "timm:legacy_xception": (299, [128, 256, 728, 2048], 12),
    "timm:convmixer_768_32": (224, [768] * 32, 32),
    "timm:mixer_s32_224": (224, [512] * 8, 16),
    "timm:test_efficientnet": (64, None, None),
    "timm:test_resnet": (64, None, None),
    "study:cifar_resnet20": (32, [16, 32, 64], 9),
    "pretrainedmodels:resnet18": (224, [64, 128, 256, 512], 8),
    "pretrainedmodels:resnext101_32x4d": (224, [256, 512, 1024, 2048], 33),
    "pretrainedmodels:inceptionv4": (299, [160, 384, 1024, 1536], 0),
    "pretrainedmodels:inceptionresnetv2": (299, [192, 320, 1088, 1536], 40),
    "pretrainedmodels:se_resnet50": (224, [256, 512, 1024, 2048], 16),
    "pretrainedmodels:dpn68": (224, [144, 320, 704, 832], None),
    "pretrainedmodels:xception": (299, [128, 256, 728, 2048], 12),
}

# By reference: pixels; width of the stages; residual branches; attention modules; MLPs; patch size, stride, prefix.
TRANSFORMERS = {
    "torchvision:vit_b_16": (224, [768] * 12, 24, 12, 12, (16, 16, 1)),
    "torchvision:swin_t": (224, [96, 192, 384, 768], 24, 12, 12, (4, 4, 0)),
    "timm:vit_tiny_patch16_224": (224, [192] * 12, 24, 12, 12, (16, 16, 1)),
    "timm:vit_small_patch16_224": (224, [384] * 12, 24, 12, 12, (16, 16, 1)),
    "timm:vit_small_patch14_reg4_dinov2": (518, [384] * 12, 24, 12, 12, (14, 14, 5)),
    "timm:deit_tiny_distilled_patch16_224": (224, [192] * 12, 24, 12, 12, (16, 16, 2)),
    "timm:beit_base_patch16_224": (224, [768] * 12, 24, 12, 12, (16, 16, 1)),
    "timm:eva02_tiny_patch14_224": (224, [192] * 12, 24, 12, 12, (14, 14, 1)),
    "timm:pit_s_224": (224, [144, 288, 576], 24, 12, 12, (16, 8, 1)),
    "timm:visformer_small": (224, [192, 384, 768], 23, 8, 15, (8, 8, 0)),
    "timm:swin_tiny_patch4_window7_224": (224, [96, 192, 384, 768], 24, 12, 12, (4, 4, 0)),
    "timm:swinv2_tiny_window8_256": (256, [96, 192, 384, 768], 24, 12, 12, (4, 4, 0)),
    "timm:cait_xxs24_224": (224, [192] * 24, 52, 26, 26, (16, 16, 0)),
    # Its class token joins in the middle.
    "timm:convit_tiny": (224, [192] * 12, 24, 12, 12, None),
    "timm:levit_128s": (224, [128, 256, 384], 20, 11, 11, (16, 16, 0)),
    "timm:xcit_tiny_12_p16_224": (224, [192] * 12, 36, 14, 14, (16, 16, 0)),
    "timm:test_vit": (160, None, None, None, None, (16, 16, 1)),
}


WITHOUT_BLOCKS = ("pretrainedmodels:dpn68",)


@functools.cache
def hollow(reference) -> nn.Module:
    return memory.build_meta(Model.model_validate({"network": reference, "weights": "random:0"})).eval()


def pixels(reference) -> torch.Tensor:
    size = (CNNS.get(reference) or TRANSFORMERS[reference])[0]
    return torch.empty(2, 3, size, size, device="meta")


def channels(output) -> int:
    """Of (N, C, H, W), (N, tokens, C) or (N, H, W, C): transformers have the channels last, and no square of them."""
    if output.ndim == 3:
        return output.shape[2]
    return output.shape[3] if output.shape[1] == output.shape[2] else output.shape[1]


@pytest.mark.parametrize("reference", [*CNNS, *TRANSFORMERS])
def test_what_the_papers_say(reference):
    """In one forward pass, in which every named layer runs, but those that exist only where attention is visible."""
    network, layers = hollow(reference), layers_of(hollow(reference))
    named = {*layers.stages, *layers.weighted, *layers.mlps, *layers.head, *(one.name for one in layers.activations)}
    named |= {one for each in layers.attention for one in (each.name, *each.qkv, each.projection) if one}
    if reference not in WITHOUT_BLOCKS:
        named |= {one for each in layers.blocks for one in (each.name, each.start, each.skip) if one}
    visible = {name for name in named if name.endswith("attention_qkv")}
    with captured(network, layers.stages) as features:
        ran = output_shapes(network, pixels(reference), named - visible)
    silent = {type(network.get_submodule(name)).__name__ for name in named - visible - ran.keys()}
    # They return a pair.
    assert silent <= {"MultiheadAttention", "LambdaMap", "DualPathBlock"}
    if visible:
        with visible_attention(network):
            assert visible == output_shapes(network, pixels(reference), visible).keys()
    compare(reference, layers, [features[name] for name in layers.stages])


def compare(reference, layers, outputs):
    widths = [channels(one) for one in outputs]
    wanted = CNNS.get(reference) or TRANSFORMERS[reference]
    if wanted[1] is not None:
        assert widths == wanted[1]
        if reference not in WITHOUT_BLOCKS:
            assert len(layers.blocks) == wanted[2]
    if reference in CNNS:
        assert layers.attention == ()
        return
    pixels, _, _, attention, mlps, patches = wanted
    if attention is not None:
        assert (len(layers.attention), len(layers.mlps)) == (attention, mlps)
    if patches is None:
        with pytest.raises(StudyError, match="patches of this ConVit"):
            _ = layers.patches
        return
    size, stride, prefix = patches
    assert (layers.patches.size, layers.patches.stride, layers.patches.prefix) == patches
    if outputs[0].ndim == 3:
        # LeViT's convolutions are padded.
        places = pixels // stride if "levit" in reference else (pixels - size) // stride + 1
        assert outputs[0].shape[1] == prefix + places**2


def test_the_middle_of_any_network():
    wanted = {
        "torchvision:resnet50": "layer2",
        "torchvision:vgg16_bn": "features.22",
        "torchvision:densenet121": "features.denseblock2",
        "torchvision:inception_v3": "Mixed_5d",
        "torchvision:efficientnet_b0": "features.3",
        "timm:efficientnet_b0": "blocks.2",
        "torchvision:shufflenet_v2_x1_0": "stage2",
        "torchvision:convnext_tiny": "features.3",
        "torchvision:vit_b_16": "encoder.layers.encoder_layer_5",
        "timm:vit_tiny_patch16_224": "blocks.5",
        "timm:pit_s_224": "transformers.1.blocks.5",
        "timm:inception_v4": "features.9",
    }
    assert {reference: layers_of(hollow(reference)).middle for reference in wanted} == wanted
    vit = layers_of(hollow("timm:vit_tiny_patch16_224"))
    assert [vit.stage(share) for share in (1e-3, 0.25, 1 / 3, 0.75, 1)] == [f"blocks.{i}" for i in (0, 2, 3, 8, 11)]
    for depth in (0, -1, 1.01):
        with pytest.raises(StudyError, match="not the depth of a stage"):
            vit.stage(depth)


def test_the_layers_that_authors_chose():
    """Sizes as in the authors' TensorFlow: Mixed_5b 35 x 35 x 256, Mixed_5e 35 x 35 x 384, Conv2d_4a 71 x 71 x 192."""
    wanted = {
        ("fia", "torchvision:inception_v3"): (256, 35, 35),
        ("naa", "timm:inception_v3"): (256, 35, 35),
        ("naa", "timm:inception_v4"): (384, 35, 35),
        ("naa", "pretrainedmodels:inceptionv4"): (384, 35, 35),
        ("fia", "timm:inception_resnet_v2"): (192, 71, 71),
        ("naa", "pretrainedmodels:inceptionresnetv2"): (192, 71, 71),
    }
    for (method, reference), shape in wanted.items():
        name = layers_of(hollow(reference)).of_paper(method)
        assert output_shapes(hollow(reference), pixels(reference), [name])[name][1:] == shape
    assert layers_of(hollow("torchvision:resnet152")).of_paper("fia") == "layer2.7"
    assert layers_of(hollow("torchvision:resnet18")).of_paper("ila") == "layer3"
    assert layers_of(hollow("torchvision:vgg16")).of_paper("fia") == "features.15"
    for method, reference in (("fia", "torchvision:resnet50"), ("nobody", "torchvision:resnet152")):
        with pytest.raises(StudyError, match="named no layer") as error:
            layers_of(hollow(reference)).of_paper(method)
        assert "the middle is 'layer2'" in str(error.value)


def test_heads():
    wanted = {
        "torchvision:resnet50": ("fc",),
        "torchvision:vgg16_bn": ("classifier.6",),
        "torchvision:squeezenet1_1": ("classifier.1",),
        "torchvision:vit_b_16": ("heads.head",),
        "timm:vit_tiny_patch16_224": ("head",),
        "timm:deit_tiny_distilled_patch16_224": ("head", "head_dist"),
        "timm:swin_tiny_patch4_window7_224": ("head.fc",),
        "pretrainedmodels:xception": ("last_linear",),
    }
    assert {reference: layers_of(hollow(reference)).head for reference in wanted} == wanted


def test_attention_of_each_kind():
    def first(reference):
        return layers_of(hollow(reference)).attention[0]

    assert first("timm:vit_tiny_patch16_224").qkv == ("blocks.0.attn.qkv",)
    assert first("timm:vit_tiny_patch16_224").projection == "blocks.0.attn.proj"
    assert first("timm:vit_tiny_patch16_224").heads == 3
    assert first("timm:cait_xxs24_224").qkv == ("blocks.0.attn.qkv",)
    assert layers_of(hollow("timm:cait_xxs24_224")).attention[-1].qkv == tuple(
        f"blocks_token_only.1.attn.{one}" for one in "qkv"
    )
    assert first("timm:xcit_tiny_12_p16_224").over == "channels"
    for reference, heads in (
        ("torchvision:vit_b_16", 12),
        ("torchvision:swin_t", 3),
        ("timm:beit_base_patch16_224", 12),
    ):
        one = first(reference)
        assert one.qkv == (f"{one.name}.attention_qkv",)
        assert (one.over, one.heads) == ("tokens", heads)


# Blocks of the last two stand beside known ones.
UNKNOWN_BLOCKS = {
    "pretrainedmodels:dpn68": "DualPathBlock",
    "timm:ghostnet_050": "GhostBottleneck",
    "timm:mobilevit_xxs": "BottleneckBlock",
}


def test_what_is_not_known_is_said():
    own = layers_of(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten()))
    assert own.family == "Sequential"
    assert [one.kind for one in own.activations] == ["relu"]
    for read in ("stages", "blocks", "patches", "head"):
        with pytest.raises(StudyError, match="not known") as error:
            getattr(own, read)
        assert "Sequential" in str(error.value)
    for reference, kind in UNKNOWN_BLOCKS.items():
        with pytest.raises(StudyError, match=rf"residual branches of .*{kind}"):
            _ = layers_of(hollow(reference)).blocks
    with pytest.raises(StudyError, match="patches of this ResNet"):
        _ = layers_of(hollow("torchvision:resnet18")).patches
    with pytest.raises(StudyError, match="MLPs of this MaxVit"):
        _ = layers_of(hollow("torchvision:maxvit_t")).mlps
    with pytest.raises(StudyError, match="EfficientAdditiveAttention"):
        _ = layers_of(hollow("timm:swiftformer_xs")).attention


def test_patches_are_known_where_the_first_convolution_is_rewritten():
    built = copy.deepcopy(small.network("timm:vit"))
    before = layers_of(built).patches
    rewrite_convolutions(built)
    assert isinstance(built.patch_embed.proj, Stem)
    assert layers_of(built).patches == before
