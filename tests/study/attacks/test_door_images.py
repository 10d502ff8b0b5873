"""Images of any kind become pixel values and come back: against torchvision, and every wrong kind is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms import functional

from study.attacks.door_images import device_of, to_labels, to_pixels
from study.errors import StudyError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture
def eight_bit() -> np.ndarray:
    """Every pixel value, in each channel at another place."""
    values = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    return np.concatenate([values, values[:, :, ::-1], values.transpose(0, 1, 3, 2)], axis=1).repeat(2, axis=0)


def as_torchvision(images: np.ndarray, *, normalised: bool) -> torch.Tensor:
    """The images as torchvision's ToTensor and Normalize make them."""
    made = torch.stack([functional.to_tensor(one.transpose(1, 2, 0)) for one in images])
    return functional.normalize(made, MEAN, STD) if normalised else made


@pytest.mark.parametrize("normalised", [False, True], ids=["0..1", "normalised"])
@pytest.mark.parametrize("kind", ["tensor", "array"])
def test_what_torchvision_makes_comes_back_bit_for_bit(eight_bit, normalised, kind):
    given = as_torchvision(eight_bit, normalised=normalised)
    given = given if kind == "tensor" else given.numpy()
    statistics = {"mean": MEAN, "std": STD} if normalised else {}
    pixels, restore = to_pixels(given, **statistics)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, eight_bit)
    other = eight_bit[::-1, ::-1].copy()
    expected = as_torchvision(other, normalised=normalised)
    found = restore(other)
    assert type(found) is type(given)
    assert found.dtype == given.dtype
    assert np.array_equal(np.asarray(found), expected.numpy())
    assert np.array_equal(np.asarray(restore(pixels)), np.asarray(given))


@pytest.mark.parametrize("kind", ["tensor", "array"])
def test_8_bit_images(eight_bit, kind):
    given = torch.from_numpy(eight_bit) if kind == "tensor" else eight_bit
    pixels, restore = to_pixels(given)
    assert np.array_equal(pixels, eight_bit)
    assert not np.shares_memory(pixels, eight_bit)
    assert type(restore(pixels)) is type(given)
    assert np.array_equal(np.asarray(restore(255 - pixels)), 255 - eight_bit)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.bfloat16], ids=["float64", "float16", "bfloat16"]
)
def test_other_floats(eight_bit, dtype):
    given = torch.from_numpy(eight_bit).to(dtype) / 255
    pixels, restore = to_pixels(given)
    assert np.abs(pixels.astype(float) - eight_bit).max() <= 0.5
    assert pixels.dtype == (np.float32 if dtype == torch.bfloat16 else np.uint8)
    found = restore(eight_bit)
    assert found.dtype == dtype
    assert torch.equal(found, torch.from_numpy(eight_bit).to(torch.float64).div(255).to(dtype))


def test_images_between_pixel_values_stay_between_them():
    given = np.random.default_rng(0).random((2, 1, 4, 5))
    pixels, restore = to_pixels(given)
    assert pixels.dtype == np.float32
    assert np.allclose(pixels, 255 * given, atol=1e-4)
    assert restore(np.rint(pixels).astype(np.uint8)).dtype == np.float64


def test_gradients_layout_and_rounding_do_no_harm(eight_bit):
    given = as_torchvision(eight_bit, normalised=False).to(memory_format=torch.channels_last).requires_grad_()
    assert np.array_equal(to_pixels(given + 1e-5)[0], eight_bit)


def test_one_number_for_all_channels(eight_bit):
    given = torch.from_numpy(eight_bit).float() / 255 * 2 - 1
    pixels, restore = to_pixels(given, mean=0.5, std=torch.tensor(0.5))
    assert np.array_equal(pixels, eight_bit)
    assert torch.allclose(restore(pixels), given, atol=1e-6)


GOOD = torch.rand(2, 3, 4, 4)
BAD = {
    "a list": ([[1]], {}, "type list", "numpy array"),
    "one image": (GOOD[0], {}, "shape (3, 4, 4)", "images[None]"),
    "channels last": (np.zeros((2, 8, 8, 3), np.uint8), {}, "shape (2, 8, 8, 3)", "transpose(0, 3, 1, 2)"),
    "four channels": (np.zeros((2, 4, 8, 8), np.uint8), {}, "shape (2, 4, 8, 8)", "one or three channels"),
    "no image": (GOOD[:0], {}, "shape (0, 3, 4, 4)", "at least one image"),
    "no pixel": (GOOD[:, :, :0], {}, "shape (2, 3, 0, 4)", "at least one image"),
    "whole numbers": (torch.ones(2, 3, 4, 4, dtype=torch.int64), {}, "dtype int64", "torch.uint8"),
    "signed 8 bits": (np.ones((2, 3, 4, 4), np.int8), {}, "dtype int8", "uint8 in 0..255"),
    "bool": (GOOD > 0.5, {}, "dtype bool", "uint8 in 0..255"),
    "complex": (GOOD.to(torch.complex64), {}, "dtype complex64", "uint8 in 0..255"),
    "floats in 0..255": (255 * GOOD, {}, "values from", "divide images in 0..255 by 255"),
    "floats below 0": (2 * GOOD - 1, {}, "values from", "mean= and std="),
    "another mean": (GOOD + 2, {"mean": MEAN, "std": STD}, "this mean and std do not fit", "for images in 0..1"),
    "NaN": (torch.cat([GOOD, GOOD.log().neg().sqrt() * torch.nan]), {}, "image 2 has values", "0..1"),
    "infinite": (GOOD / 0, {}, "image 0 has values", "0..1"),
    "scaled twice": (GOOD / 255, {}, "these images are black", "by 255 once only"),
    "cut to 8 bits too early": (GOOD.to(torch.uint8), {}, "they are black", "round()"),
    "black": (np.zeros((1, 1, 4, 4), np.float32), {}, "these images are black", "by 255 once only"),
    "mean without std": (GOOD, {"mean": MEAN}, "belong together", ""),
    "8 bits with a mean": (np.full((1, 3, 4, 4), 9, "u1"), {"mean": MEAN, "std": STD}, "for float images", "leave out"),
    "two numbers": (GOOD, {"mean": (0.5, 0.5), "std": STD}, "mean= cannot be (0.5, 0.5)", "one for each channel (3)"),
    "words": (GOOD, {"mean": "imagenet", "std": STD}, "mean= cannot be 'imagenet'", "one for each channel (3)"),
    "std of 0": (GOOD, {"mean": 0.5, "std": 0}, "std= cannot be 0", "one for each channel (3)"),
    "mean of 0..255": (GOOD, {"mean": 127.5, "std": 0.5}, "mean=127.5", "divide it by 255"),
}  # fmt: skip


@pytest.mark.parametrize(("images", "statistics", "what", "help_"), BAD.values(), ids=BAD)
def test_wrong_images_are_refused(images, statistics, what, help_):
    with pytest.raises(StudyError) as caught:
        to_pixels(images, **statistics)
    assert what in caught.value.what
    assert help_ in str(caught.value)


def test_labels():
    for given in (torch.tensor([3, 0]), np.array([3, 0], np.uint8), [3, 0]):
        found = to_labels(given, 2, classes=4)
        assert found.dtype == np.int64
        assert found.tolist() == [3, 0]
    assert to_labels([10_000], 1).tolist() == [10_000]


@pytest.mark.parametrize(
    ("labels", "what", "help_"),
    [
        (torch.tensor([0.0, 1.0]), "dtype float32", "integers (N,)"),
        ([True, False], "dtype bool", "integers (N,)"),
        ([1, 2, 3], "images is 2, but the labels have the shape (3,)", "one label for each image"),
        (np.eye(2, 5, dtype=int), "the shape (2, 5)", "argmax(1)"),
        ([0, -1], "no class -1", "0 to 3: the model has 4 outputs"),
        ([4, 0], "no class 4", "0 to 3: the model has 4 outputs"),
    ],
)
def test_wrong_labels_are_refused(labels, what, help_):
    with pytest.raises(StudyError) as caught:
        to_labels(labels, 2, classes=4)
    assert what in caught.value.what
    assert help_ in str(caught.value)


def test_devices():
    """`meta` is the second device that every machine has."""
    here, away = nn.Linear(1, 1), nn.Linear(1, 1, device="meta")
    assert device_of(GOOD, [here]) == device_of(GOOD.numpy(), [here]) == device_of(GOOD, [nn.Identity()]) == "cpu"
    assert device_of(GOOD.to("meta"), [nn.Identity()]) == "meta"
    assert device_of(GOOD.numpy(), [away]) == "meta"
    for images, models, what, help_ in (
        (GOOD, [away], "the images are on cpu, but the model is on meta", "images.to('meta')"),
        (GOOD, [here, away], "several devices: cpu, meta", "model.to(device)"),
    ):
        with pytest.raises(StudyError) as caught:
            device_of(images, models)
        assert what in caught.value.what
        assert help_ in str(caught.value)
