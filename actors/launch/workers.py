"""Starts the scheduler of a launch, and as many workers as machines and memory allow."""

from __future__ import annotations

from collections.abc import Callable

from actors.backends.interface import Backend
from actors.execution.runtime import Runtime
from actors.launch.prepare import Inputs, PreparedLaunch
from actors.resources.growth import Growth
from actors.resources.worker_pool import fit_budgets, plan_pool
from actors.scheduling.limits import Limits
from actors.scheduling.scheduler import Scheduler
from actors.workers.worker_config import worker_config
from study.events.observer import Observer
from study.events.repairs import repaired
from study.process.interrupt import Interrupt
from study.reproducibility import float_environment
from study.reproducibility.numerics import Numerics
from study.terminal.screen import counted


def start_workers(
    launch: PreparedLaunch, inputs: Inputs, backend: Backend, display: Observer, interrupt: Interrupt
) -> Runtime:
    """Start workers, wait until they are up, and return the objects that workloads run with.

    Raises StudyError if memory is too small, if the workers are not up in time, or if their devices or environment
    variables differ from those of earlier launches (see `float_environment.compare`). Raises Interrupted if a signal
    comes.
    """
    spec, say, inline = launch.spec, display.say, launch.options.inline

    def check() -> None:
        interrupt.check()
        display.wait()

    # In one process, two workers would only take turns, so one is enough.
    pool = plan_pool(spec, backend, inputs.estimate, say, workers=1 if inline else None, check=check)
    device = pool.resources.device
    _say_precision(spec.numerics, device, say)
    scheduler = Scheduler(
        backend,
        pool,
        worker_config(
            launch.on(device).spec,
            launch.folder,
            allow_code=launch.options.allow_code,
            code=launch.code,
            gpu_share=pool.resources.gpus or 1.0,
        ),
        limits=Limits.of(spec.run),
        elastic=(spec.run.actors is None or pool.options.fewer) and not inline,
        say=lambda line: repaired("actor", line),
        growth=None if backend.fixed else Growth(backend, pool, say),
    )
    runtime = Runtime(backend, scheduler, display, interrupt, fit_budgets(spec, backend, pool, say))
    if not inline:
        say(f"starting {counted(pool.workers, 'worker')}")
    scheduler.start(check)
    float_environment.compare(launch.folder, scheduler.arithmetics, say, other_devices=launch.options.other_devices)
    # Workers on machines that join later may have other devices. Such a difference is printed, and is no error.
    scheduler.on_arithmetic(lambda one: float_environment.compare(launch.folder, {one}, say, other_devices=True))
    return runtime


def _say_precision(given: Numerics, device: str, say: Callable[[str], None]) -> None:
    """On GPUs, print which precision `auto` stands for, or a hint that float32 is slow.

    The ids of attack runs contain the precision, so only a new study can have another one.
    """
    if device == "cpu":
        return
    if given.precision == "auto":
        say("numerics.precision is auto: on these GPUs, source models compute in tf32, and the run folder records it")
    elif given.precision == "float32":
        say("numerics.precision is float32: strict, and slow on a GPU; a new study is faster with tf32 or bfloat16")
