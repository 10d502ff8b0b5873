"""Attention in steps equals the fused kernels, its maps are maps, and gradients through them can be changed."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from study.errors import StudyError
from study.models.features import captured, changed_backward, changed_forward
from study.models.layers import layers_of
from study.models.visible_attention import visible_attention
from tests.study.models.layers.small import images, network

# Number of maps, and the shape of the first for two images: heads, queries, keys.
NETWORKS = {
    "torchvision:vit": (2, (2, 3, 17, 17)),
    "torchvision:swin": (4, (2 * 16, 2, 16, 16)),
    "torchvision:swin_v2": (4, (2 * 16, 2, 16, 16)),
    "timm:vit": (2, (2, 3, 17, 17)),
    "timm:beit": (2, (2, 3, 17, 17)),
    "timm:eva": (2, (2, 3, 17, 17)),
    "timm:cait": (4, (2, 4, 16, 16)),
    "timm:xcit": (4, (2, 4, 32, 32)),
    "timm:visformer": (8, (2, 3, 16, 16)),
    "timm:swin": (4, (2 * 4, 2, 49, 49)),
    "timm:swinv2": (4, (2 * 4, 2, 64, 64)),
    "timm:levit": (11, (2, 4, 16, 16)),
    "timm:pit": (12, (2, 2, 50, 50)),
    "timm:test_vit": (6, (2, 2, 17, 17)),
}


def gradient(built, x) -> torch.Tensor:
    x = x.detach().requires_grad_()
    return torch.autograd.grad(functional.cross_entropy(built(x), torch.arange(len(x))), x)[0]


def close(given, wanted, rounding=1e-4) -> bool:
    return bool((given - wanted).abs().max() <= rounding * wanted.abs().max())


@pytest.mark.parametrize("name", NETWORKS)
def test_attention_in_steps_is_the_same_attention(name):
    built, x = network(name), images(name)
    if name == "timm:test_vit":
        x = functional.interpolate(x, (160, 160))
    count, shape = NETWORKS[name]
    with torch.no_grad():
        logits = built(x)
    plain = gradient(built, x)
    with visible_attention(built) as maps, captured(built, maps) as seen:
        inside = gradient(built, x)
        with torch.no_grad():
            assert close(built(x), logits, 1e-5)
    assert close(inside, plain)
    assert len(maps) == count
    if name != "timm:test_vit":
        assert seen[maps[0]].shape == shape
    for one in maps:
        assert bool((seen[one] >= 0).all())
        assert torch.allclose(seen[one].sum(-1), torch.ones(()), atol=1e-5)
    assert float(seen[maps[0]].std()) > 0


@pytest.mark.parametrize("name", ["timm:vit", "torchvision:vit", "timm:swin"])
def test_attention_in_steps_in_half_precision(name):
    """Under autocast to bfloat16, whose numbers have three digits, and with a map that is still one."""
    built, x = network(name), images(name)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = built(x)
        with visible_attention(built) as maps, captured(built, maps) as seen:
            assert close(built(x).float(), logits.float(), 0.05)
    assert torch.allclose(seen[maps[0]].float().sum(-1), torch.ones(()), atol=0.02)


class OwnAttention(nn.Module):
    """A user's own module, which calls the fused kernel with the given options."""

    def __init__(self, groups=1, **options) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(8, 8 + 16 // groups), nn.Linear(8, 8)
        self.groups, self.options = groups, options

    def forward(self, x):
        query, key, value = self.qkv(x).split([8, 8 // self.groups, 8 // self.groups], -1)
        query, key, value = (one.unflatten(-1, (-1, 4)).transpose(1, 2) for one in (query, key, value))
        mixed = functional.scaled_dot_product_attention(query, key, value, **self.options)
        return self.proj(mixed.transpose(1, 2).flatten(2))


@pytest.mark.parametrize(
    "options",
    [
        {"scale": 1.0},
        {"is_causal": True},
        {"attn_mask": torch.ones(5, 5, dtype=torch.bool).tril(1)},
        {"attn_mask": torch.linspace(-1, 1, 25).view(5, 5)},
        {"groups": 2, "enable_gqa": True},
    ],
    ids=["scale", "causal", "bool mask", "mask", "grouped queries"],
)
def test_every_option_of_the_fused_kernel(options):
    draw = torch.Generator().manual_seed(1)
    built = nn.Sequential(OwnAttention(**options)).eval()
    for parameter in built.parameters():
        nn.init.normal_(parameter, generator=draw)
    x = torch.randn(2, 5, 8, generator=draw)
    with torch.no_grad(), visible_attention(built) as maps:
        given = built(x)
    with torch.no_grad():
        assert maps == ("0.attention_map",)
        assert torch.allclose(given, built(x), atol=1e-5)


def test_the_map_is_the_one_that_the_formula_gives():
    built, x = network("timm:vit"), images("timm:vit")
    attention = built.blocks[1].attn
    with visible_attention(built) as maps, captured(built, [maps[1], "blocks.1.norm1"]) as seen, torch.no_grad():
        built(x)
    given = seen["blocks.1.norm1"]
    query, key, _ = attention.qkv(given).reshape(2, 17, 3, 3, 64).permute(2, 0, 3, 1, 4)
    assert torch.allclose(seen[maps[1]], torch.softmax(query @ key.mT / 8, -1), atol=1e-6)


@pytest.mark.parametrize("name", ["timm:vit", "torchvision:vit", "timm:beit", "torchvision:swin"])
def test_queries_keys_and_values_are_layers_where_no_module_computes_them(name):
    """Doubled values double the result before the projection, whoever multiplied them."""
    built, x = network(name), images(name)
    first = layers_of(built).attention[0]

    def doubled(packed):
        query_key, value = packed.split([packed.shape[-1] * 2 // 3, packed.shape[-1] // 3], -1)
        return torch.cat([query_key, 2 * value], -1)

    def result():
        with captured(built, [first.name]) as seen, torch.no_grad():
            built(x)
        return seen[first.name]

    with visible_attention(built):
        plain = result()
        with changed_forward(built, {first.qkv[0]: doubled}):
            changed = result()
        with changed_forward(built, {first.qkv[0]: torch.zeros_like}):
            bias = result()
    assert close(changed - bias, 2 * (plain - bias), 1e-4)
    assert not close(changed, plain, 0.1)


def test_no_gradient_through_the_map_is_the_attention_with_a_constant_map():
    """PNA (Wei et al. 2022), written out for timm's transformer."""
    built, x = network("timm:vit"), images("timm:vit")

    def by_hand(x):
        tokens = built._pos_embed(built.patch_embed(x))
        for block in built.blocks:
            given = block.norm1(tokens)
            query, key, value = block.attn.qkv(given).reshape(len(x), -1, 3, 3, 64).permute(2, 0, 3, 1, 4)
            weights = torch.softmax(query @ key.mT / 8, -1).detach()
            tokens = tokens + block.attn.proj((weights @ value).transpose(1, 2).reshape(given.shape))
            tokens = tokens + block.mlp(block.norm2(tokens))
        return built.head(built.norm(tokens)[:, 0])

    with visible_attention(built) as maps, changed_backward(built, dict.fromkeys(maps, torch.zeros_like)):
        given = gradient(built, x)
    assert close(given, gradient(by_hand, x))
    assert not close(given, gradient(built, x), 0.01)


def test_a_map_can_be_replaced():
    """The uniform map mixes all tokens alike, so the result is the projected mean of the values."""
    built, x = network("torchvision:vit"), images("torchvision:vit")
    name = "encoder.layers.encoder_layer_0.self_attention"
    module = built.get_submodule(name)
    with (
        visible_attention(built, [name]) as (only,),
        changed_forward(built, {only: lambda weights: torch.full_like(weights, 1 / 17)}),
        captured(built, [name, "encoder.layers.encoder_layer_0.ln_1"]) as seen,
        torch.no_grad(),
    ):
        built(x)
    values = seen["encoder.layers.encoder_layer_0.ln_1"] @ module.in_proj_weight[-48:].T + module.in_proj_bias[-48:]
    wanted = module.out_proj(values.mean(1, keepdim=True)).expand(-1, 17, -1)
    assert torch.allclose(seen[name], wanted, atol=1e-5)


def test_what_has_no_single_map_is_said():
    with pytest.raises(StudyError, match="no attention map"), visible_attention(network("torchvision:resnet18")):
        pass
    built = network("timm:vit")
    other = visible_attention(built, ["blocks.0.mlp"])
    with pytest.raises(StudyError, match=r"'blocks\.0\.mlp' is no attention module"), other:
        pass
    gated = network("timm:convit")
    with pytest.raises(StudyError, match="computes 2 attention maps"), visible_attention(gated):
        gated(images("timm:convit"))
    assert not any(name.endswith("attention_map") for name, _ in gated.named_modules())
