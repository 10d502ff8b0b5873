"""`study init`: write a first spec with comments, from options and from answers on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import typer

from study.attacks import presets
from study.errors import StudyError, names
from study.models.catalogue import PACKAGES, SHORT_NAMES
from study.spec import yaml_document as documents
from study.spec.loading import resolve
from study.spec.other_names import unknown_preset

Ask = Callable[[str, str], str]
"""From a question and its default answer to the answer."""

SAMPLE = "foolbox"
_SHOWN = 60


@dataclass(frozen=True)
class InitOptions:
    """The options of `study init`. The terminal asks for each missing value; without a terminal, its default counts."""

    study: str | None = None
    images: str | None = None
    count: int | None = None
    models: tuple[str, ...] = ()
    attacks: tuple[str, ...] = ()
    targeted: bool = False
    force: bool = False


_DEFAULTS = InitOptions("first", SAMPLE, 8, tuple(PACKAGES)[:2], ("fgsm", "mi"))


def write_spec(path: Path, options: InitOptions, say: Callable[[str], None], ask: Ask | None) -> None:
    """Write a valid spec to `path`. Raises StudyError if the file exists or an answer is invalid."""
    if path.exists() and not options.force:
        raise StudyError(
            f"{path} exists already", where=str(path), todo="name another file, or overwrite it with --force"
        )
    text = starter(_complete(options, ask))
    try:
        resolve(documents.parse(text, str(path), environment={}))
    except StudyError as error:
        error.where = "the options or answers"
        raise
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StudyError(f"{path} cannot be written: {error.strerror}", todo="name another file") from None
    say(f"written: {path}")
    say(f"next:    study validate {path}, then study launch {path}")


def terminal_prompt() -> Ask | None:
    """Ask on the terminal; None if standard input is not a terminal."""
    if not sys.stdin.isatty():
        return None
    return lambda question, default: str(typer.prompt(question, default=default))


def starter(options: InitOptions) -> str:
    """The text of a spec, with comments. Every value of `options` must be set."""
    assert options.study is not None, "_complete sets it"
    assert options.images is not None, "_complete sets it"
    lines = [
        "# `study validate` checks this study, `study launch` runs it. All keys: docs/spec.md.",
        f"study: {_quoted(options.study)}",
        "seed: 0                            # of all random draws: images, attacks",
        "",
        "images:",
    ]
    if options.images == SAMPLE:
        lines.append("  sample: foolbox                  # 20 ImageNet images from a package; or folder: /data/val")
    else:
        lines.append(f"  folder: {_quoted(options.images)}   # a subfolder for each label, or add list: labels.csv")
    lines += [
        "  size: 224                        # pixels; each model resizes from it to its own input size",
        "  keep: correct-for-all            # only images that all models classify correctly",
        f"  count: {options.count or 8}",
        "",
        "models:                            # sources and targets; more kinds: docs/models.md",
        *(f"  {_name(model)}: {_quoted(model)}" for model in options.models),
        "",
        "attacks:                           # presets; change values in the braces, e.g. {steps: 20}",
        *(f"  {attack}: {{}}" for attack in options.attacks),
        "",
        "experiments:                       # attacks x sources x goals: each yields one table",
        "  single:",
        f"    attacks: [{', '.join(options.attacks)}]",
        "    sources: each                  # or leave-one-out, all, [a, [b, c]]",
    ]
    if options.targeted:
        lines.append("    goal: [untargeted, targeted]")
    lines += [
        "",
        "numerics: {batch: 4, threads: 1}   # settings that change the rounding of results",
        "",
        "run:                               # settings that change no result",
        "  shard: 4                         # images in a unit of work",
        "",
    ]
    return "\n".join(lines)


def _complete(options: InitOptions, ask: Ask | None) -> InitOptions:
    """`options` with every missing value asked for, or set to its default."""

    def answer(question: str, given: str | None, default: str) -> str:
        return given if given is not None else (ask(question, default).strip() or default) if ask else default

    def listed(question: str, given: Sequence[str], default: Sequence[str]) -> tuple[str, ...]:
        answered = answer(question, ", ".join(given) or None, ", ".join(default))
        return tuple(one.strip() for one in answered.split(",") if one.strip())

    study = answer("name of the study", options.study, str(_DEFAULTS.study))
    images = answer("folder of images, or foolbox for 20 sample images", options.images, SAMPLE)
    models = listed("models, separated by commas", options.models, _DEFAULTS.models)
    attacks = listed("attacks, separated by commas (`study attacks` lists them)", options.attacks, _DEFAULTS.attacks)
    for one in attacks:
        if presets.preset(one) is None:
            raise unknown_preset(one, where="--attack")
    for one in models:
        if ":" not in one and one not in SHORT_NAMES and one not in PACKAGES:
            raise StudyError(f"no model has the short name '{one}'", where="--model", accepted=names(SHORT_NAMES, one))
    references = tuple(f"package:{one}" if one in PACKAGES else one for one in models)
    return replace(options, study=study, images=images, models=references, attacks=attacks)


def _name(reference: str) -> str:
    """A short name for a model: the end of its reference, with the characters that a name may have."""
    tail = reference.removesuffix("_pytorch_model").rpartition(":")[2].partition("/")[0].partition(".")[0]
    kept = "".join(mark if mark.isalnum() or mark in "_-" else "-" for mark in tail).strip("-_")[:_SHOWN]
    return kept or "model"


def _quoted(text: str) -> str:
    """`text` as a YAML scalar."""
    plain = documents.dump(text, width=10_000).splitlines()[0]
    return plain.removesuffix("...").strip()
