"""Presets: attacks of the literature as keys of a recipe, with their paper and the authors' parameters.

Each file in `preset_files/` has the presets of one paper. Some keys of a preset:

- `joins` lists the keys that the preset adds to a combination: `mi+di+sgm` is `mi` with the keys that `di` and `sgm`
  list;
- `gradients` is the number of gradients of one image on one model. A test compares it with the number that follows from
  the components;
- `formula`, `differs` and `oracle` are shown in docs/attacks.md. `differs` has the differences from the paper, the
  authors' code or other libraries. `oracle` is the reference with which a test compares the preset, with the tolerance.

The key `combinations` of a file lists the combinations that the paper reports. Users can write others too.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_FILES = Path(__file__).parent / "preset_files"
_LISTS = ("views", "points", "updates", "penalties", "backward", "forward")


@dataclass(frozen=True)
class Preset:
    """The keys of a recipe, and the paper that they come from.

    `joins` names the keys that the preset adds to a combination.
    """

    source: str
    keys: dict[str, Any] = field(default_factory=dict)
    joins: tuple[str, ...] = ()
    paper: str = ""
    title: str = ""
    link: str = ""
    gradients: int | None = None
    equation: str = ""
    formula: str = ""
    differs: str = ""
    oracle: str = ""


@dataclass(frozen=True)
class _Collection:
    presets: Mapping[str, Preset]
    combinations: Mapping[str, str]


@functools.cache
def _collection() -> _Collection:
    import yaml

    # The loader in C gives the same result in a tenth of the time, but not every build of PyYAML has this loader.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    presets: dict[str, Preset] = {}
    combinations: dict[str, str] = {}
    for path in sorted(_FILES.glob("*.yaml")):
        paper = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
        for name, one in paper["presets"].items():
            presets[name] = Preset(
                source=one["source"],
                keys=one["keys"],
                joins=tuple(one.get("joins", ())),
                paper=paper["paper"],
                title=paper["title"],
                link=paper.get("link", ""),
                gradients=one["gradients"],
                equation=one.get("equation", ""),
                formula=one.get("formula", ""),
                differs=one.get("differs", ""),
                oracle=one.get("oracle", ""),
            )
        combinations |= paper.get("combinations", {})
    return _Collection(presets, combinations)


def presets() -> Mapping[str, Preset]:
    """Return the presets by name, without combinations, in the order of the papers' years."""
    return _collection().presets


def combinations() -> Mapping[str, str]:
    """Return the combinations that papers report: the source of each combination, by its name."""
    return _collection().combinations


def preset(name: str) -> Preset | None:
    """Return the preset of this name, or the combination of presets joined with `+`.

    Return None if a name is unknown, or if a preset after the first one has no `joins`. A combination has all keys
    of its first preset. Each further preset adds the keys that its `joins` names. Lists of components are concatenated,
    without repetition.
    """
    single = presets()
    if name in single:
        return single[name]
    first, *more = name.split("+")
    if not more or first not in single or any(one not in single or not single[one].joins for one in more):
        return None
    keys = dict(single[first].keys)
    for one in more:
        for key in single[one].joins:
            if key not in single[one].keys:
                continue
            given = single[one].keys[key]
            if key in _LISTS:
                given = [*keys.get(key, ()), *(part for part in given if part not in keys.get(key, ()))]
            keys[key] = given
    return Preset(combinations().get(name, "a combination of presets"), keys)


def known() -> list[str]:
    """Return the names of the presets and of the combinations that papers report."""
    return [*presets(), *combinations()]


def keys_of(name: str, changed: dict[str, Any]) -> dict[str, Any]:
    """Return the keys of the preset `name`. Keys in `changed` replace keys of the preset.

    A new budget replaces the whole budget of the preset. A new `step` also removes the preset's step_size and
    learning_rate. Raises KeyError for an unknown preset.
    """
    found = preset(name)
    if found is None:
        raise KeyError(name)
    keys = dict(found.keys)
    if "epsilon" in changed or "budget" in changed:
        keys.pop("epsilon", None)
        keys.pop("budget", None)
    if changed.get("step", keys.get("step")) != keys.get("step"):
        keys.pop("step_size", None)
        keys.pop("learning_rate", None)
    return keys | changed
