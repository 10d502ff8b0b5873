"""Checks that the device draws the same random numbers as numpy on the host, and measures how long a draw takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from on_gpu.record import Step
from on_gpu.setting import KEY, Setting, same_bits, synchronise
from study.reproducibility.rng import Streams, draws, philox

SHAPES = ((3, 224, 224), (3, 33, 35), (7,))
PLACES = (("start", 0, 0), ("gaussian", 3, 1), ("gpu", 299, 19))
"""Places in the random streams: a purpose, a step and a copy."""
_KINDS, _TIMED = ("uniform", "normal"), 16
"""Kinds of numbers, and the number of images whose draws are timed."""


def check(setting: Setting, step: Step) -> None:
    """Compare random words, uniform numbers and normal numbers with those of the CPU.

    The numbers are drawn in several shapes, steps and copies.
    """
    with step.case("words"):
        keys = draws(10, "gpu", "keys").reshape(5, 2)
        counter = np.array([0, 7, 2**40, 2**64 - 1], dtype=np.uint64)
        there = torch.from_numpy(np.ascontiguousarray(keys).view(np.int64)).to(setting.device)
        found = philox(there, counter, 4099).cpu().numpy().view(np.uint64)
        expected = np.stack([np.random.Philox(key=key, counter=counter).random_raw(4099) for key in keys])
        step.check("words", same_bits(found, expected), "the device's generator gives other words than numpy's")
    streams = Streams(KEY, [f"image{number}" for number in range(4)])
    for kind in _KINDS:
        with step.case(kind):
            wrong = []
            for shape in SHAPES:
                for purpose, at, copy in PLACES:
                    draw = getattr(streams, kind)
                    here = draw(shape, setting.device, purpose, at, copy).cpu().numpy()
                    if not same_bits(here, draw(shape, "cpu", purpose, at, copy).numpy()):
                        wrong.append(f"{shape} of {purpose} at step {at}, copy {copy}")
            step.check(kind, not wrong, f"other numbers than on the CPU: {'; '.join(wrong)}")
    with step.case("time"):
        many = Streams(KEY, [f"image{number}" for number in range(_TIMED)])
        step.measured("time", **{f"{kind}, us an image": _microseconds(many, kind, setting) for kind in _KINDS})


def _microseconds(streams: Streams, kind: str, setting: Setting) -> float:
    draw = getattr(streams, kind)
    return round(1e6 * _seconds(lambda: draw((3, 224, 224), setting.device, "t"), setting) / _TIMED, 1)


def _seconds(draw: Callable[[], object], setting: Setting, rounds: int = 5) -> float:
    taken = []
    for _ in range(rounds + 1):
        synchronise(setting.device)
        began = time.perf_counter()
        draw()
        synchronise(setting.device)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])


def device(setting: Setting, step: Step) -> None:
    """Record the name of the device, and measure the speed of copies and of matrix products in each precision."""
    figures: dict[str, object] = {"torch": torch.__version__, "threads": setting.threads}
    if setting.on_gpu:
        held = torch.cuda.get_device_properties(0)
        figures |= {
            "compute capability": f"{held.major}.{held.minor}",
            "memory, GiB": round(held.total_memory / 2**30, 1),
            "CUDA": str(torch.version.cuda),
            "cuDNN": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
        }
    step.measured("machine", **figures)
    side = 8192 if setting.on_gpu else 256
    with step.case("products of matrices"):
        speeds = {}
        for precision in setting.precisions:
            torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
            kind = torch.bfloat16 if precision == "bfloat16" else torch.float32
            square = torch.randn(side, side, device=setting.device).to(kind)
            taken = _seconds(lambda: square @ square, setting)  # noqa: B023
            speeds[f"{precision}, TFLOP/s"] = round(2 * side**3 / taken / 1e12, 3)
        step.measured("products of matrices", **speeds)
    with step.case("copies"):
        block = torch.ones(2**28 if setting.on_gpu else 2**22, device=setting.device)
        target = torch.empty_like(block)
        taken = _seconds(lambda: target.copy_(block), setting)
        step.measured("copies", **{"GB/s, read and written": round(2 * 4 * block.numel() / taken / 1e9, 1)})
