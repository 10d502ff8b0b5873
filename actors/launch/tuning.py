"""Tunes the attacks that have `tune` in the spec, in a launch of its own before the study.

The tuning launch tries every combination of parameter values, on images that the study does not use. The study then
uses the combination with the highest success rate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import ValidationError

from actors.launch.options import LaunchOptions
from study.analysis.experiments import averaged, cells
from study.attacks.recipe import Attack
from study.attacks.tuning import with_numbers
from study.errors import StudyError, first_line
from study.images.selection import Selection
from study.planning import resume
from study.results.run_reader import open_run
from study.spec import loading
from study.spec.spec_file import SpecFile
from study.storage.run_folder import RunFolder
from study.terminal.screen import counted


@dataclass(frozen=True)
class Tuning:
    """A launch that tries every combination of the parameter values in `tune`, before the study itself.

    Attributes:
        options: The options of the tuning launch.
        file: The spec of the study itself.
        variants: The variants that the tuning launch tries: the parameter values of each variant, by name of the attack
            and then by name of the variant.
    """

    options: LaunchOptions
    file: SpecFile
    variants: Mapping[str, Mapping[str, Mapping[str, float]]]


def tuning_of(options: LaunchOptions) -> Tuning | None:
    """Return the launch that tries the values of all attacks with `tune`; None for a study without `tune`.

    Raises StudyError, with the place in the spec, if `tune` names a parameter that the attack does not have, has a
    value that the parameter does not accept, or cannot be used with the images of the study. Also raises StudyError if
    attacks differ in `tune.images`, or if an attack with `tune` is in no experiment.
    """
    file = options.spec_file()
    asked = {name: attack for name, attack in file.spec.attacks.items() if attack.tune is not None}
    if not asked:
        return None
    if file.spec.images.count is None:
        raise StudyError(
            "`tune` needs images that the study does not use, but this study uses its whole image set",
            where=file.where("images"),
            accepted="images: {count: <number>}, with a number below the size of the image set",
        )
    counts = {attack.tune.images for attack in asked.values() if attack.tune is not None}
    if len(counts) > 1:
        raise StudyError(
            f"`tune.images` must be the same for all attacks, but is {' and '.join(map(str, sorted(counts)))}",
            where=file.where("attacks"),
            accepted="the same number of `images` in every `tune`",
        )
    attacks: dict[str, Attack] = {}
    variants: dict[str, dict[str, Mapping[str, float]]] = {}
    for name, attack in asked.items():
        variants[name] = {}
        assert attack.tune is not None
        for number, chosen in enumerate(attack.tune.choices()):
            variant = f"{name}-choice-{number + 1}"
            attacks[variant] = _varied(attack, chosen, file.where("attacks", name, "tune"))
            variants[name][variant] = chosen
    spec = file.spec
    experiments = {
        name: one.model_copy(
            update={"attacks": tuple(v for attack in one.attacks for v in variants.get(attack, ())), "published": None}
        )
        for name, one in spec.experiments.items()
        if any(attack in variants for attack in one.attacks)
    }
    used = {attack for one in spec.experiments.values() for attack in one.attacks}
    unused = next((name for name in asked if name not in used), None)
    if unused is not None:
        raise StudyError(
            f"no experiment uses the attack '{unused}', so its parameters cannot be tuned",
            where=file.where("attacks", unused, "tune"),
            todo="name the attack in an experiment, or remove `tune`",
        )
    images = spec.images.model_copy(update={"count": counts.pop(), "draw": "last"})
    tried = spec.model_copy(
        update={
            "study": f"{spec.study}-tuning",
            "images": images,
            "attacks": attacks,
            "experiments": experiments,
            "geometry": {},
            "findings": {},
        }
    )
    folder = RunFolder(options.output or Path("runs") / spec.study)
    inner = replace(
        options,
        given=loading.again(tried, f"{file.document.name}, tuning"),
        output=Path(str(folder.tuning)),
        only=(),
        limit=None,
        wandb="disabled",
    )
    return Tuning(inner, file, variants)


def _varied(attack: Attack, numbers: Mapping[str, float], where: str) -> Attack:
    try:
        return with_numbers(attack, numbers)
    except KeyError as error:
        accepted = (
            "keys of numeric parameters of the attack, such as smoothing.sigma; a parameter of a component in your own "
            "file, such as views.python.sigma, must also have a value in the spec"
        )
        raise StudyError(f"the attack has no parameter {first_line(error)}", where=where, accepted=accepted) from None
    except ValidationError as error:
        what = error.errors(include_url=False)[0]["msg"]
        raise StudyError(f"{dict(numbers)} is not accepted: {what}", where=where) from None


def chosen(tuning: Tuning, say: Callable[[str], None]) -> SpecFile:
    """Return the spec with the best parameter values of every attack. These values are also printed and recorded.

    Call this after the tuning launch has ended. Raises StudyError if an attack has no black-box target.
    """
    assert tuning.options.output is not None
    folder = RunFolder(str(tuning.options.output))
    finished = open_run(str(folder.path))
    rates = averaged(cells(finished.rows, finished.spec)).filter(pl.col("relation") == "black", pl.col("images") > 0)
    means = {str(name): mean for name, mean in rates.group_by("attack").agg(pl.col("success").mean()).iter_rows()}
    attacks, record = dict(tuning.file.spec.attacks), []
    for name, variants in tuning.variants.items():
        known = {variant: means[variant] for variant in variants if variant in means}
        if not known:
            raise StudyError(
                f"`tune` compares success rates on black-box targets, but attack '{name}' has no black-box target",
                where=tuning.file.where("attacks", name, "tune"),
            )
        best = max(known, key=lambda variant: known[variant])
        attacks[name] = with_numbers(attacks[name], variants[best])
        choices = [{"numbers": dict(variants[variant]), "success": success} for variant, success in known.items()]
        record.append({"attack": name, "chosen": dict(variants[best]), "images": finished.selected, "choices": choices})
        say(_told(record[-1]))
    folder.write_json(folder.path / "tuning.json", {"attacks": record})
    # Resolving the spec again computes the step sizes that follow from a budget.
    spec = tuning.file.spec.model_copy(update={"attacks": attacks})
    return SpecFile(loading.again(spec, tuning.file.document.name).spec, tuning.file.document)


def _told(one: Mapping[str, Any]) -> str:
    def named(numbers: Mapping[str, float]) -> str:
        return ", ".join(f"{key} {value:g}" for key, value in numbers.items())

    each = "; ".join(f"{named(other['numbers'])}: {100 * other['success']:.1f} %" for other in one["choices"])
    return f"tuned:    {one['attack']}: {named(one['chosen'])}, on {counted(one['images'], 'other image')} ({each})"


def check_apart(study: RunFolder, selection: Selection) -> None:
    """Raise StudyError if the study uses an image on which one of its attacks was tuned."""
    folder = RunFolder(str(study.tuning))
    tried = resume.selected(folder) if folder.begun else None
    if tried is None:
        return
    used = _ids(selection.shards) & _ids(tried.shards)
    if used:
        raise StudyError(
            f"the study uses {len(used)} of the images on which its attacks were tuned",
            accepted="an image set with enough images, because the study and `tune` must not share an image",
            todo="reduce images.count, or `images` in `tune`",
        )


def _ids(shards: Sequence[Any]) -> set[str]:
    return {one.image for shard in shards for one in shard.images}
