"""Predictions where memory runs out: smaller passes, the same labels, and a word where not even one image fits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from study.errors import StudyError
from study.models.predict import predict


class Tight:
    """A linear model on whose device `room` images fit at a time."""

    memory_format = torch.contiguous_format

    def __init__(self, room, error=None):
        self.room, self.seen = room, []
        self.error = error or torch.OutOfMemoryError("out of memory")
        self.weight = torch.randn(12, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float32)

    def logits(self, images):
        if len(images) > self.room:
            raise self.error
        self.seen.append(len(images))
        return images.flatten(1) @ self.weight / 255


PIXELS = np.random.default_rng(0).integers(0, 256, (37, 3, 2, 2), np.uint8)


@pytest.mark.parametrize("room", [64, 16, 8, 5, 4])
def test_passes_are_halved_and_nothing_is_lost(room):
    model = Tight(room)
    found = predict(model, PIXELS, batch=16, whole=True)
    expected = (torch.from_numpy(PIXELS).flatten(1).float() @ model.weight / 255).softmax(1)
    assert found.whole.shape == (37, 7)
    np.testing.assert_allclose(found.whole, expected.numpy(), rtol=1e-5)
    np.testing.assert_array_equal(found.top5, expected.topk(5, dim=1).indices.numpy())
    assert max(model.seen) <= room


def test_not_even_one_image_fits():
    with pytest.raises(StudyError, match="too little memory for a single image"):
        predict(Tight(0), PIXELS, batch=16)


@pytest.mark.parametrize("count", [37, 16, 3])
def test_images_on_the_device_are_those_of_the_host(count):
    model = Tight(64)
    here, there = (predict(model, one[:count], batch=16, whole=True) for one in (PIXELS, torch.from_numpy(PIXELS)))
    assert all(np.array_equal(getattr(here, part), getattr(there, part)) for part in ("top5", "top5_prob", "whole"))
