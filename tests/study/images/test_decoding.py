"""Files to pixels: against arrays that are written into files by hand, and against torchvision's preparation."""

from __future__ import annotations

import io
import struct
import warnings

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import v2

from study.errors import StudyError
from study.images import decoding
from study.images.image_sets import ImageSet
from study.images.location import FileImage

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (48, 48), dtype=np.uint8)
COLOUR = RANDOM.integers(0, 256, (48, 48, 3), dtype=np.uint8)
ALPHA = np.where(np.arange(48 * 48).reshape(48, 48) % 3 == 0, 0, 255).astype(np.uint8)
DEEP = RANDOM.integers(0, 2**16, (48, 48), dtype=np.uint16)
WHITE = np.full((48, 48, 3), 255, dtype=np.uint8)


def exact(path, channels=3, size=48):
    return decoding.read(FileImage(path), ImageSet(folder="x", fit="exact", size=size, channels=channels))


def three(grey):
    return np.repeat(grey[..., None], 3, axis=2)


def on_white(colour):
    return np.where(ALPHA[..., None] == 0, WHITE, colour)


def palette(colours, transparent=None):
    """A palette image of the top left pixel's row of colours, index by column."""
    image = Image.fromarray(np.tile(np.arange(48, dtype=np.uint8), (48, 1)), "P")
    image.putpalette(colours.tobytes())
    if transparent is not None:
        image.info["transparency"] = transparent
    return image


ROW = COLOUR[0]
BLACK_OR_WHITE = np.where(GREY > 127, 255, 0).astype(np.uint8)

MODES = {
    "rgb.png": (Image.fromarray(COLOUR), COLOUR),
    "rgb.bmp": (Image.fromarray(COLOUR), COLOUR),
    "rgb.tif": (Image.fromarray(COLOUR), COLOUR),
    "rgb.ppm": (Image.fromarray(COLOUR), COLOUR),
    "grey.png": (Image.fromarray(GREY), three(GREY)),
    "grey.pgm": (Image.fromarray(GREY), three(GREY)),
    "one-bit.png": (Image.fromarray(BLACK_OR_WHITE).convert("1"), three(BLACK_OR_WHITE)),
    "deep.png": (Image.fromarray(DEEP), three(np.rint(DEEP / 257).astype(np.uint8))),
    "deep.tif": (Image.fromarray(DEEP), three(np.rint(DEEP / 257).astype(np.uint8))),
    "rgba.png": (Image.fromarray(np.dstack([COLOUR, ALPHA])), on_white(COLOUR)),
    "rgba.tif": (Image.fromarray(np.dstack([COLOUR, ALPHA])), on_white(COLOUR)),
    "opaque.png": (Image.fromarray(np.dstack([COLOUR, np.full_like(ALPHA, 255)])), COLOUR),
    "la.png": (Image.fromarray(np.dstack([GREY, ALPHA])), on_white(three(GREY))),
    "palette.png": (palette(ROW), np.tile(ROW, (48, 1, 1))),
    "palette.gif": (palette(ROW), np.tile(ROW, (48, 1, 1))),
    "transparent.png": (palette(ROW, 5), np.tile(np.where(np.arange(48)[:, None] == 5, 255, ROW), (48, 1, 1))),
    "cmyk.tif": (
        Image.fromarray(np.dstack([COLOUR, np.zeros_like(GREY)]), "CMYK"),
        255 - COLOUR,
    ),
}


@pytest.mark.parametrize("name", MODES)
def test_every_mode(tmp_path, name):
    image, wanted = MODES[name]
    image.save(tmp_path / name)
    read = exact(tmp_path / name)
    assert (read.shape, read.dtype, read.flags.c_contiguous) == ((3, 48, 48), np.uint8, True)
    assert np.array_equal(read.transpose(1, 2, 0), wanted)
    grey = exact(tmp_path / name, channels=1)
    luma = (wanted @ np.array([0.299, 0.587, 0.114]))[None]
    assert grey.shape == (1, 48, 48)
    assert np.abs(grey - luma).max() <= 0.51


def test_half_transparent_is_half_white(tmp_path):
    image = np.dstack([COLOUR, np.full_like(GREY, 128)])
    Image.fromarray(image).save(tmp_path / "x.png")
    wanted = COLOUR * (128 / 255) + 255 * (127 / 255)
    assert np.abs(exact(tmp_path / "x.png").transpose(1, 2, 0) - wanted).max() <= 1


def adobe(jpeg, transform):
    """The JPEG with the colour transform of its Adobe marker replaced: 0 is CMYK, 2 is YCCK."""
    place = jpeg.index(b"Adobe") + 11
    return jpeg[:place] + bytes([transform]) + jpeg[place + 1 :]


@pytest.mark.parametrize("transform", [0, 2])
def test_cmyk_jpegs_as_adobe_writes_them(tmp_path, transform):
    """Adobe's JPEGs hold inverted inks. One colour: C 40, M 90, Y 160, K 30 of 255."""
    inks = np.array([40, 90, 160, 30])
    saved = io.BytesIO()
    Image.new("CMYK", (48, 48), tuple(int(one) for one in inks)).save(saved, "JPEG", quality=100, subsampling=0)
    (tmp_path / "x.jpg").write_bytes(adobe(saved.getvalue(), transform))
    inverted = 255.0 - inks
    if transform == 2:
        # The same numbers, taken for Y, Cb, Cr and K: JFIF's equations give what they stand for.
        luma, blue, red = inverted[0], inverted[1] - 128, inverted[2] - 128
        rgb = [luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue]
        inverted[:3] = 255 - np.clip(rgb, 0, 255)
    wanted = inverted[:3] * inverted[3] / 255
    read = exact(tmp_path / "x.jpg").reshape(3, -1)
    assert np.abs(read - wanted[:, None]).max() <= 2


TURNED = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 6: lambda a: np.rot90(a, -1)}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_exif_orientation(tmp_path, orientation, name):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(COLOUR).save(tmp_path / name, exif=exif)
    assert np.array_equal(exact(tmp_path / name).transpose(1, 2, 0), TURNED[orientation](COLOUR))


def test_the_first_frame_of_an_animation(tmp_path):
    frames = [Image.fromarray(three(np.full_like(GREY, value))) for value in (10, 200)]
    for name in ("x.gif", "x.png", "x.webp", "x.tif"):
        options = {"lossless": True} if name == "x.webp" else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
        with Image.open(tmp_path / name) as opened:
            assert opened.n_frames == 2
        assert np.array_equal(exact(tmp_path / name), np.full((3, 48, 48), 10)), name


@pytest.mark.parametrize("size", [(64, 64), (200, 64), (64, 333), (31, 47), (54, 54)])
@pytest.mark.parametrize("channels", [1, 3])
def test_crop(tmp_path, size, channels):
    """Short side to floor(size / 0.875), bicubic, then the centre, as torchvision does it."""
    noise = RANDOM.integers(0, 256, (size[1], size[0], 3) if channels == 3 else (size[1], size[0]), dtype=np.uint8)
    image = Image.fromarray(noise)
    image.save(tmp_path / "x.png")
    wanted = v2.Compose([v2.Resize(54, interpolation=v2.InterpolationMode.BICUBIC), v2.CenterCrop(48)])(image)
    read = decoding.read(FileImage(tmp_path / "x.png"), ImageSet(folder="x", size=48, channels=channels))
    assert np.array_equal(read, np.asarray(wanted).reshape(48, 48, channels).transpose(2, 0, 1))


@pytest.mark.parametrize("size", [(64, 64), (200, 64), (31, 47), (48, 48)])
def test_squash(tmp_path, size):
    image = Image.fromarray(RANDOM.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    image.save(tmp_path / "x.png")
    wanted = v2.Resize((48, 48), interpolation=v2.InterpolationMode.BICUBIC)(image)
    read = decoding.read(FileImage(tmp_path / "x.png"), ImageSet(folder="x", size=48, fit="squash"))
    assert np.array_equal(read.transpose(1, 2, 0), np.asarray(wanted))


def test_preparations():
    """The first stands in the ids of finished studies."""
    said = {
        (fit, channels): ImageSet(folder="x", fit=fit, channels=channels).preparation
        for fit in ("crop", "squash", "exact")
        for channels in (3, 1)
    }
    assert said["crop", 3] == "rgb, short side to floor(size / 0.875) by antialiased bicubic, centre crop"
    assert len(set(said.values())) == 6


def png():
    saved = io.BytesIO()
    Image.fromarray(COLOUR).save(saved, "PNG")
    return saved.getvalue()


def saved(image, kind):
    held = io.BytesIO()
    image.save(held, kind)
    return held.getvalue()


def bmp_of_no_width():
    head = struct.pack("<2sIHHI", b"BM", 54, 0, 0, 54)
    return head + struct.pack("<IiiHHIIiiII", 40, 0, 48, 1, 24, 0, 0, 0, 0, 0, 0)


BAD = {
    "truncated": (lambda: png()[:900], "cannot be read"),
    "empty": (lambda: b"", "cannot be read"),
    "no image": (lambda: b"n01440764,3\n" * 20, "cannot be read"),
    "a truncated JPEG": (lambda: saved(Image.fromarray(COLOUR), "JPEG")[:-400], "cannot be read"),
    "no width": (bmp_of_no_width, "cannot be read"),
    "floats": (lambda: saved(Image.fromarray(GREY.astype(np.float32)), "TIFF"), "32-bit numbers"),
    "32-bit integers": (lambda: saved(Image.fromarray(GREY.astype(np.int32)), "TIFF"), "32-bit numbers"),
    "another size": (lambda: saved(Image.fromarray(COLOUR[:40]), "PNG"), "has 48 x 40 pixels, not 48 x 48"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files(tmp_path, case):
    make, expected = BAD[case]
    (tmp_path / "x.png").write_bytes(make())
    with pytest.raises(StudyError) as raised:
        exact(tmp_path / "x.png")
    assert f"the image {tmp_path / 'x.png'}" in raised.value.what
    assert expected in raised.value.what


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(StudyError, match="does not exist"):
        exact(tmp_path / "x.png")
    with pytest.raises(StudyError, match="cannot be read: Is a directory"):
        exact(tmp_path)


def test_decompression_bomb(tmp_path, monkeypatch):
    Image.fromarray(COLOUR).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(StudyError, match="decompression bomb"):
        exact(tmp_path / "x.png")


def test_long_and_narrow(tmp_path):
    """Enlarged, it would fill the memory."""
    Image.new("L", (60_000, 1)).save(tmp_path / "x.png")
    with pytest.raises(StudyError, match=r"too long and narrow .60000 x 1 pixels"):
        decoding.read(FileImage(tmp_path / "x.png"), ImageSet(folder="x", size=224))
    squashed = decoding.read(FileImage(tmp_path / "x.png"), ImageSet(folder="x", size=224, fit="squash"))
    assert squashed.shape == (3, 224, 224)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_broken_bytes_are_an_image_or_an_error(tmp_path, kind):
    """Bytes flipped and cut off at random: pixels or a StudyError, and nothing else."""
    random = np.random.default_rng(len(kind))
    whole = saved(Image.fromarray(COLOUR), kind)
    path = tmp_path / "x"
    for _ in range(150):
        broken = bytearray(whole[: random.integers(8, len(whole) + 1)] if random.random() < 0.3 else whole)
        for place in random.integers(0, min(len(broken), 300 if random.random() < 0.7 else len(broken)), 4):
            broken[place] = random.integers(0, 256)
        path.write_bytes(broken)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read = decoding.read(FileImage(path), ImageSet(folder="x", size=48))
        except StudyError:
            continue
        assert read.shape == (3, 48, 48)
