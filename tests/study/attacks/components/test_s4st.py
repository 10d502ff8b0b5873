"""S4ST's view block by block, by torch's interpolate and pad."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from study.attacks import Attack
from study.attacks.components.s4st import BlockScaling
from study.attacks.image_operations import BASIC, applied
from study.attacks.kinds import StepDraws, ViewContext
from study.reproducibility.rng import Streams
from tests.study.attacks.components.transforms_by_hand import IDS, KEY, LABELS, Draws

SIZE = 56


def view_of(component, image, step):
    draws = StepDraws(Streams(KEY, IDS), component.stream, "cpu", step)
    given = ViewContext(
        copy=0,
        draws=draws,
        true=LABELS,
        wanted=LABELS,
        pool=None,
        origin=image,
        step=step,
        steps=1,
        epsilon=None,
        gradient=torch.zeros_like,
    )
    return component.make(image, given)


def scaled(block, words):
    """One block (1, C, H, W): smaller and padded, or a part of it enlarged."""
    chance, extent, top, left = words
    if chance / 2**64 >= 0.9:
        return block
    height, width = block.shape[2:]
    factor = 1 / 1.9 + (1.9 - 1 / 1.9) * extent / 2**64
    if factor < 1:
        small = int(height * factor), int(width * factor)
        free = height - small[0], width - small[1]
        top, left = top % free[0], left % free[1]
        block = functional.interpolate(block, small, mode="bilinear", antialias=True)
        return functional.pad(block, (left, free[1] - left, top, free[0] - top))
    part = round(height / factor), round(width / factor)
    top, left = top % (height - part[0] + 1), left % (width - part[1] + 1)
    block = block[:, :, top : top + part[0], left : left + part[1]]
    return functional.interpolate(block, (height, width), mode="bilinear", antialias=True)


def test_each_block_is_scaled_by_its_own_factor():
    """At three steps for six images, after each one's own operation, whose test is elsewhere."""
    image = torch.rand(6, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 255
    shapes, lengths = set(), []
    for step in range(3):
        found = view_of(BlockScaling(), image, step)
        for row in range(6):
            draws = Draws(row, "s4st")
            _, which = draws.words(2, "choice", step)
            own = StepDraws(Streams(KEY, [IDS[row]]), "s4st", "cpu", step)
            first = applied(image[row : row + 1], [BASIC[which % 9]], own, "change")
            order, *words = draws.words(1 + 3 + 24, "blocks", step)
            down, right = (2, 3) if order % 2 else (3, 2)
            shapes.add((down, right))
            edges = []
            for blocks, drawn in ((down, words[: down - 1]), (right, words[down - 1 : 3])):
                spare = SIZE - 7.5 * blocks
                inner = [int(7.5 * (at + 1) + spare * one / 2**64) for at, one in enumerate(sorted(drawn))]
                edges.append([0, *inner, SIZE])
                lengths += np.diff(edges[-1]).tolist()
            expected = first.clone()
            each = iter(np.array(words[3:], dtype=np.uint64).reshape(-1, 4).tolist())
            for top, bottom in zip(edges[0], edges[0][1:], strict=False):
                for left, end in zip(edges[1], edges[1][1:], strict=False):
                    expected[:, :, top:bottom, left:end] = scaled(first[:, :, top:bottom, left:end], next(each))
            torch.testing.assert_close(found[row], expected[0], rtol=0, atol=1e-3)
    assert shapes == {(2, 3), (3, 2)}
    assert min(lengths) >= 7


def test_too_many_blocks_are_refused():
    with pytest.raises(ValueError, match="blocks"):
        Attack.model_validate({"step": "sign", "steps": 1, "epsilon": 8, "views": [{"s4st": {"blocks": [2, 8]}}]})
