"""Translate names of other libraries and papers into our names, for messages about an unknown preset or key.

The file `other_names.yaml` has these names. A name is never replaced silently, because our preset may have other
numbers than the attack with this name elsewhere.
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
    """Our translation of a name from another library or paper.

    `ours` is our name, or our notation in a spec. `note` is a remark for the message.
    """

    ours: str
    note: str = ""


@dataclass(frozen=True)
class _Names:
    presets: Mapping[str, Answer]
    elsewhere: Mapping[str, str]
    keys: Mapping[str, Mapping[str, Answer]]


@functools.cache
def all_names() -> _Names:
    """Return the content of `other_names.yaml`: presets, references of `external`, and keys by section.

    The names of other libraries are in the plain form that the function `plain` returns.
    """
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
    """Return the name in lower case, without spaces and punctuation. Only `+` stays, because it joins presets."""
    return re.sub(r"[^a-z0-9+]", "", name.lower())


def preset(given: str) -> Answer | None:
    """Return our name for the preset that is called `given` elsewhere; None if there is none.

    `given` may also join several presets by `+`.
    """
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
    """Return the reference `<library>:<attack>` of an attack that only another library has; None for any other name."""
    return all_names().elsewhere.get(plain(given))


def key(given: str, section: str) -> Answer | None:
    """Return our name for `given`, a key of another library; None if there is none.

    `section`: the section of the spec in which the user wrote the key. The section `spec` is the top level.
    """
    return all_names().keys.get(section, {}).get(plain(given))


def unknown_preset(
    given: str, kind: str = "preset", *, what: str | None = None, where: str | None = None, todo: str = ""
) -> StudyError:
    """Return the error for a name that is no preset.

    If another library calls one of our presets by this name, the error names our preset; else it lists similar names.

    Args:
        given: The name.
        kind: Whether the name should be a `preset` or an `attack`, for the message.
        what: The message if no other library has the name.
        where: The place of the name in the spec.
        todo: The advice. `<preset>` in it is replaced by our name.
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
            f"{what}, but another library has such an attack",
            where=where,
            accepted=names(presets.known(), given),
            todo=f'write `{{external: "{other}", epsilon: 16}}`, as docs/external.md explains',
        )
    todo = todo.replace("<preset>", "…") if todo else "`study attacks` lists all presets; `+` joins them"
    return StudyError(usual or what, where=where, accepted=names(presets.known(), given), todo=todo)


def _answers(entries: list[dict[str, Any]]) -> dict[str, Answer]:
    return {plain(str(name)): Answer(one["ours"], one.get("note", "")) for one in entries for name in one["names"]}
