"""The clean pass: every model predicts candidate images, until as many as wanted are admitted.

Remote services come last and see selected images only: what they are asked may cost money.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.backends.interface import ActorLost, CallFailed, Ref
from actors.execution.clean_images import unchanged
from actors.execution.runtime import Runtime
from actors.resources.object_store import pixel_budgets
from actors.scheduling.backlog import Task
from actors.scheduling.messages import PredictJob, TargetResult
from actors.scheduling.scheduler import Failed
from study.errors import StudyError, first_line
from study.events.repairs import repaired
from study.images import clean_accuracy, decoding
from study.images.image_sets import Candidate, Ranked
from study.images.selection import Clean, Selected, Selection, Shard, admitted, cut, ranked
from study.planning.spec_diff import must_be_there, unasked
from study.report import plausibility
from study.spec.schema import Spec

_log = logging.getLogger(__name__)
_SLACK = 1.5
_MOST_AT_ONCE = 1024
"""Images in a round at most, whatever is missing: all of a round's pixels wait for the models together."""


def run(spec: Spec, candidates: Sequence[Candidate], runtime: Runtime) -> Selection:
    """Ask in rounds, in the order of `candidates`: what is selected does not depend on how many are asked at once.

    Raises StudyError where too few images are admitted, and Interrupted.
    """
    return _Pass(spec, runtime).run(candidates)


def extend(
    spec: Spec, before: Selection, candidates: Sequence[Candidate], runtime: Runtime, *, more: bool
) -> Selection:
    """What was selected, with what new models say of it, and `more` images, if there are to be more.

    Images stay selected whatever new models say of them; more are asked from behind the last that was selected on, then
    those before it that were not, and go into shards of their own. Raises StudyError where too few images are
    admitted, where a selected image is gone, or where a model is not what it was; and Interrupted.
    """
    return _Pass(spec, runtime, before.models).extend(before, candidates, more=more)


@dataclass(frozen=True)
class _Read:
    """A candidate that could be read."""

    candidate: Candidate
    pixels: NDArray[np.uint8]


class _Pass:
    def __init__(self, spec: Spec, runtime: Runtime, known: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        """`known` is what models were when the study began."""
        self._spec = spec
        self._runtime = runtime
        self._services = spec.services
        self._local = [name for name in spec.models if name not in self._services]
        self._known = known or {}
        self._models: dict[str, dict[str, Any]] = {}
        self._right: dict[str, clean_accuracy.Right] = {}
        self._unreadable: dict[str, str] = {}
        room = (runtime.budgets or pixel_budgets(spec)).clean
        self._most = max(spec.numerics.batch, min(_MOST_AT_ONCE, room // spec.images.bytes))

    def run(self, candidates: Sequence[Candidate]) -> Selection:
        spec = self._spec
        self._runtime.display.say(f"clean pass: {len(self._local)} models, up to {len(candidates)} images")
        chosen = self._choose(candidates, spec.images.count or len(candidates), 0)
        models = clean_accuracy.described({name: self._models[name] for name in spec.models}, {}, self._right)
        return Selection(cut(chosen, spec.run.shard), models, self._unreadable)

    def extend(self, before: Selection, candidates: Sequence[Candidate], *, more: bool) -> Selection:
        spec, say = self._spec, self._runtime.display.say
        must_be_there(before, candidates)
        shards = list(before.shards)
        new = unasked(spec, before)
        if new:
            everyone = sum(len(shard.images) for shard in shards)
            say(f"clean pass: {', '.join(new)}, of {everyone} images that are selected already")
            shards = self._completed(shards, new, {one.image: one for one in candidates})
            self._tell_wrong(shards, new)
            self._count((one for shard in shards for one in shard.images), [one for one in new if one in self._local])
            self._warn(self._doubts())
        if more:
            shards += self._further(shards, candidates)
        models = clean_accuracy.described({**before.models, **self._models}, before.models, self._right)
        return Selection(shards, models, self._unreadable)

    def _further(self, shards: Sequence[Shard], candidates: Sequence[Candidate]) -> list[Shard]:
        """Shards of images that are selected beyond those in `shards`."""
        spec = self._spec
        images = {one.image for shard in shards for one in shard.images}
        wanted = (spec.images.count or len(candidates)) - len(images)
        last = max(index for index, one in enumerate(candidates) if one.image in images)
        rest = [one for one in (*candidates[last + 1 :], *candidates[:last]) if one.image not in images]
        self._runtime.display.say(f"clean pass: {len(self._local)} models, up to {len(rest)} further images")
        chosen = self._choose(rest, wanted, len(images))
        first = max(shard.index for shard in shards) + 1
        return [replace(shard, index=first + shard.index) for shard in cut(chosen, spec.run.shard)]

    def _choose(self, candidates: Sequence[Candidate], wanted: int, before: int) -> list[Selected]:
        """The first `wanted` of `candidates` that are admitted, where `before` are selected already."""
        spec, say = self._spec, self._runtime.display.say
        chosen: list[Selected] = []
        seen: dict[str, NDArray[np.uint8]] = {}
        asked = right = 0
        while len(chosen) < wanted and asked < len(candidates):
            missing = int((wanted - len(chosen)) * _SLACK) + 1
            batches = -(-min(missing, self._most) // spec.numerics.batch)
            part = candidates[asked : asked + batches * spec.numerics.batch]
            asked += len(part)
            read = self._read(part)
            predicted = self._predicted(read)
            let_in = [one for one in predicted if admitted(one, spec.images.keep, spec.sources())]
            right += len(let_in)
            taken = let_in[: wanted - len(chosen)]
            # Where no rule selects, the images of the study are the ones to count.
            self._count(taken if spec.images.keep == "all" else predicted, self._local)
            chosen += taken
            if self._services:
                ids = {one.image for one in chosen}
                seen |= {one.candidate.image: one.pixels for one in read if one.candidate.image in ids}
        self._report(len(chosen), right, asked, before)
        if self._services and chosen:
            say(f"{', '.join(self._services)}: asked about {len(chosen)} clean images")
            chosen = self._asked(chosen, seen)
        return chosen

    def _report(self, chosen: int, right: int, asked: int, before: int) -> None:
        keep, say = self._spec.images.keep, self._runtime.display.say
        rules = {"all": "kept whatever the models say", "correct-for-all": "right for all models"}
        rule = (
            "right for " + ", ".join(keep)
            if isinstance(keep, tuple)
            else rules.get(keep, "right for all source models")
        )
        for image, reason in self._unreadable.items():
            say(f"left out: {image}: {reason}")
        further = "further " if before else ""
        doubtful = self._doubts()
        say(f"{right} of {asked} {further}images are {rule}; {chosen} are {'added' if before else 'selected'}")
        wanted = (self._spec.images.count or 1) - before
        if chosen >= wanted:
            self._warn(doubtful)
        else:
            unreadable = f" ({len(self._unreadable)} could not be read)" if self._unreadable else ""
            raise StudyError(
                f"{wanted} {further}images are wanted, and only {chosen} of {asked} are {rule}{unreadable}",
                accepted=f"images.count up to {before + chosen}" if before + chosen else None,
                todo="; ".join(doubtful) or "lower images.count, add images, or relax images.keep",
            )

    def _warn(self, doubtful: Sequence[str]) -> None:
        for line in doubtful:
            self._runtime.display.say(f"warning: {line}")

    def _count(self, images: Iterable[Selected], models: Sequence[str]) -> None:
        """Count who is right about these clean images."""
        answers = ((one.label, {name: one.clean[name].top5[0] for name in models}) for one in images)
        for name, one in clean_accuracy.tally(answers).items():
            self._right[name] = self._right.get(name, clean_accuracy.Right()) + one

    def _doubts(self) -> list[str]:
        """Say how often each model was right; and give the models that only guess, with what may be wrong."""
        found = {name: self._right[name] for name in self._spec.models if name in self._right}
        if found:
            self._runtime.display.say(clean_accuracy.told(found))
        return plausibility.of_models(self._spec, found, self._models)

    def _completed(self, shards: Sequence[Shard], new: Sequence[str], files: Mapping[str, Candidate]) -> list[Shard]:
        """Selected images with what `new` models say of them too."""
        images = [one for shard in shards for one in shard.images]
        local = [name for name in new if name not in self._services]
        services = [name for name in new if name in self._services]
        said: dict[str, dict[str, Clean]] = {}
        for start in range(0, len(images), self._most):
            some = images[start : start + self._most]
            seen = [unchanged(one, files[one.image].file, self._spec.images) for one in some]
            ids = [one.image for one in some]
            for models in (local, services):
                answers = self._ask(models, seen, ids) if models else None
                for row, image in enumerate(ids if answers else ()):
                    assert answers is not None, "somebody was asked"
                    said.setdefault(image, {}).update({name: answers(name, row).clean for name in models})
        return [
            replace(shard, images=tuple(replace(one, clean={**one.clean, **said[one.image]}) for one in shard.images))
            for shard in shards
        ]

    def _tell_wrong(self, shards: Sequence[Shard], new: Sequence[str]) -> None:
        """Which new models break the rule that images were selected by: the images stay, so that rows compare."""
        keep, images = self._spec.images.keep, [one for shard in shards for one in shard.images]
        bound = {"correct-for-all": self._local, "correct-for-sources": self._spec.sources()}
        for name in new:
            if isinstance(keep, str) and name in bound.get(keep, ()) and name in self._local:
                wrong = sum(one.clean[name].top5[0] != one.label for one in images)
                if wrong:
                    self._runtime.display.say(
                        f"{name} is wrong about {wrong} of the {len(images)} clean images that were selected before it "
                        "was there: they stay; rates over those it gets right are there too (among='clean-correct')"
                    )

    def _read(self, part: Sequence[Candidate]) -> list[_Read]:
        read = []
        for one in part:
            try:
                read.append(_Read(one, decoding.read(one.file, self._spec.images)))
            except StudyError as error:
                if self._spec.images.corrupt == "stop":
                    raise
                self._unreadable[one.image] = error.what
        return read

    def _predicted(self, read: Sequence[_Read]) -> list[Selected]:
        """What every local model says of the images that were read."""
        said = self._ask(self._local, [one.pixels for one in read], [one.candidate.image for one in read])
        return [
            Selected(
                image=one.candidate.image,
                label=one.candidate.label,
                target_label=self._target_label(one.candidate, {name: said(name, row) for name in self._local}),
                digest=decoding.digest(one.pixels),
                clean={name: said(name, row).clean for name in self._local},
            )
            for row, one in enumerate(read)
        ]

    def _target_label(self, candidate: Candidate, said: Mapping[str, _Row]) -> int:
        if candidate.target_label is not None:
            return candidate.target_label
        rule = self._spec.images.targets
        assert isinstance(rule, Ranked), "every other rule decides before images are seen"
        rows = [said[name].whole for name in self._rankers()]
        mean = np.mean([row.astype(np.float64) for row in rows if row is not None], axis=0)
        return ranked(mean, candidate.label, rule.rank)

    def _rankers(self) -> Sequence[str]:
        """The models whose probabilities rank the labels that images are to reach."""
        rule = self._spec.images.targets
        return (rule.by or self._spec.sources()) if isinstance(rule, Ranked) else ()

    def _asked(self, chosen: Sequence[Selected], seen: Mapping[str, NDArray[np.uint8]]) -> list[Selected]:
        """The chosen images with what services say of them."""
        said = self._ask(self._services, [seen[one.image] for one in chosen], [one.image for one in chosen])
        return [
            replace(one, clean={**one.clean, **{name: said(name, row).clean for name in self._services}})
            for row, one in enumerate(chosen)
        ]

    def _ask(
        self, models: Sequence[str], images: Sequence[NDArray[np.uint8]], ids: Sequence[str]
    ) -> Callable[[str, int], _Row]:
        """What each of `models` says of each image: a function of model and position."""
        runtime, batch = self._runtime, self._spec.numerics.batch
        starts = range(0, len(images), batch)
        runtime.display.begin({"clean pass": len(starts) * len(models)})
        for start in starts:
            ref = runtime.backend.put(np.stack(images[start : start + batch]))
            for name in models:
                job = PredictJob(
                    (name,), batch, tuple(ids[start : start + batch]), probabilities=name in self._rankers()
                )
                service = name in self._services
                pixels_of = functools.partial(_same, ref)
                pin = {name: self._known[name]["digest"] if name in self._known else None}
                runtime.scheduler.add(
                    Task("predict", pin, job, pixels_of, float(len(job.images)), start, service=service)
                )
        answers: dict[tuple[str, int], TargetResult] = {}
        try:
            while not runtime.scheduler.idle:
                runtime.interrupt.check()
                for event in runtime.scheduler.step(0.5):
                    if isinstance(event, Failed):
                        raise _failure(event)
                    if event.value.note is not None:
                        repaired("memory", f"clean pass: {event.value.note}")
                    (answer,) = event.value.targets
                    answers[answer.answers.target, event.task.context] = answer
                    runtime.display.advance(["clean pass"])
        finally:
            runtime.display.end()
        self._models |= {name: dict(answer.model) for (name, _), answer in answers.items()}
        return lambda name, row: _Row(answers[name, row - row % batch], row % batch)


class _Row:
    """One image's row of an answer."""

    def __init__(self, answer: TargetResult, row: int) -> None:
        said = answer.answers
        self.whole = None if answer.probabilities is None else answer.probabilities[row]
        self.clean = Clean(
            tuple(said.top5[row].tolist()),
            tuple(said.top5_prob[row].tolist()),
            None if said.names is None else said.names[row],
            None if said.scores is None else said.scores[row],
        )


def _same(ref: Ref) -> Ref:
    return ref


def _failure(event: Failed) -> StudyError:
    (name,) = event.task.job.targets
    error = event.error
    if isinstance(error, StudyError):
        return error.located(f"models.{name}")
    if isinstance(error, ActorLost):
        return StudyError(
            f"the clean predictions of model '{name}' are not complete: {first_line(error)}",
            where=f"models.{name}",
            todo="see to the machine, then launch again",
            status=1,
        )
    if isinstance(error, CallFailed) and error.traceback:
        _log.error(error.traceback)
    return StudyError(
        f"model '{name}' cannot predict clean images: {first_line(error)}",
        where=f"models.{name}",
        todo=f"try model '{name}' alone: its arguments, size and weights",
    )
