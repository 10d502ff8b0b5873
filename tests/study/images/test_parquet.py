"""Parquet files of images: columns by name, and rows in any order."""

from __future__ import annotations

import io
import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from study.errors import StudyError
from study.images import decoding
from study.images.image_sets import ImageSet, candidates
from study.images.labels import label_set
from study.images.location import ParquetImage, file_digest
from study.images.parquet import read_parquet

ARRAYS = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)


def png(array):
    held = io.BytesIO()
    Image.fromarray(array).save(held, "PNG")
    return held.getvalue()


BYTES = [png(array) for array in ARRAYS]
STRUCTS = [{"bytes": one, "path": f"p{index}.png"} for index, one in enumerate(BYTES)]
NUMBERS = [0, 1, 2, 3, 4, 5, 9]


def write(path, columns, **options):
    pq.write_table(pa.table(columns), path, **options)
    return path


def read(path, targets=None, labels="cifar10"):
    return {one.image: (one.label, one.target) for one in read_parquet(path, label_set(labels), targets=targets)}


BY_ROW = [f"x-{row}" for row in range(7)]
FORMS = {
    "binary": ({"image": BYTES, "label": NUMBERS}, BY_ROW),
    "structs with paths": ({"image": STRUCTS, "label": NUMBERS}, [f"p{row}.png" for row in range(7)]),
    "structs without paths": ({"image": [{"bytes": one, "path": None} for one in BYTES], "label": NUMBERS}, BY_ROW),
    "structs with one path": ({"image": [{"bytes": one, "path": "x"} for one in BYTES], "label": NUMBERS}, BY_ROW),
    "structs of bytes": ({"image": [{"bytes": one} for one in BYTES], "label": NUMBERS}, BY_ROW),
    "CIFAR-100's columns": ({"img": STRUCTS, "fine_label": NUMBERS, "coarse_label": [0] * 7}, None),
    "ids": ({"image": STRUCTS, "label": NUMBERS, "image_id": list(range(7))}, [str(row) for row in range(7)]),
    "large binary": ({"image": pa.array(BYTES, pa.large_binary()), "labels": NUMBERS}, BY_ROW),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("group", [2, 100])
def test_forms(tmp_path, form, group):
    columns, ids = FORMS[form]
    write(tmp_path / "x.parquet", columns, row_group_size=group)
    images = ImageSet(parquet=str(tmp_path / "x.parquet"), labels="cifar10", size=8, fit="exact")
    found = candidates(images, 0)
    if ids is not None:
        assert sorted(one.image for one in found) == sorted(ids)
    for one in found:
        assert one.label == NUMBERS[one.file.row]
        assert ids is None or one.image == ids[one.file.row]
        assert np.array_equal(decoding.read(one.file, images), ARRAYS[one.file.row].transpose(2, 0, 1))
        assert pickle.loads(pickle.dumps(one.file)) == one.file
    assert len({file_digest(one.file) for one in found}) == 7


def test_names_and_targets(tmp_path):
    names = [label_set("cifar10").labels[number] for number in NUMBERS]
    path = write(tmp_path / "x.parquet", {"image": BYTES, "label": names, "target": [8] * 7})
    assert read(path) == {f"x-{row}": (number, 8) for row, number in enumerate(NUMBERS)}
    assert read(path, targets=False) == {f"x-{row}": (number, None) for row, number in enumerate(NUMBERS)}
    coded = write(tmp_path / "y.parquet", {"image": BYTES, "label": pa.array(names).dictionary_encode()})
    assert read(coded) == {f"y-{row}": (number, None) for row, number in enumerate(NUMBERS)}


def test_a_folder_of_files(tmp_path):
    write(tmp_path / "test-00000-of-00002.parquet", {"image": BYTES[:3], "label": NUMBERS[:3]})
    write(tmp_path / "test-00001-of-00002.parquet", {"image": BYTES[3:], "label": NUMBERS[3:]})
    (tmp_path / "README.md").write_text("no table")
    found = read(tmp_path)
    assert list(found.values()) == [(number, None) for number in NUMBERS]
    assert list(found)[3] == "test-00001-of-00002-0"
    write(tmp_path / "train-00000-of-00001.parquet", {"image": BYTES, "label": NUMBERS})
    with pytest.raises(StudyError, match="files of more than one split: test, train"):
        read(tmp_path)


def test_a_file_that_is_written_anew(tmp_path):
    path = write(tmp_path / "x.parquet", {"image": BYTES, "label": NUMBERS})
    assert ParquetImage(path, 2).encoded() == BYTES[2]
    write(path, {"image": BYTES[::-1][:6], "label": NUMBERS[:6]}, row_group_size=1)
    assert ParquetImage(path, 2).encoded() == BYTES[4]


BAD = {
    "no image": ({"picture": BYTES, "label": NUMBERS}, None, ["has no column `image`; its columns are picture, label"]),
    "no label": ({"image": BYTES}, None, ["has no column `label`"]),
    "decoded images": ({"image": [[1, 2]] * 7, "label": NUMBERS}, None, ["has the type list<", "not encoded images"]),
    "unknown name": ({"image": BYTES, "label": ["cat"] * 6 + ["cow"]}, None, ["'cow' is not a label", "row 6"]),
    "labels from 1": ({"image": BYTES, "label": [10] * 7}, None, ["'10' is not a label", "subtract 1"]),
    "no labels": ({"image": BYTES, "label": [-1] * 7}, None, ["'-1' is not a label", "use a split that has labels"]),
    "empty label": ({"image": BYTES, "label": [0] * 6 + [None]}, None, ["'None' is not a label", "row 6"]),
    "a fraction": ({"image": BYTES, "label": [0.0] * 7}, None, ["'0.0' is not a label"]),
    "no targets": ({"image": BYTES, "label": NUMBERS}, True, ["has no target labels"]),
    "target is the label": ({"image": BYTES, "label": NUMBERS, "target": NUMBERS}, None, ["is its true label, 0"]),
    "an id twice": ({"image": BYTES, "label": NUMBERS, "id": ["a"] * 7}, None, ["the image id 'a' occurs twice"]),
    "no rows": ({"image": BYTES[:0], "label": pa.array([], pa.int64())}, None, ["has no images"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_tables(tmp_path, case):
    columns, targets, expected = BAD[case]
    if case == "no rows":
        columns = columns | {"image": pa.array([], pa.binary())}
    write(tmp_path / "x.parquet", columns)
    with pytest.raises(StudyError) as raised:
        read(tmp_path / "x.parquet", targets)
    for part in expected:
        assert part in str(raised.value)


def classed(path, columns, **classes):
    """Write a file whose columns in `classes` have Hugging Face's type ClassLabel, with these names."""
    features = {column: {"_type": "ClassLabel", "names": called} for column, called in classes.items()}
    said = json.dumps({"info": {"features": features}}).encode()
    pq.write_table(pa.table(columns).replace_schema_metadata({b"huggingface": said}), path)
    return path


def complaint(path, labels="cifar10"):
    with pytest.raises(StudyError) as raised:
        read(path, labels=labels)
    return str(raised.value)


def test_a_number_that_is_no_class_is_named(tmp_path):
    ten = list(label_set("cifar10").labels)
    path = classed(tmp_path / "x.parquet", {"image": BYTES, "label": [*NUMBERS[:6], 12]}, label=ten)
    assert complaint(path) == (
        f"'12' is not the number of a class\n  where:    {path}, row 6, column `label`\n"
        "  accepted: 0 to 9, the numbers of the classes that the file's metadata names\n"
        "  to do:    subtract 1 if the numbers count from 1, or correct the names of classes in the file's metadata"
    )
    # The number 2 is no class of this file, although it is the number of a label.
    path = classed(tmp_path / "x.parquet", {"image": BYTES[:2], "label": [0, 2]}, label=["ship", "cat"])
    assert complaint(path).startswith(
        f"'2' is not the number of a class\n  where:    {path}, row 1, column `label`\n  accepted: 0 to 1,"
    )
    path = classed(tmp_path / "x.parquet", {"image": BYTES[:2], "label": [0, -1]}, label=ten)
    assert complaint(path).startswith("'-1' is not a label of this study")
    assert "to do:    use a split that has labels" in complaint(path)
    columns = {"image": BYTES[:2], "label": [0, 1], "target": [3, 12]}
    path = classed(tmp_path / "x.parquet", columns, label=ten, target=ten)
    assert complaint(path).startswith("'12' is not the number of a class")
    assert read(path, targets=False) == {"x-0": (0, None), "x-1": (1, None)}, "targets that nobody reads"


NO_TARGET = "give every image a target label in this column, or none; or set `images: targets: random`"
FROM_1 = "subtract 1 if the numbers count from 1, or correct `images: labels:`"


@pytest.mark.parametrize(
    ("columns", "what", "todo"),
    [
        ({"label": [0, -1]}, "'-1' is not a label of this study", "use a split that has labels"),
        ({"label": [0, 10]}, "'10' is not a label of this study", FROM_1),
        ({"label": [0, -2]}, "'-2' is not a label of this study", "correct this cell, or `images: labels:`"),
        ({"label": ["cat", "cow"]}, "'cow' is not a label of this study", "correct this cell, or `images: labels:`"),
        ({"label": [0, 1], "target": [3, -1]}, "'-1' is not a label of this study", NO_TARGET),
        ({"label": [0, 1], "target": [3, None]}, "'None' is not a label of this study", NO_TARGET),
        ({"label": [0, 1], "target": [3, 10]}, "'10' is not a label of this study", FROM_1),
        ({"label": [0, 1], "target_label": [3, -1]}, "'-1' is not a label of this study", NO_TARGET),
    ],
)
def test_a_bad_cell_is_named_with_its_column_and_advice_that_fits(tmp_path, columns, what, todo):
    path = write(tmp_path / "x.parquet", {"image": BYTES[:2], **columns})
    with pytest.raises(StudyError) as raised:
        read(path)
    assert (raised.value.what, raised.value.todo) == (what, todo)
    assert raised.value.where == f"{path}, row 1, column `{list(columns)[-1]}`"
    if list(columns)[-1] != "label":
        # What the advice names works: the column of target labels is then not read.
        images = ImageSet(parquet=str(path), labels="cifar10", size=8, fit="exact", targets="random")
        assert len(candidates(images, 0)) == 2


def test_a_file_without_the_column_of_targets_that_another_file_has(tmp_path):
    write(tmp_path / "a.parquet", {"image": BYTES[:1], "label": [0], "target": [3]})
    write(tmp_path / "b.parquet", {"image": BYTES[1:2], "label": [1]})
    with pytest.raises(StudyError) as raised:
        read(tmp_path)
    assert raised.value.where == f"{tmp_path / 'b.parquet'}, row 0, column `target`"
    assert raised.value.todo == NO_TARGET


def test_no_negative_number_of_a_class_counts_from_1(tmp_path):
    ten = list(label_set("cifar10").labels)
    path = classed(tmp_path / "x.parquet", {"image": BYTES[:2], "label": [0, -2]}, label=ten)
    assert complaint(path) == (
        f"'-2' is not the number of a class\n  where:    {path}, row 1, column `label`\n"
        "  accepted: 0 to 9, the numbers of the classes that the file's metadata names\n"
        "  to do:    correct this number"
    )


def test_the_accepted_names_of_classes_and_columns_are_all_of_them(tmp_path):
    path = classed(tmp_path / "x.parquet", {"image": BYTES[:1], "label": [0]}, label=["cats"])
    assert (
        "accepted: cat (the nearest), airplane, automobile, bird, deer, dog, frog, horse, ship, truck; case and spaces "
        "do not matter; or 10 names of which none is the name of a label: then the numbers of classes are those of "
        "labels"
    ) in complaint(path)
    path = classed(tmp_path / "x.parquet", {"image": BYTES[:1], "label": [0]}, label=["n01440765"])
    assert ", or all words of a label, if no other label has the same; case and" in complaint(path, "imagenet")
    write(tmp_path / "x.parquet", {"picture": BYTES, "label": NUMBERS})
    assert (
        "accepted: a column `image` or `img`, binary or struct{bytes, path}; a column `label` or `labels` or "
        "`fine_label`, a whole number or a name; optionally, a column `target` or `target_label`, and a column "
        "`image_id` or `id` or `file` or `file_name` or `filename`"
    ) in complaint(tmp_path / "x.parquet")


REPLACED = {
    "no column of images": ({"picture": BYTES, "label": NUMBERS}, "it has no column `image` or `img`"),
    "fewer rows": ({"image": BYTES[:3], "label": NUMBERS[:3]}, "the file has fewer rows"),
    "no rows": ({"image": pa.array([], pa.binary())}, "the file has fewer rows"),
    "texts": ({"image": ["text"] * 7}, "this row has no bytes"),
    "numbers": ({"image": NUMBERS}, "this row has no bytes"),
}


@pytest.mark.parametrize("case", REPLACED)
def test_a_file_that_another_has_replaced(tmp_path, case):
    columns, what = REPLACED[case]
    path = write(tmp_path / "x.parquet", columns)
    for use in (file_digest, lambda stored: decoding.read(stored, ImageSet(parquet="x", size=8))):
        with pytest.raises(StudyError) as raised:
            use(ParquetImage(path, 5))
        assert raised.value.what == f"the image {path}, row 5 cannot be read: {what}"


def test_bad_files(tmp_path):
    with pytest.raises(StudyError, match="does not exist"):
        read(tmp_path / "x.parquet")
    with pytest.raises(StudyError, match=r"has no \.parquet files"):
        read(tmp_path)
    path = write(tmp_path / "x.parquet", {"image": BYTES, "label": NUMBERS})
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(StudyError, match=r"x\.parquet cannot be read"):
        read(path)


def test_rows_without_an_image(tmp_path):
    images = ImageSet(parquet="x", size=8)
    path = write(tmp_path / "x.parquet", {"image": [*BYTES[:6], None], "label": NUMBERS})
    with pytest.raises(StudyError, match=r"x\.parquet, row 6 cannot be read: this row has no bytes"):
        decoding.read(ParquetImage(path, 6), images)
    with pytest.raises(StudyError, match=r"row 6 cannot be read: this row has no bytes"):
        file_digest(ParquetImage(path, 6))
    path = write(tmp_path / "y.parquet", {"image": [b"no image"], "label": [0]})
    with pytest.raises(StudyError, match=r"y\.parquet, row 0 cannot be read"):
        decoding.read(ParquetImage(path, 0), images)
