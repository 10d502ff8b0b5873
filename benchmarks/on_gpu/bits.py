"""Checks that images get the same bits in a repeat, in another order, in other batches, and in a fresh process.

This is checked in every mode. A compiled mode must give the same bits within one process. A fresh process may choose
other kernels. So for compiled modes in a fresh process, the result is only reported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from on_gpu.record import Step
from on_gpu.setting import MAIN, Mode, Setting, digest, images, recipe, run, same_bits
from study.attacks.kinds import Pool
from study.attacks.loop import Engine
from study.models.classifier import Classifier

COUNT, BATCH, STEPS = 12, 8, 3
ORDERS = {
    "another order": [7, 2, 11, 0, 9, 4, 1, 10, 3, 8, 5, 6],
    "other neighbours": [10, 3, 6],
    "an image alone": [5],
}
FRESH = ("MI", "DI", "VMI")
"""The attacks that a fresh process repeats."""
_ROOT = Path(__file__).resolve().parents[2]


def modes(setting: Setting) -> Iterator[Mode]:
    """Yield every mode, first those with eager kernels. On a CPU, compiled modes are left out: they take too long."""
    for precision in setting.precisions:
        yield Mode(precision)
    if setting.on_gpu:
        yield Mode("bfloat16", "cuda-graphs")
        yield Mode("float32", True)


def check(setting: Setting, step: Step) -> None:
    """Check that the main attacks give the same bits in a repeat, in other batches, and in a fresh process."""
    digests: dict[str, str] = {}
    for network, mode in _pairs(setting):
        called = f"{network}, {mode}"
        if not step.room_for(called, 30.0 if mode.compile else 3.0):
            continue
        model = _load(setting, network, mode)
        for attack in _attacks(setting, network, mode):
            case = f"{attack}, {called}"
            if step.room_for(case):
                with step.case(case):
                    whole = _made(setting, model, attack, mode)
                    digests[case] = digest(whole)
                    differ = [
                        what
                        for what, rows in {"a repeat": range(COUNT), **ORDERS}.items()
                        if not same_bits(_made(setting, model, attack, mode, list(rows)), whole[list(rows)])
                    ]
                    step.check(case, not differ, f"other bits for {', '.join(differ)}")
    wanted = [case for case in digests if case.partition(",")[0] in FRESH]
    if not wanted or not step.room_for("a fresh process", 15.0 if setting.on_gpu else 5.0):
        return
    with step.case("a fresh process"):
        _compare(step, {case: digests[case] for case in wanted}, _of_fresh_process(setting, wanted, step.left))


def _compare(step: Step, here: dict[str, str], there: dict[str, str]) -> None:
    differ = [case for case, one in here.items() if there.get(case) != one]
    compiled = [case for case in here if any(case.endswith(how) for how in ("compiled", "cuda-graphs"))]
    eager = [case for case in differ if case not in compiled]
    step.check("a fresh process", not eager, f"other bits in {'; '.join(eager)}", cases=len(here) - len(compiled))
    if compiled:
        other = [case for case in differ if case in compiled]
        step.measured("a fresh process, compiled", cases=len(compiled), with_other_bits="; ".join(other) or "none")


def _pairs(setting: Setting) -> Iterator[tuple[str, Mode]]:
    sizes = setting.sizes
    for mode in modes(setting):
        for network in (sizes.residual,) if mode.compile else (sizes.residual, sizes.depthwise, sizes.transformer):
            yield network, mode


def _attacks(setting: Setting, network: str, mode: Mode) -> Sequence[str]:
    """Return the attacks to check on a network in a mode.

    In float32, and on the residual network on a GPU, these are all main attacks. Elsewhere two attacks are enough,
    because the other attacks only add computations in float32. SGM (skip gradients) needs residual branches, and turns
    compilation off. So it is left out for other networks and in compiled modes.
    """
    residual = network == setting.sizes.residual
    if mode.precision != "float32" and not (residual and setting.on_gpu):
        return MAIN[:2]
    return [attack for attack in MAIN if attack != "SGM" or (residual and not mode.compile)]


def _load(setting: Setting, network: str, mode: Mode) -> Classifier:
    return setting.load(network, setting.sizes.exact_side, compile_=mode.compile)


def _made(
    setting: Setting, model: Classifier, attack: str, mode: Mode, rows: Sequence[int] = range(COUNT)
) -> NDArray[np.uint8]:
    given = images(COUNT, setting.sizes.exact_side)
    engine = Engine(batch=BATCH, device=setting.device, precision=mode.precision)
    pool = Pool(given.clean, given.labels)
    return run([model], recipe(attack, steps=STEPS), given.take(rows), engine, pool=pool).pixels


def _of_fresh_process(setting: Setting, cases: Sequence[str], seconds: float) -> dict[str, str]:
    """Return the digests that a new Python process finds for these cases, by case. `seconds`: the time limit."""
    paths = [str(_ROOT / "benchmarks"), str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-m", "on_gpu.bits", setting.device, json.dumps(list(cases))],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the fresh process ended with status {done.returncode}: {done.stderr.strip()[-300:]}")
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


def _answer(device: str, cases: Sequence[str]) -> None:
    """Print the digests of these cases as JSON. The fresh process runs this function."""
    setting = Setting(device, threads=1, folder=Path())
    found: dict[str, str] = {}
    for network, mode in _pairs(setting):
        wanted = {attack: f"{attack}, {network}, {mode}" for attack in FRESH}
        if any(case in cases for case in wanted.values()):
            model = _load(setting, network, mode)
            found |= {
                case: digest(_made(setting, model, attack, mode)) for attack, case in wanted.items() if case in cases
            }
    print(json.dumps(found))


if __name__ == "__main__":
    _answer(sys.argv[1], json.loads(sys.argv[2]))
