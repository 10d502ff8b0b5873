"""ATT against torchattack, on one image at a time, with our draws of patches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchattack.att

from study.attacks import Attack
from study.attacks.presets import keys_of
from study.errors import StudyError
from study.models.features import captured
from tests.study.attacks.components import small_sources as small


class Mended(torchattack.att.ATT):
    """torchattack's class; its own importances are all NaN, from a minimum over one number, and then no patch is left
    out."""

    @staticmethod
    def _norm_patchs(gf, patch_index, patch_size, scale, offset):
        found = torch.zeros_like(gf)
        corners = [(row, column) for row in range(0, 224, 16) for column in range(0, 224, 16)]
        seen = gf.detach()[0]
        means = [float(seen[row : row + 16, column : column + 16].mean()) for row, column in corners]
        for (row, column), mean in zip(corners, means, strict=True):
            share = (mean - min(means)) / (max(means) - min(means))
            found[0, row : row + 16, column : column + 16] = scale * share + offset
        return found


def test_the_authors_variant_is_torchattacks(monkeypatch):
    """Its pixels draw one by one; here all pixels of a patch have our draw."""
    network, clean = small.vit(224), small.images(224)[:1]
    steps, found = 2, []
    for row in range(len(clean)):
        calls = iter(range(steps))

        def drawn(like, row=row, calls=calls):
            patches = (small.STREAMS.uniform((14, 14), "cpu", "att-patches.patches.0", next(calls), 0)[row] + 1) / 2
            return patches.repeat_interleave(16, 0).repeat_interleave(16, 1).expand_as(like).to(like)

        monkeypatch.setattr(torch, "rand_like", drawn)
        made = Mended(
            small.unfused(network).requires_grad_(),
            normalize=lambda x: (x - small.MEAN.double()) / small.STD.double(),
            device=torch.device("cpu"),
            hook_cfg="vit_base_patch16_224",
            eps=16 / 255,
            steps=steps,
        )
        scaled = torch.from_numpy(clean[row : row + 1]).double() / 255
        found.append(made(scaled, torch.from_numpy(small.LABELS[row : row + 1])).detach().numpy() * 255)
    parts = {
        "backward": [{"att": {"variant": "authors"}}],
        "forward": [{"att-patches": {"pace": steps, "variant": "authors"}}],
    }
    keys = keys_of("att", {"steps": steps, **parts})
    mine = small.ours(small.source(network, 224), keys, clean, batch=1)
    assert small.apart(mine, np.concatenate(found)) < 1e-4
    papers = small.ours(small.source(network, 224), keys_of("att", {"steps": steps}), clean, batch=1)
    assert (np.abs(papers - mine) > 1).mean() > 0.01


def test_features_times_gradient_is_nothing_behind_which_only_a_norm_follows():
    """At the authors' block, as the docstring says: products that sum to a ten-millionth of their size."""
    network = small.source(small.vit(48, 4), 48)
    shares = {}
    for block in ("blocks.1", "blocks.2"):
        with captured(network, [block]) as found:
            logits = network(torch.from_numpy(small.images(48)).double().requires_grad_())
        (gradient,) = torch.autograd.grad(logits.sum(), found[block])
        products = (found[block].detach() * gradient)[:, 1:]
        shares[block] = float(products.sum(-1).abs().max() / products.abs().sum(-1).max())
    assert shares["blocks.2"] < 1e-5
    assert shares["blocks.1"] > 1e-2


def test_factors_follow_the_variance():
    """Three gradients in a row: gamma first, then gamma + lambda (1 - sqrt(v / v')), image by image."""
    from study.attacks.components.att import _Tuned

    draw = torch.Generator().manual_seed(0)
    gradients = [scale * torch.randn(2, 4, 3, generator=draw) for scale in (1.0, 30.0, 0.1)]
    tuned, before = _Tuned(0.5, 0.1), [None, None]
    for gradient in gradients:
        seen = []

        def extremes(given, factor, seen=seen):
            seen.append(factor)
            return given * factor[:, None, None]

        tuned(gradient, extremes)
        for image in range(2):
            variance = float(gradient[image].flatten().double().numpy().var(ddof=1))
            wanted = 0.5
            if before[image]:
                wanted = min(max(0.5 + 0.1 * (1 - (variance / before[image]) ** 0.5), 0), 1)
            assert float(seen[0][image]) == pytest.approx(wanted, abs=1e-5)
            before[image] = variance * wanted**2


def test_it_takes_one_gradient_before_the_steps():
    assert Attack.model_validate(keys_of("att", {})).gradients(10, 2) == 22


def test_views_and_other_networks_are_refused():
    with pytest.raises(ValueError, match="remove all views"):
        Attack.model_validate(keys_of("att", {"scales": 2}))
    with pytest.raises(StudyError, match="att does not apply to this ResNet: it has no attention"):
        small.ours(small.source(small.resnet(), 32), keys_of("att", {"steps": 1}), small.images(32))
