"""The protocol of a run: everything that must be equal for two numbers to compare, and what it cost."""

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
"""Facts in which runs of one protocol agree."""


def facts(entry: Entry) -> dict[str, str]:
    """The facts of a run, by name: those of DECISIVE, then hardware, version, and the gradients of all its images."""
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
        "gradients": f"{total_gradients(entry):,} of single images",
    }


def differences(found: Mapping[str, Mapping[str, str]]) -> list[str]:
    """One sentence for each decisive fact that not all runs share; `found` are `facts` by the name of the run.

    Targets of equal names are compared: a run may have further ones.
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
                f"The target {name} is not one network: " + "; ".join(f"{one} in {run}" for run, one in found.items())
            )
        elif len(found) < len(by_run):
            told.append(f"The target {name} is in {', '.join(found)} only, so that means differ in their targets")
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
    """The numerics of a spec in a few words: those that are set."""
    dumped = spec.numerics.model_dump(mode="json")
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in dumped.items() if value is not None)


def model_digest(entry: Entry, name: str) -> str:
    """The digest of a model's weights, input and classes, as the run recorded it."""
    return str(entry.data.models.get(name, {}).get("digest", "unknown"))


def total_gradients(entry: Entry) -> int:
    """The gradients of all images of a run, each attack run once."""
    last = entry.data.rows.group_by("craft", "image").agg(pl.col("gradients").max()).select(pl.col("gradients").sum())
    return int(last.collect(engine="streaming").item() or 0)
