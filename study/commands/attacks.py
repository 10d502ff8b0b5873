"""`study attacks`: list the attack presets with their parts and sources."""

from __future__ import annotations

from typing import Any

import yaml
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from study.attacks import presets
from study.attacks.recipe import Attack
from study.errors import StudyError
from study.spec.other_names import unknown_preset
from study.terminal.prose import exactly
from study.terminal.screen import counted


def print_attacks(console: Console, name: str | None = None, more: str | None = None) -> None:
    """Print all presets, or all parts of the preset `name`.

    `more`: a second argument on the command line, which is an error. Raises StudyError if `more` is given, if there is
    no preset `name`, or if `name` is `check`, which needs a component.
    """
    if name == "check":
        raise StudyError(
            "`study attacks check` needs the component to check", accepted="study attacks check <file>.py:<class>"
        )
    if more is not None:
        raise StudyError(
            f"`study attacks` prints one preset at a time, but got '{name}' and '{more}'",
            accepted=f"`study attacks {name}`, or `study attacks` for all presets",
        )
    if name is not None:
        return _print_one(console, name)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("preset", no_wrap=True)
    table.add_column("gradients", justify="right")
    table.add_column("forwards", justify="right")
    table.add_column("parts and source")
    for one in presets.known():
        found = presets.preset(one)
        assert found is not None, "every listed preset exists"
        attack = Attack.model_validate(presets.keys_of(one, {}))
        listed = ", ".join(f"{key} {shown(value)}" for key, value in parts(attack).items())
        text = Text.assemble(listed, "\n", (found.source, "dim"))
        forwards = attack.forwards(attack.steps, 1)
        table.add_row(one, f"{attack.gradients(attack.steps, 1):,}", f"{forwards:,}" if forwards else "", text)
    console.print(table)
    exactly(
        console,
        "gradients: per image and source model, in all steps; forwards: forward passes without a gradient.\n"
        "`+` joins presets: mi+ti is mi with the parts of ti.\n"
        "In a spec: `attacks: {mine: {preset: mi+sgm, steps: 20}}`. All parts of a preset: `study attacks mi`",
    )
    return None


def _print_one(console: Console, name: str) -> None:
    found = presets.preset(name)
    if found is None:
        raise unknown_preset(name)
    attack = Attack.model_validate(presets.keys_of(name, {}))
    text = yaml.safe_dump(parts(attack), sort_keys=False, width=100)
    exactly(console, f"{name}: {found.source}")
    exactly(console, f"\n{text}")
    if found.formula:
        exactly(console, f"{found.formula}")
    forwards = attack.forwards(attack.steps, 1)
    beside = f", and {counted(forwards, 'forward pass', 'forward passes')} without a gradient" if forwards else ""
    cost = f"{counted(attack.gradients(attack.steps, 1), 'gradient')} per image and source model{beside}"
    console.print(cost, highlight=False)


def parts(attack: Attack) -> dict[str, Any]:
    """Return the parts of an attack with all their numbers, as plain data. Parts that are switched off are left out."""
    off: tuple[Any, ...] = (None, False, 0, 1, [], {})
    kept = {
        key: _without_none(value)
        for key, value in attack.model_dump(mode="json").items()
        if key in ("steps", "momentum") or value not in off
    }
    if not kept["momentum"]:
        del kept["momentum"]
    if attack.budget.kind == "none":
        kept["budget"] = "none"
    elif not attack.budget.matched:
        del kept["budget"]["by"]
    return kept


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(inner) for key, inner in value.items() if inner not in (None, {})}
    return value


def shown(value: Any) -> str:
    """Return a value of a key of an attack as short text, such as `(copies 5, sigma 0.1)`."""
    if isinstance(value, dict):
        return "(" + ", ".join(f"{key} {shown(inner)}" for key, inner in value.items()) + ")"
    return f"{value:.4g}" if isinstance(value, float) else str(value).lower() if value is True else str(value)
