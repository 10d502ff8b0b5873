"""Label sets: the labels of a study in their order, and the names of labels.

A study has one label set. Images and models refer to a label by its index in this set. If a network has its outputs in
another order, the model's spec lists the names of its outputs.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from study.errors import StudyError, names

_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_FASHION = ("t-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
_DIGITS = tuple(str(digit) for digit in range(10))

KNOWN = ("imagenet", "cifar10", "mnist", "fashion-mnist")
_MOST_LABELS = 1_000_000

ABSTAINED = -1
"""The label in a prediction that means "no answer". It occurs for a target that lets several predictions vote."""


@dataclass(frozen=True)
class LabelSet:
    """The names of labels, by index. `name` is the name of a known label set, or `own`."""

    name: str
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def find(self, text: str) -> int | None:
        """Return the index of the label that `text` gives by name or by index in digits; None if there is none.

        If `text` is both a name and an index, the name counts.
        """
        found = _positions(self.labels).get(text)
        if found is None and text.isascii() and text.isdecimal() and int(text) < len(self.labels):
            return int(text)
        return found

    def named(self, text: str) -> int | None:
        """Return the index of the label that a data set calls `text`; None if there is none, or more than one.

        `text` is the label's name, or all words for the label, as in "tench, Tinca tinca". Case and spaces are ignored.
        """
        return _by_name_and_words(self).get(_plain(text))

    def meant(self, word: str, most: int = 4) -> list[int]:
        """Return the indices of up to `most` labels that have `word` among their words, for a message."""
        wanted = _plain(word)
        found = (i for i in range(len(self)) if wanted in {_plain(one) for one in self.words(i)})
        return list(itertools.islice(found, most))

    def words(self, index: int) -> tuple[str, ...]:
        """Return the words for a label, the most usual word first. For ImageNet, these are WordNet's lemmas."""
        return _lemmas()[self.labels[index]] if self.name == "imagenet" else (self.labels[index],)

    @property
    def accepted(self) -> str:
        """The forms in which a label may be written, as text for a message."""
        if self.name == "imagenet":
            return "0 to 999, or a WordNet id such as n01440764"
        return f"0 to {len(self) - 1}, or a name: {names(self.labels)}"


def label_set(given: str | Sequence[str]) -> LabelSet:
    """Return the known label set of this name, or a label set of the given names in the given order."""
    if not isinstance(given, str):
        return LabelSet("own", tuple(given))
    known = {"cifar10": _CIFAR10, "mnist": _DIGITS, "fashion-mnist": _FASHION}
    return LabelSet(given, known[given] if given in known else _wordnet_ids())


def read_names(path: Path) -> tuple[str, ...]:
    """Return the label names in a text file, which has one name per line.

    Raises StudyError if the file cannot be read, has a name twice, has fewer than two names, or has too many names.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise StudyError(
            f"the list of labels {path} cannot be read: {reason}",
            accepted=f"{', '.join(KNOWN)}, a list of names, or a text file with one name per line",
        ) from None
    found = tuple(line for line in lines if line)
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if line and line in seen:
            raise StudyError(f"the label '{line}' occurs twice", where=f"{path}, line {number}, and line {seen[line]}")
        seen[line] = number
    if not 2 <= len(found) <= _MOST_LABELS:
        raise StudyError(
            f"the number of labels in {path} is {len(found)}",
            accepted="a text file with one name per line, with 2 to 1,000,000 names",
        )
    return found


@functools.lru_cache(maxsize=64)
def _positions(labels: tuple[str, ...]) -> dict[str, int]:
    return {label: index for index, label in enumerate(labels)}


@functools.lru_cache(maxsize=64)
def _by_name_and_words(labels: LabelSet) -> dict[str, int]:
    """Return the indices of labels by name, and also by all their words if no other label has the same words."""
    by_words: dict[str, int | None] = {}
    for index in range(len(labels)):
        words = _plain(", ".join(labels.words(index)))
        by_words[words] = None if words in by_words else index
    known = {words: index for words, index in by_words.items() if index is not None}
    return known | {_plain(label): index for index, label in enumerate(labels.labels)}


def _plain(text: str) -> str:
    return "".join(text.casefold().split())


def _timm_metadata(name: str) -> str:
    """Return the text of a file in timm's metadata.

    The package timm is not imported, because importing it takes seconds.
    """
    found = importlib.util.find_spec("timm")
    assert found is not None, "timm is a dependency of study"
    assert found.submodule_search_locations, "timm is a package"
    return (Path(found.submodule_search_locations[0]) / "data" / "_info" / name).read_text(encoding="utf-8")


@functools.cache
def _wordnet_ids() -> tuple[str, ...]:
    """Return ImageNet's 1,000 WordNet ids in the order of ILSVRC 2012's folders and of the zoos' network outputs."""
    ids = tuple(_timm_metadata("imagenet_synsets.txt").split())
    assert len(ids) == 1000, f"timm names {len(ids)} labels, not ImageNet's 1,000"
    return ids


@functools.cache
def _lemmas() -> dict[str, tuple[str, ...]]:
    lines = (line.partition("\t") for line in _timm_metadata("imagenet_synset_to_lemma.txt").splitlines())
    return {wordnet_id: tuple(word.strip() for word in words.split(",")) for wordnet_id, _, words in lines}
