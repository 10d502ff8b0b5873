"""Checks attacks with too little memory: passes are halved, and the images are those of smaller passes.

On every device, a fake network raises out-of-memory errors. On a GPU, the process is also limited to less memory than
the attack needs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from on_gpu.record import Step
from on_gpu.setting import Setting, images, recipe, run, same_bits
from study.attacks.loop import Crafted, Engine
from study.models.classifier import Classifier
from study.models.predict import predict

COUNT, BATCH, STEPS = 4, 4, 2
FEW_VIEWS, MANY_VIEWS = ({"smoothing": {"copies": copies, "sigma": 15}} for copies in (4, 16))
_LEFT = 0.6
"""The share of the needed memory that the process may use."""


class Narrow(nn.Module):
    """A network that raises an out-of-memory error for more than `most` images in a pass."""

    def __init__(self, model: Classifier, most: int) -> None:
        super().__init__()
        self.model, self.most = model, most

    def forward(self, pixels: Tensor) -> Tensor:
        if len(pixels) > self.most:
            raise torch.OutOfMemoryError(f"no memory for {len(pixels)} images")
        logits: Tensor = self.model(pixels)
        return logits


def check(setting: Setting, step: Step) -> None:
    """Check halved passes: first with the errors of a fake network, then with a memory limit of the process."""
    model = setting.load(setting.sizes.residual, setting.sizes.exact_side)
    for most in (7, 1):
        case = f"told, at most {most} image{'s' * (most > 1)}"
        with step.case(case):
            found = _attacked(setting, Narrow(model, most), largest=64)
            # The images must be those of an attack whose passes were small from the start.
            small = _attacked(setting, model, found.max_pass_images)
            fits = found.max_pass_images <= most
            step.check(
                case,
                fits and same_bits(found.pixels, small.pixels),
                "images differ from those of smaller passes" if fits else "the largest pass is above the limit",
                largest_pass=found.max_pass_images,
            )
    if not setting.on_gpu:
        step.skipped("a limit of the process", "no GPU")
        step.skipped("a limit of the process, predictions", "no GPU")
        return
    for compiled in (False, "cuda-graphs"):
        case = "a limit of the process" + (f", {compiled}" if compiled else "")
        if step.room_for(case, 30.0 if compiled else 5.0):
            with step.case(case):
                _limited(setting, step, case, compiled)
    with step.case("a limit of the process, predictions"):
        _limited_predictions(setting, step)


def _attacked(setting: Setting, model: nn.Module, largest: int, **of_engine: Any) -> Crafted:
    engine = Engine(batch=BATCH, max_pass_images=largest, device=setting.device, **of_engine)
    given = images(COUNT, setting.sizes.exact_side)
    return run([model], recipe("SG", steps=STEPS, **FEW_VIEWS), given, engine)


def _limited(setting: Setting, step: Step, case: str, compiled: bool | str) -> None:
    """Check an attack with up to 256 views in a pass, in a process that may use less memory than the attack needs."""
    side, engine = setting.sizes.side, Engine(batch=16, max_pass_images=256, device=setting.device)
    given = images(16, side)
    attack = recipe("SG", steps=STEPS, **MANY_VIEWS)
    model = setting.load(setting.sizes.residual, side)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    free = run([model], attack, given, engine)
    needed, total = torch.cuda.max_memory_reserved(), torch.cuda.get_device_properties(0).total_memory
    model.compile_with(compiled) if compiled else None
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(_LEFT * needed / total)
    try:
        limited = run([model], attack, given, engine)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    halved = limited.max_pass_images < free.max_pass_images
    kept = int(np.abs(limited.pixels.astype(int) - given.clean).max()) <= 15
    step.check(
        case,
        halved and kept,
        "passes were not halved" if not halved else "the budget was left",
        needed_mib=round(needed / 2**20),
        largest_pass=limited.max_pass_images,
        pixels_equal=round(float((limited.pixels == free.pixels).mean()), 4),
    )


def _limited_predictions(setting: Setting, step: Step) -> None:
    case, side = "a limit of the process, predictions", setting.sizes.side
    model = setting.load(setting.sizes.residual, side)
    clean = images(256, side).clean
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    free = predict(model, clean, batch=256, device=setting.device)
    needed, total = torch.cuda.max_memory_reserved(), torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(_LEFT * needed / total)
    try:
        limited = predict(model, clean, batch=256, device=setting.device)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    differ = int((limited.top5[:, 0] != free.top5[:, 0]).sum())
    step.check(
        case,
        limited.size < 256 and differ <= 1,
        f"passes of {limited.size}, and {differ} predictions differ",
        pass_size=limited.size,
        needed_mib=round(needed / 2**20),
    )
