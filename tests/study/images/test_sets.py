"""Image sets: labels come from ids, orders from hashes, and pixels from the whole of a file."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from timm.data import ImageNetInfo

from study.errors import StudyError
from study.images import pixels
from study.images.sets import Images, candidates
from study.models.labels import index_of, wordnet_ids


def test_labels_are_timms():
    assert list(wordnet_ids()) == ImageNetInfo().label_names()
    assert index_of()["n01440764"] == 0
    assert index_of()["n15075141"] == 999


def save(path, size=(70, 60), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, 7).save(path)


def test_the_label_is_the_folders_id_not_its_position(tmp_path):
    for name in ("n15075141/z.png", "n02123045/a.jpg", "n02123045/b.JPEG", ".hidden/x.png"):
        save(tmp_path / name)
    (tmp_path / "n02123045" / "notes.txt").write_text("no image")
    found = {one.image: one.label for one in candidates(Images(folder=str(tmp_path)), 0)}
    assert found == {"n15075141/z.png": 999, "n02123045/a.jpg": 281, "n02123045/b.JPEG": 281}


def test_foolbox_sample():
    found = candidates(Images(sample="foolbox"), 0)
    assert len(found) == 20
    assert {one.image: one.label for one in found}["imagenet_00_243.jpg"] == 243


def test_target_labels_are_drawn_per_image_and_seed(tmp_path):
    found = {one.image: one for one in candidates(Images(sample="foolbox"), 3)}
    again = {one.image: one for one in candidates(Images(sample="foolbox"), 3)}
    other = {one.image: one for one in candidates(Images(sample="foolbox"), 4)}
    assert all(0 <= one.target_label < 1000 and one.target_label != one.label for one in found.values())
    assert {name: one.target_label for name, one in found.items()} == {
        name: one.target_label for name, one in again.items()
    }
    assert sum(found[name].target_label != other[name].target_label for name in found) >= 18
    assert [one.image for one in found.values()] != sorted(found)


def test_list_with_targets_and_wordnet_labels(tmp_path):
    for name in ("one.png", "two.png"):
        save(tmp_path / name)
    (tmp_path / "list.csv").write_text("file,label,target\none.png,n02123045,7\ntwo.png,3,n01440764\n")
    for targets in (None, "list"):
        images = Images(folder=str(tmp_path), list=str(tmp_path / "list.csv"), targets=targets)
        found = {one.image: (one.label, one.target_label) for one in candidates(images, 0)}
        assert found == {"one.png": (281, 7), "two.png": (3, 0)}
    drawn = Images(folder=str(tmp_path), list=str(tmp_path / "list.csv"), targets="random")
    assert {one.image: one.target_label for one in candidates(drawn, 0)} != {"one.png": 7, "two.png": 0}
    (tmp_path / "list.csv").write_text("one.png,5,5\n")
    with pytest.raises(StudyError, match=r"the target label of 'one\.png' is its true label"):
        candidates(images, 0)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "CMYK", "P", "I;16"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    save(path, (90, 60), mode)
    read = pixels.read(path, 48)
    assert read.shape == (3, 48, 48)
    assert read.dtype == np.uint8
    assert read.flags.c_contiguous


@pytest.mark.parametrize("size", [(64, 64), (200, 64), (64, 333), (31, 47)])
def test_short_side_and_centre(tmp_path, size):
    """Against the same preparation by torchvision: resize to floor(size / 0.875), bicubic, centre crop."""
    from torchvision.transforms import v2

    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    image.save(tmp_path / "image.png")
    wanted = v2.Compose([v2.Resize(54, interpolation=v2.InterpolationMode.BICUBIC), v2.CenterCrop(48)])(image)
    assert np.array_equal(pixels.read(tmp_path / "image.png", 48).transpose(1, 2, 0), np.asarray(wanted))
