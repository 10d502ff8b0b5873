"""The clean pass: every model predicts candidate images until enough images are selected.

Remote services come last, and predict selected images only, because each request may cost money.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.execution.clean_images import unchanged
from actors.execution.clean_predictions import CleanPredictions, Request
from actors.execution.driver import drive
from actors.execution.runtime import Runtime
from actors.resources import shards
from actors.resources.object_store import pixel_budgets
from study.errors import StudyError
from study.images import clean_accuracy, decoding
from study.images.image_sets import Candidate, Ranked
from study.images.selection import Clean, Selected, Selection, Shard, admitted, cut, ranked, rule_breakers
from study.planning.spec_diff import must_be_there, unasked
from study.report import plausibility
from study.spec.schema import Spec
from study.terminal.screen import counted

_SPARE = 1.5
"""Number of candidates that a round reads for each missing image. It is above 1 because some candidates are not
admitted."""
_MOST_AT_ONCE = 1024
"""Largest number of images in a round, before it is rounded up to whole batches. All pixels of a round are in memory at
once."""


def run(spec: Spec, candidates: Sequence[Candidate], runtime: Runtime) -> Selection:
    """Select images in the order of `candidates`, and return them with the clean predictions.

    The candidates are read in rounds. The size of a round does not change the selection. Raises StudyError if too few
    images are admitted, and Interrupted if a signal comes.
    """
    return _CleanPass(spec, runtime).run(candidates)


def extend(
    spec: Spec, before: Selection, candidates: Sequence[Candidate], runtime: Runtime, *, more: bool
) -> Selection:
    """Return an earlier selection with the predictions of new models added. With `more`, also select further images.

    An image stays selected even if a new model misclassifies it. Further images are taken first from the candidates
    after the last selected one, then from earlier candidates that were not selected. Further images go into new shards.

    Raises StudyError if too few images are admitted, or if a selected image or a known model has changed. Raises
    Interrupted if a signal comes.
    """
    return _CleanPass(spec, runtime, before.models).extend(before, candidates, more=more)


@dataclass(frozen=True)
class _Decoded:
    """A candidate whose file could be read, with its pixels."""

    candidate: Candidate
    pixels: NDArray[np.uint8]


class _CleanPass:
    def __init__(self, spec: Spec, runtime: Runtime, known: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        """`known`: the record of each model that an earlier launch has loaded, by name of the model."""
        self._spec = spec
        self._runtime = runtime
        self._say = runtime.display.say
        self._services = spec.services
        self._local = [name for name in spec.predicting if name not in self._services]
        self._silent = [name for name in spec.models if name not in spec.predicting]
        self._digests = {name: str(model["digest"]) for name, model in (known or {}).items()}
        self._models: dict[str, dict[str, Any]] = {}
        self._right: dict[str, clean_accuracy.Right] = {}
        self._unreadable: dict[str, str] = {}
        budget = (runtime.budgets or pixel_budgets(spec)).clean
        self._most = max(spec.numerics.batch, min(_MOST_AT_ONCE, budget // spec.images.bytes))

    def run(self, candidates: Sequence[Candidate]) -> Selection:
        self._record(self._silent)
        spec = self._spec
        self._say(f"clean pass: {counted(len(self._local), 'model')}, up to {counted(len(candidates), 'image')}")
        chosen = self._choose(candidates, spec.images.count or len(candidates), 0)
        models = clean_accuracy.described({name: self._models[name] for name in spec.models}, {}, self._right)
        return Selection(cut(chosen, self._shard(len(chosen))), models, self._unreadable)

    def extend(self, before: Selection, candidates: Sequence[Candidate], *, more: bool) -> Selection:
        spec = self._spec
        must_be_there(before, candidates)
        shards = list(before.shards)
        unknown = unasked(spec, before)
        self._record([name for name in unknown if name in self._silent])
        new = [name for name in unknown if name not in self._silent]
        if new:
            images = sum(len(shard.images) for shard in shards)
            self._say(f"clean pass: {', '.join(new)} on the {counted(images, 'image')} selected before")
            shards = self._with_predictions(shards, new, {one.image: one for one in candidates})
            self._report_rule_breakers(shards, new)
            self._count((one for shard in shards for one in shard.images), [one for one in new if one in self._local])
            self._warn(self._doubts())
        if more:
            shards += self._further(shards, candidates)
        models = clean_accuracy.described({**before.models, **self._models}, before.models, self._right)
        return Selection(shards, models, self._unreadable)

    def _record(self, models: Sequence[str]) -> None:
        """Load the models that are only sources, to record them. They predict nothing and affect no selection."""
        if models:
            self._say(f"{', '.join(models)}: loading, without predictions")
            self._predict(models, [], [])

    def _further(self, shards: Sequence[Shard], candidates: Sequence[Candidate]) -> list[Shard]:
        """Select images that are not in `shards`, and return them as new shards."""
        spec = self._spec
        images = {one.image for shard in shards for one in shard.images}
        wanted = (spec.images.count or len(candidates)) - len(images)
        last = max(index for index, one in enumerate(candidates) if one.image in images)
        rest = [one for one in (*candidates[last + 1 :], *candidates[:last]) if one.image not in images]
        self._say(f"clean pass: {counted(len(self._local), 'model')}, up to {counted(len(rest), 'further image')}")
        chosen = self._choose(rest, wanted, len(images))
        first = max(shard.index for shard in shards) + 1
        return [replace(shard, index=first + shard.index) for shard in cut(chosen, self._shard(len(chosen)))]

    def _shard(self, images: int) -> int:
        scheduler = self._runtime.scheduler
        return shards.size(self._spec, images, gpus=scheduler.device != "cpu", workers=scheduler.workers)

    def _choose(self, candidates: Sequence[Candidate], wanted: int, before: int) -> list[Selected]:
        """Return the first `wanted` of `candidates` that are admitted.

        `before`: number of images that are selected already. Raises StudyError if too few candidates are admitted.
        """
        spec = self._spec
        chosen: list[Selected] = []
        pixels: dict[str, NDArray[np.uint8]] = {}
        tried = right = 0
        while len(chosen) < wanted and tried < len(candidates):
            missing = int((wanted - len(chosen)) * _SPARE) + 1
            batches = -(-min(missing, self._most) // spec.numerics.batch)
            part = candidates[tried : tried + batches * spec.numerics.batch]
            tried += len(part)
            read = self._read(part)
            predicted = self._predicted(read)
            let_in = [one for one in predicted if admitted(one, spec.images.keep, spec.predicting_sources())]
            right += len(let_in)
            taken = let_in[: wanted - len(chosen)]
            # With `keep: all`, accuracy is counted on the selected images. Otherwise it is counted on all candidates
            # that were read.
            self._count(taken if spec.images.keep == "all" else predicted, self._local)
            chosen += taken
            if self._services:
                ids = {one.image for one in chosen}
                pixels |= {one.candidate.image: one.pixels for one in read if one.candidate.image in ids}
        self._report(len(chosen), right, tried, before)
        if self._services and chosen:
            self._say(f"{', '.join(self._services)}: predicting {counted(len(chosen), 'clean image')}")
            chosen = self._predicted_by_services(chosen, pixels)
        return chosen

    def _report(self, chosen: int, right: int, tried: int, before: int) -> None:
        """Print how many images are selected. Raises StudyError if there are too few.

        `chosen`: number of selected images. `right`: number of admitted candidates. `tried`: number of candidates that
        were read. `before`: number of images that were selected already.
        """
        keep = self._spec.images.keep
        right_for = {"correct-for-all": "all models", "correct-for-sources": "all source models"}
        models = ", ".join(keep) if isinstance(keep, tuple) else right_for.get(keep)
        rule = f"classified correctly by {models}" if models else "kept whatever the models predict"
        for image, reason in self._unreadable.items():
            self._say(f"left out: {image}: {reason}")
        further = "further " if before else ""
        doubtful = self._doubts()
        are = "is" if right == 1 else "are"
        self._say(
            f"{right} of {counted(tried, f'{further}image')} {are} {rule}; {chosen} {'added' if before else 'selected'}"
        )
        wanted = (self._spec.images.count or 1) - before
        if chosen >= wanted:
            self._warn(doubtful)
            return
        unreadable = f" ({len(self._unreadable)} could not be read)" if self._unreadable else ""
        raise StudyError(
            f"{counted(wanted, f'{further}image')} {'is' if wanted == 1 else 'are'} needed, but only {chosen} of "
            f"{tried} {'is' if chosen == 1 else 'are'} {rule}{unreadable}",
            accepted=f"images.count up to {before + chosen}" if before + chosen else None,
            todo="; ".join([*doubtful, "lower images.count, add images, or let fewer models decide: images.keep"]),
        )

    def _warn(self, doubtful: Sequence[str]) -> None:
        for line in doubtful:
            self._say(f"warning: {line}")

    def _count(self, images: Iterable[Selected], models: Sequence[str]) -> None:
        """Add the correct predictions of `models` for these clean images to the counts."""
        answers = ((one.label, {name: one.clean[name].top1 for name in models}) for one in images)
        for name, one in clean_accuracy.tally(answers).items():
            self._right[name] = self._right.get(name, clean_accuracy.Right()) + one

    def _doubts(self) -> list[str]:
        """Print the clean accuracy of each model. Returns a warning for each model that seems to guess."""
        found = {name: self._right[name] for name in self._spec.models if name in self._right}
        if found:
            self._say(clean_accuracy.told(found))
        return plausibility.of_models(self._spec, found, self._models)

    def _with_predictions(
        self, shards: Sequence[Shard], new: Sequence[str], files: Mapping[str, Candidate]
    ) -> list[Shard]:
        """Return the shards with the predictions of the `new` models added.

        `files`: the candidate of each image, by image id.
        """
        images = [one for shard in shards for one in shard.images]
        local = [name for name in new if name not in self._services]
        services = [name for name in new if name in self._services]
        added: dict[str, dict[str, Clean]] = {one.image: {} for one in images}
        for start in range(0, len(images), self._most):
            some = images[start : start + self._most]
            pixels = [unchanged(one, files[one.image].file, self._spec.images) for one in some]
            ids, labels = [one.image for one in some], [one.label for one in some]
            for models in (local, services):
                answers = self._predict(models, pixels, ids, labels) if models else None
                for row, image in enumerate(ids if answers is not None else ()):
                    assert answers is not None, "without answers, this loop does not run"
                    added[image] |= {name: answers.prediction(name, row) for name in models}
        return [
            replace(shard, images=tuple(replace(one, clean={**one.clean, **added[one.image]}) for one in shard.images))
            for shard in shards
        ]

    def _report_rule_breakers(self, shards: Sequence[Shard], new: Sequence[str]) -> None:
        """Print each new model that misclassifies selected images, if `images.keep` asks for correct predictions.

        These images stay selected, so that rows stay comparable.
        """
        keep, images = self._spec.images.keep, [one for shard in shards for one in shard.images]
        bound = {"correct-for-all": self._local, "correct-for-sources": self._spec.predicting_sources()}
        asked = bound.get(keep, ()) if isinstance(keep, str) else ()
        for name, wrong in rule_breakers(shards, [one for one in new if one in asked and one in self._local]).items():
            self._say(
                f"{name} misclassifies {wrong} of the {counted(len(images), 'clean image')} selected before it "
                "was added. Misclassified images stay selected; `among='clean-correct'` gives rates without them"
            )

    def _read(self, part: Sequence[Candidate]) -> list[_Decoded]:
        read = []
        for one in part:
            try:
                read.append(_Decoded(one, decoding.read(one.file, self._spec.images)))
            except StudyError as error:
                if self._spec.images.corrupt == "stop":
                    raise
                self._unreadable[one.image] = error.what
        return read

    def _predicted(self, read: Sequence[_Decoded]) -> list[Selected]:
        """Return the candidates with the predictions of all local models."""
        if not read:
            return []
        answers = self._predict(self._local, [one.pixels for one in read], [one.candidate.image for one in read])
        return [
            Selected(
                image=one.candidate.image,
                label=one.candidate.label,
                target_label=self._target_label(one.candidate, answers, row),
                digest=decoding.digest(one.pixels),
                clean={name: answers.prediction(name, row) for name in self._local},
            )
            for row, one in enumerate(read)
        ]

    def _target_label(self, candidate: Candidate, answers: CleanPredictions, row: int) -> int:
        if candidate.target_label is not None:
            return candidate.target_label
        rule = self._spec.images.targets
        assert isinstance(rule, Ranked), "every other rule gives the candidate a target label"
        rows = [answers.probabilities(name, row).astype(np.float64) for name in self._ranking]
        return ranked(np.mean(rows, axis=0), candidate.label, rule.rank)

    @property
    def _ranking(self) -> Sequence[str]:
        """The models whose mean probabilities rank the target labels. Empty if the spec has another rule for them."""
        rule = self._spec.images.targets
        return (rule.by or self._spec.predicting_sources()) if isinstance(rule, Ranked) else ()

    def _predicted_by_services(
        self, chosen: Sequence[Selected], pixels: Mapping[str, NDArray[np.uint8]]
    ) -> list[Selected]:
        """Return the selected images with the predictions of remote services added."""
        ids, labels = [one.image for one in chosen], [one.label for one in chosen]
        answers = self._predict(self._services, [pixels[one] for one in ids], ids, labels)
        return [
            replace(one, clean={**one.clean, **{name: answers.prediction(name, row) for name in self._services}})
            for row, one in enumerate(chosen)
        ]

    def _predict(
        self,
        models: Sequence[str],
        images: Sequence[NDArray[np.uint8]],
        ids: Sequence[str],
        labels: Sequence[int] = (),
    ) -> CleanPredictions:
        predictions = CleanPredictions(
            self._spec, Request(models, images, ids, self._digests, self._ranking, labels), self._runtime
        )
        drive(predictions, self._runtime)
        self._runtime.interrupt.check()
        self._models |= predictions.models
        return predictions
