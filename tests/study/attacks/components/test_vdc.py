"""VDC against torchattack, and the paper's variant against two backward passes written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchattack.vdc
from torch.nn import functional

from study.attacks import Attack
from study.attacks.presets import keys_of
from study.errors import StudyError
from tests.study.attacks.components import small_sources as small


def test_the_authors_variant_is_torchattacks():
    network, clean = small.vit(64), small.images(64)
    keys = keys_of("vdc", {"steps": 2, "backward": [{"vdc": {"variant": "authors"}}]})
    wanted = small.torchattacks_images(
        torchattack.vdc.VDC, small.unfused(network), clean, hook_cfg="vit_base_patch16_224", eps=16 / 255, steps=2
    )
    assert small.apart(small.ours(small.source(network, 64), keys, clean), wanted) < 1e-4
    papers = small.ours(small.source(network, 64), keys_of("vdc", {"steps": 2}), clean)
    assert (np.abs(papers - wanted) > 1).mean() > 0.01


class Changed(torch.autograd.Function):
    """The identity with another gradient."""

    @staticmethod
    def forward(ctx, given, change):
        ctx.change = change
        return given.clone()

    @staticmethod
    def backward(ctx, gradient):
        return ctx.change(gradient), None


def by_hand(network, pixels, at):
    """`at(what, block)` is the change of a gradient: of a map, of an MLP branch's input, or behind the last block."""
    x = network._pos_embed(network.patch_embed(small.normalised(pixels)))
    for place, block in enumerate(network.blocks):
        query, key, value = block.attn.qkv(block.norm1(x)).reshape(len(x), -1, 3, 2, 12).permute(2, 0, 3, 1, 4)
        weights = Changed.apply(torch.softmax(query @ key.mT / 12**0.5, -1), at("map", place))
        x = x + block.attn.proj((weights @ value).transpose(1, 2).flatten(2))
        x = x + block.mlp(block.norm2(Changed.apply(x, at("mlp", place))))
    return network.head(network.norm(Changed.apply(x, at("end", 0)))[:, 0])


def test_the_papers_variant_is_the_formula():
    network, clean = small.vit(48, 3), small.images(48)

    def gradient(image, _):
        seen = {}

        def note(what, block):
            def change(gradient):
                seen[what, block] = gradient
                return gradient

            return change

        def add(what, block):
            def change(gradient):
                if what == "end":
                    return gradient
                extra = sum(0.1 * 0.5 ** (2 - later) * seen[what, later] for later in range(block + 1, 3))
                if what == "mlp":
                    token = torch.zeros_like(gradient)
                    token[:, 0] = 0.05 * seen["end", 0][:, 0]
                    extra = extra + token
                return {"map": 0.25, "mlp": 0.5}[what] * gradient + extra

            return change

        small.gradient_of(lambda x: by_hand(network, x, note), image)
        return small.gradient_of(lambda x: by_hand(network, x, add), image)[0]

    wanted = small.looped(gradient, clean, steps=3)
    found = small.ours(small.source(network, 48), keys_of("vdc", {"steps": 3}), clean)
    assert small.apart(found, wanted) < 1e-4


def test_it_takes_two_gradients():
    assert Attack.model_validate(keys_of("vdc", {})).gradients(10, 2) == 40


def _pit():
    import timm

    return timm.create_model("pit_ti_224", img_size=64, num_classes=10).eval()


@pytest.mark.parametrize(
    ("network", "message"),
    [(small.resnet, "it has no attention"), (_pit, "does not consist of equal blocks")],
)
def test_other_networks_are_refused(network, message):
    built = network()
    size = 32 if message.startswith("it has") else 64
    with pytest.raises(StudyError, match=message):
        small.ours(small.source(built, size), keys_of("vdc", {"steps": 1}), small.images(size))


def test_a_loss_without_logits_is_refused():
    """A loss of features behind which no logits stand has nothing to record."""
    network = small.source(small.vit(48, 2), 48)
    from study.attacks.components.vdc import VirtualDense
    from study.models.features import captured

    image = torch.from_numpy(small.images(48)).float().requires_grad_()
    with VirtualDense().applied({"m": network}, None), captured(network, ["blocks.1"]) as found:
        network(image)
        with pytest.raises(StudyError, match="does not depend on the logits"):
            torch.autograd.grad(functional.softplus(found["blocks.1"]).sum(), image)
