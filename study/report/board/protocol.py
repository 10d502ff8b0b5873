"""Describes the protocol of a run, and finds the differences between the protocols of several runs.

A protocol is everything that must be equal in two runs so that their numbers are comparable.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from study.report.board.lines import Entry
from study.reproducibility.float_environment import recorded
from study.reproducibility.hashing import digest
from study.spec.schema import Spec
from study.storage.run_folder import RunFolder

_SHORT = 12

DECISIVE = ("images", "clean images", "sources", "targets", "budgets", "goals", "seeds", "numerics")
"""The names of the facts that must be equal in all runs of one protocol."""


def facts(entry: Entry) -> dict[str, str]:
    """Return the facts of a run as text, by name.

    They are the facts of DECISIVE, then hardware, library versions, and the number of gradients of all images.
    """
    data = entry.data
    spec, shards = data.spec, data.selection.shards
    images = [(one.image, one.digest, one.label) for shard in shards for one in shard.images]
    rule = spec.images.keep if isinstance(spec.images.keep, str) else ", ".join(spec.images.keep)
    used = list(spec.experiments.values())
    sources = dict.fromkeys("+".join(one) or "elsewhere" for each in used for one in spec.source_sets(each))
    targets = dict.fromkeys(target for each in used for target in spec.targets(each))
    environments = recorded(RunFolder(entry.path))
    return {
        "images": f"{len(images)} of {spec.images.labels if isinstance(spec.images.labels, str) else 'own labels'}, "
        f"{spec.images.size} pixels, keep: {rule}",
        "clean images": f"digest {digest(sorted(images))[:_SHORT]}",
        "sources": ", ".join(sources),
        "targets": ", ".join(f"{name} {model_digest(entry, name)[:_SHORT]}" for name in targets),
        "budgets": ", ".join(_budgets(spec)),
        "goals": ", ".join(dict.fromkeys(goal for each in used for goal in each.goal)),
        "seeds": ", ".join(str(seed) for seed in dict.fromkeys(seed for each in used for seed in spec.seeds_of(each))),
        "numerics": numerics(spec),
        "hardware": "; ".join(dict.fromkeys(one.device if one.on_gpu else one.processor for one in environments))
        or "not recorded",
        "libraries": "; ".join(
            dict.fromkeys(
                ", ".join(f"{name} {release}" for name, release in one.releases.items() if name in ("torch", "timm"))
                for one in environments
            )
        )
        or "not recorded",
        "gradients": f"{total_gradients(entry):,}, each for one image",
    }


def differences(found: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return a sentence for each fact of DECISIVE that differs between runs. `found`: the `facts` of each run, by run.

    Targets are compared one by one. There is a sentence for each target that is not the same model in all runs, and for
    each target that some runs lack.
    """
    told = []
    for name in DECISIVE:
        values = {run: known[name] for run, known in found.items()}
        if name == "targets":
            told += _other_models({run: dict(_pairs(value)) for run, value in values.items()})
        elif len(set(values.values())) > 1:
            told.append(f"{name.capitalize()} differ: " + "; ".join(f"{run} has {one}" for run, one in values.items()))
    return told


def _pairs(text: str) -> list[tuple[str, str]]:
    parts = [one.rpartition(" ") for one in text.split(", ") if one]
    return [(name, known) for name, _, known in parts]


def _other_models(by_run: Mapping[str, Mapping[str, str]]) -> list[str]:
    told = []
    for name in dict.fromkeys(name for known in by_run.values() for name in known):
        found = {run: known[name] for run, known in by_run.items() if name in known}
        if len(set(found.values())) > 1:
            told.append(
                f"The target {name} is not the same network in all runs: "
                + "; ".join(f"digest {one} in {run}" for run, one in found.items())
            )
        elif len(found) < len(by_run):
            told.append(f"The target {name} is only in {', '.join(found)}, so the means are over different targets")
    return told


def _budgets(spec: Spec) -> list[str]:
    used = dict.fromkeys(name for experiment in spec.experiments.values() for name in experiment.attacks)
    found = []
    for name in used:
        budget = spec.attacks[name].budget
        levels = [level for level in budget.levels if level is not None]
        if budget.to is not None:
            found.append(f"RMSD of {budget.to}")
        elif levels:
            found.append(f"{budget.kind} {levels[0]:g}" + (f" to {levels[-1]:g}" if len(levels) > 1 else ""))
        else:
            found.append(str(budget.kind))
    return sorted(set(found))


def numerics(spec: Spec) -> str:
    """Return the settings under `numerics` of a spec as text. Settings without a value are left out."""
    dumped = spec.numerics.model_dump(mode="json")
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in dumped.items() if value is not None)


def model_digest(entry: Entry, name: str) -> str:
    """Return the recorded digest of a model: of its weights, its preprocessing and the order of its classes."""
    return str(entry.data.models.get(name, {}).get("digest", "unknown"))


def total_gradients(entry: Entry) -> int:
    """Return the number of gradients of all attack runs together, over all their images."""
    last = entry.data.rows.group_by("craft", "image").agg(pl.col("gradients").max()).select(pl.col("gradients").sum())
    return int(last.collect(engine="streaming").item() or 0)
