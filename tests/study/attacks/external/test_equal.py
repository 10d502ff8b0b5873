"""Images of attacks named in a spec equal those of their library, called by hand with the same seeds and batches."""

from __future__ import annotations

import copy
import random

import foolbox
import numpy as np
import pytest
import torch
import torchattack
import torchattacks
from torch import nn
from torchvision.transforms import Normalize

from study.attacks.external.run import run_external
from study.attacks.external.seeds import seed_of
from study.attacks.external.spec import External
from study.attacks.loop import Engine, ImageBatch
from study.errors import StudyError
from tests.study.attacks.external.conftest import MEAN, STD, classifier

EPSILON, BATCH = 8, 3
LABELS = np.array([1, 2, 3, 4, 5])
TARGETS = np.array([6, 7, 8, 9, 0])
IDS = ["a", "b", "c", "d", "e"]
KEY = ("run", 7)
BY_HAND = {"eps": 8 / 255, "steps": 3}


def in_foolbox(attack):
    def run(network, normalize, images, labels, targeted):
        model = foolbox.PyTorchModel(nn.Sequential(normalize, network).eval(), bounds=(0, 1), device="cpu")
        goal = foolbox.criteria.TargetedMisclassification(labels) if targeted else labels
        return attack(model, images, goal, epsilons=8 / 255)[1]

    return run


def in_torchattacks(make):
    def run(network, normalize, images, labels, targeted):
        attack = make(nn.Sequential(normalize, network).eval())
        if targeted:
            attack.set_mode_targeted_by_label(quiet=True)
        return attack(images, labels)

    return run


def in_torchattack(make, *, has_goal=True):
    def run(network, normalize, images, labels, targeted):
        return make(network, normalize, **({"targeted": targeted} if has_goal else {}))(images, labels)

    return run


# What a spec says; the same in the words of the library; image gradients and forward passes per image.
CASES = {
    "torchattack:BSR": (
        {"steps": 3, "num_scale": 4},
        in_torchattack(lambda m, n, **goal: torchattack.BSR(m, n, **BY_HAND, num_scale=4, **goal)),
        (12, 12),
    ),
    "torchattack:FIA": (
        {"steps": 3, "num_ens": 5, "feature_layer_cfg": "layer2"},
        in_torchattack(
            lambda m, n: torchattack.FIA(m, n, **BY_HAND, num_ens=5, feature_layer_cfg="layer2"), has_goal=False
        ),
        (8, 8),
    ),
    # Its first passes take gradients at a layer, for images that require none: the weights do, by hand.
    "torchattack:NAA": (
        {"steps": 3, "num_ens": 5, "feature_layer_cfg": "layer2"},
        in_torchattack(
            lambda m, n: torchattack.NAA(
                copy.deepcopy(m).requires_grad_(True), n, **BY_HAND, num_ens=5, feature_layer_cfg="layer2"
            ),
            has_goal=False,
        ),
        (8, 9),
    ),
    # Two passes a step, and one of them without a gradient.
    "torchattack:ILPD": (
        {"steps": 3, "feature_layer_cfg": "layer2.1"},
        in_torchattack(lambda m, n: torchattack.ILPD(m, n, **BY_HAND, feature_layer_cfg="layer2.1"), has_goal=False),
        (3, 6),
    ),
    "torchattack:MIFGSM": (
        {},
        in_torchattack(lambda m, n, **goal: torchattack.MIFGSM(m, n, eps=8 / 255, **goal)),
        (10, 10),
    ),
    "torchattacks:PIFGSM": (
        {"num_iter_set": 3},
        in_torchattacks(lambda m: torchattacks.PIFGSM(m, max_epsilon=8 / 255, num_iter_set=3)),
        (3, 3),
    ),
    "torchattacks:PGD": (
        {"steps": 3, "alpha": "2/255"},
        in_torchattacks(lambda m: torchattacks.PGD(m, **BY_HAND, alpha=2 / 255, random_start=True)),
        (3, 3),
    ),
    # foolbox looks at the result once more.
    "foolbox:LinfBasicIterativeAttack": (
        {"steps": 3, "abs_stepsize": "3/255"},
        in_foolbox(foolbox.attacks.LinfBasicIterativeAttack(steps=3, abs_stepsize=3 / 255)),
        (3, 4),
    ),
    "foolbox:PGD": ({"steps": 3}, in_foolbox(foolbox.attacks.PGD(steps=3, random_start=True)), (3, 4)),
}  # fmt: skip
UNTARGETED = [
    (case, "targeted") for case in ("torchattack:FIA", "torchattack:NAA", "torchattack:ILPD", "torchattacks:PIFGSM")
]


@pytest.mark.parametrize(
    ("case", "goal"),
    [(case, goal) for goal in ("untargeted", "targeted") for case in CASES if (case, goal) not in UNTARGETED],
)
def test_equals_the_library(source, clean, case, goal):
    arguments, by_hand, (gradients, forwards) = CASES[case]
    labels = TARGETS if goal == "targeted" else LABELS
    found = run_external(
        External(external=case, arguments=arguments),
        [source],
        ImageBatch(clean, labels, IDS, own=LABELS),
        goal,
        epsilon=EPSILON,
        key=KEY,
        engine=Engine(batch=BATCH),
        networks=("resnet18",),
    )
    wanted = []
    for rows in (slice(0, 3), slice(3, 5)):
        seed = seed_of(KEY, IDS[rows])
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        images = torch.from_numpy(clean[rows]).float() / 255
        made = by_hand(source.network, Normalize(MEAN, STD), images, torch.from_numpy(labels[rows]), goal == "targeted")
        wanted.append((made.detach() * 255).round().to(torch.uint8).numpy())
    np.testing.assert_array_equal(found.pixels, np.concatenate(wanted))
    assert (found.pixels != clean).mean() > 0.5
    assert (found.gradients, found.forwards) == (gradients, forwards)
    assert (found.over_budget, found.notes) == (0, ())


def test_an_argument_seed_is_the_seed_of_the_call(source, clean):
    """torchattacks' AutoAttack would take the clock, and APGD always 0."""
    given = ImageBatch(clean[:2], LABELS[:2], IDS[:2])
    attack = External(external="torchattacks:APGD", arguments={"steps": 2})
    found = run_external(attack, [source], given, "untargeted", epsilon=EPSILON, key=KEY, engine=Engine(batch=BATCH))
    made = torchattacks.APGD(
        nn.Sequential(Normalize(MEAN, STD), source.network).eval(), eps=8 / 255, steps=2, seed=seed_of(KEY, IDS[:2])
    )(torch.from_numpy(clean[:2]).float() / 255, torch.from_numpy(LABELS[:2]))
    np.testing.assert_array_equal(found.pixels, (made * 255).round().to(torch.uint8).numpy())


def test_layers_of_a_folded_network(clean):
    """Modules keep their names when batch norms are folded into convolutions, and images change by rounding only."""
    given = ImageBatch(clean[:2], LABELS[:2], IDS[:2])
    attack = External(external="torchattack:FIA", arguments={"steps": 1, "num_ens": 2, "feature_layer_cfg": "layer2.0"})
    found = []
    for fold, layout in ((False, "contiguous"), (True, "channels-last")):
        model = classifier(0)
        model.arrange(fold=fold, layout=layout, device="cpu")
        assert (model.folded > 0) == fold
        found.append(
            run_external(attack, [model], given, "untargeted", epsilon=EPSILON, key=KEY, engine=Engine(batch=BATCH))
        )
    assert found[0].gradients == found[1].gradients == 3
    assert (found[0].pixels != found[1].pixels).mean() < 0.02


@pytest.mark.parametrize(("attack", "network", "arguments"), [
    ("FIA", "resnet50", {}),
    ("FIA", "resnet18", {"feature_layer_cfg": "layer2"}),
    ("SGM", "resnet18", {}),
])  # fmt: skip
def test_torchattack_knows_layers_by_the_name_of_the_network(clean, attack, network, arguments):
    """`layer2.3`, which FIA has on record for ResNet-50, or what the arguments say."""
    torch.manual_seed(0)
    model = classifier(0, network=network)
    given = ImageBatch(clean[:1], LABELS[:1], IDS[:1])
    run = {"epsilon": EPSILON, "key": KEY, "engine": Engine(batch=BATCH), "networks": [network]}
    spec = External(external=f"torchattack:{attack}", arguments={"steps": 1, **arguments})
    assert (run_external(spec, [model], given, "untargeted", **run).pixels != clean[:1]).mean() > 0.5


def test_layers_that_torchattack_does_not_know(source, clean):
    given = ImageBatch(clean[:1], LABELS[:1], IDS[:1])
    run = {"epsilon": EPSILON, "key": KEY, "engine": Engine(batch=BATCH), "networks": ["resnet18"]}
    with pytest.raises(StudyError, match="FIA has no layers on record for the network resnet18") as caught:
        run_external(External(external="torchattack:FIA"), [source], given, "untargeted", **run)
    assert "feature_layer_cfg" in str(caught.value)
    spec = External(external="torchattack:FIA", arguments={"feature_layer_cfg": "layer9"})
    with pytest.raises(StudyError, match="has no attribute 'layer9'"):
        run_external(spec, [source], given, "untargeted", **run)
