"""MuMoDIG against its formula, and against torchattack where both take the same paths."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torchattack.mumodig
from torch.nn import functional

from study.attacks.components.monotonic_paths import quantised, rotated
from tests.study.attacks.components.written_out import PIXELS, attacked, clip, gradient, n, streams, uniform


def lowered(x, ends):
    """The largest of a channel's minimum and its cuts that is not above the value."""
    low, high = x.amin((2, 3)), x.amax((2, 3))
    cuts = torch.cat([low[..., None], low[..., None] + (high - low)[..., None] * (ends + 1) / 2], -1)[..., None, None]
    return torch.where(cuts <= x[:, :, None], cuts, -math.inf).amax(2)


def copy(x, words):
    """The transform of each image, from its seven words."""
    rows = []
    for image, (family, which, amount, _, *place) in zip(x, words.tolist(), strict=True):
        size = image.shape[-1]
        kept = size - amount % size
        changed = [
            lambda one, kept=kept: torch.cat([one[:, kept:], one[:, :kept]], 1),
            lambda one, kept=kept: torch.cat([one[:, :, kept:], one[:, :, :kept]], 2),
            lambda one: one[:, torch.arange(one.shape[1]).flip(0)],
            lambda one: one[:, :, torch.arange(one.shape[2]).flip(0)],
            lambda one, amount=amount: turned(one, math.radians(45) * (2 * amount / 2**64 - 1)),
        ]
        rows.append(framed(image, *place) if family % 2 else changed[which % 5](image))
    return torch.stack(rows)


def framed(image, extent, top, left):
    """Enlarge by torch's functions, put into a frame of 245/224, and resize back."""
    size = image.shape[-1]
    frame = round(size * 245 / 224)
    inner = size + extent % (frame - size)
    up, before = top % (frame - inner + 1), left % (frame - inner + 1)
    larger = functional.interpolate(image[None], (inner, inner), mode="bilinear", align_corners=False)
    whole = functional.pad(larger, (before, frame - inner - before, up, frame - inner - up))
    return functional.interpolate(whole, (size, size), mode="bilinear", align_corners=False)[0]


def turned(one, angle):
    """Each pixel reads the place that the angle turns it to, between its four neighbours."""
    size = one.shape[-1]
    middle = (size - 1) / 2
    rows = []
    for row in range(size):
        for column in range(size):
            across = math.cos(angle) * (column - middle) + math.sin(angle) * (row - middle) + middle
            along = math.cos(angle) * (row - middle) - math.sin(angle) * (column - middle) + middle
            value = torch.zeros_like(one[:, 0, 0])
            for y in (math.floor(along), math.floor(along) + 1):
                for x in (math.floor(across), math.floor(across) + 1):
                    if 0 <= x < size and 0 <= y < size:
                        value = value + (1 - abs(along - y)) * (1 - abs(across - x)) * one[:, y, x]
            rows.append(value)
    return torch.stack(rows, 1).view_as(one)


def test_quantised_values_are_the_lower_ends_of_their_regions():
    x = torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ends = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2 - 1
    found = quantised(x, ends)
    torch.testing.assert_close(found, lowered(x, ends))
    assert (found <= x).all()
    assert max(len(found[i, c].unique()) for i in range(2) for c in range(3)) > 2


def test_a_rotation_reads_the_turned_places():
    x = torch.rand(3, 7, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(rotated(x, 0.0), x)
    torch.testing.assert_close(rotated(x, math.pi / 2), torch.rot90(x, -1, (1, 2)))
    torch.testing.assert_close(rotated(x, 0.4), turned(x, 0.4))


@pytest.mark.parametrize(
    ("goal", "bases", "points", "regions"), [("untargeted", 1, 1, 2), ("targeted", 2, 1, 3), ("targeted", 1, 2, 2)]
)
def test_mumodig_is_the_authors_algorithm(small_images, goal, bases, points, regions):
    """Ren et al. 2025, path by path, differentiated through the transform by autograd."""
    x = clean = torch.from_numpy(small_images).double()
    momentum, families = torch.zeros_like(clean), set()
    for step in range(2):
        total = torch.zeros_like(clean)
        for transform in range(3):
            words = streams().integers(7, "monotonic-paths", step, transform)
            families |= {(word % 2, other % 5) for word, other in words[:, :2].tolist()} if transform else set()
            leaf = x.detach().requires_grad_(True)
            seen = copy(leaf, words) if transform else leaf
            for base in range(bases):
                ends = uniform((3, regions - 1), "monotonic-paths.regions", step, transform * bases + base)
                low = lowered(seen.detach(), ends)
                found = torch.zeros_like(clean)
                for point in range(points):
                    place = low + (point + 0.65) / points * (seen - low)
                    upstream = gradient(PIXELS, place, goal)
                    found += torch.autograd.grad(place, leaf, upstream, retain_graph=True)[0]
                total += (seen.detach() - low) * found
        momentum = momentum + n(total)
        x = clip(x + 8 * momentum.sign(), clean)
    assert len(families) > 2
    path = {"transforms": 2, "bases": bases, "points": points, "regions": regions}
    found = attacked(PIXELS, "mumodig", {"steps": 2, "points": [{"monotonic-paths": path}]}, small_images, goal)
    assert (found - x).abs().max() < 1e-4


def test_without_transforms_it_equals_torchattack(small_images, monkeypatch):
    """torchattack's MuMoDIG without augmentation, its random cuts replaced by ours."""
    steps, labels = 4, torch.arange(1, 7)
    monkeypatch.setattr(torchattack.mumodig, "k", object())
    theirs = torchattack.mumodig.MuMoDIG(
        lambda x: PIXELS(x * 255), eps=16 / 255, steps=steps, n_trans=0, device=torch.device("cpu")
    )
    drawn = [uniform((3, 1), "monotonic-paths.regions", step, 0) for step in range(steps)]
    cuts = iter([(one.flatten() + 1) / 2 for one in drawn])
    monkeypatch.setattr(torch, "rand", lambda *_, **__: next(cuts))
    images = theirs(torch.from_numpy(small_images).double() / 255, labels).detach() * 255
    monkeypatch.undo()
    keys = {"steps": steps, "points": [{"monotonic-paths": {"transforms": 0}}]}
    assert (attacked(PIXELS, "mumodig", keys, small_images) - images).abs().max() < 1e-4
    assert np.isfinite(images.numpy()).all()
