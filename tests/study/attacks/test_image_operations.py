"""Image operations against torchattack's L2T, torchvision, torch and scipy, with the same draws."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.fft
import torch
from torch.nn import functional
from torchattack import l2t as theirs
from torchvision.transforms import functional as transforms

from study.attacks.image_operations import BASIC, COMPOSED, FAMILIES, LEARNT, Operation, applied, resizing
from study.attacks.kinds import Pool, StepDraws
from study.reproducibility.rng import Streams
from tests.study.attacks.components.transforms_by_hand import IDS, KEY, Draws, turned

POOL = Pool(np.random.default_rng(5).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8), np.arange(4))

ANGLES = sorted({angle for one in (*COMPOSED, *LEARNT) if one.family == "rotate" for angle in one.amounts})


@pytest.fixture
def image():
    return torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 255


def changed(image, operations, pool=None):
    draws = StepDraws(Streams(KEY, IDS[: len(image)]), "test", "cpu")
    return applied(image, operations, draws, "place", pool)


def words(row):
    return Draws(row, "test").words(4, "place")


def same(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_the_tables():
    """Of L2T, torchattack's list: one identity, then ten or nine of each of ten families."""
    assert len(COMPOSED) == 31
    assert len(LEARNT) == len(theirs.AUG_OPS) == 98
    families = [family for family, _ in itertools.groupby(one.family for one in LEARNT)]
    assert families == [
        "identity", "rotate", "scale", "resize", "shuffle", "mix", "drop", "mask", "spectrum", "crop", "translate"
    ]  # fmt: skip
    for own, other in zip(LEARNT, theirs.AUG_OPS, strict=True):
        match own.family:
            case "rotate":
                assert own.amounts[0] == other.angle
                assert len(own.amounts) == other.num_scale
            case "scale":
                assert len(own.amounts) == other.num_copy
            case "resize":
                assert own.amounts == (pytest.approx(other.resize_rate),)
            case "shuffle" | "mask":
                assert own.amounts == (other.num_block,)
            case "mix":
                assert own.amounts == (other.admix_strength,)
            case "drop":
                assert own.amounts == pytest.approx(other.dropout_prob)
            case "spectrum":
                assert own.amounts == (other.rho,)
            case "crop":
                assert min(own.amounts) == pytest.approx(other.ratio + (1 - other.ratio) / 5)
            case "translate":
                assert max(own.amounts) == pytest.approx(other.offset)


@pytest.mark.parametrize("degrees", ANGLES)
def test_rotations_are_torchvisions(image, degrees):
    """At 45 degrees, pixels of two lines are half-way between two others, and float32 decides at random."""
    found = changed(image, [Operation("rotate", (degrees,))] * 6)
    expected = transforms.rotate(image.float(), degrees).double()
    equal = ((found - expected).abs() < 1e-3).double().mean()
    assert equal == 1 if degrees % 45 or degrees % 90 == 0 else equal > 0.9
    same(found, turned(image, degrees))


def test_crops_are_torchvisions():
    """Of 224 pixels, to which torchattack resizes whatever the size is; each image draws one of its five."""
    image = torch.rand(3, 2, 224, 224, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 255
    for own, other in list(zip(LEARNT, theirs.AUG_OPS, strict=True))[80:89:3]:
        found = changed(image, [own] * 3)
        copies = other(image).view(5, 3, 2, 224, 224)
        for row in range(3):
            same(found[row], copies[words(row)[0] % 5, row])


def test_scales_are_torchattacks(image):
    found = changed(image, [LEARNT[16]] * 6)
    copies = theirs.AUG_OPS[16](image).view(6, *image.shape)
    assert LEARNT[16].family == "scale"
    for row in range(6):
        same(found[row], copies[words(row)[0] % 6, row])


def test_resized_frames_are_torchattacks(image, monkeypatch):
    for number in (21, 25, 30):
        found = changed(image, [LEARNT[number]] * 6)
        frame = int(32 * theirs.AUG_OPS[number].resize_rate)
        for row in range(6):
            _, extent, top, left = words(row)
            inner = 32 + extent % (frame - 32)
            drawn = iter([inner, top % (frame - inner), left % (frame - inner)])
            monkeypatch.setattr(torch, "randint", lambda *_, drawn=drawn, **__: torch.tensor([next(drawn)]))
            same(found[row], theirs.AUG_OPS[number](image[row : row + 1])[0])
            monkeypatch.undo()


def test_resized_frames_are_larger_for_ops(image):
    """Frames of up to 2.9 times the image, by torch's own functions."""
    found = changed(image, [COMPOSED[-1]] * 6)
    assert COMPOSED[-1].amounts == (2.9,)
    for row in range(6):
        _, extent, top, left = words(row)
        inner = 32 + extent % (92 - 32)
        top, left = top % (92 - inner), left % (92 - inner)
        expected = functional.interpolate(image[row : row + 1], (inner, inner), mode="bilinear")
        expected = functional.pad(expected, (left, 92 - inner - left, top, 92 - inner - top))
        same(found[row], functional.interpolate(expected, (32, 32), mode="bilinear")[0])


def test_shuffles_are_torchattacks(image, monkeypatch):
    seen = set()
    for number in (31, 34, 40):
        strips = theirs.AUG_OPS[number].num_block
        found = changed(image, [LEARNT[number]] * 6)
        for row in range(6):
            drawn = Draws(row, "test").words(2 * strips * (strips + 1), "place.shuffle")
            lists = [np.array(drawn[at : at + strips], dtype=np.uint64) for at in range(0, len(drawn), strips)]
            lengths = iter([(one >> np.uint64(11)).astype(float) + 1 for one in lists[0::2]])
            orders = iter([np.argsort(one, kind="stable") for one in lists[1::2]])
            across = words(row)[1] % 2
            seen.add(across)

            def shuffle(given, across=across, orders=orders):
                if given == [2, 3]:
                    given[:] = [3, 2] if across else [2, 3]
                else:
                    given[:] = [given[place] for place in next(orders)]

            monkeypatch.setattr(theirs.random, "shuffle", shuffle)
            monkeypatch.setattr(theirs.np.random, "uniform", lambda size, lengths=lengths: next(lengths))
            same(found[row], theirs.AUG_OPS[number].shuffle(image[row : row + 1])[0])
            monkeypatch.undo()
    assert seen == {0, 1}


def test_masks_are_torchattacks(image, monkeypatch):
    for number in (61, 67, 70):
        blocks = theirs.AUG_OPS[number].num_block
        found = changed(image, [LEARNT[number]] * 6)
        for row in range(6):
            drawn = iter([word % blocks for word in words(row)[1:3]])
            monkeypatch.setattr(theirs.random, "randint", lambda *_, drawn=drawn: next(drawn))
            same(found[row], theirs.AUG_OPS[number].blockmask(image[row : row + 1])[0])
            monkeypatch.undo()


def test_spectra_are_scipys(image):
    found = changed(image, [Operation("spectrum", (0.7,))] * 6)
    for row in range(6):
        noise = Draws(row, "test").normal((3, 32, 32), "place.noise").double()
        factor = 1 + 0.7 * Draws(row, "test").uniform((3, 32, 32), "place.spectrum").double()
        spectrum = scipy.fft.dctn((image[row] + 16 * noise).numpy(), axes=(1, 2)) * factor.numpy()
        same(found[row], torch.from_numpy(scipy.fft.idctn(spectrum, axes=(1, 2))))


def test_dropped_values_are_those_below_the_probability(image):
    found = changed(image, [Operation("drop", (0.3,))] * 6)
    for row in range(6):
        drawn = (Draws(row, "test").uniform((3, 32, 32), "place.drop").double() + 1) / 2
        same(found[row], torch.where(drawn < 0.3, 0, image[row]))
    assert (found == 0).double().mean() == pytest.approx(0.3, abs=0.01)


def test_images_of_the_pool_are_mixed_in(image):
    found = changed(image, [Operation("mix", (0.4,))] * 6, POOL)
    for row in range(6):
        _, other, halved, _ = words(row)
        mixed = image[row] + 0.4 * torch.from_numpy(POOL.pixels[other % 4]).double()
        same(found[row], mixed / 2 ** (halved % 3))


def test_faded_noisy_and_smooth_images_and_dropped_channels(image):
    faded, noisy, smooth, dropped = (
        changed(image, [next(one for one in BASIC if one.family == family)] * 6)
        for family in ("fade", "noise", "low-pass", "channels")
    )
    spectrum = scipy.fft.dctn(image.numpy(), axes=(2, 3))
    spectrum[:, :, 20:] = 0
    spectrum[:, :, :, 20:] = 0
    same(smooth, torch.from_numpy(scipy.fft.idctn(spectrum, axes=(2, 3))))
    for row in range(6):
        same(faded[row], image[row] * (words(row)[1] / 2**64))
        same(noisy[row], (image[row] + 16 * Draws(row, "test").uniform((3, 32, 32), "place.added")).clamp(0, 255))
        kept = (Draws(row, "test").uniform((3,), "place.channels") + 1) / 2 >= 0.1
        same(dropped[row], image[row] * kept[:, None, None] / 0.9)


@pytest.mark.parametrize(("old", "new"), [(32, 32), (32, 11), (11, 32), (7, 6), (5, 30)])
def test_resizing_is_torchs_with_antialiasing(old, new):
    lines = torch.rand(1, 1, 3, old, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = functional.interpolate(lines, (3, new), mode="bilinear", antialias=True)
    torch.testing.assert_close(lines @ torch.from_numpy(resizing(old, new)).T, expected)


@pytest.mark.parametrize("axis", [0, 1])
def test_flips_rolls_and_translations(image, axis):
    same(changed(image, [Operation("flip", (axis,))] * 6), image.flip(2 + axis))
    found = changed(image, [Operation("roll", (axis,))] * 6)
    for row in range(6):
        same(found[row], image[row].roll(words(row)[1] % 32, 1 + axis))
    moved = changed(image, [Operation("translate", (0.25,))] * 6)
    assert (moved[:, :, :8] == 0).all()
    assert (moved[:, :, :, :8] == 0).all()
    same(moved[:, :, 8:, 8:], image[:, :, :24, :24])


def test_each_image_gets_its_own_operation(image):
    """In any mixture, an image and its gradient are what they are alone."""
    every = {one.family: one for one in (*BASIC, *COMPOSED, *LEARNT)}
    assert set(every) == set(FAMILIES)
    weight = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    # No noise takes the middle grey levels to an end of the range, where the change is not linear.
    single = (image * 0.5 + 60).float()
    for first in range(len(FAMILIES)):
        operations = [every[FAMILIES[(first + row) % len(FAMILIES)]] for row in range(6)]
        leaf = single.clone().requires_grad_(True)
        found = changed(leaf, operations, POOL)
        (slope,) = torch.autograd.grad((found * weight).sum(), leaf)
        # The transform is linear but for a constant: the slope is the adjoint of the change.
        step = changed(single + 8, operations, POOL) - changed(single, operations, POOL)
        torch.testing.assert_close((step * weight).sum((1, 2, 3)), 8 * slope.sum((1, 2, 3)), rtol=1e-3, atol=0.1)
        for row in range(6):
            streams = Streams(KEY, [IDS[row]])
            alone = applied(single[row : row + 1], [operations[row]], StepDraws(streams, "test", "cpu"), "place", POOL)
            assert torch.equal(alone[0], found[row])
