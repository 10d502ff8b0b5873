"""VA-I-FGSM against its formula, and its draws of labels."""

from __future__ import annotations

import functools
from collections import Counter

import pytest
import torch
from torch.nn import functional

from study.attacks import Attack
from study.attacks.components.virtual_steps import others
from study.attacks.presets import keys_of
from study.errors import StudyError
from tests.study.attacks.components.written_out import GOALS, LABELS, PIXELS, SIGN, attacked, clip, gradient, streams


def towards(logits, goal, labels):
    """Minus what the attack would maximise for these labels."""
    return SIGN[goal] * functional.cross_entropy(logits, labels, reduction="sum")


@pytest.mark.parametrize("goal", GOALS)
def test_va_i_is_the_printed_algorithm(small_images, goal):
    """Zhang et al. 2022: signs of 1 + 3 gradients at one place, one step after the other, projected at the end."""
    x = clean = torch.from_numpy(small_images).double()
    beyond = 0.0
    for step in range(8):
        drawn = others(torch.from_numpy(LABELS), streams().words(3, "cpu", "virtual-steps", step), 10)
        signs = [gradient(PIXELS, x, goal).sign()]
        for labels in drawn.T:
            raise_them = functools.partial(towards, labels=labels)
            signs.append(gradient(PIXELS, x, goal, raise_them).sign())
        for sign in signs:
            x = (x + 4 * sign).clamp(0, 255)
        beyond = max(beyond, float((x - clean).abs().max()))
    assert beyond > 16
    found = attacked(PIXELS, "va-i", {"steps": 8, "step_size": 4}, small_images, goal)
    assert (found - clip(x, clean)).abs().max() < 1e-4


def test_labels_are_others_and_all_equally_likely():
    counts = Counter()
    words = streams().words(2000, "cpu", "labels").reshape(-1, 2)
    for pair in others(torch.full((len(words),), 2), words, 5).tolist():
        assert len({2, *pair}) == 3
        counts.update(pair)
    assert set(counts) == {0, 1, 3, 4}
    assert max(counts.values()) < 1.06 * min(counts.values())


def test_checkpoints_are_prefixes(small_images):
    """The images after 3 of 6 steps are those of an attack of 3 steps."""
    from study.attacks.loop import Engine, ImageBatch, perturbations
    from tests.study.attacks.components.written_out import IDS, KEY

    given, engine = ImageBatch(small_images, LABELS, IDS), Engine(batch=6, layout="contiguous")
    found = []
    for keys in ({"steps": 6, "checkpoints": [3]}, {"steps": 3}):
        attack = Attack.model_validate(keys_of("va-i", keys))
        found.append(next(perturbations([PIXELS], attack, "untargeted", given, key=KEY, engine=engine))[1][0])
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


@pytest.mark.parametrize("more", [{"momentum": 1}, {"start": "random"}, {"points": ["direction-tuning"]}])
def test_it_refuses_what_it_would_ignore(more):
    with pytest.raises(ValueError, match="takes its own sign steps"):
        Attack.model_validate(keys_of("va-i", more))


def test_more_labels_than_the_models_have_are_refused(small_images):
    with pytest.raises(StudyError, match="for 10 other labels of each image, but a model has only 10 labels") as raised:
        attacked(
            PIXELS, "va-i", {"steps": 1, "program": {"virtual-steps": {"auxiliary": 10}}}, small_images, "untargeted"
        )
    assert raised.value.accepted == "auxiliary: up to 9"
