"""Clean feature mixup, and its tuned successor, against a network of convolutions written out with the same draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from study.attacks.kinds import Pool
from study.attacks.presets import keys_of
from tests.study.attacks.components import small_sources as small

SIZE, STEPS = 16, 3
NARROW = ("features.4", "features.8", "classifier.0")
"""Of convolutions of 16, 8 and 4 pixels, those of at most half of 16, and the linear layer."""

BASE = {
    "steps": STEPS, "step_size": 4, "diversity": None, "kernel": None, "momentum": 1, "objective": "cross-entropy",
    "fusion": "probability",
}  # fmt: skip


def pool() -> Pool:
    return Pool(small.images(SIZE, seed=9), np.array([4, 5, 6]))


def drawn(name, kind, step):
    """For each image: whether the layer is mixed, with which of the pool, and the shares of its channels."""
    words = small.STREAMS.integers(2 * len(NARROW), f"{kind}.layers.0", step, 0)
    place = NARROW.index(name)
    chosen = words[:, 2 * place] / 2.0**64 < 0.6
    partner = (words[:, 2 * place + 1] % np.uint64(3)).astype(int)
    return chosen, partner


def shares(name, kind, step, channels):
    return 0.75 * (small.STREAMS.uniform((channels,), "cpu", f"{kind}.shares.0.{name}", step, 0).double() + 1) / 2


def run(network, pixels, change):
    """The network, with `change(name, value)` at each narrow layer, behind its batch norm."""
    x = small.normalised(pixels)
    for place, layer in enumerate(network.features):
        x = layer(x)
        if isinstance(layer, torch.nn.BatchNorm2d) and f"features.{place - 1}" in NARROW:
            x = change(f"features.{place - 1}", x)
    return change("classifier.0", network.classifier(x.mean((2, 3))))


def clean_of(network):
    kept = {}

    def keep(name, value):
        # The ReLU behind it works in place.
        kept[name] = value.detach().clone()
        return value

    run(network, torch.from_numpy(pool().pixels).double(), keep)
    return kept


@pytest.mark.parametrize("fold", [False, True])
def test_mixing_is_the_printed_formula(fold):
    network, clean = small.vgg(), small.images(SIZE)
    kept = clean_of(network)
    mixed = []

    def gradient(image, step):
        def change(name, value):
            chosen, partner = drawn(name, "cfm", step)
            a = shares(name, "cfm", step, value.shape[1])
            rows = []
            for row in range(3):
                if not chosen[row]:
                    rows.append(value[row])
                    continue
                mixed.append(name)
                share = a[row].view(-1, *[1] * (value.ndim - 2))
                rows.append((1 - share) * value[row] + share * kept[name][partner[row]])
            return torch.stack(rows)

        return small.gradient_of(lambda x: run(network, x, change), image)[0]

    wanted = small.looped(gradient, clean, steps=STEPS, size=4)
    keys = keys_of("cfm", {**BASE, "forward": [{"cfm": {"probability": 0.6, "divisor": 2, "pool": 3}}]})
    found = small.ours(small.source(network, SIZE, fold=fold), keys, clean, pool=pool())
    assert small.apart(found, wanted) < 1e-4
    assert set(mixed) == set(NARROW)
    assert 10 < len(mixed) < 3 * len(NARROW) * STEPS


@pytest.mark.parametrize(("variant", "fold"), [("paper", False), ("paper", True), ("authors", True)])
def test_tuning_is_the_printed_formula(variant, fold):
    network, clean = small.vgg(), small.images(SIZE)
    kept = clean_of(network)
    tuned: dict[tuple[str, int], torch.Tensor] = {}
    turned = []

    def gradient(image, step):
        held = {}

        def change(name, value):
            chosen, partner = drawn(name, "ftm", step)
            a = shares(name, "ftm", step, value.shape[1])
            rows = []
            for row in range(3):
                direction = tuned.setdefault((name, row), torch.zeros_like(value[row]).detach())
                direction = direction.clone().requires_grad_()
                length = float(value[row].detach().norm())
                own = float(direction.detach().norm())
                if variant == "authors":
                    added = 0.1 * length / (own + 1e-7) * direction
                else:
                    # With a length of 0.1 |f|, and the gradient of the perturbation itself.
                    added = 0.1 * length / (own or 1.0) * direction.detach() + (direction - direction.detach())
                together = value[row] + added
                if chosen[row]:
                    held[name, row] = direction
                    share = a[row].view(-1, *[1] * (value.ndim - 2))
                    together = (1 - share) * together + share * kept[name][partner[row]]
                rows.append(together)
            return torch.stack(rows)

        loss = functional.cross_entropy(run(network, image, change), torch.from_numpy(small.LABELS), reduction="sum")
        found, *steps = torch.autograd.grad(loss, [image, *held.values()])
        for key, step_of in zip(held, steps, strict=True):
            before = tuned[key]
            tuned[key] = before - step_of
            if before.norm() > 0:
                cosine = functional.cosine_similarity(before.flatten(), tuned[key].flatten(), 0)
                turned.append(float(1 - cosine))
        return found

    wanted = small.looped(gradient, clean, steps=STEPS, size=4)
    part = {"probability": 0.6, "divisor": 2, "pool": 3, "size": 0.1, "variant": variant}
    keys = keys_of("ftm", {**BASE, "forward": [{"ftm": part}]})
    found = small.ours(small.source(network, SIZE, fold=fold), keys, clean, pool=pool())
    assert small.apart(found, wanted) < 1e-4
    # The authors' perturbations never turn after their first step.
    assert max(turned) < 1e-9 if variant == "authors" else max(turned) > 0.01


def test_the_perturbation_begins_anew_for_each_batch():
    network, clean = small.vgg(), small.images(SIZE)
    part = {"probability": 0.6, "divisor": 2, "pool": 3, "size": 0.1}
    keys = keys_of("ftm", {**BASE, "forward": [{"ftm": part}]})
    together = small.ours(small.source(network, SIZE), keys, clean, pool=pool())
    one_by_one = small.ours(small.source(network, SIZE), keys, clean, batch=1, pool=pool())
    assert small.apart(together, one_by_one) < 1e-4
