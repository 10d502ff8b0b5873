"""SU against torchvision's crops, and against the authors' loop with the same draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional
from torchvision.transforms import functional as tv

from study.attacks import Attack
from study.attacks.components.su import GlobalAndLocal
from study.attacks.loop import Engine, ImageBatch, craft
from study.attacks.presets import keys_of
from study.models import Model, loading
from tests.view_trials import IDS, KEY, LABELS, STREAMS, differing, made, pixels


def crops(clean, step, copy=1, low=0.1, high=0.1):
    """The enlarged parts of all images, by torchvision."""
    size = clean.shape[-1]
    found = []
    for one, (share, shape, top, left) in zip(clean, STREAMS.integers(4, "su", step, copy) / 2**64, strict=True):
        area = size**2 * (low + (high - low) * share)
        ratio = (4 / 3) ** (2 * shape - 1)
        wide, tall = (min(size, round(math.sqrt(part))) for part in (area * ratio, area / ratio))
        corner = int(top * (size - tall + 1)), int(left * (size - wide + 1))
        found.append(tv.resized_crop(one, *corner, tall, wide, [size, size]))
    return torch.stack(found)


@pytest.mark.parametrize(("low", "high"), [(0.1, 0.1), (0.05, 0.4), (0.9, 1.0)])
def test_local_views_are_torchvisions_crops(low, high):
    clean = torch.from_numpy(pixels(40)).double()
    moved = (clean + 3).requires_grad_(True)
    view = GlobalAndLocal(low=low, high=high)
    assert torch.equal(made([view], moved, 0, origin=clean), moved)
    local = made([view], moved, 1, step=2, origin=clean)
    torch.testing.assert_close(local, crops(clean, 2, low=low, high=high) + 3, rtol=0, atol=1e-4)
    (found,) = torch.autograd.grad(local.sum(), moved)
    assert (found == 1).all()


@pytest.fixture(scope="module")
def network():
    reference = "timm:test_resnet"
    return loading.load(reference, Model.model_validate({"network": reference, "weights": "random:1", "size": 48}))


def diversified(image, step, copy):
    """Each image resized and padded to 330 / 299 of its size with probability 0.7, and resized back."""
    frame = round(330 / 299 * 48)
    copies = []
    for one, words in zip(image, STREAMS.integers(4, "diversity", step, copy).tolist(), strict=True):
        if words[0] / 2**64 >= 0.7:
            copies.append(one)
            continue
        inner = 48 + words[1] % (frame - 48)
        top, left = words[2] % (frame - inner + 1), words[3] % (frame - inner + 1)
        small = functional.interpolate(one[None], (inner, inner))
        padded = functional.pad(small, (left, frame - inner - left, top, frame - inner - top))
        copies.append(functional.interpolate(padded, (48, 48), mode="bilinear", align_corners=False)[0])
    return torch.stack(copies)


def authors(network, images, goal, weight, steps=3):
    """The loop of the authors' code; features are those of layer3."""
    seen = []
    handle = network.network.get_submodule("layer3").register_forward_hook(lambda *one: seen.append(one[2]))
    clean = torch.from_numpy(images).float()
    labels = torch.from_numpy(LABELS)
    line = torch.exp(-0.5 * torch.linspace(-3, 3, 5) ** 2)
    kernel = (torch.outer(line, line) / line.sum() ** 2).expand(3, 1, 5, 5)
    delta, momentum = torch.zeros_like(clean), torch.zeros_like(clean)
    for step in range(steps):
        seen.clear()
        leaf = delta.clone().requires_grad_(True)
        views = (clean + leaf, crops(clean.double(), step).float() + leaf)
        both = torch.cat([diversified(view, step, copy) for copy, view in enumerate(views)])
        logits = network(both)
        chosen = logits.gather(1, labels.repeat(2)[:, None])[:, 0].view(2, -1).mean(0)
        whole, local = seen[0].flatten(1).chunk(2)
        gain = (chosen if goal == "targeted" else -chosen) + weight * functional.cosine_similarity(whole, local)
        (found,) = torch.autograd.grad(gain.sum(), leaf)
        found = functional.conv2d(found, kernel, padding=2, groups=3)
        momentum = momentum + found / found.abs().mean((1, 2, 3), keepdim=True)
        delta = (delta + 2 * momentum.sign()).clamp(-16, 16)
        delta = (clean + delta).clamp(0, 255) - clean
    handle.remove()
    return clean + delta


def ours(network, images, goal, weight, engine=None):
    keys = keys_of("su", {"steps": 3, "objective": {"su": {"weight": weight}}})
    engine = engine or Engine(batch=4, layout="contiguous")
    given = ImageBatch(images, LABELS, IDS)
    return craft([network], Attack.model_validate(keys), goal, given, key=KEY, engine=engine).pixels


@pytest.mark.parametrize("goal", ["targeted", "untargeted"])
@pytest.mark.parametrize("weight", [0.001, 100.0])
def test_the_attack_is_the_authors_loop(network, goal, weight):
    images = pixels(48)
    assert differing(ours(network, images, goal, weight), authors(network, images, goal, weight)) < 5e-3


def test_the_similarity_counts(network):
    images = pixels(48)
    assert differing(ours(network, images, "targeted", 100.0), authors(network, images, "targeted", 0.0)) > 0.05


def test_passes_of_any_size_compare_both_views(network):
    images = pixels(48)
    whole = ours(network, images, "targeted", 100.0, Engine(batch=4, max_pass_images=8))
    for largest in (2, 4):
        part = ours(network, images, "targeted", 100.0, Engine(batch=4, max_pass_images=largest))
        assert (np.abs(part.astype(int) - whole.astype(int)) > 1).mean() < 5e-3


def test_the_view_must_stand_first():
    with pytest.raises(ValueError, match="put `su` first in `views`"):
        Attack.model_validate(keys_of("su", {"views": [{"diversity": {}}, {"su": {}}]}))
