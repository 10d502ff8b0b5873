"""A discrete-event simulation of a cluster, for a real driver and a real scheduler.

Calls compute nothing, and take only simulated time. A measured profile gives the duration of each call. A seeded random
generator decides when machines are lost.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.backends.interface import ActorInfo, ActorLost, Call, CallRequest, Device, DeviceLost, Ref, Scaling
from actors.resources.placement import WORKER, Machine, ResourceRequest, Role
from actors.scheduling.messages import CraftJob, CraftResult, PredictJob, PredictResult, TargetResult
from actors.workers.model_cache import ModelRequest
from actors.workers.worker_config import WorkerConfig
from study.reproducibility import numerics
from study.results.schema import PixelDistances, TargetAnswers

_TOGETHER_SECONDS = 0.02
"""`wait` returns answers together if they arrive within this time. A busy driver would also see them together."""


@dataclass(frozen=True)
class Costs:
    """Measured costs, in seconds on one worker.

    Attributes:
        gradient: Seconds for one gradient of one image, by name of the model.
        predict: Seconds for one prediction of one image, by name of the model.
        load: Seconds to load a model, by name of the model.
        call: Overhead of a call on its worker.
        driver: Overhead of a call in the driver (measured by `benchmarks/runtime.py`).
        start: Seconds to start an actor.
        hardware: The device and the name of the measured processor or GPU, such as `cuda:0: NVIDIA H100 80GB HBM3`. The
            costs hold only for this hardware. It is empty in profiles of early versions.
        memory: Bytes of memory of the measured GPU, or of the machine; None if unknown.
        torch: The release of torch.
        numerics: The section `numerics:` of the spec that was measured.
    """

    gradient: Mapping[str, float]
    predict: Mapping[str, float]
    load: Mapping[str, float]
    call: float = 0.002
    driver: float = 0.0006
    start: float = 5.0
    hardware: str = ""
    memory: float | None = None
    torch: str = ""
    numerics: Mapping[str, Any] = field(default_factory=dict)

    @property
    def on_cores(self) -> bool:
        """Whether the costs were measured on a processor, and not on a GPU."""
        return self.hardware.startswith("cpu:")

    @property
    def names(self) -> list[str]:
        """The names of the measured processors or GPUs; empty if unknown."""
        return self.hardware.removeprefix("cpu: ").removeprefix("cuda:0: ").split("; ") if self.hardware else []


@dataclass(frozen=True)
class Machines:
    """The simulated cluster.

    Attributes:
        nodes: Number of machines.
        slots: Number of workers on each machine.
        speed: Speed relative to the measured hardware.
        losses: How often each machine is lost per hour, on average.
        back: Seconds after which a lost machine comes back.
        gpus: Whether workers run on GPUs.
        broken: The numbers of the machines whose device fails in every call.
        grows_to: Number of machines up to which an autoscaler lets the cluster grow; 0 without an autoscaler.
        boot: Seconds from a request until a machine joins.
    """

    nodes: int
    slots: int = 1
    speed: float = 1.0
    losses: float = 0.0
    back: float = 300.0
    gpus: bool = True
    broken: tuple[int, ...] = ()
    grows_to: int = 0
    boot: float = 120.0


@dataclass
class Totals:
    """Totals of a simulation.

    Attributes:
        busy: Seconds of work on all workers, without loading.
        loading: Seconds of loading models on all workers.
        loads: Number of model loads.
        calls: Number of calls that were started.
        lost: Number of machines that were lost.
    """

    busy: float = 0.0
    loading: float = 0.0
    loads: int = 0
    calls: int = 0
    lost: int = 0


@dataclass(eq=False)
class _Actor:
    node: int | None
    role: Role
    free: float
    """The time when the last call of the actor ends."""
    holds: set[str] = field(default_factory=set)
    hello: Ref | None = None
    dead: bool = False


@dataclass(eq=False)
class _Run:
    actor: _Actor
    begins: float
    ends: float
    answer: Any


class Simulated:
    """A backend that simulates the time of calls and computes nothing."""

    name = "a simulation"
    fixed = False

    def __init__(self, costs: Costs, machines: Machines, *, batch: int, seed: int = 0) -> None:
        """`batch`: number of images in one pass of a network. `seed`: seed of the random losses of machines."""
        self._costs, self._machines, self._batch = costs, machines, batch
        self._draw = random.Random(seed)
        self._ids = itertools.count()
        self._free_slots = dict.fromkeys(range(machines.nodes), machines.slots)
        self._waiting: list[_Actor] = []
        self._actors: list[_Actor] = []
        self._runs: dict[Ref, _Run] = {}
        self._pixels: dict[Ref, int] = {}
        self._ready: dict[Ref, _Run] = {}
        self._due: list[tuple[float, Ref]] = []
        self._events: list[tuple[float, int, str, int]] = []
        self._coming: set[int] = set()
        self.now = 0.0
        self.totals = Totals()
        for node in self._free_slots:
            self._plan_loss(node)

    def clock(self) -> float:
        """Return the simulated seconds since the start."""
        return self.now

    def machines(self) -> list[Machine]:
        slots = float(self._machines.slots)
        return [Machine(0.0, slots) if self._machines.gpus else Machine(slots)] * len(self._free_slots)

    def scaling(self) -> Scaling | None:
        return Scaling(len(self._coming)) if self._machines.grows_to else None

    def request(self, workers: int, resources: ResourceRequest) -> None:
        """Let further machines start, up to `grows_to` machines in all."""
        nodes = len(self._free_slots) + len(self._coming)
        wanted = min(-(-workers // self._machines.slots), self._machines.grows_to)
        for _ in range(wanted - nodes):
            node = self._machines.nodes + next(self._ids)
            self._coming.add(node)
            heapq.heappush(self._events, (self.now + self._machines.boot, node, "return", node))

    def start(self, role: Role, resources: ResourceRequest, config: WorkerConfig) -> _Actor:
        actor = _Actor(None, role, self.now)
        self._actors.append(actor)
        if role == WORKER:
            self._waiting.append(actor)
            self._place()
        return actor

    def hello(self, actor: _Actor) -> Ref:
        ref = actor.hello = next(self._ids)
        self._run(ref, actor, None if actor in self._waiting else self._costs.start, None)
        return ref

    def call(self, actor: _Actor, method: str, arguments: Sequence[Any], pixels: Ref) -> Call:
        request, job = arguments
        value = next(self._ids)
        loads = self._loading(actor, request)
        seconds = self._costs.call + sum(loads.values())
        crafted = None
        answer: Any
        if isinstance(job, CraftJob):
            count = len(job.images)
            variants = len(job.attack.scored_points)
            gradients = job.attack.gradients(job.attack.steps, 1)
            work = sum(self._costs.gradient[name] for name in request.models) * gradients * self._padded(count)
            crafted = next(self._ids)
            answer = CraftResult(PixelDistances(*np.ones((3, count * variants))), loads=loads)
            self._pixels[crafted] = count * variants
        else:
            count = self._pixels.get(pixels, len(job.images))
            work = sum(self._costs.predict[name] for name in job.targets) * self._padded(count)
            answer = replace(_prediction(job, count), loads=loads)
        # The driver starts calls one after another, so each start delays the next one.
        self.now += self._costs.driver
        took = seconds + work / self._machines.speed
        answer = replace(answer, seconds=took)
        self.totals.calls += 1
        self._run(value, actor, took, answer)
        return Call(value, crafted)

    def bundle(self, actor: _Actor, requests: Sequence[CallRequest]) -> list[Call]:
        return [self.call(actor, *request) for request in requests]

    def _padded(self, count: int) -> int:
        """Return the number of images after padding to a multiple of the pass size."""
        size = numerics.pass_size(self._batch, "cuda" if self._machines.gpus else "cpu")
        return -(-count // size) * size

    def _loading(self, actor: _Actor, request: ModelRequest) -> dict[str, float]:
        actor.holds -= set(request.drop)
        new = [name for name in request.models if name not in actor.holds]
        actor.holds |= set(new)
        self.totals.loads += len(new)
        return {name: self._costs.load[name] for name in new}

    def _run(self, ref: Ref, actor: _Actor, seconds: float | None, answer: Any) -> None:
        """Add a call that starts when the actor is free.

        `seconds`: the duration of the call; None while the actor waits for a machine. `answer`: the result of the call.
        """
        begins = max(self.now, actor.free)
        self._runs[ref] = run = _Run(actor, begins, begins + (seconds or 0.0), answer)
        if actor.dead:
            self._ready[ref] = run
        elif seconds is not None:
            actor.free = run.ends
            heapq.heappush(self._due, (run.ends, ref))

    def activity(self, actor: _Actor) -> str:
        """Return an empty text, because a simulated call computes nothing."""
        return ""

    def wait(self, refs: Sequence[Ref], seconds: float) -> list[Ref]:
        """Advance the simulated time to the next answers, by at most `seconds`. Returns the `refs` that are ready."""
        if not self._ready:
            until = self.now + seconds
            while self._next() <= until and not self._ready:
                self._advance()
            if self._ready:
                last = self.now + _TOGETHER_SECONDS
                while self._next() <= last:
                    self._advance()
            else:
                self.now = max(self.now, until)
        wanted = set(refs)
        return [ref for ref in self._ready if ref in wanted]

    def _next(self) -> float:
        due = self._due[0][0] if self._due else float("inf")
        return min(due, self._events[0][0] if self._events else float("inf"))

    def _advance(self) -> None:
        if self._events and (not self._due or self._events[0][0] <= self._due[0][0]):
            at, _, what, node = heapq.heappop(self._events)
            self.now = max(self.now, at)
            self._lose(node) if what == "loss" else self._return(node)
            return
        at, ref = heapq.heappop(self._due)
        # An answer may have arrived while the driver was busy. Then the driver sees it only now.
        self.now = max(self.now, at)
        run = self._runs.get(ref)
        if run is not None and not run.actor.dead:
            self._ready[ref] = run

    def value(self, ref: Ref) -> Any:
        run = self._ready.pop(ref)
        del self._runs[ref]
        node = run.actor.node
        if run.actor.dead:
            raise ActorLost("its node was lost")
        if node is None:
            return run.answer
        device = _device(node, gpu=self._machines.gpus)
        if ref == run.actor.hello:
            return ActorInfo(device, None)
        if node in self._machines.broken:
            raise DeviceLost("AcceleratorError: CUDA error: unspecified launch failure", "", device)
        if run.answer is not None:
            loading = sum(run.answer.loads.values())
            self.totals.busy += run.ends - run.begins - loading
            self.totals.loading += loading
        return run.answer

    def pixels(self, ref: Ref) -> NDArray[np.uint8]:
        raise NotImplementedError("there are no pixels in a simulation")

    def put(self, pixels: NDArray[np.uint8]) -> Ref:
        return next(self._ids)

    def stop(self, actor: _Actor) -> None:
        if actor.node in self._free_slots and not actor.dead:
            self._free_slots[actor.node] += 1
        actor.dead = True
        self._actors = [one for one in self._actors if one is not actor]
        for ref in [ref for ref, run in self._runs.items() if run.actor is actor]:
            del self._runs[ref]
            self._ready.pop(ref, None)
        if actor in self._waiting:
            self._waiting.remove(actor)
        self._place()

    def set_aside(self, device: Device, actors: Sequence[Any]) -> None:
        self._free_slots.pop(int(device.node), None)
        for actor in actors:
            self.stop(actor)

    def close(self) -> None:
        """Do nothing, because no process was started."""

    def _place(self) -> None:
        """Place waiting actors on machines that have a free slot for a worker."""
        for node, free in self._free_slots.items():
            for _ in range(free):
                if not self._waiting:
                    return
                actor = self._waiting.pop(0)
                actor.node = node
                self._free_slots[node] -= 1
                run = self._runs.get(actor.hello)
                if run is not None:
                    run.ends = actor.free = self.now + self._costs.start
                    heapq.heappush(self._due, (run.ends, actor.hello))

    def _plan_loss(self, node: int) -> None:
        if self._machines.losses:
            after = self._draw.expovariate(self._machines.losses / 3600)
            heapq.heappush(self._events, (self.now + after, next(self._ids), "loss", node))

    def _lose(self, node: int) -> None:
        self.totals.lost += 1
        self._free_slots.pop(node, None)
        gone = {id(actor) for actor in self._actors if actor.node == node}
        for actor in self._actors:
            actor.dead |= id(actor) in gone
        self._actors = [actor for actor in self._actors if id(actor) not in gone]
        self._ready |= {ref: run for ref, run in self._runs.items() if id(run.actor) in gone}
        heapq.heappush(self._events, (self.now + self._machines.back, next(self._ids), "return", node))

    def _return(self, node: int) -> None:
        self._coming.discard(node)
        self._free_slots[node] = self._machines.slots
        self._plan_loss(node)
        self._place()


def _device(node: int, *, gpu: bool) -> Device:
    """Return the only device of a machine, which all workers of the machine share."""
    return Device(str(node), f"machine {node}", "GPU 0" if gpu else "the processor", gpu)


def _prediction(job: PredictJob, count: int) -> PredictResult:
    labels, shares = np.zeros((count, 1), np.int32), np.zeros((count, 1), np.float32)
    return PredictResult(tuple(TargetResult(TargetAnswers(target, labels, shares), {}) for target in job.targets))
