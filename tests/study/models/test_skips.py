"""Weighted skip connections against blocks written out by hand."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from study.errors import StudyError
from study.models.skips import changed_skips
from tests.study.models.layers.small import images, network


def weights(names) -> dict[str, float]:
    draws = torch.rand(len(names), generator=torch.Generator().manual_seed(7)) * 0.44 + 0.78
    return dict(zip(names, draws.tolist(), strict=True))


def gradient(built, x) -> torch.Tensor:
    x = x.detach().requires_grad_()
    return torch.autograd.grad(functional.cross_entropy(built(x), torch.arange(len(x))), x)[0]


def near(given, wanted) -> bool:
    return bool((given - wanted).abs().max() < 1e-4 * wanted.abs().max())


def resnet_by_hand(built, factors):
    def forward(x):
        x = built.maxpool(built.relu(built.bn1(built.conv1(x))))
        for stage in ("layer1", "layer2", "layer3", "layer4"):
            for index, block in enumerate(getattr(built, stage)):
                carried = x if block.downsample is None else block.downsample(x)
                f = block.bn2(block.conv2(block.bn1(block.conv1(x)).relu()))
                x = (factors[f"{stage}.{index}.bn2"] * carried + f).relu()
        return built.fc(x.mean((2, 3)))

    return forward


def transformer_by_hand(built, factors):
    def forward(x):
        x = built._pos_embed(built.patch_embed(x))
        for index, block in enumerate(built.blocks):
            x = factors[f"blocks.{index}.attn"] * x + block.attn(block.norm1(x))
            x = factors[f"blocks.{index}.mlp"] * x + block.mlp(block.norm2(x))
        return built.head(built.norm(x)[:, 0])

    return forward


@pytest.mark.parametrize(
    ("name", "by_hand", "count"), [("torchvision:resnet18", resnet_by_hand, 8), ("timm:vit", transformer_by_hand, 4)]
)
def test_weighted_skip_connections(name, by_hand, count):
    """Ghost networks: values and gradients."""
    built, x = network(name), images(name)
    factors = {}
    with changed_skips(built, lambda name, carried: factors[name] * carried) as names:
        factors.update(weights(names))
        assert len(names) == count
        with torch.no_grad():
            logits = built(x)
        inside = gradient(built, x)
    wanted = by_hand(built, factors)
    with torch.no_grad():
        assert near(logits, wanted(x))
        assert not near(logits, built(x))
    assert near(inside, gradient(wanted, x))
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in built.modules())


def test_what_cannot_be_changed_is_said():
    def same(_, carried):
        return carried

    with pytest.raises(StudyError, match="no skip connections"), changed_skips(network("torchvision:googlenet"), same):
        pass
    with (
        pytest.raises(StudyError, match="is a function, not a module"),
        changed_skips(network("study:cifar_resnet20"), same),
    ):
        pass
    mixer = network("timm:mixer")
    with pytest.raises(StudyError, match=r"'blocks\.0\.mlp_tokens' has shape"), changed_skips(mixer, same):
        mixer(images("timm:mixer"))
