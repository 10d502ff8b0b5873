"""Checks that compiled networks, also with CUDA graphs, give the results of eager networks.

The cases are ensembles, halved passes, hooks, ten models, and another batch size in earlier passes. On a CPU, Inductor
takes minutes. So only the front end of `torch.compile` runs there, with the backend `aot_eager`. The limits and guards
that are checked belong to this front end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from on_gpu.memory import Narrow
from on_gpu.presets import LEAST_COSINE
from on_gpu.record import Step
from on_gpu.setting import KEY, Setting, cosines, images, prepare, recipe, run, same_bits
from study.attacks import Attack
from study.attacks.loop import Crafted, Engine, step_directions
from study.models.classifier import Classifier, Preprocessing

COUNT, BATCH, STEPS, SIDE, MANY = 8, 8, 3, 32, 10


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        return features + torch.relu(self.convolution(features))


def check(setting: Setting, step: Step) -> None:
    """Check each way to compile. Most cases use networks of three layers, which compile in seconds."""
    with _front_end_alone() if not setting.on_gpu else contextlib.nullcontext():
        for how in (True, "cuda-graphs") if setting.on_gpu else (True,):
            called = "compiled" if how is True else how
            need = 20.0 if setting.on_gpu else 3.0
            for name, tried in {
                "an ensemble of three": _ensemble,
                "passes below the batch": _halved,
                "skip gradients": _skip_gradients,
                f"{MANY} models": _many,
                "another batch before": _other_batch,
            }.items():
                case = f"{name}, {called}"
                if step.room_for(case, need):
                    torch.compiler.reset()
                    with step.case(case):
                        tried(setting, step, case, how)


@contextlib.contextmanager
def _front_end_alone() -> Iterator[None]:
    """Return a context in which `torch.compile` runs only its front end, and never Inductor."""
    original = torch.compile

    def compiled(function: Any, **_: Any) -> Any:
        return original(function, backend="aot_eager", dynamic=False)

    with mock.patch.object(torch, "compile", compiled):
        yield


def _small(setting: Setting, seed: int, compile_: bool | str = False) -> Classifier:
    """Return a network of three layers, compiled if `compile_` says so. The width depends on `seed`.

    Networks need different shapes here, because compiled code may serve all networks of one shape.
    """
    torch.manual_seed(seed)
    width = 16 + 4 * seed
    layers = (nn.Conv2d(3, width, 3, stride=2, padding=1), _Block(width), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    network = nn.Sequential(*layers, nn.Linear(4 * width, 1000))
    made = Classifier(
        network, Preprocessing(SIDE, "bilinear", (0.5,) * 3, (0.25,) * 3), labels=1000, identity=f"small {seed}"
    )
    made.arrange(fold=True, layout="channels-last", device=setting.device)
    if compile_:
        made.compile_with(compile_)
    return made


def _direction(setting: Setting, models: Sequence[nn.Module], **of_engine: Any) -> NDArray[np.float32]:
    """Return the gradient of one step for each image, float32 (N, C, H, W)."""
    prepare(setting.threads, setting.device)
    engine = Engine(batch=BATCH, device=setting.device, **of_engine)
    attack = Attack.model_validate({"step": "l2", "steps": 1, "epsilon": 16})
    return step_directions(models, attack, "untargeted", images(COUNT, SIDE), key=KEY, engine=engine)


def _attacked(setting: Setting, models: Sequence[nn.Module], name: str = "MI", **of_engine: Any) -> Crafted:
    engine = Engine(**{"batch": BATCH, "device": setting.device, **of_engine})
    return run(models, recipe(name, steps=STEPS), images(COUNT, SIDE), engine)


def _ensemble(setting: Setting, step: Step, case: str, how: bool | str) -> None:
    eager = [_small(setting, seed) for seed in range(3)]
    compiled = [_small(setting, seed, how) for seed in range(3)]
    least = float(cosines(_direction(setting, compiled), _direction(setting, eager)).min())
    first, again = _attacked(setting, compiled), _attacked(setting, compiled)
    same = same_bits(first.pixels, again.pixels)
    step.check(
        case,
        least >= LEAST_COSINE and same,
        f"the cosine with eager gradients is {least:.6f}" if same else "a repeat gives other bits",
        cosine=round(least, 7),
    )


def _halved(setting: Setting, step: Step, case: str, how: bool | str) -> None:
    """Check passes that are smaller than the batch, as after a lack of memory.

    A CUDA graph must not overwrite the results of earlier passes.
    """
    eager, compiled = (_attack_in_halves(setting, _small(setting, 0, one)) for one in (False, how))
    least = float(cosines(compiled, eager).min())
    step.check(case, least >= LEAST_COSINE, f"the cosine with eager gradients is {least:.6f}", cosine=round(least, 7))


def _attack_in_halves(setting: Setting, model: Classifier) -> NDArray[np.float32]:
    return _direction(setting, [Narrow(model, BATCH // 2)])


def _skip_gradients(setting: Setting, step: Step, case: str, how: bool | str) -> None:
    """Check that skip gradients give the bits of the eager network, because their hooks turn compilation off."""
    side = setting.sizes.exact_side
    found = []
    for one in (False, how):
        model = setting.load(setting.sizes.residual, side, compile_=one)
        engine = Engine(batch=BATCH, device=setting.device)
        found.append(run([model], recipe("SGM", steps=STEPS), images(COUNT, side), engine).pixels)
    step.check(case, same_bits(*found), "a compiled network gives other images than an eager one")


def _many(setting: Setting, step: Step, case: str, how: bool | str) -> None:
    """Check that ten models all run compiled, although Dynamo by default keeps only eight graphs of one function."""
    from torch._dynamo.utils import counters

    counters.clear()
    least = 1.0
    for seed in range(MANY):
        compiled = _direction(setting, [_small(setting, seed, how)])
        least = min(least, float(cosines(compiled, _direction(setting, [_small(setting, seed)])).min()))
    graphs = int(counters["stats"]["unique_graphs"])
    enough = graphs >= MANY
    step.check(
        case,
        enough and least >= LEAST_COSINE,
        f"the cosine with eager gradients is {least:.6f}"
        if enough
        else f"only {graphs} of {MANY} models were compiled",
        graphs=graphs,
        cosine=round(least, 7),
    )


def _other_batch(setting: Setting, step: Step, case: str, how: bool | str) -> None:
    """Check that a network gives the same bits if it has processed another batch size before."""
    alone = _attacked(setting, [_small(setting, 0, how)])
    torch.compiler.reset()
    model = _small(setting, 0, how)
    _attacked(setting, [model], batch=4)
    after = _attacked(setting, [model])
    step.check(case, same_bits(alone.pixels, after.pixels), "the batch before changes bits")
