"""The command `study profile`: measures how long gradients, predictions and model loads take.

All workers are busy at the same time, as in a study.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from actors.backends.bounded_calls import CallTimeouts, bounded
from actors.backends.interface import Backend
from actors.backends.simulated import Costs
from actors.resources import placement, shards
from actors.resources.waiting import Waiting
from actors.scheduling.backlog import Task
from actors.scheduling.limits import Limits
from actors.scheduling.messages import CraftJob, PredictJob
from actors.scheduling.scheduler import Done, Scheduler
from actors.workers.worker_config import WorkerConfig
from study.attacks.presets import keys_of
from study.attacks.recipe import Attack
from study.errors import StudyError
from study.process.interrupt import Interrupt
from study.reproducibility import numerics
from study.spec.own_parts import UserCode, functions, with_code
from study.spec.spec_file import SpecFile
from study.terminal.prose import say
from study.terminal.screen import counted

_STEPS = 3
_ROUNDS = 4


def profile(
    file: SpecFile, output: Path | None, console: Console, start: Callable[[], Backend], *, allow_code: bool
) -> Costs:
    """Measure the models of a spec, write the costs to `profile.json`, and return them. `study plan` reads this file.

    The images are noise, because their content does not change the duration. A remote service is not called: the
    duration of a request follows from the rate in the spec. `output`: the path of the file; None for
    `runs/<study>/profile.json`. `start` makes the backend. Raises StudyError before workers start if a model is
    missing, or if a model runs the user's own code and `allow_code` is False.
    """
    from study.models.check import check_models

    check_models(file.spec.models, file.spec.labels, file.where, allow_code=allow_code)
    code = UserCode(functions=functions(file.spec, file.where) if allow_code else ())
    if any(one.python for model in file.spec.models.values() if model.transform for one in model.transform.parts):
        file, code = with_code(file, allow_code=allow_code)
    with Interrupt() as interrupt:
        return _profile(file, output, console, start, allow_code=allow_code, code=code, interrupt=interrupt)


def _profile(
    file: SpecFile,
    output: Path | None,
    console: Console,
    start: Callable[[], Backend],
    *,
    allow_code: bool,
    code: UserCode,
    interrupt: Interrupt,
) -> Costs:
    spec = file.spec
    backend = bounded(start, CallTimeouts.of(spec.run), interrupt, lambda error: None)
    try:
        run = spec.run
        options = placement.WorkerOptions(spec.numerics.threads, run.actors, 1, models=1, device=run.device)

        def fits(options: placement.WorkerOptions) -> None:
            placement.plan_workers(backend.machines(), None, options)

        def tell(line: str) -> None:
            say(console, line)

        options = Waiting(backend, run, tell, interrupt.check).machines_for(options, fits)
        pool = placement.plan_workers(backend.machines(), None, options)
        config = WorkerConfig(
            spec.models,
            spec.labels,
            spec.images.channels,
            spec.seed,
            spec.numerics,
            allow_code=allow_code,
            code=code,
        )
        stopwatch = _Stopwatch(backend, pool, file, interrupt.check)
        scheduler = Scheduler(backend, pool, config, limits=Limits(start_seconds=spec.run.start_seconds))
        scheduler.start(interrupt.check)
        measured_on = "; ".join(scheduler.hardware)
        releases = sorted({one.releases["torch"] for one in scheduler.arithmetics if "torch" in one.releases})
        memory = _memory(backend.machines(), gpus=pool.resources.gpus > 0)
        gradient, predict, load = {}, {}, {}
        for name, model in spec.models.items():
            if model.remote is not None:
                predict[name], load[name] = 1 / model.remote.rate, 0.0
                continue
            predict[name], load[name] = stopwatch.measure(scheduler, name, "predict")
            if name in spec.sources():
                gradient[name], _ = stopwatch.measure(scheduler, name, "craft")
    finally:
        backend.close()
    costs = Costs(
        gradient,
        predict,
        load,
        hardware=f"{pool.resources.device}: {measured_on}",
        memory=memory,
        torch=", ".join(releases),
        numerics=spec.numerics.model_dump(mode="json"),
    )
    path = output or Path("runs") / spec.study / "profile.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(costs), indent=2) + "\n")
    table = Table("model", "gradient", "prediction", "load", box=None)
    for name in spec.models:
        shown = [f"{1000 * costs.gradient[name]:.1f} ms" if name in costs.gradient else "–"]
        table.add_row(name, *shown, f"{1000 * costs.predict[name]:.1f} ms", f"{costs.load[name]:.1f} s")
    console.print(table)
    workers = counted(pool.workers, "worker")
    line = f"gradient and prediction: per image, with {workers} busy on {costs.hardware}; written to {path}"
    say(console, line)
    return costs


def _memory(machines: Sequence[placement.Machine], *, gpus: bool) -> float | None:
    """Return the memory in bytes of the smallest GPU; if `gpus` is False, of the smallest machine. None if unknown."""
    found = [one.gpu_memory if gpus else one.memory for one in machines]
    return min((one for one in found if one is not None), default=None)


class _Stopwatch:
    """Measures the duration of calls, as the workers report it."""

    def __init__(self, backend: Backend, pool: placement.WorkerPool, file: SpecFile, check: Callable[[], None]) -> None:
        self._check = check
        images = file.spec.images
        size = numerics.pass_size(file.spec.numerics.batch, pool.resources.device)
        count = -(-min(16, shards.largest(file.spec, gpus=False)) // size) * size
        noise = np.random.default_rng(0).integers(0, 256, (count, images.channels, images.size, images.size), np.uint8)
        self._pixels = backend.put(noise)
        self._count = count
        self._workers = pool.workers
        self._batch = file.spec.numerics.batch
        self._attack = Attack.model_validate(keys_of("igsm", {"steps": _STEPS}))

    def measure(self, scheduler: Scheduler, name: str, method: str) -> tuple[float, float]:
        """Measure the model `name`. Returns the seconds for one image, and the seconds to load the model.

        `method`: with `craft`, one gradient of an image is measured; with `predict`, one prediction.
        """
        ids = tuple(str(number) for number in range(self._count))
        zeros = (0,) * self._count
        for number in range(_ROUNDS * self._workers):
            job: CraftJob | PredictJob
            if method == "craft":
                job = CraftJob(self._attack, "untargeted", ("profile",), ids, zeros, zeros, None)
                task = Task("craft", {name: None}, job, lambda: self._pixels, 1.0, number)
            else:
                task = Task(
                    "predict", {name: None}, PredictJob((name,), self._batch, ids), lambda: self._pixels, 1.0, number
                )
            scheduler.add(task)
        seconds = []
        while not scheduler.idle:
            self._check()
            for event in scheduler.step(0.5):
                if not isinstance(event, Done):
                    raise StudyError(f"model '{name}' cannot be measured: {event.error}")
                seconds.append(float(event.value.seconds))
        usual = statistics.median(seconds)
        return usual / self._count / (_STEPS if method == "craft" else 1), max(0.0, max(seconds) - usual)
