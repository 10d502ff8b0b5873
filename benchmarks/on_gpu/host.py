"""Checks that the host does not wait for the GPU between the first gradient of an attack and the last one."""

from __future__ import annotations

import contextlib
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from on_gpu.record import Step
from on_gpu.setting import MAIN, NO_GPU, Setting, images, recipe, run
from study.attacks.loop import Engine

COUNT, STEPS = 8, 4
_MESSAGE = "called a synchronizing CUDA operation"
_SHOWN = 4


def check(setting: Setting, step: Step) -> None:
    """Check for each main attack that no line of code makes the host wait for the GPU, and count the waits."""
    if not setting.on_gpu:
        for attack in MAIN:
            step.skipped(attack, NO_GPU)
        return
    model = setting.load(setting.sizes.residual, setting.sizes.exact_side)
    for attack in MAIN:
        if not step.room_for(attack, 2.0):
            continue
        with step.case(attack):
            places = waits(setting, model, attack)
            shown = ", ".join(f"{place} ({count} times)" for place, count in places.most_common(_SHOWN))
            step.check(attack, not places, f"the host waits in {shown}", waits=sum(places.values()), places=len(places))


def waits(setting: Setting, model: nn.Module, attack: str) -> Counter[str]:
    """Return the lines of code at which the host waits for the GPU, and how often.

    Only the time from the second gradient of the attack to the last one counts.
    """
    given = images(COUNT, setting.sizes.exact_side)
    engine = Engine(batch=COUNT, device=setting.device)
    passes = Passes()
    with passes.of(model):
        run([model], recipe(attack, steps=STEPS), given, engine)
    with warnings.catch_warnings(record=True) as caught, passes.of(model, last=passes.count):
        warnings.simplefilter("always")
        run([model], recipe(attack, steps=STEPS), given, engine)
    found = [one for one in caught if _MESSAGE in str(one.message)]
    return Counter(f"{Path(one.filename).name}:{one.lineno}" for one in found)


class Passes:
    """Counts the passes of a network. It can also make PyTorch warn whenever the host waits for the GPU.

    The warnings need the number of the `last` pass. They come from the second pass until the last one begins.
    """

    def __init__(self) -> None:
        self.count = 0

    @contextlib.contextmanager
    def of(self, model: nn.Module, last: int | None = None) -> Iterator[None]:
        self.count = 0

        def passed(*_: object) -> None:
            self.count += 1
            if last is not None:
                torch.cuda.set_sync_debug_mode("warn" if 1 < self.count < last else "default")

        handle = model.register_forward_pre_hook(passed)
        try:
            yield
        finally:
            handle.remove()
            if last is not None:
                torch.cuda.set_sync_debug_mode("default")
