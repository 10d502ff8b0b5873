"""The clean pass: every model predicts candidate images, until as many as wanted are admitted."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from actors.backend import Ref
from actors.runtime import Runtime
from actors.scheduler import Failed, Task
from actors.target import Answer, PredictJob
from study.errors import StudyError
from study.images import pixels
from study.images.selection import Clean, Selected, Selection, admitted, cut
from study.images.sets import Candidate
from study.spec import Spec

_SLACK = 1.5
_MOST_AT_ONCE = 1024
"""Images in a round, whatever is missing: all of a round's pixels wait for the models together."""


def run(spec: Spec, candidates: Sequence[Candidate], runtime: Runtime) -> Selection:
    """Ask in rounds, in the order of `candidates`: what is selected does not depend on how many are asked at once.

    Raises StudyError where too few images are admitted, and Interrupted.
    """
    wanted = spec.images.count or len(candidates)
    chosen: list[Selected] = []
    models: dict[str, dict[str, Any]] = {}
    asked = right = 0
    runtime.display.say(f"clean pass: {len(spec.models)} models, up to {len(candidates)} images")
    while len(chosen) < wanted and asked < len(candidates):
        missing = int((wanted - len(chosen)) * _SLACK) + 1
        batches = -(-min(missing, _MOST_AT_ONCE) // spec.numerics.batch)
        part = candidates[asked : asked + batches * spec.numerics.batch]
        asked += len(part)
        predicted = _predict(spec, part, runtime, models)
        admitted_now = [one for one in predicted if admitted(one, spec.images.keep, spec.sources())]
        right += len(admitted_now)
        chosen += admitted_now[: wanted - len(chosen)]
    rule = {"all": "kept whatever the models say", "correct-for-all": "right for all models"}.get(
        spec.images.keep, "right for all source models"
    )
    runtime.display.say(f"{right} of {asked} images are {rule}; {len(chosen)} are selected")
    if len(chosen) < (spec.images.count or 1):
        raise StudyError(
            f"{spec.images.count or 1} images are wanted, and only {len(chosen)} of {asked} are {rule}",
            accepted=f"images.count up to {len(chosen)}" if chosen else None,
            todo="lower images.count, add images, or relax images.keep",
        )
    return Selection(cut(chosen, spec.run.shard), {name: models[name] for name in spec.models})


def _predict(
    spec: Spec, part: Sequence[Candidate], runtime: Runtime, models: dict[str, dict[str, Any]]
) -> list[Selected]:
    """What every model says of `part`; fills `models` with what each of them is."""
    batch = spec.numerics.batch
    chunks = [part[start : start + batch] for start in range(0, len(part), batch)]
    runtime.display.begin({"clean pass": len(chunks) * len(spec.models)})
    digests: list[str] = []
    for index, chunk in enumerate(chunks):
        images = np.stack([pixels.read(one.path, spec.images.size) for one in chunk])
        digests += [pixels.digest(one) for one in images]
        ref = runtime.backend.put(images)
        for name in spec.models:
            job = PredictJob(name, batch)
            runtime.scheduler.add(
                Task("target", {name: None}, job, functools.partial(_same, ref), cost=1.0, about=index)
            )
    answers: dict[tuple[int, str], Answer] = {}
    try:
        while not runtime.scheduler.idle:
            runtime.interrupt.check()
            for event in runtime.scheduler.step(0.5):
                if isinstance(event, Failed):
                    raise _failure(event)
                answers[event.task.about, event.value.said.target] = event.value
                runtime.display.advance(["clean pass"])
    finally:
        runtime.display.end()
    for (_, name), answer in answers.items():
        models[name] = dict(answer.model)
    return [
        Selected(
            image=one.image,
            label=one.label,
            target_label=one.target_label,
            digest=digests[position],
            clean={name: _clean(answers[position // batch, name], position % batch) for name in spec.models},
        )
        for position, one in enumerate(part)
    ]


def _same(ref: Ref) -> Ref:
    return ref


def _clean(answer: Answer, row: int) -> Clean:
    return Clean(tuple(answer.said.top5[row].tolist()), tuple(answer.said.top5_prob[row].tolist()))


def _failure(event: Failed) -> StudyError:
    if isinstance(event.error, StudyError):
        return event.error
    name = event.task.job.target
    return StudyError(
        f"model '{name}' cannot predict clean images: {str(event.error).strip().splitlines()[-1]}",
        todo=f"try model '{name}' alone: its arguments, size and weights",
    )
