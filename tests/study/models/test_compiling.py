"""Compiled models: each for itself, also the ninth; no silent way back; replays overwrite nothing."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch._dynamo.backends.common import aot_autograd

from study.errors import StudyError
from study.models import compiling
from study.models.classifier import Classifier, Preprocessing
from study.reproducibility import numerics

MANY = 10


def classifier(seed):
    """Ten of these share all their code and differ in their weights and widths."""
    torch.manual_seed(seed)
    layers = [torch.nn.Conv2d(3, 2 + seed, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
    network = torch.nn.Sequential(*layers, torch.nn.Linear(2 + seed, 4))
    return Classifier(network, Preprocessing(8, "bilinear", (0.5,) * 3, (0.5,) * 3), labels=4, identity=str(seed))


@pytest.fixture(autouse=True)
def fresh():
    limits = torch._dynamo.config.recompile_limit, torch._dynamo.config.accumulated_recompile_limit
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit, torch._dynamo.config.accumulated_recompile_limit = limits
    torch._dynamo.config.fail_on_recompile_limit_hit = False


@pytest.fixture
def counted(monkeypatch):
    """A backend that counts compiled graphs and their runs."""
    found = Counter()

    def backend(graph, example):
        found["compiled"] += 1

        def run(*given):
            found["run"] += 1
            return graph.forward(*given)

        return run

    monkeypatch.setattr(compiling, "BACKEND", backend)
    return found


def test_the_ninth_model_is_compiled_too(counted):
    models = [classifier(seed) for seed in range(MANY)]
    pixels = torch.rand(2, 3, 8, 8) * 255
    for model in models:
        model.compile_with(True)
    for _ in range(2):
        for model in models:
            assert torch.equal(model(pixels), model.logits(pixels))
    assert counted == {"compiled": MANY, "run": 2 * MANY}


def test_every_shape_has_code_of_its_own(counted):
    """Kernels for any shape round otherwise than those for one: which came first would matter."""
    model = classifier(1)
    model.compile_with(True)
    for images in (2, 3, 4, 2):
        model(torch.rand(images, 3, 8, 8))
    assert counted == {"compiled": 3, "run": 4}


def test_a_model_that_would_run_without_compilation_is_an_error(counted, monkeypatch):
    monkeypatch.setattr(compiling, "_VERSIONS", 2)
    torch._dynamo.config.recompile_limit = 2
    model = classifier(2)
    model.compile_with(True)
    for images in (2, 3):
        model(torch.rand(images, 3, 8, 8))
    with pytest.raises(StudyError, match="the Sequential has been compiled for 2 shapes"):
        model(torch.rand(4, 3, 8, 8))


@pytest.fixture
def replayed(monkeypatch):
    """A backend that, like a CUDA graph, writes its results to the same memory in every run."""

    def compiler(graph, example):
        held = {}

        def run(given):
            made = graph(*given)
            for place, one in enumerate(made):
                if isinstance(one, torch.Tensor) and one.is_floating_point():
                    held.setdefault(place, torch.empty_like(one)).copy_(one)
            return [held.get(place, one) for place, one in enumerate(made)]

        run._boxed_call = True
        return run

    monkeypatch.setattr(compiling, "BACKEND", aot_autograd(fw_compiler=compiler, bw_compiler=compiler))


def in_two_parts(model, pixels):
    """Logits and gradients of a batch in two passes, as where `max_pass_images` is below the batch."""
    parts = []
    for part in pixels.split(2):
        leaf = part.detach().clone().requires_grad_(True)
        logits = model(leaf)
        parts.append((logits.detach(), *torch.autograd.grad(logits.logsumexp(1).sum(), leaf)))
    return [torch.cat(one) for one in zip(*parts, strict=True)]


@pytest.mark.parametrize(("how", "overwritten"), [(True, True), ("cuda-graphs", False)])
def test_a_replay_overwrites_no_earlier_part(replayed, how, overwritten):
    """The first case shows that the backend does overwrite what is not copied."""
    pixels = torch.rand(4, 3, 8, 8) * 255
    plain = in_two_parts(classifier(3), pixels)
    model = classifier(3)
    model.compile_with(how)
    for one, other in zip(in_two_parts(model, pixels), plain, strict=True):
        assert torch.allclose(one, other) != overwritten


def test_a_cast_copy_is_compiled_as_its_original_is(counted):
    model = classifier(4)
    first = model.in_precision("bfloat16")
    assert not first.compiled
    model.compile_with(True)
    assert first.compiled
    with numerics.autocast("bfloat16", "cpu"):
        assert first(torch.rand(2, 3, 8, 8)).dtype == torch.bfloat16
    assert counted == {"compiled": 1, "run": 1}
