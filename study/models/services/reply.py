"""Read labels and scores in the answer of a service, at the paths that the spec gives."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from study.models.services.label_names import normalised
from study.models.services.service_spec import Remote


class UnexpectedAnswer(Exception):
    """An answer that does not fit the spec. The text gives the reason and quotes nothing from the answer."""


@dataclass(frozen=True)
class Reply:
    """The reply of a service about one image.

    `names` are the normalised labels, best first, and `scores` are their scores; empty if the spec's `scores` is null.
    The reply of a chat service has the unchanged `sentence` and no labels, because a judge finds the labels later.
    `refused` says that the service marked its answer as a refusal, or that the answer was empty.
    """

    names: tuple[str, ...]
    scores: tuple[float, ...]
    sentence: str | None = None
    refused: bool = False


def read(body: str, remote: Remote) -> Reply:
    """Return the best `remote.top` labels in the JSON text `body`, the highest score first.

    Labels with equal scores, or without scores, keep the order of the answer. Raises UnexpectedAnswer if `body` is not
    JSON, if a path does not exist in the answer, if a label is empty or not text, if a score is not a finite number, or
    if the numbers of labels and scores differ.
    """
    data = parsed(body)
    labels = follow(data, remote.labels)
    if not all(isinstance(label, str) and normalised(label) and _is_encodable(label) for label in labels):
        raise UnexpectedAnswer(f"the answer has a label at {remote.labels} that is not text")
    if remote.scores is None:
        return Reply(tuple(map(normalised, labels[: remote.top])), ())
    scores = [_score(score, remote.scores) for score in follow(data, remote.scores)]
    if len(scores) != len(labels):
        raise UnexpectedAnswer(f"the answer has {len(labels)} labels and {len(scores)} scores")
    best = sorted(range(len(labels)), key=lambda index: -scores[index])[: remote.top]
    return Reply(tuple(normalised(labels[index]) for index in best), tuple(scores[index] for index in best))


def parsed(body: str) -> Any:
    """Return the data in a JSON text. Raises UnexpectedAnswer if the text is not JSON, or has NaN or an infinity."""
    try:
        return json.loads(body, parse_constant=_reject_constant)
    except (ValueError, RecursionError):
        raise UnexpectedAnswer("the answer is not JSON") from None


def follow(data: Any, path: str) -> list[Any]:
    """Return all values at `path` in `data`, in order. Raises UnexpectedAnswer if a key or list position is missing.

    `path` has keys and list positions joined by dots, with `*` for every element of a list.
    """
    values, done = [data], ""
    for part in path.split("."):
        found: list[Any] = []
        for value in values:
            if part == "*" and isinstance(value, list):
                found.extend(value)
            elif isinstance(value, dict) and part in value:
                found.append(value[part])
            elif isinstance(value, list) and part.isdecimal() and len(part) < 10 and int(part) < len(value):
                found.append(value[int(part)])
            else:
                raise UnexpectedAnswer(f"the answer has no '{part}' {f'at {done}' if done else 'at its top level'}")
        values, done = found, f"{done}.{part}" if done else part
    return values


def _score(value: Any, path: str) -> float:
    try:
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise UnexpectedAnswer(f"the answer has a score at {path} that is not a finite number")
    return number


def _is_encodable(label: str) -> bool:
    """Return whether UTF-8 can encode `label`. JSON can contain unpaired surrogates, which UTF-8 cannot encode."""
    return not any("\ud800" <= letter <= "\udfff" for letter in label)


def _reject_constant(name: str) -> None:
    raise ValueError(name)
