"""SIA against each operation written with torch and scipy, block by block, and its gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import fft
from torch.nn import functional

from study.attacks import Attack
from study.attacks.components import sia
from study.attacks.components.sia import StructureInvariance
from study.attacks.presets import keys_of
from tests.view_trials import STREAMS, ascent, attacked, classifier, differing, gradient, logits_of, made, pixels

ALL = (
    "resize", "roll-rows", "roll-columns", "flip-rows", "flip-columns", "turn", "scale", "noise", "low-pass", "dropout"
)  # fmt: skip


def edges(words, size):
    left = list(range(1, size))
    return [0, *sorted(left.pop(word % len(left)) for word in words), size]


def low_pass(block):
    """The inverse of the cosine transform without the upper 0.4 of both axes."""
    high, wide = block.shape[1:]
    kept = torch.zeros(high, wide, dtype=torch.float64)
    kept[: high - int(0.4 * high), : wide - int(0.4 * wide)] = 1
    basis = [torch.from_numpy(fft.dct(np.eye(size), axis=0, norm="ortho")) for size in (high, wide)]
    return basis[0].T @ (kept * (basis[0] @ block @ basis[1].T)) @ basis[1]


def changed(block, name, share, noise, kept):
    high, wide = block.shape[1:]
    if name == "resize":
        small = functional.interpolate(block[None], (int(0.8 * high) + 1, int(0.8 * wide) + 1), mode="bilinear")
        return functional.interpolate(small, (high, wide), mode="bilinear")[0].clamp(0, 255)
    return {
        "roll-rows": lambda: block.roll(int(share * high), 1),
        "roll-columns": lambda: block.roll(int(share * wide), 2),
        "flip-rows": lambda: block.flip(1),
        "flip-columns": lambda: block.flip(2),
        "turn": lambda: block.rot90(2, (1, 2)),
        "scale": lambda: share * block,
        "noise": lambda: (block + 16 * noise).clamp(0, 255),
        "low-pass": lambda: low_pass(block),
        "dropout": lambda: block * kept[:, None, None] / 0.9,
    }[name]()


def direct(image, step, copy, operations=ALL, grid=3):
    """Every image, cut and changed block by block."""
    cells, channels = grid * grid, image.shape[1]
    words = STREAMS.integers(2 * (grid - 1) + 2 * cells, "sia", step, copy).tolist()
    noise = STREAMS.uniform(image.shape[1:], "cpu", "sia.noise", step, copy).double()
    dropped = STREAMS.integers(channels * cells, "sia.channels", step, copy).reshape(-1, channels, cells) / 2**64
    copies = []
    for one, word, own_noise, own_dropped in zip(image, words, noise, dropped, strict=True):
        rows, columns = edges(word[: grid - 1], one.shape[1]), edges(word[grid - 1 : 2 * grid - 2], one.shape[2])
        whole = []
        for row in range(grid):
            strip = []
            for column in range(grid):
                cell = row * grid + column
                place = (
                    slice(None),
                    slice(rows[row], rows[row + 1]),
                    slice(columns[column], columns[column + 1]),
                )
                name = operations[word[2 * grid - 2 + cell] % len(operations)]
                share = word[2 * grid - 2 + cells + cell] / 2**64
                kept = torch.from_numpy(own_dropped[:, cell] >= 0.1).double()
                strip.append(changed(one[place], name, share, own_noise[place], kept))
            whole.append(torch.cat(strip, 2))
        copies.append(torch.cat(whole, 1))
    return torch.stack(copies)


@pytest.mark.parametrize(("operation", "host"), [*((one, True) for one in (*ALL, "all")), ("all", False)])
def test_each_operation_is_torchs(operation, host, monkeypatch):
    """Also as a GPU filters blocks: all together.

    Pixels beyond 0..255 show where copies are clipped. Images are 4, so all ten stand in 36 blocks of a copy.
    """
    monkeypatch.setattr(sia, "is_host", lambda device: host)
    operations = ALL if operation == "all" else (operation,)
    image = torch.from_numpy(pixels(37, 28)).double() * 1.1 - 10
    image.requires_grad_(True)
    weights = torch.randn(image.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for copy in (0, 4):
        ours = made([StructureInvariance(operations=operations)], image, copy, step=1)
        expected = direct(image, 1, copy, operations)
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
        found, wanted = (torch.autograd.grad((one * weights).sum(), image)[0] for one in (ours, expected))
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    assert not torch.equal(ours, image)


def test_every_operation_is_drawn_about_as_often():
    words = np.concatenate([STREAMS.integers(22, "sia", 0, copy)[:, 4:13] % 10 for copy in range(50)])
    counts = np.bincount(words.ravel().astype(int), minlength=10)
    assert counts.sum() == 1800
    assert np.abs(counts - 180).max() < 4 * 180**0.5


@pytest.mark.parametrize("grid", [1, 2, 5])
def test_other_grids(grid):
    image = torch.from_numpy(pixels(14)).double()
    ours = made([StructureInvariance(grid=grid)], image, 1)
    torch.testing.assert_close(ours, direct(image, 0, 1, grid=grid), rtol=0, atol=1e-5)


def test_the_attack_is_the_mean_gradient_through_the_copies():
    images = pixels(24)
    model = logits_of(classifier(24))

    def direction(image, step):
        image = image.detach().requires_grad_(True)
        return gradient(torch.stack([model(direct(image, step, copy)) for copy in range(3)]), image)

    expected = ascent(direction, torch.from_numpy(images).double(), 3, 16 / 3)
    keys = keys_of("sia", {"steps": 3, "views": [{"sia": {"copies": 3}}]})
    assert differing(attacked(model, keys, images), expected) < 2e-3


def test_an_unknown_operation_is_refused():
    with pytest.raises(ValueError, match="roll-rows"):
        Attack.model_validate(keys_of("sia", {"views": [{"sia": {"operations": ["shear"]}}]}))
