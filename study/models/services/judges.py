"""Judge the sentences of a chat service: which labels of the study a sentence names, and whether it is a refusal.

A judge gets the sentence and the labels in question, but never the image. Therefore stored answers can be judged again.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from study.errors import StudyError
from study.images.labels import LabelSet
from study.models.services.client import Service
from study.models.services.credentials import Secret
from study.models.services.label_names import OwnNames, names_of_label
from study.models.services.reply import Reply
from study.models.services.service_spec import Judge, Remote

Asked = Sequence[Sequence[int]]
"""For each sentence, the labels in question: the true label, and the target label if there is one."""


@dataclass(frozen=True)
class Verdict:
    """The normalised names of the labels that an answer names, and whether the answer is a refusal."""

    names: tuple[str, ...]
    refused: bool


class SentenceReader(Protocol):
    """An object that finds the names of labels in sentences."""

    def names(self, sentences: Sequence[str], asked: Asked) -> list[tuple[str, ...]]:
        """Return, for each sentence, the normalised names of the labels that the sentence names."""


class Keywords:
    """A reader that finds the names of all labels of a study, as whole words.

    If names overlap, the one that begins first counts. Of names that begin at the same word, the longest counts.
    """

    def __init__(self, own_names: OwnNames, labels: LabelSet) -> None:
        known: dict[str, list[str]] = {}
        for label in range(len(labels)):
            for name in names_of_label(own_names, labels, label, talks=True):
                if plain(name):
                    known.setdefault(plain(name), []).append(name)
        self._known: Mapping[str, list[str]] = known
        longest = sorted(known, key=lambda name: (-len(name), name))
        # A plural is the singular with s or es. Irregular plurals are ignored, because no list could be complete.
        either = "|".join(map(re.escape, longest))
        self._pattern = re.compile(rf"(?<!\S)({either})(?:s|es)?(?!\S)")

    def names(self, sentences: Sequence[str], asked: Asked) -> list[tuple[str, ...]]:
        return [self._in(sentence) for sentence in sentences]

    @functools.lru_cache(maxsize=100_000)  # noqa: B019 - few objects in a process
    def _in(self, sentence: str) -> tuple[str, ...]:
        found = (name for one in self._pattern.findall(plain(sentence)) for name in self._known[one])
        return tuple(dict.fromkeys(found))


class Second:
    """A reader that asks a second model whether a sentence names a label. Each question is asked only once."""

    def __init__(self, prompt: str, own_names: OwnNames, labels: LabelSet, service: Service, name: str) -> None:
        self._prompt, self._own_names, self._labels = prompt, own_names, labels
        self._service, self._name = service, name

    def names(self, sentences: Sequence[str], asked: Asked) -> list[tuple[str, ...]]:
        """Return the names as `SentenceReader.names` does, but only for the labels in question.

        Raises StudyError if the model replies neither yes nor no, replies both, or does not answer.
        """
        pairs = [(s, label) for s, labels in zip(sentences, asked, strict=True) for label in labels if s.strip()]
        pairs = list(dict.fromkeys(pairs))
        replies = self._service.ask_about([self._question(*pair) for pair in pairs])
        said = {pair: self._is_yes(reply) for pair, reply in zip(pairs, replies, strict=True)}
        return [
            tuple(
                dict.fromkeys(name for label in labels if said.get((sentence, label)) for name in self._names_of(label))
            )
            for sentence, labels in zip(sentences, asked, strict=True)
        ]

    def _question(self, sentence: str, label: int) -> str:
        # Both placeholders are replaced in one pass, so that the text {label} inside an answer stays as it is.
        values = {"{answer}": sentence, "{label}": ", ".join(self._names_of(label))}
        return re.sub(r"\{answer\}|\{label\}", lambda found: values[found[0]], self._prompt)

    def _names_of(self, label: int) -> tuple[str, ...]:
        return names_of_label(self._own_names, self._labels, label, talks=True)

    def _is_yes(self, reply: Reply) -> bool:
        words = set(plain(reply.sentence or "").split()) & {"yes", "no"}
        if len(words) != 1:
            shown = " ".join((reply.sentence or "").split())[:80]
            raise StudyError(
                f"the model that judges {self._name} replied '{shown}', not yes or no",
                accepted="one of the words yes and no",
                todo="ask for one word in the judge's prompt, or take another model; answers so far are stored",
                status=1,
            )
        return words == {"yes"}


class Judging:
    """The judge of the replies of one chat service."""

    def __init__(self, reader: SentenceReader, judge: Judge) -> None:
        self._reader = reader
        self._refusals = [plain(phrase) for phrase in judge.refusals]

    def verdicts(self, replies: Sequence[Reply], asked: Asked) -> list[Verdict]:
        """Return the verdict on each reply. Raises StudyError if the second model fails."""
        sentences = [reply.sentence or "" for reply in replies]
        # A sentence that the service marks as a refusal is not searched for labels, because it may quote the question.
        found = self._reader.names(["" if r.refused else s for r, s in zip(replies, sentences, strict=True)], asked)
        return [
            Verdict(names, reply.refused or (not names and self.is_refusal(sentence)))
            for names, reply, sentence in zip(found, replies, sentences, strict=True)
        ]

    def is_refusal(self, sentence: str) -> bool:
        """Return whether a sentence that names no label is a refusal.

        A refusal is empty, or contains one of the phrases in `Judge.refusals`.
        """
        text = f" {plain(sentence)} "
        return not text.strip() or any(f" {phrase} " in text for phrase in self._refusals)


def judging(name: str, remote: Remote, labels: LabelSet, *, secret: Secret | None, cache: Path) -> Judging:
    """Return the judge of the chat service `name`, which uses keywords or a second model.

    `secret` and `cache` are the credential and the answer cache of the second model, if there is one.
    """
    assert remote.judge is not None, "a chat service has a judge"
    other = remote.judging
    if other is None:
        return Judging(_keywords(tuple(sorted(remote.names.items())), labels), remote.judge)
    assert remote.judge.prompt is not None, "a judging model has a prompt"
    service = Service(f"the judge of {name}", other, secret=secret, cache=cache)
    return Judging(Second(remote.judge.prompt, remote.names, labels, service, name), remote.judge)


@functools.lru_cache(maxsize=4)
def _keywords(own_names: tuple[tuple[str, tuple[str, ...]], ...], labels: LabelSet) -> Keywords:
    return Keywords(dict(own_names), labels)


def plain(text: str) -> str:
    """Return `text` in the form in which names are searched.

    It has lower case, one space between words, and neither punctuation nor accents.
    """
    unfolded = unicodedata.normalize("NFKD", text.replace("\u2019", "'").casefold())
    kept = "".join(letter for letter in unfolded if not unicodedata.combining(letter))
    return " ".join(word.strip("'") for word in re.findall(r"[\w']+", kept) if word.strip("'"))
