"""What probes compute, against plain autograd and one forward pass for each point."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

from study.attacks.loop import Engine, ImageBatch, craft
from study.attacks.recipe import Attack
from study.errors import StudyError
from study.geometry.axes import axes
from study.geometry.compute_probe import answer
from study.geometry.plan import ProbeTask
from study.geometry.spec import Probe
from study.models.classifier import Classifier, Preprocessing
from study.reproducibility.rng import Streams

SIZE, LABELS = 12, 10
IMAGES = ("i0", "i1", "i2", "i3", "i4")
TRUE, TARGETS = (3, 1, 4, 1, 5), (2, 6, 5, 3, 8)
ENGINE = Engine(batch=2, layout="contiguous")


def classifier(seed):
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.SiLU(),
        nn.Conv2d(6, 6, 3, stride=2),
        nn.SiLU(),
        nn.Flatten(),
        nn.LazyLinear(LABELS),
    )
    network(torch.zeros(1, 3, SIZE, SIZE))
    # Random networks barely see small changes: larger weights make planes with borders in them.
    for parameter in network.parameters():
        parameter.data *= 2
    wanted = Preprocessing(SIZE, "bilinear", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    return Classifier(network, wanted, labels=LABELS, identity=str(seed))


@pytest.fixture(scope="module")
def models():
    return {name: classifier(seed) for seed, name in enumerate(("a", "b", "c"))}


@pytest.fixture(scope="module")
def clean():
    return np.random.default_rng(5).integers(0, 256, (len(IMAGES), 3, SIZE, SIZE), dtype=np.uint8)


def question(probe, models=("a",), attacks=None, rows=(0, 1, 2, 3, 4)):
    chosen = [tuple(values[row] for row in rows) for values in (IMAGES, TRUE, TARGETS)]
    return ProbeTask("p", Probe.model_validate(probe), tuple(models), attacks or {}, 7, 11, *chosen)


def asked(probe, models, clean, looked_at=("a",), attacks=None):
    return pl.DataFrame(answer("u", question(probe, looked_at, attacks), models, clean, engine=ENGINE))


def gradient(model, image, label, *, targeted=False, noise=0.0):
    """Of the cross-entropy, up for an untargeted goal and down for a targeted one."""
    pixels = (torch.from_numpy(image)[None].float() + noise).requires_grad_()
    loss = nn.functional.cross_entropy(model.logits(pixels), torch.tensor([label]))
    (found,) = torch.autograd.grad(-loss if targeted else loss, pixels)
    return found[0].double().numpy()


def cosine(one, other):
    return (one * other).sum() / np.sqrt((one**2).sum() * (other**2).sum())


def unit(way):
    return way / np.sqrt((way**2).mean())


def top1(model, image):
    with torch.inference_mode():
        return int(model.logits(torch.from_numpy(image.clip(0, 255))[None].float()).argmax())


@pytest.mark.parametrize("goal", ["untargeted", "targeted"])
def test_cosines_of_plain_gradients(models, clean, goal):
    found = asked({"probe": "gradient-cosine", "goal": goal}, models, clean, ("a", "b", "c"))
    assert found.height == 9 * len(IMAGES)
    labels = dict(zip(IMAGES, TARGETS if goal == "targeted" else TRUE, strict=True))
    for row in found.to_dicts():
        image = clean[IMAGES.index(row["image"])]
        one, other = (
            gradient(models[row[key]], image, labels[row["image"]], targeted=goal == "targeted")
            for key in ("first", "second")
        )
        assert row["cosine"] == pytest.approx(cosine(one, other), abs=1e-5)
        assert (row["copies"], row["sigma"]) == (None, None)
    assert found.filter(pl.col("first") == pl.col("second"))["cosine"].to_numpy() == pytest.approx(1)


@pytest.mark.parametrize("of", ["first", "both"])
def test_cosines_of_smoothed_gradients(models, clean, of):
    smoothing = {"copies": [2, 6, 4], "sigma": [5, 20], "of": of}
    found = asked({"probe": "gradient-cosine", "smoothing": smoothing}, models, clean, ("a", "b"))
    assert found.height == 4 * len(IMAGES) * (1 + 3 * 2)

    def smooth(name, row, copies, sigma):
        if copies is None:
            return gradient(models[name], clean[row], TRUE[row])
        streams = Streams((7, "geometry", (name,), "untargeted"), [IMAGES[row]])
        noises = [streams.normal(clean.shape[1:], "cpu", "gaussian", 0, copy) for copy in range(copies)]
        return np.mean([gradient(models[name], clean[row], TRUE[row], noise=sigma * one) for one in noises], axis=0)

    for row in found.filter(pl.col("image").is_in(["i0", "i3"])).to_dicts():
        place, how = IMAGES.index(row["image"]), (row["copies"], row["sigma"])
        one = smooth(row["first"], place, *how)
        other = smooth(row["second"], place, *(how if of == "both" else (None, None)))
        assert row["cosine"] == pytest.approx(cosine(one, other), abs=1e-5)


def test_a_zero_gradient_has_no_cosine(models, clean):
    flat = classifier(9)
    for parameter in flat.network.parameters():
        parameter.data.zero_()
    found = asked({"probe": "gradient-cosine"}, models | {"b": flat}, clean, ("a", "b"))
    pairs = {(row["first"], row["second"]): row["cosine"] for row in found.to_dicts()}
    assert pairs["a", "a"] is not None
    assert pairs["a", "b"] is pairs["b", "b"] is None
    with pytest.raises(StudyError, match="is zero"):
        asked({"probe": "regions", "along": {"gradient_of": "b"}}, models | {"b": flat}, clean)


def test_axes_are_gradient_and_what_is_orthogonal_to_it(models, clean):
    probe = {"probe": "regions", "along": {"gradient_of": "b"}}
    found = axes(question(probe), models, clean, engine=ENGINE)
    for row, (along, across) in enumerate(found):
        np.testing.assert_allclose(along, unit(gradient(models["b"], clean[row], TRUE[row])), atol=1e-4)
        drawn = (
            Streams((7, "geometry", "random", 0), [IMAGES[row]]).normal(clean.shape[1:], "cpu", "gaussian")[0].numpy()
        )
        rest = drawn - along * (along * drawn).mean()
        np.testing.assert_allclose(across, unit(rest), atol=1e-6)
        assert abs((along * across).mean()) < 1e-9
        assert np.sqrt((along**2).mean()) == pytest.approx(1)


def test_signs_are_those_of_orthogonal_axes(models, clean):
    probe = {"probe": "regions", "along": {"gradient_of": "b"}, "across": {"gradient_of": "a"}}
    plain = axes(question(probe), models, clean, engine=ENGINE)
    signs = axes(question(probe | {"step": "sign"}), models, clean, engine=ENGINE)
    for one, other in zip(plain, signs, strict=True):
        np.testing.assert_array_equal(np.sign(one), other)


@pytest.mark.parametrize("goal", ["untargeted", "targeted"])
def test_the_way_of_an_attack_is_that_of_its_images(models, clean, goal):
    recipe = Attack.model_validate({"steps": 3, "step": "sign", "step_size": 4, "epsilon": 10, "checkpoints": [1]})
    probe = {"probe": "regions", "along": {"attack": "x", "sources": ["b", "a"], "goal": goal}}
    found = axes(question(probe, attacks={"x": recipe}), models, clean, engine=ENGINE)
    wanted = np.array(TARGETS if goal == "targeted" else TRUE)
    given = ImageBatch(clean, wanted, IMAGES, own=np.array(TRUE))
    key = (11, ("a", "b"), "x", goal)
    pixels = craft([models["a"], models["b"]], recipe, goal, given, key=key, engine=ENGINE, names=("a", "b")).pixels
    for row, image in enumerate(pixels[-len(IMAGES) :]):
        np.testing.assert_allclose(found[row][0], unit(image.astype(float) - clean[row]))


def test_regions_are_one_pass_for_each_point(models, clean):
    probe = {"probe": "regions", "along": {"gradient_of": "b"}, "extent": 60, "points": 9}
    asks = question(probe, rows=range(2))
    found = pl.DataFrame(answer("u", asks, models, clean[:2], engine=ENGINE))
    ways = axes(asks, models, clean[:2], engine=ENGINE)
    assert found.height == 2 * 81
    assert found["top1"].n_unique() > 2
    assert found["u"].unique().sort().to_list() == [-60, -45, -30, -15, 0, 15, 30, 45, 60]
    for row in found.to_dicts():
        place = IMAGES.index(row["image"])
        along, across = ways[place]
        assert row["top1"] == top1(models["a"], clean[place] + row["u"] * along + row["v"] * across)
        assert (row["label"], row["target_label"], row["unit"], row["probe"]) == (TRUE[place], TARGETS[place], "u", "p")


def test_linearity_is_the_logits_along_each_models_own_gradient(models, clean):
    probe = {
        "probe": "linearity",
        "along": {"gradient_of": "each"},
        "distances": {"from": -9, "to": 9, "by": 3},
        "labels": 3,
    }
    for name in ("a", "b"):
        found = asked(probe, models, clean, (name,))
        for (image,), part in found.group_by("image"):
            place = IMAGES.index(str(image))
            model, label = models[name], TRUE[place]
            way = unit(gradient(model, clean[place], label))
            with torch.inference_mode():
                here = model.logits(torch.from_numpy(clean[place])[None].float())[0].numpy()
            order = np.argsort(-here)
            assert set(part["shown"]) == {label, *order[:3].tolist()}
            for row in part.to_dicts():
                assert row["rank"] == order.tolist().index(row["shown"]) + 1
                moved = torch.from_numpy((clean[place] + row["distance"] * way).clip(0, 255))[None].float()
                with torch.inference_mode():
                    assert row["logit"] == pytest.approx(model.logits(moved)[0, row["shown"]].item(), abs=1e-3)
            assert part["distance"].unique().sort().to_list() == [-9, -6, -3, 0, 3, 6, 9]


def test_intervals_are_one_pass_for_each_distance(models, clean):
    probe = {"probe": "intervals", "along": {"gradient_of": ["a", "b"]}, "distances": {"to": 80, "by": 4}}
    found = asked(probe, models, clean)
    ways = axes(question(probe), models, clean, engine=ENGINE)
    assert found.height == 21 * len(IMAGES)
    assert found["top1"].n_unique() > 2
    for row in found.to_dicts():
        place = IMAGES.index(row["image"])
        assert row["top1"] == top1(models["a"], clean[place] + row["distance"] * ways[place][0])


def test_an_image_is_answered_for_alike_whatever_stands_beside_it(models, clean):
    probe = {"probe": "regions", "along": {"gradient_of": "b", "smoothing": {"copies": 3, "sigma": 9}}, "points": 5}
    together = answer("u", question(probe), models, clean, engine=ENGINE)
    rows = [4, 2]
    apart = answer("u", question(probe, rows=rows), models, clean[rows], engine=ENGINE)
    both = [
        pl.DataFrame(one).filter(pl.col("image").is_in(["i2", "i4"])).sort("image", "u", "v")
        for one in (together, apart)
    ]
    assert both[0].equals(both[1])
