"""The JSON Schema of a spec, for editors: pydantic's own, and the short ways of writing that it does not know of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from study.attacks import presets
from study.models.catalogue import SHORT_NAMES
from study.spec.schema import Spec

_TEXT: dict[str, Any] = {"type": "string"}
_NAMES: dict[str, Any] = {"type": "array", "items": _TEXT, "minItems": 1}
_NONE: dict[str, Any] = {"type": "null"}
_RULES = ("each", "leave-one-out", "all")
_STAGES = {
    **dict.fromkeys(("jpeg", "bits", "resize", "resize-pad"), "integer"),
    **dict.fromkeys(("blur", "noise", "rotate"), "number"),
}


def spec_schema() -> dict[str, Any]:
    """What a spec may hold: whatever a spec is, it allows; not all that it allows is a spec, for parts must fit."""
    whole = Spec.model_json_schema(by_alias=True)
    parts: dict[str, Any] = whole["$defs"]
    for name, part in (("Spec", whole), *parts.items()):
        _named(name, part)
    _of_attacks(parts)
    _of_experiments(parts)
    _of_models(parts)
    _of_geometry(parts)
    _of_findings(parts)
    _also(parts["ImageSet"], "targets", {"enum": ["random", "list", "most-confusing", "least-likely"]})
    _also(parts["Ranked"], "by", _TEXT)
    for key in ("actors", "actors_per_gpu", "actor_mib", "models_per_actor"):
        _also(parts["Run"], key, {"const": "auto"})
    _also(whole, "seeds", {"type": "integer"})
    for key in ("models", "attacks"):
        entries = whole["properties"][key]
        entries["additionalProperties"] = {"anyOf": [entries["additionalProperties"], _NONE]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A study",
        **{key: value for key, value in whole.items() if key not in ("title", "$defs")},
        "$defs": parts,
    }


def text() -> str:
    """The schema as it is written to a file."""
    return json.dumps(spec_schema(), indent=1, ensure_ascii=False) + "\n"


def _of_attacks(parts: dict[str, Any]) -> None:
    attack = parts["Attack"]
    listed = [name for name in presets.known() if presets.preset(name)]
    epsilon = parts["Budget"]["properties"]["epsilon"]
    attack["properties"] |= {
        "preset": {
            "anyOf": [{"enum": listed}, {"type": "string", "pattern": r".+\+.+"}],
            "description": "The preset whose parts these keys are laid over; `+` joins presets.",
        },
        "epsilon": {**epsilon, "description": "Short for `budget: {epsilon: …}`."},
    }
    _also(attack, "budget", {"const": "none"}, _NONE)
    _also(attack, "start", {"enum": ["random", "zero"]})
    parts["Start"]["properties"]["random"] = {"const": True}


def _of_experiments(parts: dict[str, Any]) -> None:
    experiment = parts["Experiment"]
    for key in ("attacks", "goal", "targets", "seeds"):
        items = experiment["properties"][key]
        listed = next((one for one in items.get("anyOf", [items]) if one.get("type") == "array"), items)
        _also(experiment, key, listed["items"])
    some = {"anyOf": [_TEXT, _NAMES]}
    parts["Sources"] = {
        "description": parts["Sources"].get("description", ""),
        "anyOf": [
            {"enum": [*_RULES, "elsewhere"]},
            {
                "type": "object",
                "properties": dict.fromkeys(_RULES, some),
                "additionalProperties": False,
                "minProperties": 1,
                "maxProperties": 1,
            },
            {"type": "array", "items": some, "minItems": 1},
        ],
    }
    _also(parts["Published"], "tables", _TEXT)
    _or(parts, "Published", _TEXT, _NAMES)


def _of_models(parts: dict[str, Any]) -> None:
    short = {"anyOf": [{"enum": list(SHORT_NAMES)}, _TEXT]}
    parts["Model"]["properties"]["network"] = short
    _also(parts["Model"], "classes", _TEXT)
    _or(parts, "Model", short)
    _also(parts["Remote"], "names", _TEXT)
    for one in parts["Remote"]["properties"]["names"]["anyOf"]:
        if "additionalProperties" in one:
            one["additionalProperties"] = {"anyOf": [one["additionalProperties"], _TEXT]}
    _or(parts, "Remote", _TEXT)
    stage = {
        "type": "object",
        "properties": {name: _stage(name, kind) for name, kind in _STAGES.items()},
        "additionalProperties": False,
        "minProperties": 1,
    }
    parts["Transforms"] = {
        "description": parts["Transforms"].get("description", ""),
        "anyOf": [stage, {"type": "array", "items": {**stage, "maxProperties": 1}, "minItems": 1}],
    }


def _stage(name: str, kind: str) -> dict[str, Any]:
    number: dict[str, Any] = {"type": kind}
    if name != "resize-pad":
        return number
    return {"anyOf": [number, {"type": "object", "properties": {"most": number}, "additionalProperties": False}]}


def _of_geometry(parts: dict[str, Any]) -> None:
    number = {"type": "number"}
    for key in ("copies", "sigma"):
        _also(parts["Curve"], key, number)
    for key in ("gradient_of", "sources"):
        _also(parts["Direction"], key, _TEXT)
    parts["Direction"]["properties"]["random"] = {"const": True}
    _or(parts, "Direction", {"const": "random"})


def _of_findings(parts: dict[str, Any]) -> None:
    for key in ("attacks", "targets", "sources"):
        _also(parts["Selection"], key, _TEXT)
    parts["Selection"]["properties"]["sources"]["anyOf"].append({"type": "array", "items": {"anyOf": [_TEXT, _NAMES]}})
    for part in parts.values():
        if "cells" in part.get("properties", {}):
            _also(part, "cells", _TEXT)


def _also(part: Mapping[str, Any], key: str, *others: Mapping[str, Any]) -> None:
    """`key` may be written in other ways too."""
    usual = part["properties"][key]
    kept = {name: usual[name] for name in ("description", "default") if name in usual}
    inner = {name: value for name, value in usual.items() if name not in kept}
    known = inner.pop("anyOf", None) or [inner]
    part["properties"][key] = {**kept, "anyOf": [*known, *others]}


def _or(parts: dict[str, Any], name: str, *others: Mapping[str, Any]) -> None:
    """The whole of a definition may be written in other ways too."""
    usual = parts[name]
    parts[name] = {"description": usual.pop("description", ""), "anyOf": [usual, *others]}


def _named(name: str, part: dict[str, Any]) -> None:
    """Titles that pydantic makes of keys say nothing that the keys do not."""
    part.pop("title", None)
    for one in part.get("properties", {}).values():
        one.pop("title", None)
