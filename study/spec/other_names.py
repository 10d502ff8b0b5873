"""Ours for the names that other libraries and papers use: messages about an unknown preset or key answer with it.

The names are data, in `other_names.yaml`. Nothing is replaced silently: a preset here may have other numbers than the
attack of that name elsewhere.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study.attacks import presets
from study.errors import StudyError, names

_FILE = Path(__file__).with_name("other_names.yaml")


@dataclass(frozen=True)
class Answer:
    """Our name, or how to write it in a spec, and a remark on it."""

    ours: str
    note: str = ""


@dataclass(frozen=True)
class _Names:
    presets: Mapping[str, Answer]
    elsewhere: Mapping[str, str]
    keys: Mapping[str, Mapping[str, Answer]]


@functools.cache
def all_names() -> _Names:
    """The whole file, by plain names: presets, references of `external`, and keys by the section of a spec."""
    import yaml

    found: dict[str, Any] = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    return _Names(
        _answers(found["presets"]),
        {
            plain(name): f"{library}:{one[0]}"
            for library, attacks in found["elsewhere"].items()
            for one in attacks
            for name in one
        },
        {section: _answers(entries) for section, entries in found["keys"].items()},
    )


def plain(name: str) -> str:
    """The name without case and punctuation. `+` stays: it joins presets."""
    return re.sub(r"[^a-z0-9+]", "", name.lower())


def preset(given: str) -> Answer | None:
    """Our name of a preset that has another name elsewhere, or is joined from such names by `+`; else None."""
    own = {plain(name): name for name in reversed(presets.known())}
    single = plain(given)
    if single in own:
        return Answer(own[single])
    if single in all_names().presets:
        return all_names().presets[single]
    parts = [preset(part) for part in given.split("+")] if "+" in given else []
    joined = "+".join(dict.fromkeys(one for part in parts if part is not None for one in part.ours.split("+")))
    if parts and all(parts) and presets.preset(joined) is not None:
        return Answer(joined)
    return None


def external(given: str) -> str | None:
    """The reference, `<library>:<attack>`, of an attack that no preset has and another library has; else None."""
    return all_names().elsewhere.get(plain(given))


def key(given: str, section: str) -> Answer | None:
    """Our key for `given`, a name that others use for it, in a section of a spec; None if there is none.

    The section of the top keys is `spec`.
    """
    return all_names().keys.get(section, {}).get(plain(given))


def unknown_preset(
    given: str, kind: str = "preset", *, what: str | None = None, where: str | None = None, todo: str = ""
) -> StudyError:
    """The error for a name that is no preset: with ours if it is another name of one, else with the nearest.

    `kind` is what the place names: a preset, or an attack. `what` is the sentence for a name that is unknown elsewhere
    too. `<preset>` in `todo` stands for our name, or for any.
    """
    usual, what = what, f"there is no {kind} named '{given}'"
    found, other = preset(given), external(given)
    if found is not None:
        note = f" ({found.note})" if found.note else ""
        todo = (todo or "write `<preset>`").replace("<preset>", found.ours)
        return StudyError(
            f"{what}: it is called `{found.ours}` here{note}",
            where=where,
            accepted=names(presets.known(), found.ours),
            todo=f"{todo}; `study attacks {found.ours}` prints its numbers, which may differ from those of other "
            "libraries",
        )
    if other is not None:
        return StudyError(
            f"{what}, but a library has it",
            where=where,
            accepted=names(presets.known(), given),
            todo=f'write `{{external: "{other}", epsilon: 16}}`: docs/external.md',
        )
    todo = todo.replace("<preset>", "…") if todo else "`study attacks` lists all presets; `+` joins them"
    return StudyError(usual or what, where=where, accepted=names(presets.known(), given), todo=todo)


def _answers(entries: list[dict[str, Any]]) -> dict[str, Answer]:
    return {plain(str(name)): Answer(one["ours"], one.get("note", "")) for one in entries for name in one["names"]}
