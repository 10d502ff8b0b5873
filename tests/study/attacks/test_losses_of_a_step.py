"""A point rule sees the loss at its last gradient, and the images to mix in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from study.attacks.conformance import attack_with
from study.attacks.kinds import Point, Pool
from study.attacks.loop import Engine, ImageBatch, craft
from study.attacks.recipe import Attack

LABELS = np.array([1, 2, 3, 4, 5, 6])


@pytest.mark.parametrize("room", [None, 4])
@pytest.mark.parametrize("views", [(), ({"scales": 3},)])
def test_losses_are_those_of_the_last_gradient(small_model, small_images, views, room):
    model = lambda image: small_model(image / 255 - 0.5)  # noqa: E731
    clean = torch.from_numpy(small_images).float()
    pool = Pool(small_images[:2], LABELS[:2])
    seen = []

    class Watching(Point):
        name = "watching"

        def gradient(self, delta, step, inner, state):
            assert step.pool is pool
            with pytest.raises(AssertionError):
                step.losses()
            found = inner(delta)
            seen.append(step.losses())
            step.gradient(step.origin / 2, 1)
            seen.append(step.losses())
            return found

    attack = Attack.model_validate({"step": "sign", "steps": 1, "epsilon": 8, "views": views})
    point = attack_with(Watching()).assembly.points
    attack.__dict__["assembly"] = type(attack.assembly)(**{**vars(attack.assembly), "points": point})
    engine = Engine(batch=6, layout="contiguous", max_pass_images=room)
    given = ImageBatch(small_images, LABELS, [str(one) for one in range(6)])
    craft([model], attack, "untargeted", given, key=("test",), engine=engine, pool=pool)
    scales = (1, 0.5, 0.25) if views else (1,)
    batches = [(0, 6)] if room is None else [(0, 4), (4, 6)]
    labels = torch.from_numpy(LABELS)
    for number, (first, end) in enumerate(batches):
        for found, factor in zip(seen[2 * number : 2 * number + 2], (1, 0.5), strict=True):
            each = [functional.cross_entropy(model(clean * factor * one), labels, reduction="none") for one in scales]
            torch.testing.assert_close(found[: end - first], torch.stack(each).mean(0)[first:end])
