"""`study init`: a first spec with comments, from what is said on the command line, or asked on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from study.attacks import presets
from study.errors import StudyError, names
from study.models.catalogue import PACKAGES, SHORT_NAMES
from study.spec import yaml_document as documents
from study.spec.loading import resolve

Ask = Callable[[str, str], str]
"""A question and what is meant by no answer -> the answer."""

SAMPLE = "foolbox"
_SHOWN = 60


@dataclass(frozen=True)
class InitOptions:
    """What a first study is to be; what is None is asked for, or as in the quickstart."""

    study: str | None = None
    images: str | None = None
    count: int | None = None
    models: tuple[str, ...] = ()
    attacks: tuple[str, ...] = ()
    targeted: bool = False
    force: bool = False


_USUAL = InitOptions("first", SAMPLE, 8, tuple(PACKAGES)[:2], ("fgsm", "mi"))


def init(path: Path, wish: InitOptions, say: Callable[[str], None], ask: Ask | None) -> None:
    """Write a spec to `path`, which loads. StudyError where one is there, or an answer cannot be used."""
    if path.exists() and not wish.force:
        raise StudyError(
            f"{path} is there already", where=str(path), todo="name another file, or overwrite it with --force"
        )
    wish = _complete(wish, ask)
    text = starter(wish)
    try:
        resolve(documents.parse(text, str(path), environment={}))
    except StudyError as error:
        error.where = "what was asked for"
        raise
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StudyError(f"{path} cannot be written: {error.strerror}", todo="name another file") from None
    say(f"written: {path}")
    say(f"next:    study validate {path}, then study launch {path}")


def starter(wish: InitOptions) -> str:
    """The text of a spec for `wish`, in which nothing is left out but comments are to be read."""
    assert wish.study is not None, "what is missing was filled in"
    assert wish.images is not None, "what is missing was filled in"
    lines = [
        "# A study: `study launch` runs it, `study validate` checks it; docs/spec.md has every key.",
        f"study: {_quoted(wish.study)}",
        "seed: 0                            # decides which images are drawn, and all that attacks draw",
        "",
        "images:",
    ]
    if wish.images == SAMPLE:
        lines.append("  sample: foolbox                  # 20 ImageNet images of a package; yours: folder: /data/val")
    else:
        lines.append(f"  folder: {_quoted(wish.images)}   # a folder for each label, or add list: labels.csv")
    lines += [
        "  size: 224                        # each model resizes from it to its own",
        "  keep: correct-for-all            # only images that all models get right",
        f"  count: {wish.count or 8}",
        "",
        "models:                            # sources and targets; docs/models.md says what they may be",
        *(f"  {_name(model)}: {_quoted(model)}" for model in wish.models),
        "",
        "attacks:                           # presets, changed where there is something in the braces: {steps: 20}",
        *(f"  {attack}: {{}}" for attack in wish.attacks),
        "",
        "experiments:                       # attacks x sources x goals: each yields one table",
        "  single:",
        f"    attacks: [{', '.join(wish.attacks)}]",
        "    sources: each                  # or leave-one-out, all, [a, [b, c]]",
    ]
    if wish.targeted:
        lines.append("    goal: [untargeted, targeted]")
    lines += [
        "",
        "numerics: {batch: 4, threads: 1}   # what changes the rounding of a float",
        "",
        "run:                               # where, how many, how fast: nothing here changes a pixel",
        "  shard: 4                         # images in a unit of work",
        "",
    ]
    return "\n".join(lines)


def _complete(wish: InitOptions, ask: Ask | None) -> InitOptions:
    """What was not said is asked for, or as usual."""
    usual = _USUAL

    def answer(question: str, given: str | None, default: str) -> str:
        return given if given is not None else (ask(question, default).strip() or default) if ask else default

    def listed(question: str, given: Sequence[str], default: Sequence[str]) -> tuple[str, ...]:
        said = answer(question, ", ".join(given) or None, ", ".join(default))
        return tuple(one.strip() for one in said.split(",") if one.strip())

    study = answer("name of the study", wish.study, str(usual.study))
    images = answer("folder of images, or foolbox for the sample", wish.images, SAMPLE)
    models = listed("models, separated by commas", wish.models, usual.models)
    attacks = listed("attacks, separated by commas (`study attacks` lists them)", wish.attacks, usual.attacks)
    for one in attacks:
        if presets.preset(one) is None:
            raise StudyError(
                f"there is no attack preset named '{one}'", where="--attack", accepted=names(presets.known(), one)
            )
    for one in models:
        if ":" not in one and one not in SHORT_NAMES and one not in PACKAGES:
            raise StudyError(f"no model has the short name '{one}'", where="--model", accepted=names(SHORT_NAMES, one))
    references = tuple(f"package:{one}" if one in PACKAGES else one for one in models)
    return replace(wish, study=study, images=images, models=references, attacks=attacks)


def _name(reference: str) -> str:
    """A short name for a model: what its reference ends with, as far as a name may have it."""
    tail = reference.removesuffix("_pytorch_model").rpartition(":")[2].partition("/")[0].partition(".")[0]
    kept = "".join(mark if mark.isalnum() or mark in "_-" else "-" for mark in tail).strip("-_")[:_SHOWN]
    return kept or "model"


def _quoted(text: str) -> str:
    """As YAML reads it back."""
    plain = documents.dump(text, width=10_000).splitlines()[0]
    return plain.removesuffix("...").strip()
