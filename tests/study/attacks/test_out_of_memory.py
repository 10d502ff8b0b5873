"""Memory that runs out, in whatever words: every pass is halved, and results are the same up to rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from study.attacks import Attack, loop
from study.attacks.loop import Engine, ImageBatch, craft
from study.attacks.presets import keys_of
from study.errors import StudyError
from study.geometry import point_predictions
from study.models.device_errors import DeviceError
from study.models.predict import predict
from tests.study.models.test_predict import Tight

LABELS = np.array([1, 2, 3, 4, 5, 6])
IDS = [f"image{index}" for index in range(6)]
ENGINE = "GET was unable to find an engine to execute this computation"
WORDS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError(ENGINE),
    torch.AcceleratorError("CUDA error: operation failed due to a previous error during capture"),
]


class Small(torch.nn.Module):
    """A network on a device with memory for `most` images at a time, in float64 so that pass sizes round alike."""

    def __init__(self, network, most, error):
        super().__init__()
        self.network, self.most, self.error, self.seen = network, most, error, []

    def forward(self, x):
        if len(x) > self.most:
            raise self.error
        self.seen.append(len(x))
        return 40 * self.network(x.double() / 255 - 0.5)


@pytest.fixture
def network(small_model):
    yield small_model.double()
    small_model.float()


def run(model, keys, clean, **engine):
    given = ImageBatch(clean, LABELS, IDS)
    return craft([model], Attack.model_validate(keys), "untargeted", given, key=("k",), engine=Engine(6, **engine))


def differ(one, other):
    return float((one.pixels != other.pixels).mean())


@pytest.mark.parametrize("error", WORDS, ids=lambda error: str(error)[:40])
def test_passes_of_views_are_halved(network, small_images, error):
    keys = keys_of("sg-igsm", {"steps": 2, "smoothing": {"copies": 8}})
    whole = run(Small(network, 1000, error), keys, small_images, max_pass_images=48)
    tight = run(Small(network, 5, error), keys, small_images, max_pass_images=48)
    assert (whole.max_pass_images, tight.max_pass_images) == (48, 3)
    assert differ(whole, tight) < 1e-3


class WithoutGradient(Small):
    """It has memory for any pass of gradients, and without gradients for `most` images at a time."""

    def forward(self, x):
        if len(x) > self.most and not torch.is_grad_enabled():
            raise self.error
        self.seen.append(len(x))
        return 40 * self.network(x.double() / 255 - 0.5)


def test_what_runs_outside_of_passes_has_fewer_images_at_a_time(network, small_images):
    """An ensemble rule asks for logits of a whole batch at once: then the batch is divided."""
    keys = {"objective": "cross-entropy", "fusion": {"adaea": {}}, "steps": 2, "step": "sign", "epsilon": 8}
    given = ImageBatch(small_images, LABELS, IDS)

    def crafted(most):
        models = [WithoutGradient(network, most, WORDS[1]) for _ in range(2)]
        return craft(models, Attack.model_validate(keys), "untargeted", given, key=("k",), engine=Engine(6))

    whole, tight = crafted(1000), crafted(4)
    assert (whole.max_pass_images, tight.max_pass_images) == (16, 4)
    assert differ(whole, tight) < 1e-3


@pytest.mark.parametrize("budget", [{"epsilon": 8}, {"rmsd": 6}], ids=lambda one: next(iter(one)))
def test_rounding_takes_fewer_images_at_a_time(network, small_images, monkeypatch, budget):
    """Each image is rounded by itself, so not a bit changes; and passes are as large as before."""
    keys, model = {"step": "sign", "steps": 2, "step_size": 3, "budget": budget}, Small(network, 1000, WORDS[0])
    whole, real, sizes = run(model, keys, small_images), loop.finish, []

    def tight(clean, *given):
        if len(clean) > 2:
            raise WORDS[0]
        sizes.append(len(clean))
        return real(clean, *given)

    monkeypatch.setattr(loop, "finish", tight)
    parted = run(model, keys, small_images)
    assert sizes == [1] * 6
    for field in ("pixels", "rmsd", "linf", "l2", "max_pass_images"):
        np.testing.assert_array_equal(getattr(parted, field), getattr(whole, field))
    monkeypatch.setattr(loop, "finish", lambda *_: (_ for _ in ()).throw(WORDS[0]))
    with pytest.raises(StudyError, match="too little memory for the rounding of a single image"):
        run(model, keys, small_images)


def test_a_single_image_that_does_not_fit_is_an_error(network, small_images):
    with pytest.raises(StudyError, match="too little memory for the gradient of a single image"):
        run(Small(network, 0, WORDS[0]), keys_of("igsm", {}), small_images)


def test_where_even_a_single_image_fails_it_may_be_the_device(network, small_images):
    """cuDNN has no engine for a GPU that it does not support, whatever the size of the pass: another may do it."""
    with pytest.raises(DeviceError, match=ENGINE):
        run(Small(network, 0, RuntimeError(ENGINE)), keys_of("igsm", {}), small_images)
    with pytest.raises(DeviceError, match=ENGINE):
        predict(Tight(0, RuntimeError(ENGINE)), small_images, batch=4)


@pytest.mark.parametrize("error", WORDS, ids=lambda error: str(error)[:40])
def test_predictions_are_halved(error):
    pixels = np.random.default_rng(0).integers(0, 256, (37, 3, 2, 2), np.uint8)
    model = Tight(5, error)
    found = predict(model, pixels, batch=16)
    np.testing.assert_array_equal(found.top5, predict(Tight(64), pixels, batch=16).top5)
    assert (found.size, max(model.seen)) == (4, 4)


def test_a_device_failure_is_no_lack_of_memory():
    error = torch.AcceleratorError("CUDA error: device-side assert triggered")
    model = Tight(5, error)
    with pytest.raises(torch.AcceleratorError) as caught:
        predict(model, np.zeros((16, 3, 2, 2), np.uint8), batch=16)
    assert caught.value is error
    assert model.seen == [], "it is not tried again in this process"


def test_points_of_probes_are_halved():
    clean = np.random.default_rng(0).integers(0, 256, (3, 2, 2), np.uint8)
    axes = np.random.default_rng(1).normal(size=(2, 3, 2, 2))
    points = [(u, v) for u in range(5) for v in range(5)]
    wide, narrow = Tight(64), Tight(3, WORDS[2])
    one, other = (
        np.concatenate(list(point_predictions.logits(model, clean, axes, points, batch=16))) for model in (wide, narrow)
    )
    assert one.shape == (25, 7)
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert max(narrow.seen) == 2
