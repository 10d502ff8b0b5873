"""What is done to finished images: each stage against another implementation, and no draw that depends on a batch."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from study.defences.transforms import Transforms, apply, side_after, summary
from study.errors import StudyError
from study.reproducibility.hashing import digest

KINDS = ["jpeg", "bits", "blur", "noise", "rotate", "resize", "resize-pad"]


def made(given) -> Transforms:
    return Transforms.model_validate(given)


def photographs(count=3, channels=3, side=32):
    """Smooth images with some texture: noise alone is what no codec is made for."""
    generator = np.random.default_rng(5)
    y, x = np.mgrid[:side, :side] / side
    waves = generator.uniform(1, 4, (count, channels, 2, 1, 1))
    smooth = 128 + 80 * np.sin(2 * np.pi * (waves[:, :, 0] * x + waves[:, :, 1] * y))
    return (smooth + generator.normal(0, 8, smooth.shape)).clip(0, 255).astype(np.uint8)


def keys(count, seed=0):
    return [(seed, "target", f"image-{index}") for index in range(count)]


def run(given, pixels, seed=0):
    return apply(made(given), pixels, keys(len(pixels), seed))


def picture(image):
    return Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))


def array(opened):
    found = np.asarray(opened)
    return found[None] if found.ndim == 2 else found.transpose(2, 0, 1)


# What a spec says


@pytest.mark.parametrize(
    ("given", "stages"),
    [
        ({"jpeg": 75}, [["jpeg", 75]]),
        ({"jpeg": 75, "blur": 1}, [["jpeg", 75], ["blur", 1.0]]),
        ({"blur": 1, "jpeg": 75}, [["blur", 1.0], ["jpeg", 75]]),
        ([{"resize": 16}, {"resize": 32}], [["resize", 16], ["resize", 32]]),
        ({"resize-pad": 331}, [["resize-pad", 331]]),
        ({"resize-pad": {"most": 331}}, [["resize-pad", 331]]),
        ({"rotate": -12.5}, [["rotate", -12.5]]),
        ([{"noise": 5}], [["noise", 5.0]]),
    ],
)
def test_what_a_spec_says_is_read_and_written_back(given, stages):
    transforms = made(given)
    assert [list(stage) for stage in transforms.stages] == stages
    written = transforms.model_dump(mode="json")
    assert made(json.loads(json.dumps(written, sort_keys=True))) == transforms
    assert hash(made(written)) == hash(transforms)
    assert pickle.loads(pickle.dumps(transforms)) == transforms
    assert Transforms.model_validate_json(transforms.model_dump_json()) == transforms


def test_one_stage_is_written_as_a_mapping():
    assert made([{"jpeg": 75}]).model_dump(mode="json") == {"jpeg": 75}
    assert made({"jpeg": 75, "blur": 1}).model_dump(mode="json") == [{"jpeg": 75}, {"blur": 1.0}]


def test_the_order_decides_the_digest_and_a_number_written_otherwise_does_not():
    def hashed(given):
        return digest(made(given).model_dump(mode="json"))

    assert hashed({"jpeg": 75, "blur": 1}) != hashed({"blur": 1, "jpeg": 75})
    assert hashed({"blur": 1}) == hashed({"blur": 1.0})
    assert hashed({"rotate": 0}) == hashed({"rotate": -0.0})


def test_summary():
    assert summary(made({"jpeg": 75, "blur": 1, "rotate": -2.5})) == "jpeg 75, blur 1, rotate -2.5"
    assert summary(made({"resize-pad": {"most": 331}})) == "resize-pad 331"


@pytest.mark.parametrize(
    ("given", "what", "accepted"),
    [
        ({"jpg": 75}, "'jpg' is not a transform", "jpeg (the nearest)"),
        ({7: 75}, "'7' is not a transform", "blur"),
        ({"jpeg": 0}, "'jpeg' cannot have the value 0", "1 to 100"),
        ({"jpeg": 101}, "'jpeg' cannot have the value 101", "1 to 100"),
        ({"jpeg": 75.0}, "'jpeg' cannot have the value 75.0", "1 to 100"),
        ({"jpeg": True}, "'jpeg' cannot have the value True", "1 to 100"),
        ({"jpeg": "75"}, "'jpeg' cannot have the value '75'", "1 to 100"),
        ({"bits": 9}, "'bits' cannot have the value 9", "1 to 8"),
        ({"bits": None}, "'bits' cannot have the value None", "1 to 8"),
        ({"blur": 0}, "'blur' cannot have the value 0", "above 0"),
        ({"blur": float("nan")}, "'blur' cannot have the value nan", "above 0"),
        ({"noise": -1}, "'noise' cannot have the value -1", "above 0"),
        ({"noise": float("inf")}, "'noise' cannot have the value inf", "255"),
        ({"rotate": 10**400}, "'rotate' cannot have the value 1000", "degrees"),
        ({"resize": 0}, "'resize' cannot have the value 0", "pixels"),
        ({"resize-pad": {"least": 3}}, "'resize-pad' cannot have the value {'least': 3}", "{most: pixels}"),
        ({"resize-pad": {"most": 0}}, "'resize-pad' cannot have the value 0", "{most: pixels}"),
        ({}, "{} is not a transform", "jpeg"),
        ([], "[] is not a transform", "jpeg"),
        ("jpeg 75", "'jpeg 75' is not a transform", "jpeg"),
        ([{"jpeg": 75, "blur": 1}], "is not a stage of a transform", "one key each"),
        (["jpeg"], "'jpeg' is not a stage of a transform", "one key each"),
        ([{"jpeg": 75}] * 33, "33 stages", "at most 32"),
    ],
)
def test_what_cannot_be_is_refused(given, what, accepted):
    with pytest.raises(ValidationError) as raised:
        made(given)
    (error,) = raised.value.errors()
    assert error["type"] == "reference"
    assert what in error["msg"]
    assert accepted in error["ctx"]["accepted"]


def test_specs_are_read_without_torch_or_pillow():
    code = "import sys, study.defences.transforms as t; t.Transforms.model_validate({'jpeg': 75}); "
    code += "assert not {'torch', 'PIL'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# What every stage keeps to


EXAMPLES = [
    *({"jpeg": 60}, {"bits": 3}, {"blur": 1.3}, {"noise": 10}, {"rotate": 17}, {"resize": 20}, {"resize-pad": 40}),
    {"jpeg": 75, "noise": 5, "resize-pad": 36, "blur": 0.7},
    [{"noise": 5}, {"noise": 5}],
]


@pytest.mark.parametrize("given", EXAMPLES, ids=lambda given: summary(made(given)))
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_does_not_depend_on_its_batch(given, channels):
    images = photographs(4, channels)
    whole = run(given, images)
    assert whole.dtype == np.uint8
    assert whole.shape[:2] == images.shape[:2]
    order = [2, 0, 3, 1]
    shuffled = apply(made(given), images[order], [keys(4)[row] for row in order])
    np.testing.assert_array_equal(shuffled, whole[order])
    np.testing.assert_array_equal(apply(made(given), images, keys(4), threads=3), whole)
    np.testing.assert_array_equal(apply(made(given), images[1:2], keys(4)[1:2])[0], whole[1])
    assert whole.shape[-1] == whole.shape[-2] == side_after(made(given), images.shape[-1])


def test_stages_come_one_after_the_other():
    images = photographs()
    both = run({"bits": 2, "blur": 1.0}, images)
    np.testing.assert_array_equal(both, run({"blur": 1.0}, run({"bits": 2}, images)))
    assert (both != run({"blur": 1.0, "bits": 2}, images)).any()


@pytest.mark.parametrize("given", [{"noise": 10}, {"resize-pad": 48}])
def test_draws_differ_by_image_seed_and_stage(given):
    same = np.repeat(photographs(1), 8, axis=0)
    drawn = run(given, same)
    assert len(np.unique(drawn.reshape(8, -1), axis=0)) >= 7
    assert (drawn != run(given, same, seed=1)).any(axis=(1, 2, 3)).sum() >= 7
    np.testing.assert_array_equal(drawn, run(given, same))


def test_a_second_noise_is_another():
    grey = np.full((1, 3, 64, 64), 128, np.uint8)
    once = run({"noise": 10}, grey).astype(float) - 128
    twice = run([{"noise": 10}, {"noise": 10}], grey).astype(float) - 128
    assert twice.std() == pytest.approx(np.sqrt(2) * once.std(), rel=0.05)


# Each stage against another implementation


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("quality", [1, 50, 75, 100])
def test_jpeg_is_what_pillow_saves_by_default(channels, quality):
    images = photographs(2, channels, side=30)
    found = run({"jpeg": quality}, images)
    for image, one in zip(images, found, strict=True):
        file = io.BytesIO()
        picture(image).save(file, "JPEG", quality=quality)
        np.testing.assert_array_equal(one, array(Image.open(file)))


def test_a_higher_quality_is_nearer_and_colour_has_half_the_resolution():
    images = photographs()
    errors = [np.abs(run({"jpeg": quality}, images) - images.astype(float)).mean() for quality in (10, 40, 75, 95)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] > 0
    # A checkerboard of two colours of one brightness: at half the resolution of colour it is one colour.
    board = np.indices((32, 32)).sum(0) % 2 == 0
    colours = np.where(board[None, :, :, None], (200, 100, 100), (100, 151, 100)).transpose(0, 3, 1, 2)
    found = run({"jpeg": 100}, colours.astype(np.uint8))[0]
    assert np.ptp(found[0].astype(int)) < 20


@pytest.mark.parametrize("bits", range(1, 9))
def test_bits_are_the_nearest_levels(bits):
    every = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    levels = [255 * level / (2**bits - 1) for level in range(2**bits)]
    naive = [round(min(levels, key=lambda level: abs(level - value))) for value in range(256)]
    assert run({"bits": bits}, every).ravel().tolist() == naive
    assert len(set(naive)) == 2**bits


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.5, 12.0])
def test_blur_is_scipys(sigma):
    ndimage = pytest.importorskip("scipy.ndimage")
    images = photographs(2, 3, side=33)[:, :, :20]
    radius = int(np.ceil(4 * sigma))
    exact = ndimage.gaussian_filter(
        images.astype(float), (0, 0, sigma, sigma), mode="reflect", radius=(0, 0, radius, radius)
    )
    found = run({"blur": sigma}, images)
    assert np.abs(found - exact).max() < 0.51
    assert (found != np.rint(exact)).mean() < 0.01


def test_blur_is_torchvisions_away_from_borders():
    import torch
    from torchvision.transforms.v2.functional import gaussian_blur

    images = photographs(2, 3, side=48)
    theirs = gaussian_blur(torch.from_numpy(images).double(), [17, 17], [2.0, 2.0]).numpy()
    inner = (..., slice(8, -8), slice(8, -8))
    assert np.abs(run({"blur": 2.0}, images)[inner] - theirs[inner]).max() < 0.51


def test_blur_keeps_one_colour_and_a_hair_of_a_blur_changes_nothing():
    for value in (0, 1, 128, 255):
        plain = np.full((1, 3, 16, 24), value, np.uint8)
        np.testing.assert_array_equal(run({"blur": 3.0}, plain), plain)
    images = photographs()
    np.testing.assert_array_equal(run({"blur": 1e-200}, images), images)


def test_noise_is_gaussian_clipped_and_rounded():
    grey = np.full((4, 3, 100, 100), 128, np.uint8)
    drawn = run({"noise": 12.0}, grey).astype(float) - 128
    assert abs(drawn.mean()) < 0.15
    # Rounding adds a twelfth to the variance.
    assert drawn.var() == pytest.approx(144 + 1 / 12, rel=0.02)
    assert ((drawn / drawn.std()) ** 4).mean() == pytest.approx(3, abs=0.1)
    assert np.abs(np.corrcoef(drawn.reshape(12, -1)) - np.eye(12)).max() < 0.05
    dark = run({"noise": 12.0}, np.zeros((1, 1, 100, 100), np.uint8))
    assert (dark == 0).mean() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("degrees", [-30.0, 5.0, 45.0])
def test_rotation_is_pillows_and_torchvisions_inside(channels, degrees):
    import torch
    from torchvision.transforms.v2.functional import InterpolationMode, rotate

    images = photographs(2, channels, side=41)
    found = run({"rotate": degrees}, images)
    for image, one in zip(images, found, strict=True):
        np.testing.assert_array_equal(one, array(picture(image).rotate(degrees, Image.Resampling.BILINEAR)))
    theirs = rotate(torch.from_numpy(images).double(), degrees, InterpolationMode.BILINEAR).numpy()
    inner = (..., slice(10, -10), slice(10, -10))
    assert np.abs(found[inner] - theirs[inner]).max() <= 1.01
    if abs(degrees) >= 30:
        assert (found[:, :, [0, 0, -1, -1], [0, -1, 0, -1]] == 0).all()


def test_a_quarter_turn_is_counterclockwise():
    images = photographs()
    np.testing.assert_array_equal(run({"rotate": 90}, images), np.rot90(images, axes=(2, 3)))
    np.testing.assert_array_equal(run({"rotate": 0}, images), images)


@pytest.mark.parametrize("side", [12, 32, 50])
def test_resizing_is_antialiased(side):
    import torch

    images = photographs()
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(images).double(), (side, side), mode="bilinear", antialias=True
    ).numpy()
    assert np.abs(run({"resize": side}, images) - theirs).max() <= 1.01


def test_resize_pad_puts_the_resized_image_on_black():
    images = np.maximum(photographs(30, 3, side=16), 1)
    found = run({"resize-pad": 24}, images)
    assert found.shape == (30, 3, 24, 24)
    for image, one in zip(images, found, strict=True):
        rows, columns = np.flatnonzero(one.any((0, 2))), np.flatnonzero(one.any((0, 1)))
        side = len(rows)
        assert 16 <= side < 24
        assert np.ptp(rows) == np.ptp(columns) == side - 1
        inside = one[:, rows[0] : rows[0] + side, columns[0] : columns[0] + side]
        np.testing.assert_array_equal(inside, array(picture(image).resize((side, side), Image.Resampling.BILINEAR)))


def test_resize_pad_draws_every_size_and_place_alike():
    white = np.full((3000, 1, 6, 6), 255, np.uint8)
    found = run({"resize-pad": 9}, white)[:, 0]
    sizes = (found.any(1)).sum(1)
    assert set(sizes) == {6, 7, 8}
    for size in (6, 7, 8):
        assert (sizes == size).mean() == pytest.approx(1 / 3, abs=0.04)
        chosen = found[sizes == size] > 0
        tops, lefts = chosen.any(2).argmax(1), chosen.any(1).argmax(1)
        counts = np.zeros((10 - size, 10 - size))
        np.add.at(counts, (tops, lefts), 1)
        assert counts.min() > 0.5 * len(chosen) / counts.size
        assert counts.max() < 1.5 * len(chosen) / counts.size


def test_resize_pad_of_299_to_331_has_the_papers_patterns():
    assert sum((331 - size + 1) ** 2 for size in range(299, 331)) == 12528


def test_resize_pad_never_shrinks():
    with pytest.raises(StudyError) as raised:
        run({"resize-pad": 24}, photographs(1, 3, side=32))
    assert "24 pixels" in raised.value.what
    with pytest.raises(StudyError):
        side_after(made({"resize-pad": 224}), 299)
    assert side_after(made({"resize": 100, "resize-pad": 224}), 299) == 224
    np.testing.assert_array_equal(run({"resize-pad": 32}, photographs()), photographs())
