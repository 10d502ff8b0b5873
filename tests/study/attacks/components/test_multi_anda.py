"""MultiANDA against its paths written out."""

from __future__ import annotations

import pytest
import torch

from study.attacks import Attack
from study.attacks.loop import Engine, ImageBatch, perturbations
from study.attacks.presets import keys_of
from tests.study.attacks.components.test_translations import shifted
from tests.study.attacks.components.written_out import (
    GOALS,
    IDS,
    KEY,
    LABELS,
    PIXELS,
    attacked,
    clip,
    gradient,
    uniform,
)

PLACES = torch.linspace(-0.3, 0.3, 5, dtype=torch.float64).tolist()


@pytest.mark.parametrize("goal", GOALS)
def test_it_is_algorithm_a1(small_images, goal):
    """Fang et al. 2024: each path by the sign of its own sum; then one step from the mean of all images."""
    clean = torch.from_numpy(small_images).double()
    images, sums = [clean, clean], [torch.zeros_like(clean)] * 2
    for step in range(2):
        before = (images[0] + images[1]) / 2
        for path in range(2):
            noisy = images[path] + 0.5 * uniform((3, 12, 12), "multi-anda", step, path)
            for across in PLACES:
                for down in PLACES:
                    seen = lambda x, across=across, down=down: PIXELS(shifted(x, across, down))  # noqa: E731
                    sums[path] = sums[path] + gradient(seen, noisy, goal)
            images[path] = clip(images[path] + 8 * sums[path].sign(), clean)
    wanted = clip(before + 8 * (sums[0] + sums[1]).sign(), clean)
    keys = {"steps": 2, "program": {"multi-anda": {"paths": 2}}}
    assert (attacked(PIXELS, "multi-anda", keys, small_images, goal) - wanted).abs().max() < 1e-4


def test_checkpoints_are_prefixes(small_images):
    given, engine = ImageBatch(small_images, LABELS, IDS), Engine(batch=6, layout="contiguous")
    found = []
    for keys in ({"steps": 3, "checkpoints": [2], "step_size": 2}, {"steps": 2, "step_size": 2}):
        attack = Attack.model_validate(keys_of("multi-anda", {**keys, "views": [{"translations": 1}]}))
        found.append(next(perturbations([PIXELS], attack, "untargeted", given, key=KEY, engine=engine))[1][0])
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


@pytest.mark.parametrize("more", [{"momentum": 1}, {"start": "random"}])
def test_it_refuses_what_it_would_ignore(more):
    with pytest.raises(ValueError, match="takes its own sign steps"):
        Attack.model_validate(keys_of("multi-anda", more))
