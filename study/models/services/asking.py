"""Ask one service about images.

The service gets all images, or the versions of an image one after the other until the attack succeeds with a version.
"""

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
    """A question about N images: the images' true labels, and their target labels if the attack is targeted.

    `clean_names` has, for each image, the names with which the service answered for the clean image; None if the
    question is about the clean images.
    """

    labels: Sequence[int]
    target_labels: Sequence[int] | None
    clean_names: Sequence[Sequence[str]] | None


@dataclass(frozen=True)
class Answers:
    """The answers for V versions of N images: V * N answers, all answers for the first version first.

    `names`, `scores`, `sentences` and `refused` have one entry for each answer. `study.results.schema.TargetAnswers`
    describes `shown`.
    """

    names: tuple[tuple[str, ...], ...]
    scores: tuple[tuple[float, ...], ...]
    sentences: tuple[str, ...] | None
    refused: tuple[bool, ...] | None
    shown: NDArray[np.int64] | None


class Asking:
    """One service. For a chat service, a judge finds the labels in the service's sentences."""

    def __init__(
        self,
        name: str,
        remote: Remote,
        labels: LabelSet,
        *,
        secrets: tuple[Secret | None, Secret | None],
        caches: tuple[Path, Path],
    ) -> None:
        """Set up the clients. `secrets` and `caches` have two entries: for the service, and for the judging model."""
        self._remote, self._labels = remote, labels
        self._service = Service(name, remote, secret=secrets[0], cache=caches[0])
        self._judging = None
        if remote.api == "chat":
            self._judging = judging(name, remote, labels, secret=secrets[1], cache=caches[1])

    def describe(self) -> dict[str, Any]:
        """Return what a run records about the service."""
        return self._service.describe()

    def answers(self, images: NDArray[np.uint8], question: Question) -> Answers:
        """Return the answers for `uint8` images (V * N, C, H, W): V versions of the N images of `question`.

        Without a limit `queries`, the service gets all versions. With this limit, it gets at most the first `queries`
        versions of each adversarial image, one after the other, and no further version after a success of the attack.
        The answer for the last version that the service got is then also the answer for all later versions. Raises
        StudyError as `Service.ask` does, or if a judging model fails.
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
        """Ask about `images`, and return the replies and the verdicts.

        `places` are the positions of `images` among all V * N images of the question.
        """
        replies = self._service.ask(images)
        if self._judging is None:
            return replies, [Verdict(reply.names, refused=False) for reply in replies]
        asked = [self._in_question(place % len(question.labels), question) for place in places]
        return replies, self._judging.verdicts(replies, asked)

    def _in_question(self, index: int, question: Question) -> tuple[int, ...]:
        wanted = () if question.target_labels is None else (question.target_labels[index],)
        return (question.labels[index], *wanted)

    def _succeeds(self, verdict: Verdict, index: int, question: Question) -> bool:
        """Return whether the attack succeeded on an image, by the rule of `study.analysis.rates.succeeded`.

        `index` is the index of the image among the N images of `question`.
        """
        if question.target_labels is not None:
            return not set(verdict.names).isdisjoint(self._names(question.target_labels[index]))
        if self._judging is not None:
            return not verdict.refused and set(verdict.names).isdisjoint(self._names(question.labels[index]))
        assert question.clean_names is not None, "a limit `queries` applies only to adversarial images"
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
