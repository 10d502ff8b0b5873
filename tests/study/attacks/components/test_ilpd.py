"""ILPD against torchattack with our noise."""

from __future__ import annotations

import numpy as np
import torch
import torchattack.ilpd

from study.attacks.presets import keys_of
from tests.study.attacks.components import small_sources as small


def test_it_is_torchattacks_with_the_same_noise(monkeypatch):
    network, clean = small.resnet(), small.images(32)
    steps = 3
    calls = iter(range(steps * len(clean)))

    def drawn(like):
        step = next(calls)
        noise = small.STREAMS.normal((3, 32, 32), "cpu", "ilpd", step % steps, 0)
        return noise[step // steps][None].to(like)

    monkeypatch.setattr(torch, "randn_like", drawn)
    wanted = small.torchattacks_images(
        torchattack.ilpd.ILPD, network, clean, eps=16 / 255, steps=steps, alpha=4 / 255, feature_layer_cfg="layer2.0"
    )
    keys = keys_of("ilpd", {"steps": steps, "step_size": 4, "momentum": 1})
    assert small.apart(small.ours(small.source(network, 32), keys, clean), wanted) < 1e-4
    plain = small.ours(small.source(network, 32), keys_of("mi", {"steps": steps, "step_size": 4}), clean)
    assert (np.abs(plain - wanted) > 1).mean() > 0.01


def test_it_takes_a_forward_pass_for_each_gradient():
    from study.attacks import Attack

    attack = Attack.model_validate(keys_of("ilpd", {}))
    assert (attack.gradients(100, 2), attack.forwards(100, 2)) == (200, 200)
