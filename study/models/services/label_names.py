"""A service's own names for the labels of a study."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from study.errors import StudyError
from study.images.labels import LabelSet
from study.spec import yaml_document

OwnNames = Mapping[str, tuple[str, ...]]
"""For each label, written as its name or its index in the study, the names that the service uses for this label."""


def normalised(name: str) -> str:
    """Return `name` in the form in which names are compared: lower case, without spaces at either end."""
    return name.strip().casefold()


def names_of_label(own_names: OwnNames, labels: LabelSet, label: int, *, talks: bool = False) -> tuple[str, ...]:
    """Return the normalised names of a label.

    These are the names in `own_names`, or else the words of the label set. For a chat service (`talks`), which may use
    any word, the result has the names in `own_names` and the words.
    """
    own = own_names.get(labels.labels[label])
    if own is None and labels.find(str(label)) == label:
        own = own_names.get(str(label))
    words = labels.words(label)
    named = (*(own or ()), *words) if talks else own or words
    return tuple(dict.fromkeys(normalised(name) for name in named))


def check_names(own_names: OwnNames, labels: LabelSet) -> None:
    """Raise StudyError if `own_names` has an unknown label, or has a label twice (as its name and as its index)."""
    seen: dict[int, str] = {}
    for given in own_names:
        index = labels.find(given)
        if index is None:
            raise StudyError(f"`names` has '{given}', which is not a label of the study", accepted=labels.accepted)
        if index in seen:
            raise StudyError(
                f"`names` has one label twice, as '{seen[index]}' and as '{given}'", todo="remove one entry"
            )
        seen[index] = given


def read_own_names(path: Path) -> dict[str, Any]:
    """Return the names for labels in a YAML or JSON mapping, or in a CSV file with lines label,name[,name…].

    The suffix tells the kind of the file: .csv, .json, or any other suffix, or none, for YAML.
    Names and labels are not checked here. Raises StudyError if the file cannot be read, has another form, or has a
    label twice.
    """
    accepted = "a .yaml or .json mapping, {label: name} or {label: [name, name]}; or a .csv file with lines label,name"
    kind = {".csv": "CSV", ".json": "JSON"}.get(path.suffix.lower(), "YAML")
    try:
        text = path.read_text(encoding="utf-8-sig")
        if kind == "CSV":
            return _from_csv(text, path)
        if kind == "JSON":
            found = json.loads(text, object_pairs_hook=lambda pairs: _without_repeats(pairs, path))
        else:
            found = yaml_document.as_written(text, str(path)).data
    except OSError as error:
        raise StudyError(f"the names in {path} cannot be read: {error.strerror}", accepted=accepted) from None
    except (ValueError, csv.Error, RecursionError):
        raise StudyError(f"the file of names {path} is not valid {kind}", accepted=accepted) from None
    if not isinstance(found, dict):
        raise StudyError(f"{path} is not a mapping of labels to names", accepted=accepted)
    return found


def _from_csv(text: str, path: Path) -> dict[str, Any]:
    pairs = []
    for number, line in enumerate(csv.reader(text.splitlines(), strict=True), 1):
        label, *own = [cell.strip() for cell in line] or [""]
        own = [name for name in own if name]
        if label and own:
            pairs.append((label, own))
        elif any(cell.strip() for cell in line):
            raise StudyError("a line has no label or no name", where=f"{path}, line {number}", accepted="label,name")
    return _without_repeats(pairs, path)


def _without_repeats(pairs: Iterable[tuple[str, Any]], path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for label, own in pairs:
        if label in found:
            raise StudyError(f"the label '{label}' occurs twice", where=str(path), accepted="each label once")
        found[label] = own
    return found
