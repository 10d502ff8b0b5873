"""The literature's attacks as short presets over the parts, each with its source and its authors' numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Preset:
    """Keys of a recipe, and where they come from."""

    source: str
    keys: dict[str, Any] = field(default_factory=dict)


_LIU = "Liu et al. 2017 (arXiv:1611.02770)"
_MATCHED = {"rmsd": "matched", "to": "optimization", "by": "mean"}

PRESETS: dict[str, Preset] = {
    "optimization": Preset(
        f"{_LIU}, section 3.1: Adam, learning rate 4, 100 steps, no distance term",
        {"objective": "log(1-p)", "step": "adam", "learning_rate": 4, "steps": 100, "budget": "none"},
    ),
    "fg": Preset(
        f"{_LIU}, section 2.2: one step along the gradient, RMSD as the optimization's",
        {"objective": "log(1-p)", "step": "l2", "steps": 1, "budget": _MATCHED},
    ),
    "fgs": Preset(
        f"{_LIU}, section 2.2: one step along the gradient's sign, RMSD as the optimization's",
        {"objective": "log(1-p)", "step": "sign", "steps": 1, "budget": _MATCHED},
    ),
    "fgsm": Preset(
        "Goodfellow et al. 2015 (arXiv:1412.6572); epsilon as in Wu et al. 2020",
        {"step": "sign", "steps": 1, "epsilon": 16},
    ),
    "igsm": Preset(
        "Kurakin et al. 2017 (arXiv:1607.02533); numbers of Wu et al. 2020 (arXiv:2002.05990), section 4",
        {"step": "sign", "steps": 10, "step_size": 2, "epsilon": 16},
    ),
    "mi": Preset(
        "Dong et al. 2018 (arXiv:1710.06081): momentum 1, ten steps of a tenth of epsilon",
        {"step": "sign", "steps": 10, "momentum": 1, "epsilon": 16},
    ),
}


def keys_of(name: str, changed: dict[str, Any]) -> dict[str, Any]:
    """The keys of preset `name` with `changed` laid over them; a new budget replaces the preset's whole budget."""
    keys = dict(PRESETS[name].keys)
    if "epsilon" in changed or "budget" in changed:
        keys.pop("epsilon", None)
        keys.pop("budget", None)
    if changed.get("step", keys.get("step")) != keys.get("step"):
        keys.pop("step_size", None)
        keys.pop("learning_rate", None)
    return keys | changed
