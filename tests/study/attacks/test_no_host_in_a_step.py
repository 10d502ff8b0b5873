"""Every preset: no step makes the host wait for a device, so that a GPU always has work."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch

from study.attacks import loop
from study.attacks.components.diversity import Diversity
from study.attacks.kinds import Pool
from study.attacks.loop import Engine, ImageBatch, batches
from study.attacks.presets import known
from study.devices.copies import uploaded
from study.models import Model, loading
from study.reproducibility import philox_kernel, rng
from tests.host_reads import DEVICE, HostReadError, refused
from tests.study.attacks.test_randomness import FOR_TRANSFORMERS, small

SIZE = 32
LABELS = np.array([1, 2, 3, 4])
IDS = [f"image{index}" for index in range(4)]
CLEAN = np.random.default_rng(0).integers(0, 256, (4, 3, SIZE, SIZE), dtype=np.uint8)

OFTEN = {
    "aa", "admix", "bsr", "cwa", "di", "everywhere", "fgs", "i-fgs2m", "ila++", "l2t", "m-attack", "mi", "pgd",
    "pna-patchout", "s4st", "sia", "smer", "ssa", "su", "ta-bench", "tgr", "ti", "us-mm", "va-i", "vmi",
}  # fmt: skip
"""Presets with host work of every kind. The others are tried with `-m slow`."""

EXCEPTIONS = {
    "l2t": "the chain of operations of a step follows from the gains of the step before",
}
"""Presets that read numbers of the device in a step, and why they must."""


@pytest.fixture(scope="module")
def models():
    references = {"resnet": {"size": SIZE}, "vit": {"arguments": {"img_size": SIZE}, "size": SIZE}}
    return {
        name: loading.load(
            "m", Model.model_validate({"network": f"timm:test_{name}", "weights": "random:3", **keys}), fold=True
        ).to(DEVICE)
        for name, keys in references.items()
    }


@pytest.fixture(autouse=True)
def _meta(monkeypatch):
    """`meta` has no autocast, and images of a first stage do not come back from it."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    # As on a GPU, where one kernel draws; 400 operations on tensors take long to be watched.
    monkeypatch.setattr(rng, "one_kernel", lambda device: device != "cpu")
    monkeypatch.setattr(
        philox_kernel, "words", lambda keys, _, blocks: keys.new_zeros(1).expand(len(keys), 4 * blocks).contiguous()
    )
    monkeypatch.setattr(loop.AttackOnImages, "first_stage", lambda run: _stage(run.attack))


def _stage(attack):
    return () if attack.first is None else [CLEAN] * len(attack.first.scored_points)


def run(models, attack, goal="untargeted"):
    """All steps of one batch on a GPU that is none."""
    names = {one.name for one in attack.assembly}
    model = models["vit" if names & FOR_TRANSFORMERS else "resnet"]
    pool = Pool(CLEAN[::-1].copy(), LABELS[::-1].copy()) if attack.others else None
    given = ImageBatch(CLEAN, LABELS, IDS)
    engine = Engine(batch=4, device=DEVICE)
    radii = np.full(4, 8.0) if attack.budget.kind in {"l2", "rmsd"} else None
    with refused():
        return next(batches([model], attack, goal, given, key=("k",), engine=engine, radii=radii, pool=pool))


@pytest.mark.parametrize(
    "name", [name if name in OFTEN else pytest.param(name, marks=pytest.mark.slow) for name in known()]
)
def test_no_step_waits_for_the_device(models, name):
    attack = small(name)
    if attack.uses_weight_sets:
        pytest.skip("it needs a model of several weights")
    if name in EXCEPTIONS:
        with pytest.raises(HostReadError):
            run(models, attack)
        return
    moved = run(models, attack)
    assert all(delta.device.type == DEVICE and len(delta) == 4 for delta in moved.deltas)
    if attack.first is not None:
        run(models, attack.first)


PLANTED = {
    "item": lambda image: image * image.sum().item(),
    "float": lambda image: image * float(image.max()),
    "branch": lambda image: image if image.max() > 0 else -image,
    "mask": lambda image: image + image[image > 0].sum(),
    "nonzero": lambda image: image + (image > 0).nonzero().sum(),
    "cpu": lambda image: image.cpu().to(DEVICE),
    "numpy": lambda image: image * image.numpy().max(),
    "upload": lambda image: image + torch.from_numpy(np.zeros(SIZE, np.float32)).to(image.device),
    "copy": lambda image: image.clone().copy_(torch.zeros(1, 3, SIZE, SIZE)),
    "list": lambda image: image + torch.tensor([1.0, 2.0, 3.0], device=image.device).view(3, 1, 1),
    "new": lambda image: image + image.new_tensor([1.0, 2.0, 3.0]).view(3, 1, 1),
    "index": lambda image: image[[3, 2, 1, 0]],
    "index of the host": lambda image: image[torch.arange(4)],
    "solve": lambda image: torch.linalg.solve(image, image),
}


@pytest.mark.parametrize("planted", PLANTED.values(), ids=PLANTED)
def test_a_planted_wait_is_found(models, planted, monkeypatch):
    monkeypatch.setattr(Diversity, "make", lambda self, image, given: planted(image))
    with pytest.raises(HostReadError):
        run(models, small("di"))


def test_an_upload_that_does_not_wait_is_none():
    with refused():
        assert uploaded(np.arange(3), DEVICE).device.type == DEVICE
