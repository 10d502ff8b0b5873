"""Attacks of the literature as presets: keys of a recipe, each with its paper and the authors' numbers.

`+` joins presets: `mi+di+sgm` is `mi` with the parts of `di` and of `sgm`. COMBINATIONS lists the combinations that
papers report; users can write any other combination too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Preset:
    """Keys of a recipe, and their source. `part` names the keys that the preset adds to a combination."""

    source: str
    keys: dict[str, Any] = field(default_factory=dict)
    part: tuple[str, ...] = ()


_LIU = "Liu et al. 2017 (arXiv:1611.02770)"
_SGM = "Wu et al. 2020 (arXiv:2002.05990)"
_SG = "Wu et al. 2019 (Exploring and Enhancing the Transferability of Adversarial Examples)"
_MATCHED = {"rmsd": "matched", "to": "optimization", "by": "mean"}
_MINIMAL = {"minimal": {"from": 0.1, "to": 100.0, "by": 0.1}}
_LOSS = "log(1-p)"

_ITERATIVE = {"step": "sign", "steps": 10, "step_size": 2, "epsilon": 16}
_TENTH = {"step": "sign", "steps": 10, "epsilon": 16}
_SMOOTHED = {"copies": 20, "sigma": 15}
_DECAY = {"gamma": 0.2, "dense": 0.5}

PRESETS: dict[str, Preset] = {
    "gaussian-noise": Preset(
        f"{_LIU}, appendix: noise of standard deviation 5 to 40; here 25, with an RMSD of 23.59 in the paper",
        {"start": {"gaussian": 25}, "steps": 0, "budget": "none"},
    ),
    "optimization": Preset(
        f"{_LIU}, section 3.1: Adam, learning rate 4, 100 steps, no distance term",
        {"objective": _LOSS, "step": "adam", "learning_rate": 4, "steps": 100, "budget": "none"},
    ),
    "optimization-ensemble": Preset(
        f"{_LIU}, section 5: Adam with learning rate 8 for every model, the updates summed",
        {
            "objective": _LOSS,
            "fusion": "summed-updates",
            "step": "adam",
            "learning_rate": 8,
            "steps": 100,
            "budget": "none",
        },
    ),
    "optimization-penalised": Preset(
        f"{_LIU}, appendix: two penalties hold the RMSD near 23; the paper prints no weights, here they are 1",
        {
            "objective": _LOSS,
            "penalty": {"rmsd": 23, "below": 1, "above": 1},
            "step": "adam",
            "learning_rate": 4,
            "steps": 100,
            "budget": "none",
        },
    ),
    "fg": Preset(
        f"{_LIU}, section 2.2: one step along the gradient, with the RMSD of `optimization`",
        {"objective": _LOSS, "step": "l2", "steps": 1, "budget": _MATCHED},
    ),
    "fgs": Preset(
        f"{_LIU}, section 2.2: one step along the gradient's sign, with the RMSD of `optimization`",
        {"objective": _LOSS, "step": "sign", "steps": 1, "budget": _MATCHED},
    ),
    "fg-minimal": Preset(
        f"{_LIU}, section 3.2.2: the smallest RMSD that transfers, in steps of 0.1",
        {"objective": _LOSS, "step": "l2", "steps": 1, "budget": _MINIMAL},
    ),
    "fgs-minimal": Preset(
        f"{_LIU}, section 3.2.2: the smallest RMSD that transfers, in steps of 0.1",
        {"objective": _LOSS, "step": "sign", "steps": 1, "budget": _MINIMAL},
    ),
    "fgsm": Preset(
        f"Goodfellow et al. 2015 (arXiv:1412.6572); epsilon of {_SGM}",
        {"step": "sign", "steps": 1, "epsilon": 16},
    ),
    "igsm": Preset(
        f"Kurakin et al. 2017 (arXiv:1607.02533); numbers of {_SGM}, section 4, which calls it PGD", _ITERATIVE
    ),
    "bim": Preset(
        "Kurakin et al. 2017 (arXiv:1607.02533), as Dong et al. 2018 (arXiv:1710.06081) run it: steps of 1.6", _TENTH
    ),
    "pgd": Preset(
        f"Madry et al. 2018 (arXiv:1706.06083): igsm from a random start; numbers of {_SGM}",
        {**_ITERATIVE, "start": "random"},
        ("start",),
    ),
    "mi": Preset(
        "Dong et al. 2018 (arXiv:1710.06081): momentum 1, ten steps of a tenth of epsilon",
        {**_TENTH, "momentum": 1},
        ("momentum",),
    ),
    "ni": Preset(
        "Lin et al. 2020 (arXiv:1908.06281): Nesterov's momentum 1, ten steps of a tenth of epsilon",
        {**_TENTH, "momentum": 1, "nesterov": True},
        ("momentum", "nesterov"),
    ),
    "di": Preset(
        f"Xie et al. 2019 (arXiv:1803.06978): half of the inputs resized and padded; steps of {_SGM}",
        {**_ITERATIVE, "diversity": {}},
        ("diversity",),
    ),
    "ti": Preset(
        f"Dong et al. 2019 (arXiv:1904.02884): Gaussian kernel of size 15; steps of {_SGM}",
        {**_ITERATIVE, "kernel": {}},
        ("kernel",),
    ),
    "si": Preset(
        "Lin et al. 2020 (arXiv:1908.06281): five scales; ten steps of a tenth of epsilon",
        {**_TENTH, "scales": 5},
        ("scales",),
    ),
    "admix": Preset(
        "Wang et al. 2021 (arXiv:2102.00436): three images mixed in at 0.2, five scales, momentum 1",
        {**_TENTH, "admix": {}, "scales": 5, "momentum": 1},
        ("admix", "scales"),
    ),
    "vmi": Preset(
        "Wang and He 2021 (arXiv:2103.15571): MI with variance tuning over 20 neighbours within 1.5 epsilon",
        {**_TENTH, "momentum": 1, "variance": {}},
        ("momentum", "variance"),
    ),
    "vni": Preset(
        "Wang and He 2021 (arXiv:2103.15571): NI with variance tuning over 20 neighbours within 1.5 epsilon",
        {**_TENTH, "momentum": 1, "nesterov": True, "variance": {}},
        ("momentum", "nesterov", "variance"),
    ),
    "sgm": Preset(
        f"{_SGM}, section 4: igsm with gamma 0.2 on ResNets and 0.5 on DenseNets",
        {**_ITERATIVE, "skip_gradient": _DECAY},
        ("skip_gradient",),
    ),
    "fgsm+sgm": Preset(
        f"{_SGM}, section 4: one step with gamma 0.5 on ResNets and 0.7 on DenseNets",
        {"step": "sign", "steps": 1, "epsilon": 16, "skip_gradient": {"gamma": 0.5, "dense": 0.7}},
    ),
    "sg-fgsm": Preset(
        f"{_SG}, section 7.2: 20 copies with noise of standard deviation 15",
        {"step": "sign", "steps": 1, "epsilon": 15, "smoothing": _SMOOTHED},
    ),
    "sg-igsm": Preset(
        f"{_SG}, table 3: 100 gradients, five steps of 5 with 20 copies",
        {"step": "sign", "steps": 5, "step_size": 5, "epsilon": 15, "smoothing": _SMOOTHED},
        ("smoothing",),
    ),
    "sg-mi": Preset(
        f"{_SG}, table 5: momentum 1, five steps of 5 with 20 copies",
        {"step": "sign", "steps": 5, "step_size": 5, "epsilon": 15, "momentum": 1, "smoothing": _SMOOTHED},
    ),
}
"""Presets by name, combinations aside."""

COMBINATIONS: dict[str, str] = {
    "fgsm+ti": f"{_SGM}, table 2",
    "mi+di": f"{_SGM}, table 4; Xie et al. 2019 (arXiv:1803.06978)",
    "mi+sgm": f"{_SGM}, table 4",
    "di+sgm": f"{_SGM}, tables 4 and 6",
    "mi+di+sgm": f"{_SGM}, table 4",
    "ti+sgm": f"{_SGM}, tables 5 and 7",
    "ti+di": "Dong et al. 2019 (arXiv:1904.02884)",
    "ni+si": "Lin et al. 2020 (arXiv:1908.06281)",
}
"""Combinations that papers report, with their papers."""


def preset(name: str) -> Preset | None:
    """Return the preset of this name, or the combination of presets joined with `+`; None if a name is unknown.

    A combination has all keys of its first preset, and the `part` keys of the others.
    """
    if name in PRESETS:
        return PRESETS[name]
    first, *more = name.split("+")
    if not more or first not in PRESETS or any(one not in PRESETS or not PRESETS[one].part for one in more):
        return None
    keys = dict(PRESETS[first].keys)
    for one in more:
        keys |= {part: PRESETS[one].keys[part] for part in PRESETS[one].part if part in PRESETS[one].keys}
    return Preset(COMBINATIONS.get(name, "a combination of presets"), keys)


def known() -> list[str]:
    """The names of the presets and of the combinations that papers report."""
    return [*PRESETS, *COMBINATIONS]


def keys_of(name: str, changed: dict[str, Any]) -> dict[str, Any]:
    """Return the keys of preset `name`, replaced by those in `changed`. A new budget replaces the whole old budget.

    Raises KeyError for an unknown preset.
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
