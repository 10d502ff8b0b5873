"""The driver: units to workers, their batches to the workers that hold targets, finished units to the one writer.

It moves references and small numbers.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from actors.backend import PixelsLost, Ref
from actors.backlog import Task, predict_key
from actors.clean_images import Images
from actors.jobs import CraftJob, Made, PredictJob
from actors.runtime import Runtime
from actors.scheduler import Done, Failed
from study.attacks.recipe import Search
from study.models.remote import wanted_names
from study.plan import Craft, Finished, Plan, Unit, wanted_labels
from study.results.schema import Moved, Said, Wanted, table
from study.results.store import Writer

_TOGETHER = 4
"""Targets at most in one call: more would make a call longer than crafting, and a retry dear."""


@dataclass(frozen=True)
class Failure:
    """A unit, or one target of it, that is set aside."""

    unit: str
    target: str | None
    error: str


@dataclass
class Outcome:
    """How a run ended."""

    finished: int = 0
    failures: list[Failure] = field(default_factory=list)
    interrupted: int | None = None


@dataclass
class Open:
    """A unit whose batch is made and is being shown to targets."""

    unit: Unit
    moved: Moved
    pixels: Ref
    left: set[str]
    said: list[Said] = field(default_factory=list)


class Driver:
    """Carries a plan out."""

    def __init__(self, plan: Plan, images: Images, writer: Writer, runtime: Runtime) -> None:
        self._plan = plan
        self._spec = plan.spec
        self._images = images
        self._writer = writer
        self._scheduler = runtime.scheduler
        self._display = runtime.display
        self._interrupt = runtime.interrupt
        self._outcome = Outcome()
        self._open: dict[str, Open] = {}
        self._waiting: dict[str, list[Craft]] = defaultdict(list)
        self._rmsd: dict[str, dict[str, float]] = {}
        self._means: dict[str, float] = {}
        self._losses: Counter[str] = Counter()
        self._batch_bytes = 0
        self._done: Finished = {}
        self._wanted = _wanted(plan)

    def run(self, done: Finished, rmsd: Mapping[str, Mapping[str, float]]) -> Outcome:
        """Craft and score what is not `done`; `rmsd` is what is known of reference crafts, by craft and image."""
        crafts = self._plan.crafts.values()
        self._done = done
        self._rmsd = {
            craft.reference: dict(rmsd.get(craft.reference, {})) for craft in crafts if craft.reference is not None
        }
        for craft in crafts:
            if craft.reference is None or self._known(craft):
                self._feed(craft)
            else:
                self._waiting[craft.reference].append(craft)
                if craft.recipe.budget.by == "image":
                    self._feed(craft)
        try:
            while not self._scheduler.idle and self._interrupt.status is None:
                most = self._spec.run.waiting_mib * 2**20 * self._scheduler.workers
                for event in self._scheduler.step(0.5, crafts=self._batch_bytes < most):
                    self._handle(event)
                self._writer.tick()
        finally:
            self._writer.flush()
        self._outcome.interrupted = self._interrupt.status
        if self._outcome.interrupted is None:
            self._give_up_waiting()
        return self._outcome

    def _known(self, craft: Craft) -> bool:
        """Whether the RMSD that the budget of a craft is matched to is known for all images."""
        assert craft.reference is not None, "only matched budgets are asked about"
        known = self._rmsd[craft.reference]
        return craft.reference in self._means or all(
            one.image in known for shard in self._plan.shards for one in shard.images
        )

    def _feed(self, craft: Craft) -> None:
        """Give a craft's units to the loop, as a stream: those that can be crafted now, and no others later."""
        shards = [unit.shard for unit in self._plan.units_of(craft, self._done) if self._ready(unit)]
        tasks = map(self._task, self._plan.units_of(craft, self._done, shards))
        self._scheduler.feed(tasks, len(shards), first=craft.id in self._rmsd)
        self._expect(craft, sum(len(shard.images) for shard in shards))

    def _expect(self, craft: Craft, images: int) -> None:
        """Predictions of so many images will be asked for."""
        for targets in self._together(craft, craft.targets):
            key = predict_key(targets, service=not self._local(targets[0]))
            self._scheduler.expect(key, self._shown(craft, images, targets))

    def _ready(self, unit: Unit) -> bool:
        return unit.craft.reference is None or self._matched(unit, unit.craft.reference) is not None

    def _give_up_waiting(self) -> None:
        """What is matched to something that was set aside cannot be crafted either."""
        for reference, crafts in self._waiting.items():
            for craft in crafts:
                for unit in self._plan.units_of(craft, self._done):
                    if not self._ready(unit):
                        self._set_aside(unit, None, f"its budget is matched to {reference}, which is not complete")

    def _task(self, unit: Unit) -> Task:
        craft = unit.craft
        pool = self._plan.pool(craft)
        job = CraftJob(
            attack=craft.recipe,
            goal=craft.goal,
            key=craft.key,
            images=tuple(one.image for one in unit.shard.images),
            labels=tuple(wanted_labels(craft.goal, unit.shard.images)),
            own=tuple(one.label for one in unit.shard.images),
            rmsd=None if craft.reference is None else self._matched(unit, craft.reference),
            pool=tuple(one.label for one in pool),
        )
        models = {name: self._plan.digests[name] for name in craft.sources}
        cost = float(max(craft.gradients, 1) * len(unit.shard.images))
        return Task("craft", models, job, lambda: self._images.of(unit, pool), cost, unit)

    def _matched(self, unit: Unit, reference: str) -> tuple[float, ...] | None:
        known = self._rmsd[reference]
        if unit.craft.recipe.budget.by == "image":
            images = [one.image for one in unit.shard.images]
            return tuple(known[one] for one in images) if all(one in known for one in images) else None
        if not self._known(unit.craft):
            return None
        if reference not in self._means:
            images = [one.image for shard in self._plan.shards for one in shard.images]
            # fsum is exact: the mean does not depend on the order in which units ended.
            self._means[reference] = math.fsum(known[one] for one in images) / len(images)
        return (self._means[reference],) * len(unit.shard.images)

    def _handle(self, event: Done | Failed) -> None:
        if event.task.method == "craft":
            unit: Unit = event.task.about
            if isinstance(event, Failed):
                self._set_aside(unit, None, _text(event.error))
            else:
                assert event.pixels is not None, "a source's call has pixels"
                made: Made = event.value
                if made.note is not None:
                    self._display.say(f"{unit.id}: {made.note}")
                self._crafted(unit, made.moved, event.pixels)
            return
        opened: Open = event.task.about[0]
        targets: tuple[str, ...] = event.task.about[1]
        if self._open.get(opened.unit.id) is not opened:
            return
        if isinstance(event, Done):
            opened.said += [answer.said for answer in event.value.answers]
        elif isinstance(event.error, PixelsLost) and self._losses[opened.unit.id] < self._spec.run.attempts:
            self._losses[opened.unit.id] += 1
            self._close(opened)
            self._scheduler.add(self._task(opened.unit))
            return
        elif len(targets) > 1:
            # One of them may be to blame, and the others not.
            for target in targets:
                self._show(opened, (target,))
            return
        else:
            self._outcome.failures.append(Failure(opened.unit.id, targets[0], _text(event.error)))
        opened.left.difference_update(targets)
        if not opened.left:
            self._finish(opened)

    def _crafted(self, unit: Unit, moved: Moved, made: Ref) -> None:
        self._open[unit.id] = opened = Open(unit, moved, made, set(unit.targets))
        self._batch_bytes += self._bytes(unit)
        self._expect(unit.craft, -len(unit.shard.images))
        for targets in self._together(unit.craft, unit.targets):
            self._show(opened, targets)
        known = self._rmsd.get(unit.craft.id)
        if known is not None:
            # The finished attack stands last of its checkpoints.
            finished = moved.rmsd[-len(unit.shard.images) :].tolist()
            again = all(one.image in known for one in unit.shard.images)
            known.update(zip((one.image for one in unit.shard.images), finished, strict=True))
            if not again:
                self._release(unit)

    def _together(self, craft: Craft, wanted: Sequence[str]) -> list[tuple[str, ...]]:
        """A unit's targets in few calls, for each call costs the driver time: as many as half of an actor can hold.

        A search of the minimal RMSD takes long, and services have actors of their own: one call for each.
        """
        alone = craft.recipe.budget.minimal is not None
        room, groups = self._scheduler.room, list[tuple[str, ...]]()
        for name in wanted:
            with_it = (*groups[-1], name) if groups else (name,)
            fits = len(with_it) <= _TOGETHER and room.of(with_it) <= room.most / 2
            if groups and fits and not alone and self._local(name) and self._local(with_it[0]):
                groups[-1] = with_it
            else:
                groups.append((name,))
        return groups

    def _shown(self, craft: Craft, images: int, targets: Sequence[str]) -> float:
        """What it costs to show so many images to targets."""
        minimal = craft.recipe.budget.minimal
        variants = len(minimal.levels) if minimal else len(craft.recipe.points)
        return float(images * variants * len(targets))

    def _local(self, name: str) -> bool:
        return self._spec.models[name].remote is None

    def _show(self, opened: Open, targets: tuple[str, ...]) -> None:
        unit = opened.unit
        images = tuple(one.image for one in unit.shard.images)
        job = PredictJob(targets, self._spec.numerics.batch, images, _search(unit))
        models = {target: self._plan.digests[target] for target in targets}
        cost = self._shown(unit.craft, len(images), targets)
        service = not self._local(targets[0])
        about = (opened, targets)
        self._scheduler.add(Task("predict", models, job, lambda: opened.pixels, cost, about, service=service))

    def _release(self, reference: Unit) -> None:
        """What was waiting for the RMSD of this unit, or of the last unit of its craft."""
        waiting = self._waiting.get(reference.craft.id, [])
        for craft in waiting:
            if craft.recipe.budget.by == "image":
                for unit in self._plan.units_of(craft, self._done, [reference.shard]):
                    self._scheduler.add(self._task(unit))
            elif self._known(craft):
                self._feed(craft)
        self._waiting[reference.craft.id] = [
            craft for craft in waiting if craft.recipe.budget.by == "image" or not self._known(craft)
        ]

    def _finish(self, opened: Open) -> None:
        """All targets have answered or failed: the rows there are go to the writer, as one piece."""
        if opened.said:
            order = {target: index for index, target in enumerate(opened.unit.targets)}
            said = sorted(opened.said, key=lambda one: order[one.target])
            self._writer.add(table(opened.unit, opened.moved, said, self._wanted))
        if len(opened.said) == len(opened.unit.targets):
            self._outcome.finished += 1
        self._display.advance(opened.unit.craft.experiments)
        self._close(opened)

    def _close(self, opened: Open) -> None:
        del self._open[opened.unit.id]
        self._batch_bytes -= self._bytes(opened.unit)

    def _set_aside(self, unit: Unit, target: str | None, error: str) -> None:
        self._outcome.failures.append(Failure(unit.id, target, error))
        self._display.advance(unit.craft.experiments)

    def _bytes(self, unit: Unit) -> int:
        numbers = len(unit.shard.images) * self._spec.images.bytes
        return numbers * (8 if unit.craft.recipe.budget.minimal else len(unit.craft.recipe.points))


def references(plan: Plan) -> set[str]:
    """Crafts whose RMSD some other's budget is matched to."""
    return {craft.reference for craft in plan.crafts.values() if craft.reference is not None}


def _wanted(plan: Plan) -> Wanted:
    """What services call the labels that images are to reach."""
    labels = {one.target_label for shard in plan.shards for one in shard.images}
    return {
        name: {label: wanted_names(model.remote, plan.spec.labels, label) for label in labels}
        for name, model in plan.spec.models.items()
        if model.remote is not None
    }


def _search(unit: Unit) -> Search | None:
    """What targets search for, where they are shown rays."""
    craft = unit.craft
    if craft.recipe.budget.minimal is None:
        return None
    return Search(
        levels=craft.recipe.budget.minimal.levels,
        goal=craft.goal,
        labels=tuple(wanted_labels(craft.goal, unit.shard.images)),
        images=tuple(one.image for one in unit.shard.images),
        key=craft.key,
    )


def _text(error: Exception) -> str:
    return str(error).strip() or type(error).__name__
