"""Asks one service about images: about all of them, or about the versions of an image in turn until one succeeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.images.labels import LabelSet
from study.models.services.client import Service
from study.models.services.credentials import Secret
from study.models.services.judges import Verdict, judging
from study.models.services.label_names import names_of_label
from study.models.services.reply import Reply
from study.models.services.service_spec import Remote


@dataclass(frozen=True)
class Question:
    """A question about N images: their true labels, and their target labels if the attack is targeted.

    `clean_names` has, for each image, the names that the service gave for the clean image; None if the question is
    about the clean images.
    """

    labels: Sequence[int]
    target_labels: Sequence[int] | None
    clean_names: Sequence[Sequence[str]] | None


@dataclass(frozen=True)
class Answers:
    """The answers about V versions of N images: V * N answers, in the order of the images.

    `shown` is described in `study.results.schema.TargetAnswers`.
    """

    names: tuple[tuple[str, ...], ...]
    scores: tuple[tuple[float, ...], ...]
    sentences: tuple[str, ...] | None
    refused: tuple[bool, ...] | None
    shown: NDArray[np.int64] | None


class Asking:
    """One service; a chat service has a judge, which finds the labels in its sentences."""

    def __init__(
        self,
        name: str,
        remote: Remote,
        labels: LabelSet,
        *,
        secrets: tuple[Secret | None, Secret | None],
        caches: tuple[Path, Path],
    ) -> None:
        """`secrets` and `caches` have two entries: for the service, and for the model that judges its sentences."""
        self._remote, self._labels = remote, labels
        self._service = Service(name, remote, secret=secrets[0], cache=caches[0])
        self._judging = None
        if remote.api == "chat":
            self._judging = judging(name, remote, labels, secret=secrets[1], cache=caches[1])

    def describe(self) -> dict[str, Any]:
        """The record of the service in a run."""
        return self._service.describe()

    def answers(self, images: NDArray[np.uint8], question: Question) -> Answers:
        """Ask about `uint8` images (V * N, C, H, W): V versions of the N images of `question`.

        If the service has a limit `queries`, only the first `queries` versions of an image are shown to the service,
        one after the other, and none after a version that succeeded. The other versions get the answer about the last
        version shown. Raises StudyError as `Service.ask` does.
        """
        most = self._remote.queries
        if most is None or question.clean_names is None or not len(images):
            return self._packed(*self._asked(images, range(len(images)), question), None)
        count = len(question.labels)
        replies: dict[int, Reply] = {}
        verdicts: dict[int, Verdict] = {}
        open_ = list(range(count))
        shown = np.empty(len(images), np.int64)
        last = np.arange(count)
        for version in range(len(images) // count):
            if version < most and open_:
                places = [version * count + one for one in open_]
                said = self._asked(images[places], places, question)
                replies |= dict(zip(places, said[0], strict=True))
                verdicts |= dict(zip(places, said[1], strict=True))
                last[open_] = places
                open_ = [one for one in open_ if not self._succeeds(verdicts[version * count + one], one, question)]
            shown[version * count : (version + 1) * count] = last
        places = shown.tolist()
        return self._packed([replies[one] for one in places], [verdicts[one] for one in places], shown)

    def _asked(
        self, images: NDArray[np.uint8], places: Sequence[int], question: Question
    ) -> tuple[list[Reply], list[Verdict]]:
        """Ask about `images`, a selection: `places` are their positions among all images of the question."""
        replies = self._service.ask(images)
        if self._judging is None:
            return replies, [Verdict(reply.names, refused=False) for reply in replies]
        asked = [self._in_question(place % len(question.labels), question) for place in places]
        return replies, self._judging.verdicts(replies, asked)

    def _in_question(self, index: int, question: Question) -> tuple[int, ...]:
        wanted = () if question.target_labels is None else (question.target_labels[index],)
        return (question.labels[index], *wanted)

    def _succeeds(self, verdict: Verdict, index: int, question: Question) -> bool:
        """Whether an adversarial image succeeded, by the rule of `study.analysis.rates.succeeded`."""
        if question.target_labels is not None:
            return not set(verdict.names).isdisjoint(self._names(question.target_labels[index]))
        if self._judging is not None:
            return not verdict.refused and set(verdict.names).isdisjoint(self._names(question.labels[index]))
        assert question.clean_names is not None, "limits apply to adversarial images only"
        return set(verdict.names).isdisjoint(question.clean_names[index])

    def _names(self, label: int) -> tuple[str, ...]:
        return names_of_label(self._remote.names, self._labels, label, talks=self._judging is not None)

    def _packed(
        self, replies: Sequence[Reply], verdicts: Sequence[Verdict], shown: NDArray[np.int64] | None
    ) -> Answers:
        talks = self._judging is not None
        return Answers(
            names=tuple(one.names for one in verdicts),
            scores=tuple(one.scores for one in replies),
            sentences=tuple(one.sentence or "" for one in replies) if talks else None,
            refused=tuple(one.refused for one in verdicts) if talks else None,
            shown=shown,
        )
