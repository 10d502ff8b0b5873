"""Checks that two processes on one device give the bits of one process, and runs a whole small study.

It also measures how many images per second two processes do together.
"""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import shutil
import time
from importlib import metadata
from multiprocessing.queues import SimpleQueue
from typing import Any

import numpy as np

from on_gpu.record import Step
from on_gpu.setting import Mode, Setting, digest, images, recipe, run, synchronise
from study.attacks.loop import Engine

ROUNDS = 3


def together(setting: Setting, step: Step) -> None:
    """Run an attack in one process, then in two processes at the same time.

    The processes are forked, so this process must not have used a GPU before.
    """
    with step.case("two processes"):
        (alone,), both = _processes(setting, 1), _processes(setting, 2)
        same = {one["digest"] for one in (*both, alone)}
        gain = sum(one["a second"] for one in both) / alone["a second"]
        step.check(
            "two processes",
            len(same) == 1,
            "images differ from those of one process",
            images_a_second_alone=round(alone["a second"], 1),
            images_a_second_of_two=round(sum(one["a second"] for one in both), 1),
            gain=round(gain, 3),
        )


def _processes(setting: Setting, count: int) -> list[dict[str, Any]]:
    context = multiprocessing.get_context("fork")
    answers: SimpleQueue[dict[str, Any]] = context.SimpleQueue()
    ready = context.Barrier(count)
    children = [context.Process(target=_work, args=(setting, ready, answers)) for _ in range(count)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    if any(child.exitcode for child in children):
        raise RuntimeError(f"a process ended with {[child.exitcode for child in children]}")
    return [answers.get() for _ in children]


def _work(setting: Setting, ready: Any, answers: SimpleQueue[dict[str, Any]]) -> None:
    count = 64 if setting.on_gpu else 8
    model = setting.load(setting.sizes.residual, setting.sizes.side)
    engine = Engine(batch=count, device=setting.device, precision=Mode().precision)
    given, attack = images(count, setting.sizes.side), recipe("DI", steps=5)
    made = run([model], attack, given, engine)
    ready.wait()
    began = time.perf_counter()
    for _ in range(ROUNDS):
        run([model], attack, given, engine)
    synchronise(setting.device)
    answers.put({"digest": digest(made.pixels), "a second": ROUNDS * count / (time.perf_counter() - began)})


def study(setting: Setting, step: Step) -> None:
    """Launch a small study in this process, and check that it has rows."""
    case = "a study in this process"
    missing = [name for name in ("polars", "pyarrow", "rich", "typer") if importlib.util.find_spec(name) is None]
    if missing:
        step.skipped(case, f"not installed: {', '.join(missing)}")
        return
    if not metadata.entry_points(group="study.launchers"):
        step.skipped(case, "the project is not installed, so no study can be launched: pip install --no-deps -e .")
        return
    with step.case(case):
        import study as project

        folder = setting.folder / "study"
        # Delete the study of an earlier run. It is complete, so it would compute nothing.
        shutil.rmtree(folder, ignore_errors=True)
        made = project.launch(_spec(setting), folder / "run", inline=True, quiet=True, wandb="disabled")
        hardware = json.loads((folder / "run" / "arithmetic.json").read_text())["workers"][0]["processor"]
        step.check(case, len(made.rows) > 0, "there are no rows", rows=len(made.rows), processor=hardware)


def _spec(setting: Setting) -> dict[str, Any]:
    """Write random images to disk, and return a spec with two networks of random weights on these images."""
    from PIL import Image

    folder, side = setting.folder / "study" / "images", 64
    folder.mkdir(parents=True, exist_ok=True)
    given = images(16, side)
    lines = ["file,label"]
    for name, pixels, label in zip(given.images, given.clean, given.labels, strict=True):
        Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(folder / f"{name}.png")
        lines.append(f"{name}.png,{label}")
    (folder / "images.csv").write_text("\n".join(lines) + "\n")
    network = {"size": side, "weights": "random:0"}
    return {
        "study": "gpu",
        "seed": 0,
        "images": {"folder": str(folder), "list": str(folder / "images.csv"), "size": side, "keep": "all", "count": 16},
        "models": {
            "resnet": {"network": "timm:test_resnet", **network},
            "efficientnet": {"network": "timm:test_efficientnet", **network},
        },
        "attacks": {"mi": {"steps": 3}, "di": {"steps": 3}},
        "experiments": {"single": {"attacks": ["mi", "di"], "sources": "each"}},
        "numerics": {"batch": 8},
        "run": {"shard": 16},
    }
