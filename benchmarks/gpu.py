"""The acceptance run of a GPU: checks whether it computes correctly, and measures how fast it is.

Run: python benchmarks/gpu.py --out FOLDER [--seconds 450] [--only STEP,STEP] [--transferattack CHECKOUT].

The run needs no network and no Ray. Its steps run one after the other, the most important first. Each step runs in its
own process with its own time limit. Time that a step does not use goes to later steps. As soon as the result of a case
is known, it is written as a line of JSON to FOLDER/results.jsonl. So a run that is cut off keeps its results. The run
ends with Markdown for benchmarks/README.md, which is also written to FOLDER/table.md. `--table` prints the tables of a
folder again.

Weights and images are random. The run needs torch, torchvision, timm, numpy, PyYAML and pydantic. torchattacks and
foolbox are compared if they are installed. Without a GPU, the run uses the CPU and small networks, to show that the
script works. Checks that need a GPU are then skipped.

Exit status: 0 if all checks passed, 1 if one failed, 3 if none failed and some were cut off for lack of time.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from multiprocessing.connection import Connection
from pathlib import Path

_BEGAN = time.monotonic()
ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(1, str(ROOT))

from on_gpu import bits, compilation, draws, host, layouts, memory, presets, processes, speed, targets  # noqa: E402
from on_gpu.markdown import page  # noqa: E402
from on_gpu.record import Line, Results, Step, newest, read  # noqa: E402
from on_gpu.setting import Setting  # noqa: E402

PASSED, FAILED, CUT_OFF = 0, 1, 3
_GRACE = 5.0
"""Seconds that a step may exceed its limit before it is ended. A step looks at the clock only between cases."""


@dataclass(frozen=True)
class Planned:
    """One step of the run.

    Attributes:
        run: The function that executes the step.
        seconds: The share of the step in the time of the run: about the seconds that it gets if the run has 450 s.
    """

    run: Callable[[Setting, Step], None]
    seconds: float
    networks: bool = True
    """Whether the step builds networks of torchvision or timm."""


STEPS = {
    "device": Planned(draws.device, 8, networks=False),
    "draws": Planned(draws.check, 8, networks=False),
    "presets": Planned(presets.check, 70),
    "bits": Planned(bits.check, 60),
    "layouts": Planned(layouts.check, 20),
    "memory": Planned(memory.check, 30),
    "compilation": Planned(compilation.check, 60),
    "speed": Planned(speed.first, 110),
    "targets": Planned(targets.check, 12),
    "synchronisation": Planned(host.check, 12),
    "two-processes": Planned(processes.together, 15),
    "study": Planned(processes.study, 10),
    "more-speed": Planned(speed.more, 60),
}
"""The steps, the most important first."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--seconds", type=float, default=450, help="seconds for the whole run")
    parser.add_argument("--only", help=f"run only these steps, separated by commas: {', '.join(STEPS)}")
    parser.add_argument(
        "--threads", type=int, default=len(os.sched_getaffinity(0)), help="number of threads and processes on the host"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], help="the default is a GPU if there is one")
    parser.add_argument("--transferattack", type=Path, help="a checkout of TransferAttack, to time its classes")
    parser.add_argument("--table", action="store_true", help="run nothing, and print the tables of the folder")
    chosen = parser.parse_args()
    names = chosen.only.split(",") if chosen.only else list(STEPS)
    unknown = [name for name in names if name not in STEPS]
    if unknown:
        parser.error(f"there is no step named {unknown[0]}; there are {', '.join(STEPS)}")
    chosen.out.mkdir(parents=True, exist_ok=True)
    path = chosen.out / "results.jsonl"
    if chosen.table:
        print(_tables(chosen.out, read(path)))
        return PASSED
    ends = _BEGAN + chosen.seconds
    if any(STEPS[name].networks for name in names):
        # Steps run in forked processes. Imports here save each step some seconds.
        for zoo in ("torchvision.models", "timm"):
            importlib.import_module(zoo)
    run = datetime.now().isoformat(sep=" ", timespec="milliseconds")
    results = Results(path, run)
    device, called = _device(chosen.device)
    results.add("run", called, "measured", figures={"device": device, "seconds": chosen.seconds, "steps": names})
    setting = Setting(device, chosen.threads, chosen.out.resolve(), chosen.transferattack)
    for number, name in enumerate(names):
        left = ends - time.monotonic()
        share = STEPS[name].seconds / sum(STEPS[one].seconds for one in names[number:])
        print(f"{name}: at most {left * share:.0f} s", file=sys.stderr, flush=True)
        _run_step(name, setting, results, left * share)
    lines = read(path)
    text = _tables(chosen.out, lines)
    (chosen.out / "table.md").write_text(text)
    print(text)
    return status([line for line in lines if line.run == run])


def status(lines: Sequence[Line]) -> int:
    """Return the exit status that follows from the outcomes of these lines."""
    outcomes = {line.outcome for line in lines}
    return FAILED if "failed" in outcomes else CUT_OFF if "cut off" in outcomes else PASSED


def _tables(folder: Path, lines: Sequence[Line]) -> str:
    called = next((line.case for line in reversed(lines) if line.step == "run"), str(folder))
    when = next((line.run for line in reversed(lines) if line.step == "run"), "")
    return page([line for line in newest(lines) if line.step != "run"], f"{called}, {when}")


def _run_step(name: str, setting: Setting, results: Results, seconds: float) -> None:
    """Run a step in a process of its own. If the device fails or the step hangs, only this process is ended."""
    if seconds <= 0:
        results.add(name, "the step", "cut off", "no time was left")
        return
    began = time.monotonic()
    child = multiprocessing.get_context("fork").Process(target=_in_child, args=(name, setting, results, seconds))
    child.start()
    child.join(seconds + _GRACE)
    late = child.is_alive()
    # Processes that the step has started are in its process group, and must end too.
    _end_group(child.pid)
    child.join()
    if late:
        results.add(name, "the step", "cut off", f"it was ended after {seconds + _GRACE:.0f} s")
    elif child.exitcode:
        results.add(name, "the step", "failed", f"its process ended with {child.exitcode}")
    taken = round(time.monotonic() - began, 1)
    results.add(name, "its time", "done", figures={"seconds": taken, "limit": round(seconds, 1)})


def _in_child(name: str, setting: Setting, results: Results, seconds: float) -> None:
    os.setsid()
    warnings.simplefilter("ignore")
    step = Step(name, results, seconds)
    with step.case("the step"):
        STEPS[name].run(setting, step)


def _end_group(process: int | None) -> None:
    if process is not None:
        try:
            os.killpg(process, signal.SIGKILL)
        except ProcessLookupError:
            return


def _device(wanted: str | None) -> tuple[str, str]:
    """Return the device and its name, found in a separate process.

    Steps are forked from this process, so this process must never use a GPU.
    """
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_look, args=(wanted, there))
    child.start()
    there.close()
    try:
        found: tuple[str, str] = here.recv()
    except EOFError:
        raise SystemExit("the process that looks for a GPU died: check the driver of the GPU") from None
    child.join()
    return found


def _look(wanted: str | None, answer: Connection) -> None:
    import torch

    from study.reproducibility.hardware import hardware

    device = wanted or ("cuda" if torch.cuda.is_available() else "cpu")
    answer.send((device, hardware(device)))


if __name__ == "__main__":
    sys.exit(main())
