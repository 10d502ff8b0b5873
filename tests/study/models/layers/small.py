"""Small networks of real classes, with random weights: a forward pass takes milliseconds."""

from __future__ import annotations

import functools

import timm
import torch
import torchvision
from torch import nn

from study.models.networks import NETWORKS

_SMALL = {"depth": 2, "img_size": 64}
_TIMM = {
    "vit": ("vit_tiny_patch16_224", _SMALL),
    "beit": ("beit_base_patch16_224", {**_SMALL, "embed_dim": 48, "num_heads": 3}),
    "eva": ("eva02_tiny_patch14_224", {"depth": 2, "img_size": 56}),
    "convit": ("convit_tiny", {"depth": 12, "img_size": 64}),
    "cait": ("cait_xxs24_224", _SMALL),
    "xcit": ("xcit_nano_12_p16_224", _SMALL),
    "visformer": ("visformer_tiny", {"img_size": 64}),
    "swin": ("swin_tiny_patch4_window7_224", {"img_size": 56, "embed_dim": 24, "depths": (2, 2), "num_heads": (2, 2)}),
    "swinv2": ("swinv2_tiny_window8_256", {"img_size": 64, "embed_dim": 24, "depths": (2, 2), "num_heads": (2, 2)}),
    "levit": ("levit_128s", {"img_size": 64}),
    "pit": ("pit_ti_224", {"img_size": 64}),
    "resnetv2": ("resnetv2_50", {"layers": (1, 1, 1, 2)}),
}
_OWN = {
    "mixer": lambda: timm.models.mlp_mixer.MlpMixer(10, 64, num_blocks=2, embed_dim=48),
    "convmixer": lambda: timm.models.convmixer.ConvMixer(32, 2, num_classes=10),
    **NETWORKS,
}
_SIZES = {"eva": 56, "swin": 56, "cifar_resnet20": 32}


@functools.cache
def network(name) -> nn.Module:
    """In eval mode, with frozen weights; batch norms and layer scales that are not near nothing."""
    zoo, _, short = name.partition(":")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        built = _built(zoo, short)
    draw = torch.Generator().manual_seed(0)
    for key, parameter in built.named_parameters():
        if key.rpartition(".")[2] in ("gamma", "layer_scale", "gamma_1", "gamma_2", "gamma1", "gamma2", "gamma3"):
            nn.init.uniform_(parameter, 0.5, 1.0, generator=draw)
    for one in built.modules():
        if isinstance(one, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.uniform_(one.weight, 0.5, 1.0, generator=draw)
            nn.init.normal_(one.bias, std=0.1, generator=draw)
            nn.init.normal_(one.running_mean, std=0.1, generator=draw)
    return built.eval().requires_grad_(False)


def images(name, count=2) -> torch.Tensor:
    size = _SIZES.get(name.partition(":")[2], 64)
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def _built(zoo, short) -> nn.Module:
    if short in _OWN:
        return _OWN[short]()
    if zoo == "timm":
        full, arguments = _TIMM.get(short, (short, {}))
        return timm.create_model(full, num_classes=10, **arguments)
    if short == "vit":
        return torchvision.models.VisionTransformer(64, 16, 2, 3, 48, 96, num_classes=10)
    if short in ("swin", "swin_v2"):
        swin = torchvision.models.swin_transformer
        later = (
            {} if short == "swin" else {"block": swin.SwinTransformerBlockV2, "downsample_layer": swin.PatchMergingV2}
        )
        return swin.SwinTransformer([4, 4], 24, [2, 2], [2, 2], [4, 4], num_classes=10, **later)
    extra = {"init_weights": False, "aux_logits": False} if short in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(short, num_classes=10, **extra)
