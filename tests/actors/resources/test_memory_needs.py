"""The passes that memory is planned for are the passes that the engine runs: a network records what it sees."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml

from actors.resources.memory_needs import CallMemory, Needs, gradients, needs
from study.attacks.gradient import BatchGradients
from study.attacks.kinds import Pool
from study.attacks.loop import Engine, ImageBatch, craft, step_directions
from study.attacks.passes import groups, largest_pass
from study.attacks.presets import keys_of
from study.attacks.recipe import Attack
from study.models.memory import Memory
from study.models.predict import predict
from study.reproducibility import numerics
from study.reproducibility.rng import Streams
from study.spec import loading
from tests.conftest import TINY

ATTACKS = {
    "mi": {"steps": 2},
    "si": {"steps": 1},
    "sg": {"preset": "sg-igsm", "steps": 1, "smoothing": {"copies": 7, "sigma": 8}},
    "mixed": {"preset": "admix", "steps": 1, "scales": 2, "admix": {"pool": 4}},
    "di": {"preset": "di", "steps": 1},
    "vmi": {"steps": 2, "variance": {"samples": 3}},
    "search": {"preset": "fgs-minimal"},
    "mixup": {"preset": "mi", "steps": 1, "forward": [{"cfm": {"pool": 4}}]},
    "sia": {"preset": "sia", "steps": 1, "views": [{"sia": {"copies": 4}}]},
    "rolled": {"preset": "sia", "steps": 1, "views": [{"sia": {"copies": 4, "operations": ["roll-rows"]}}]},
    "summed": {"preset": "optimization", "steps": 1, "fusion": "summed-updates", "learning_rate": 8},
}


MEMORY = {"a": Memory(1000, 50_000, 90_000), "b": Memory(3000, 30_000, 60_000)}


class Seen(torch.nn.Module):
    """Writes down how many images each pass has."""

    memory_format = torch.contiguous_format

    def __init__(self):
        super().__init__()
        self.gradients, self.predictions = [], []

    def forward(self, pixels):
        self.gradients.append(len(pixels))
        return pixels.flatten(1)[:, :10] / 255

    def logits(self, pixels):
        self.predictions.append(len(pixels))
        return pixels.flatten(1)[:, :10] / 255


@pytest.fixture
def spec(tmp_path):
    def read(attack, **used):
        given = yaml.safe_load(TINY)
        given["numerics"] = used
        given["attacks"] = {attack: ATTACKS[attack]}
        given["experiments"] = {"one": {"attacks": [attack], "sources": [["a", "b"]]}}
        (tmp_path / "spec.yaml").write_text(yaml.safe_dump(given))
        return loading.load(tmp_path / "spec.yaml").spec

    return read


@pytest.mark.parametrize(
    "used", [{"batch": 3}, {"batch": 8}, {"batch": 16}, {"batch": 20}, {"batch": 4, "max_pass_images": 24}]
)
@pytest.mark.parametrize("attack", sorted(ATTACKS.keys() - {"mixup"}))
def test_planned_and_computed_are_the_same(spec, attack, used):
    given, count = spec(attack, **used), 40
    (work,) = gradients(given, "cpu")
    recipe, drawn = given.attacks[attack], np.random.default_rng(0)
    clean = drawn.integers(0, 256, (count, 3, 8, 8), dtype=np.uint8)
    images = ImageBatch(clean, np.arange(count) % 10, [str(one) for one in range(count)])
    engine = Engine(given.numerics.batch, given.numerics.max_pass_images)
    pool = Pool(clean[:4], np.arange(4)) if recipe.admix else None
    models = [Seen(), Seen()]
    run = step_directions if recipe.budget.minimal else craft
    run(models, recipe, "untargeted", images, key=("k",), engine=engine, names=("a", "b"), pool=pool)
    assert max(models[0].gradients) == work.images
    assert max(models[1].gradients) == work.images
    assert work.models == ("a", "b")
    assert work.apart == (attack == "summed")
    predict(models[0], clean, batch=given.numerics.batch)
    assert max(models[0].predictions) == needs(given, MEMORY, "cpu").calls[0].images


@pytest.mark.parametrize(
    ("images", "copies", "limit"), [(8, 5, 256), (32, 16, 256), (64, 3, 100), (300, 2, 256), (1, 9, 4)]
)
def test_passes_of_any_limit(images, copies, limit):
    """The limits of GPUs, which are larger than those of a CPU: tested with the code that runs the passes."""
    attack = Attack.model_validate(keys_of("si", {"steps": 1, "scales": copies}))
    labels, seen = torch.zeros(images, dtype=torch.int64), Seen()

    class Same:
        def make(self, image, step, copy, gradient):
            return image * 1

    streams = Streams(("key",), [str(index) for index in range(images)])
    clean = torch.zeros(images, 3, 2, 2)
    taken = BatchGradients(attack.assembly, "untargeted", labels, Same(), streams, clean, limit)
    (group,) = groups([seen], [1.0], separate=False)
    taken.of(group, clean, 0)
    assert max(seen.gradients) == largest_pass(images, copies, limit)


def test_other_devices_have_passes_of_their_own(spec):
    (work,) = gradients(spec("sg", batch=8), "cuda:0")
    assert work.images == 56
    (work,) = gradients(spec("mi", batch=8), "cuda:0")
    assert work.images == 8
    assert needs(spec("mi", batch=8), MEMORY, "cuda:0").calls[0].images == numerics.pass_size(8, "cuda:0") == 8


def test_another_librarys_attack_gets_whole_batches(spec, tmp_path):
    """On a CPU too, where passes of this program have 16 images at most."""
    given = yaml.safe_load(TINY)
    given |= {"numerics": {"batch": 40}, "attacks": {"theirs": {"external": "torchattacks:FGSM", "epsilon": 8}}}
    given["experiments"] = {"one": {"attacks": ["theirs"], "sources": [["a"]]}}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(given))
    (work,) = gradients(loading.load(tmp_path / "spec.yaml").spec, "cpu")
    assert work.images == 40


def test_copies_in_bfloat16_are_planned_for(spec):
    """Each model stands in memory twice: its weights again in half the bytes."""
    plain, cast = (needs(spec("mi", batch=8, **used), MEMORY, "cpu") for used in ({}, {"precision": "bfloat16"}))
    for name in ("a", "b"):
        assert cast.held[name] == 1.5 * plain.held[name] == 1.5 * MEMORY[name].parameters
    assert cast.peak == plain.peak + 0.5 * (1000 + 3000)


def test_probes_are_planned_for(tmp_path):
    given = yaml.safe_load(TINY)
    given["geometry"] = {
        "cosines": {"probe": "gradient-cosine", "models": ["a", "b"], "smoothing": {"copies": [4, 8], "sigma": [8]}}
    }
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(given))
    found = gradients(loading.load(tmp_path / "spec.yaml").spec, "cuda:0")
    (work,) = [one for one in found if one.apart and one.images > 2]
    assert work.models == ("a", "b")
    assert work.images == 2 * 4


IMAGE = 8 * 3 * 48 * 48 * 4


def test_sums_by_hand(spec):
    """Two models, estimated for passes of four images: an ensemble holds both, and the memory of both gradients."""
    a, b = MEMORY["a"], MEMORY["b"]
    both = needs(spec("mi", batch=4), MEMORY, "cpu")
    assert both.held == {"a": a.parameters, "b": b.parameters}
    assert both.peak == a.gradient + b.gradient + 4 * IMAGE
    assert both.working == both.peak - a.parameters - b.parameters
    assert "gradients of a + b, 4 images at a time" in both.largest
    held = a.parameters + b.parameters
    assert needs(spec("sg", batch=4), MEMORY, "cpu").peak == 4 * both.peak - 3 * held, "passes of sixteen views"
    assert needs(spec("sg", batch=4), MEMORY, "cuda:0").peak == 7 * both.peak - 6 * held, "passes of all 28 views"
    apart = needs(spec("summed", batch=4), MEMORY, "cpu")
    assert apart.peak == held + max(a.gradient - a.parameters, b.gradient - b.parameters) + 4 * IMAGE


def test_what_components_keep_is_planned_for(spec):
    """Clean feature mixup keeps the features of its pool, of every layer: as many images as a pass of gradients."""
    a, b = MEMORY["a"], MEMORY["b"]
    mixed, plain = needs(spec("mixup", batch=4), MEMORY, "cpu"), needs(spec("mi", batch=4), MEMORY, "cpu")
    assert mixed.peak - plain.peak == 4 * (a.gradient - a.parameters + b.gradient - b.parameters) / 4
    assert mixed.working - plain.working == mixed.peak - plain.peak


def test_components_say_what_they_keep():
    twenty = Attack.model_validate(keys_of("mba", {})).assembly.held_memory
    assert (twenty.weights, twenty.features) == (20, 0)
    both = Attack.model_validate(
        keys_of("mba", {"forward": [{"gaussian_weights": {"samples": 3}}, {"cfm": {"pool": 5}}]})
    )
    assert (both.assembly.held_memory.weights, both.assembly.held_memory.features) == (3, 5)


def test_tables_on_a_gpu_are_planned_for(spec):
    """SIA keeps a matrix for each length of a line there: as large as what it makes, and nothing on a CPU."""
    from study.attacks.components.sia import _matrices

    made = _matrices(48, torch.device("cpu"), torch.float32)
    here, there = (needs(spec("sia", batch=4), MEMORY, device).working for device in ("cpu", "cuda:0"))
    without = needs(spec("rolled", batch=4), MEMORY, "cuda:0").working
    assert there - without == pytest.approx(2.1 * 48**3 * 4)
    assert there - without >= made.nbytes
    assert here == needs(spec("rolled", batch=4), MEMORY, "cpu").working
    assert made.nbytes > 0.95 * (there - without)


def test_the_largest_call_is_described_with_its_sizes():
    one = CallMemory(3 * 2**20, 2**20, "gradients of b", 1)
    assert Needs({}, (one,)).largest == "gradients of b, 1 image at a time: 1 MiB of parameters, 2 MiB for a pass"
    two = Needs({}, (one, CallMemory(4 * 2**20, 2**20, "gradients of c", 2)))
    assert two.largest == "gradients of c, 2 images at a time: 1 MiB of parameters, 3 MiB for a pass"
