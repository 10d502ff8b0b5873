"""TGR against torchattack, and the paper's variant against a transformer written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchattack.tgr

from study.attacks.presets import keys_of
from study.errors import StudyError
from tests.study.attacks.components import small_sources as small


def test_the_authors_variant_is_torchattacks():
    network, clean = small.vit(64), small.images(64)
    keys = keys_of("tgr", {"steps": 2, "backward": [{"tgr": {"variant": "authors"}}]})
    wanted = small.torchattacks_images(
        torchattack.tgr.TGR, small.unfused(network), clean, hook_cfg="vit_base_patch16_224", eps=16 / 255, steps=2
    )
    found = small.ours(small.source(network, 64), keys, clean)
    assert small.apart(found, wanted) < 1e-4
    papers = small.ours(small.source(network, 64), keys_of("tgr", {"steps": 2}), clean)
    assert (np.abs(papers - wanted) > 1).mean() > 0.01


class Damped(torch.autograd.Function):
    """The identity; its gradient is changed entry by entry, image by image."""

    @staticmethod
    def forward(ctx, given, change):
        ctx.change = change
        return given.clone()

    @staticmethod
    def backward(ctx, gradient):
        return torch.stack([ctx.change(one.clone()) for one in gradient]), None


def of_tokens(factor):
    def change(gradient):
        for channel in range(gradient.shape[1]):
            column = (gradient[:, channel] * factor).tolist()
            gradient[:, channel] = torch.tensor(
                [0.0 if value in (max(column), min(column)) else value for value in column], dtype=gradient.dtype
            )
        return gradient

    return change


def of_maps(factor):
    def change(gradient):
        gradient = gradient * factor
        for head in gradient:
            places = [divmod(int(flat), head.shape[1]) for flat in (head.argmax(), head.argmin())]
            for row, column in places:
                head[row, :] = 0
                head[:, column] = 0
        return gradient

    return change


def by_hand(network, pixels):
    x = network._pos_embed(network.patch_embed(small.normalised(pixels)))
    for block in network.blocks:
        packed = Damped.apply(block.attn.qkv(block.norm1(x)), of_tokens(0.75))
        query, key, value = packed.reshape(len(x), -1, 3, 2, 12).permute(2, 0, 3, 1, 4)
        weights = Damped.apply(torch.softmax(query @ key.mT / 12**0.5, -1), of_maps(0.25))
        x = x + block.attn.proj((weights @ value).transpose(1, 2).flatten(2))
        x = x + Damped.apply(block.mlp(block.norm2(x)), of_tokens(0.5))
    return network.head(network.norm(x)[:, 0])


def test_the_papers_variant_is_the_formula():
    network, clean = small.vit(48, 3), small.images(48)
    wanted = small.looped(lambda x, _: small.gradient_of(lambda y: by_hand(network, y), x)[0], clean, steps=3)
    found = small.ours(small.source(network, 48), keys_of("tgr", {"steps": 3}), clean)
    assert small.apart(found, wanted) < 1e-4


def test_an_image_has_its_own_extremes():
    network, clean = small.vit(48, 3), small.images(48)
    keys = keys_of("tgr", {"steps": 2})
    together = small.ours(small.source(network, 48), keys, clean)
    alone = [small.ours(small.source(network, 48), keys, clean[:1], batch=1)]
    assert small.apart(together[:1], alone[0]) < 1e-4


@pytest.mark.parametrize(("network", "message"), [(small.resnet, "it has no attention")])
def test_a_network_without_attention_is_refused(network, message):
    with pytest.raises(StudyError, match=message):
        small.ours(small.source(network(), 32), keys_of("tgr", {"steps": 1}), small.images(32))


def test_attention_in_windows_is_refused():
    import timm

    swin = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=56, embed_dim=8, depths=(2, 2), num_heads=(2, 2), num_classes=10
    )
    with pytest.raises(StudyError, match="its attention works in windows"):
        small.ours(small.source(swin.eval(), 56), keys_of("tgr", {"steps": 1}), small.images(56))
