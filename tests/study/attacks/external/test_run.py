"""What is done around somebody else's attack: seeds, rounding, the budget, counts, checks, and models left as found."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from study.attacks.external.run import run_external
from study.attacks.external.seeds import seed_of
from study.attacks.external.spec import External
from study.attacks.external.surrogate import Passes, surrogate
from study.attacks.loop import Engine, ImageBatch
from study.errors import StudyError
from study.models.device_errors import device_failed
from tests.study.attacks.external.conftest import classifier

LABELS = np.array([1, 2, 3, 4, 5])
IDS = ["a", "b", "c", "d", "e"]

CODE = """
import random

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from beside import BRIGHTER


def one_step(models, images, labels, goal, generator, epsilon):
    place = images.clone().requires_grad_(True)
    sign = -1 if goal == "targeted" else 1
    loss = sum(cross_entropy(model(place), labels) for model in models)
    (gradient,) = torch.autograd.grad(sign * loss, place)
    return images + epsilon * gradient.sign()


def drawn(models, images, labels, goal, generator):
    noise = torch.rand(images.shape, generator=generator) + torch.rand(images.shape)
    return images + (noise + random.random() + np.random.rand()) / 255


def brighter(models, images, labels, goal, generator, by=BRIGHTER):
    return images + by / 255


def not_a_number(models, images, labels, goal, generator):
    images = images.clone()
    images[1, 0, 0, 0] = float("nan")
    return images


def cropped(models, images, labels, goal, generator):
    return images[..., 1:]


def bytes(models, images, labels, goal, generator):
    return (images * 255).to(torch.uint8)


def pixels(models, images, labels, goal, generator):
    return images * 255


def nothing(models, images, labels, goal, generator):
    pass


def broken(models, images, labels, goal, generator):
    return models[0](images[:, :2])


def short(models, images):
    return images


def greedy(models, images, labels, goal, generator):
    # Memory runs out in its first calls, after it has drawn.
    from pathlib import Path

    noise = torch.rand(images.shape, generator=generator) + torch.rand(images.shape)
    for model in models:
        model(images)
    calls = Path(__file__).with_name("calls")
    calls.write_text(calls.read_text() + "x" if calls.exists() else "x")
    if len(calls.read_text()) <= int(Path(__file__).with_name("failing").read_text()):
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    return images + noise / 255


def asserting(models, images, labels, goal, generator):
    raise RuntimeError("CUDA error: device-side assert triggered")
"""


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "beside.py").write_text("BRIGHTER = 20\n")
    (tmp_path / "mine.py").write_text(CODE)
    return tmp_path / "mine.py"


def run(attack, models, clean, goal="untargeted", *, epsilon=8.0, batch=3, **arguments):
    given = {"python": str(attack)} if ".py:" in str(attack) else {"external": attack}
    return run_external(
        External.model_validate({**given, "arguments": arguments}),
        models,
        ImageBatch(clean, LABELS[: len(clean)], IDS[: len(clean)]),
        goal,
        epsilon=epsilon,
        key=("run",),
        engine=Engine(batch=batch),
        networks=["resnet18"] * len(models),
        allow_code=True,
    )


@pytest.mark.parametrize("goal", ["untargeted", "targeted"])
def test_own_attack_on_two_models(mine, source, second, clean, goal):
    """The gradient of the summed loss, computed on the classifiers themselves."""
    found = run(f"{mine}:one_step", [source, second], clean, goal)
    place = torch.from_numpy(clean).float().requires_grad_(True)
    loss = sum(nn.functional.cross_entropy(model(place), torch.from_numpy(LABELS)) for model in (source, second))
    (gradient,) = torch.autograd.grad(loss, place)
    moved = found.pixels.astype(int) - clean
    wanted = (gradient.sign() * (8 if goal == "untargeted" else -8)).numpy()
    # A sign hangs on a rounding where the gradient is nearly 0.
    assert (moved != wanted).mean() < 1e-3
    assert (found.gradients, found.forwards, found.over_budget, found.notes) == (2, 2, 0, ())


def test_a_gradient_without_a_classifier(mine, small_model, small_images):
    """Any module that takes pixels is a source."""

    class Pixels(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = small_model

        def forward(self, x):
            return self.network(x / 255 - 0.5)

    found = run(f"{mine}:one_step", [Pixels()], small_images[:5])
    assert found.gradients == 1
    assert (found.pixels != small_images[:5]).mean() > 0.9


def test_seeds_belong_to_the_images_of_a_call(mine, source, clean):
    found = run(f"{mine}:drawn", [source], clean)
    wanted = []
    for rows in (slice(0, 3), slice(3, 5)):
        seed = seed_of(("run",), IDS[rows])
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        shape = clean[rows].shape
        noise = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) + torch.rand(shape)
        images = torch.from_numpy(clean[rows]) / 255 + (noise + random.random() + np.random.rand()) / 255
        wanted.append((images * 255).round().to(torch.uint8).numpy())
    np.testing.assert_array_equal(found.pixels, np.concatenate(wanted))
    assert (run(f"{mine}:drawn", [source], clean).pixels == found.pixels).all()
    assert (run(f"{mine}:drawn", [source], clean, batch=5).pixels != found.pixels).any()
    # The first call of three images is the same, whatever follows.
    assert (run(f"{mine}:drawn", [source], clean[:3]).pixels == found.pixels[:3]).all()


@pytest.mark.parametrize("attack", ["drawn", "broken"])
def test_global_generators_are_put_back(mine, source, clean, attack):
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    wanted = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    try:
        run(f"{mine}:{attack}", [source], clean)
    except StudyError:
        assert attack == "broken"
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == wanted


def test_beyond_the_budget(mine, source, clean):
    found = run(f"{mine}:brighter", [source], clean, epsilon=8.5)
    assert (found.pixels == clean + 8).all()
    assert (found.over_budget, round(found.most_over, 2)) == (5, 11.5)
    (note, unused) = found.notes
    assert "left the budget or 0..255 on 5 of 5 images, by up to 11.50 pixel values" in note
    assert "called no source model" in unused
    within = run(f"{mine}:brighter", [source], clean, by=8.0)
    assert (within.pixels == clean + 8).all()
    assert (within.over_budget, within.most_over) == (0, 0)
    without = run(f"{mine}:brighter", [source], clean, epsilon=None)
    assert (without.pixels == clean + 20).all()
    assert without.over_budget == 0
    outside = run(f"{mine}:brighter", [source], clean, epsilon=None, by=100)
    assert (outside.pixels == np.minimum(clean.astype(int) + 100, 255)).all()
    assert (outside.over_budget, round(outside.most_over, 2)) == (5, 40)


@pytest.mark.parametrize(("function", "message"), [
    ("not_a_number", r"returned values that are not finite for b\n"),
    ("cropped", r"returned a float32 tensor \(3, 3, 32, 31\)"),
    ("bytes", r"returned a uint8 tensor \(3, 3, 32, 32\)"),
    ("pixels", r"returned values from 60 to 195"),
    ("nothing", r"returned NoneType, not a tensor"),
    ("broken", r"failed: RuntimeError: The size of tensor a \(2\)"),
    ("short", r"does not take labels and goal and generator"),
    ("no_such", r"has no function 'no_such'"),
])  # fmt: skip
def test_faulty_attacks(mine, source, clean, function, message):
    with pytest.raises(StudyError, match=message) as caught:
        run(f"{mine}:{function}", [source], clean)
    if function == "broken":
        line = CODE.splitlines().index("    return models[0](images[:, :2])") + 1
        assert caught.value.where == f"{mine}, line {line}: return models[0](images[:, :2])"


@pytest.mark.parametrize(("text", "message", "line"), [
    ("import torch\n\nimport nothing_of_the_kind\n", "ModuleNotFoundError", 3),
    ("def attack(:\n", "SyntaxError", 1),
])  # fmt: skip
def test_a_file_that_does_not_run(tmp_path, source, clean, text, message, line):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(StudyError, match=message) as caught:
        run(f"{path}:attack", [source], clean)
    assert str(caught.value.where).startswith(f"{path}, line {line}")


def test_a_call_is_made_once_more_when_memory_runs_out(mine, source, clean):
    """With the same seed, so that the images are the same, and without counting the passes of the call that failed."""
    failing, calls = mine.with_name("failing"), mine.with_name("calls")
    failing.write_text("0")
    whole = run(f"{mine}:greedy", [source], clean)
    calls.unlink()
    failing.write_text("1")
    again = run(f"{mine}:greedy", [source], clean)
    assert calls.read_text() == "xxx"
    np.testing.assert_array_equal(again.pixels, whole.pixels)
    assert again.forwards == whole.forwards == 1
    failing.write_text("99")
    with pytest.raises(StudyError, match=r"too little memory for 3 images in one call of .*greedy") as caught:
        run(f"{mine}:greedy", [source], clean)
    assert "CUBLAS_STATUS_ALLOC_FAILED" in caught.value.what


def test_a_device_failure_is_not_the_fault_of_the_attack(mine, source, clean):
    with pytest.raises(Exception, match="device-side assert") as caught:
        run(f"{mine}:asserting", [source], clean)
    assert device_failed(caught.value)


def test_code_runs_only_with_permission(mine, source, clean):
    mine.write_text("raise SystemExit('this ran')\n")
    with pytest.raises(StudyError, match="may not run without permission") as caught:
        run_external(
            External.model_validate({"python": f"{mine}:one_step"}),
            [source],
            ImageBatch(clean, LABELS, IDS),
            "untargeted",
            epsilon=8,
            key=(),
            engine=Engine(batch=4),
        )
    assert "--allow-code" in str(caught.value)


@pytest.mark.parametrize("attack", ["torchattack:SGM", "torchattack:BPA", "torchattack:DR"])
def test_attacks_that_change_the_network_leave_it_as_it_was(source, clean, attack):
    """SGM hooks residual blocks, BPA replaces the pooling and ReLUs, DR hooks a layer: each for good."""
    before = [(type(module), len(module._forward_hooks), len(module._backward_hooks)) for module in source.modules()]
    images = torch.from_numpy(clean).float().requires_grad_(True)

    def gradient():
        return torch.autograd.grad(source(images).square().sum(), images)[0]

    wanted = gradient()
    arguments = {"feature_layer_cfg": "layer1"} if attack.endswith("DR") else {}
    found = run(attack, [source], clean[:2], steps=2, **arguments)
    assert (found.pixels != clean[:2]).any()
    assert before == [(type(one), len(one._forward_hooks), len(one._backward_hooks)) for one in source.modules()]
    assert torch.equal(gradient(), wanted)


def test_the_surrogate_is_the_classifier():
    """Other sizes, BGR, networks of pixels, reordered outputs: the same logits, up to rounding."""
    images = torch.rand(2, 3, 48, 48)
    for changes in ({}, {"channels": "BGR"}, {"scale": 1.0, "mean": (100.0, 110.0, 120.0), "std": (1.0, 2.0, 3.0)}):
        model = classifier(2, **changes)
        model.outputs = torch.tensor([3, 1, 4])
        wanted = model(images * 255)
        found = surrogate(model, Passes())(images)
        assert found.shape == (2, 3)
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))
    torch.testing.assert_close(surrogate(nn.Identity(), Passes())(images), images * 255)


def test_the_watch_counts_what_passes(source):
    passes = Passes()
    model = surrogate(source, passes)
    images = torch.rand(2, 3, 32, 32, requires_grad=True)
    logits = model(images)
    assert (passes.forwards, passes.gradients) == (2, 0)
    logits.sum().backward(retain_graph=True)
    logits.sum().backward()
    assert passes.gradients == 4
    with torch.no_grad():
        model(images)
    # The network alone, on its own input.
    model[1](images).sum().backward()
    assert (passes.forwards, passes.gradients) == (6, 6)
    # A gradient of features alone does not go back to the input; one of all does, also where no image asks for it.
    held = []
    model[1].layer2.register_forward_hook(lambda _module, _given, found: held.append(found))
    loss = model(images.detach()).sum()
    torch.autograd.grad(loss, held[0], retain_graph=True)
    assert (passes.forwards, passes.gradients) == (8, 6)
    loss.backward()
    assert (passes.forwards, passes.gradients) == (8, 8)
    assert images.grad.abs().sum() > 0
