"""TransferAttack: its flags reach the attack, its models are the sources. A small stand-in has its interface.

Where TRANSFERATTACK names a real checkout, SIA and PGN of it are compared too.
"""

from __future__ import annotations

import importlib
import os
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms import Normalize

from study.attacks.external.run import check_external, run_external
from study.attacks.external.seeds import seed_of
from study.attacks.external.spec import External
from study.attacks.loop import Engine, ImageBatch
from study.errors import StudyError
from tests.study.attacks.external.conftest import MEAN, STD, classifier

REAL = os.environ.get("TRANSFERATTACK")
LABELS = np.array([1, 2, 3, 4, 5])
TARGETS = np.array([6, 7, 8, 9, 0])
IDS = ["a", "b", "c", "d", "e"]

FILES = {
    "__init__.py": """
        import importlib

        attack_zoo = {
            "noisy": (".gradient.noisy", "Noisy"),
            "stubborn": (".gradient.noisy", "Stubborn"),
            "fixed": (".gradient.noisy", "Fixed"),
            "elsewhere": (".gradient.noisy", "Elsewhere"),
            "rewrapped": (".gradient.noisy", "Rewrapped"),
            "twice": (".gradient.noisy", "Twice"),
            "ensemble": (".gradient.noisy", "Together"),
            "sighted": (".gradient.noisy", "Sighted"),
            "tuning": (".gradient.noisy", "Tuning"),
            "needy": (".gradient.needy", "Needy"),
        }


        def load_attack_class(name):
            place, called = attack_zoo[name]
            return getattr(importlib.import_module(place, __package__), called)
        """,
    "utils.py": """
        import timm
        import torch
        import torch.nn as nn
        import torchvision.models as models


        def wrap_model(network):
            raise AssertionError("a network of the hub")


        class EnsembleModel(nn.Module):
            def __init__(self, models):
                super().__init__()
                self.models = models
                self.device = next(models[0].parameters()).device

            def forward(self, x):
                return torch.stack([model(x) for model in self.models]).mean(0)
        """,
    "attack.py": """
        from .utils import *


        class Attack:
            def __init__(self, attack, model_name, epsilon, targeted, random_start, norm, loss, device=None):
                self.model = self.load_model(model_name)
                self.epsilon, self.targeted, self.random_start = epsilon, targeted, random_start
                self.norm, self.loss_name = norm, loss

            def load_model(self, model_name):
                def one(name):
                    print("loading", name)
                    if name in models.__dict__.keys():
                        network = models.__dict__[name](weights="DEFAULT")
                    elif name in timm.list_models():
                        network = timm.create_model(name, pretrained=True)
                    else:
                        raise ValueError(f"Model {name} not supported")
                    return wrap_model(network.eval().cuda())

                if isinstance(model_name, list):
                    return EnsembleModel([one(name) for name in model_name])
                return one(model_name)

            def __call__(self, images, labels):
                self.model.eval()
                return self.forward(images, labels)
        """,
    "gradient/__init__.py": "",
    "gradient/noisy.py": """
        import random

        import numpy as np
        from torchvision.models import resnet34

        from ..attack import Attack
        from ..utils import *


        class Noisy(Attack):
            def __init__(self, model_name, epsilon=16/255, alpha=1.6/255, epoch=2, targeted=False, random_start=False,
                         norm="linfty", loss="crossentropy", device=None, attack="Noisy", **kwargs):
                super().__init__(attack, model_name, epsilon, targeted, random_start, norm, loss, device)
                self.alpha, self.epoch = alpha, epoch

            def forward(self, images, labels):
                if self.targeted:
                    assert len(labels) == 2
                    labels = labels[1]
                delta = torch.zeros_like(images).cuda()
                if self.random_start:
                    delta.uniform_(-self.epsilon, self.epsilon)
                for _ in range(self.epoch):
                    delta.requires_grad_(True)
                    noise = (torch.rand_like(images) + random.random() + np.random.rand()) / 255
                    loss = nn.CrossEntropyLoss()(self.model(images + delta + noise), labels)
                    (gradient,) = torch.autograd.grad(-loss if self.targeted else loss, delta)
                    delta = (delta + self.alpha * gradient.sign()).clamp(-self.epsilon, self.epsilon).detach()
                return torch.clamp(images + delta, 0, 1) - images


        class Stubborn(Noisy):
            def __init__(self, **kwargs):
                kwargs["epoch"] = 3
                super().__init__(**kwargs)


        class Fixed(Noisy):
            def __init__(self, **kwargs):
                kwargs["model_name"] = "resnet50"
                super().__init__(**kwargs)


        class Elsewhere(Noisy):
            def load_model(self, model_name):
                return nn.Sequential(nn.Flatten(), nn.LazyLinear(10))


        class Rewrapped(Noisy):
            def __init__(self, **kwargs):
                super().__init__(**kwargs)
                self.model = wrap_model(nn.Sequential(self.model[1], nn.Identity()))


        class Twice(Noisy):
            def __init__(self, **kwargs):
                super().__init__(**kwargs)
                self.other = resnet34(weights="DEFAULT")


        class Together(Noisy):
            def forward(self, images, labels):
                return self.epsilon * sum(model(images).sum() for model in self.model.models).sign() + 0 * images


        class Sighted(Noisy):
            def forward(self, images, labels):
                return super().forward(images, labels.clone())


        class Tuning(Noisy):
            def forward(self, images, labels):
                nn.CrossEntropyLoss()(self.model(images), labels).backward()
                with torch.no_grad():
                    for weight in self.model.parameters():
                        weight -= weight.grad
                return super().forward(images, labels)
        """,
    "gradient/needy.py": "import nothing_of_the_kind\n",
}


@pytest.fixture
def standin(tmp_path, monkeypatch):
    """A checkout with the interface of TransferAttack: how it loads and wraps models, takes labels, returns deltas."""
    from textwrap import dedent

    for name, text in FILES.items():
        path = tmp_path / "transferattack" / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(dedent(text))
    monkeypatch.setenv("TRANSFERATTACK", str(tmp_path))
    yield tmp_path
    for name in [one for one in sys.modules if one.partition(".")[0] == "transferattack"]:
        del sys.modules[name]


def run(name, models, clean, goal="untargeted", *, epsilon=8.0, batch=3, networks=None, **arguments):
    return run_external(
        External(external=f"transferattack:{name}", arguments=arguments),
        models,
        ImageBatch(clean, TARGETS if goal == "targeted" else LABELS, IDS, own=LABELS),
        goal,
        epsilon=epsilon,
        key=("run",),
        engine=Engine(batch=batch),
        networks=networks or ["resnet18"] * len(models),
    )


def by_hand(folder, name, models, clean, goal, **arguments):
    """The checkout's own class with another `load_model`, seeded as documented, batch by batch."""
    sys.path.insert(0, str(folder))
    try:
        package = importlib.import_module("transferattack")
        base = package.load_attack_class(name)
        utils = importlib.import_module("transferattack.utils")
    finally:
        sys.path.remove(str(folder))

    class ByHand(base):
        def load_model(self, model_name):
            wrapped = [nn.Sequential(Normalize(MEAN, STD), model.network).eval() for model in models]
            return utils.EnsembleModel(wrapped) if isinstance(model_name, list) else wrapped[0]

    found = []
    for rows in (slice(0, 3), slice(3, 5)):
        seed = seed_of(("run",), IDS[rows])
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        images, true = torch.from_numpy(clean[rows]).float() / 255, torch.from_numpy(LABELS[rows])
        labels = [true, torch.from_numpy(TARGETS[rows])] if goal == "targeted" else true
        attack = ByHand(
            model_name=["a"] * len(models) if len(models) > 1 else "a",
            epsilon=8 / 255,
            targeted=goal == "targeted",
            **arguments,
        )
        adversarial = images + attack(images, labels)
        found.append((adversarial * 255).round().to(torch.uint8).numpy())
    return np.concatenate(found)


@pytest.fixture
def on_the_cpu(monkeypatch):
    """The stand-in says `.cuda()`, as the original does."""
    monkeypatch.setattr(torch.Tensor, "cuda", lambda given: given)


@pytest.mark.parametrize("goal", ["untargeted", "targeted"])
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("flags", [{}, {"random_start": True, "epoch": 3, "alpha": 2 / 255}])
def test_equals_the_standin(standin, on_the_cpu, source, second, clean, goal, several, flags):
    models = [source, second] if several else [source]
    found = run("noisy", models, clean, goal, **flags)
    np.testing.assert_array_equal(found.pixels, by_hand(standin, "noisy", models, clean, goal, **flags))
    steps = flags.get("epoch", 2)
    assert (found.gradients, found.forwards) == (steps * len(models), steps * len(models))
    assert found.notes == ()


@pytest.mark.skipif(REAL is None, reason="TRANSFERATTACK names no checkout")
@pytest.mark.parametrize(("name", "arguments", "gradients"), [
    ("sia", {"epoch": 2, "num_scale": 3}, 6),
    ("pgn", {"epoch": 2, "num_neighbor": 3}, 12),
    ("mifgsm", {}, 10),
])  # fmt: skip
@pytest.mark.parametrize("goal", ["untargeted", "targeted"])
@pytest.mark.parametrize("several", [False, True])
def test_equals_the_real_checkout(source, second, clean, name, arguments, gradients, goal, several):
    models = [source, second] if several else [source]
    found = run(name, models, clean, goal, **arguments)
    wanted = by_hand(Path(REAL).resolve(), name, models, clean, goal, **arguments)
    np.testing.assert_array_equal(found.pixels, wanted)
    assert (found.gradients, found.forwards) == (gradients * len(models), gradients * len(models))
    assert found.notes == ()


@pytest.mark.skipif(REAL is None, reason="TRANSFERATTACK names no checkout")
def test_an_argument_that_the_real_pgn_does_not_use(source, clean):
    (note,) = run("pgn", [source], clean, epoch=2, num_neighbor=1, alpha=1 / 255).notes
    assert note == "transferattack:pgn: the argument alpha is 0.00392157, but the attack uses alpha = 0.0156863"


def test_loading_and_cuda_are_as_before(standin, source, clean):
    import timm
    import torchvision

    before = torch.Tensor.cuda, nn.Module.cuda, timm.create_model, torchvision.models.resnet18
    run("noisy", [source], clean)
    utils = sys.modules["transferattack.utils"]
    assert before == (torch.Tensor.cuda, nn.Module.cuda, timm.create_model, torchvision.models.resnet18)
    assert (utils.timm, utils.models) == (timm, torchvision.models)
    assert str(standin) not in sys.path


def test_an_argument_that_the_attack_overrides(standin, source, clean):
    found = run("stubborn", [source], clean, epoch=5)
    assert found.notes == ("transferattack:stubborn: the argument epoch is 5, but the attack uses epoch = 3",)
    assert found.gradients == 3


def test_an_ensemble_of_one(standin, source, clean):
    alone, ensemble = run("noisy", [source], clean), run("noisy", [source], clean, ensemble=True)
    assert (alone.pixels == ensemble.pixels).all()


def test_two_sources_of_one_network(standin, source, second, clean):
    """Both are there, in their order: the mean of two models is not that of one of them."""
    both, one = run("noisy", [source, second], clean), run("noisy", [source, source], clean)
    assert (both.pixels != one.pixels).any()
    assert (one.pixels == run("noisy", [source], clean).pixels).mean() > 0.99


def test_an_attack_that_builds_a_network_once_more(standin, source, clean):
    """It gets a copy; under another name there is none."""
    found = run("twice", [source], clean, networks=["resnet34"])
    assert (found.pixels == run("noisy", [source], clean).pixels).all()
    with pytest.raises(StudyError, match="loads the network 'resnet34', which is not among the sources") as caught:
        run("twice", [source], clean)
    assert "the sources have resnet18" in str(caught.value)


def test_an_attack_that_wraps_its_own_version(standin, source, second, clean):
    found = run("rewrapped", [source], clean)
    assert (found.pixels == run("noisy", [source], clean).pixels).all()


@pytest.mark.parametrize(("name", "message"), [
    ("fixed", "does not take the sources: Model resnet50 not supported"),
    ("elsewhere", "loads networks of its own, but none of the sources"),
    ("ensemble", "transferattack:ensemble attacks an ensemble"),
    ("needy", "cannot be imported: No module named 'nothing_of_the_kind'"),
    ("nois", "there is no attack 'nois' in transferattack"),
])  # fmt: skip
def test_what_cannot_run(standin, source, clean, name, message):
    with pytest.raises(StudyError, match=message):
        run(name, [source], clean)


def test_the_network_that_an_attack_names(standin, clean):
    assert run("fixed", [classifier(3)], clean, networks=["resnet50"]).gradients == 2


@pytest.mark.parametrize(("arguments", "message"), [
    ({"epochs": 3}, "takes no argument 'epochs'"),
    ({"model_name": "vgg16"}, "'model_name' of transferattack:noisy is set by the study itself"),
    ({"norm": "l2"}, "`epsilon` of transferattack:noisy is not an L-infinity norm"),
])  # fmt: skip
@pytest.mark.parametrize("name", ["noisy", "stubborn"])
def test_wrong_arguments(standin, name, arguments, message):
    with pytest.raises(StudyError, match=message.replace("noisy", name)):
        check_external(External(external=f"transferattack:{name}", arguments=arguments), ["untargeted"], 1, epsilon=8)


def test_no_checkout(tmp_path, monkeypatch):
    attack = External(external="transferattack:sia")
    monkeypatch.delenv("TRANSFERATTACK", raising=False)
    with pytest.raises(StudyError, match="TRANSFERATTACK is not set"):
        check_external(attack, ["untargeted"], 1, epsilon=8)
    monkeypatch.setenv("TRANSFERATTACK", str(tmp_path))
    with pytest.raises(StudyError, match="has no package transferattack"):
        check_external(attack, ["untargeted"], 1, epsilon=8)


def test_identity(standin):
    attack, other = External(external="transferattack:noisy"), External(external="transferattack:needy")
    before = attack.identity(), other.identity()
    assert before[0] == {
        "library": "transferattack",
        "version": before[0]["version"],
        "attack": "noisy",
        "arguments": {},
    }
    path = standin / "transferattack" / "utils.py"
    path.write_text(path.read_text() + "\n# changed\n")
    assert attack.identity() != before[0]
    assert other.identity() == before[1]


def test_an_attack_without_a_targeted_form(standin, source, clean):
    """It says that it has one, and takes one label for an image."""
    assert run("sighted", [source], clean).gradients == 2
    with pytest.raises(StudyError, match="transferattack:sighted has no targeted form"):
        run("sighted", [source], clean, "targeted")


def test_an_attack_that_tunes_weights(standin, source, clean):
    """It has gradients of the weights, and the source keeps its own."""
    before = [weight.clone() for weight in source.parameters()]
    found = run("tuning", [source], clean)
    assert (found.gradients, found.forwards) == (3, 3)
    assert (found.pixels != run("noisy", [source], clean).pixels).any()
    assert all(map(torch.equal, before, source.parameters()))
    assert not any(weight.requires_grad or weight.grad is not None for weight in source.parameters())
