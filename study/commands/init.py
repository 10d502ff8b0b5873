"""`study init`: write a first spec with comments, from options and from answers on a terminal."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import typer

from study.attacks import presets
from study.attacks.recipe import Attack
from study.errors import StudyError, names
from study.images.image_sets import candidates
from study.models.catalogue import PACKAGES, SHORT_NAMES
from study.spec import yaml_document as documents
from study.spec.budget_units import check_units
from study.spec.loading import resolve
from study.spec.other_names import unknown_preset
from study.spec.spec_file import SpecFile

Ask = Callable[[str, str], str]
"""A function that takes a question and its default answer, and returns the answer."""

Answer = TypeVar("Answer")

SAMPLE = "foolbox"
OWN = "preset"
"""An answer to the question for the budget. With this answer, each preset keeps its budget."""
_BUDGETS = f"epsilon in pixel values 0..255, e.g. 8 or 8/255, or `{OWN}` to keep each preset's budget"
_LENGTH = re.compile(r"(0|[1-9][0-9]*)(\.[0-9]+)?(\s*/\s*255)?")
"""An epsilon as a number, or as a fraction of 255."""
_SHOWN = 60
_SAMPLES, _MOST_IMAGES, _WHITE = 20, 10**9, 255


@dataclass(frozen=True)
class InitOptions:
    """The options of `study init`. The command asks for missing values. Without a terminal, it uses defaults.

    `epsilon` is a budget in pixel values, such as `8` or `8/255`. It replaces the epsilon of each preset that has an
    epsilon. The value `preset` leaves all presets unchanged. `listing` is a CSV file with the names and labels of the
    files in the folder `images`.
    """

    study: str | None = None
    images: str | None = None
    count: int | None = None
    models: tuple[str, ...] = ()
    attacks: tuple[str, ...] = ()
    targeted: bool = False
    force: bool = False
    epsilon: str | None = None
    listing: str | None = None


_DEFAULTS = InitOptions("first", SAMPLE, 8, tuple(f"package:{name}" for name in PACKAGES)[:2], ("fgsm", "mi"))


def write_spec(path: Path, options: InitOptions, say: Callable[[str], None], ask: Ask | None) -> None:
    """Write a valid spec with comments to `path`.

    `ask` asks for each option that is missing; None: the option gets its default. After a wrong answer, `say` prints
    the reason, and the question is repeated. Raises StudyError if the file exists and `options.force` is not set, if an
    option is invalid, or if the file cannot be written.
    """
    if path.exists() and not options.force:
        raise StudyError(
            f"{path} exists already", where=str(path), todo="name another file, or overwrite it with --force"
        )
    text = starter(_Questions(ask, say, str(path)).complete(options))
    _read(text, str(path), "the options or answers")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StudyError(f"{path} cannot be written: {error.strerror}", todo="name another file") from None
    say(f"written: {path}")
    say(f"next:    study validate {path}, then study launch {path}")


def terminal_prompt() -> Ask | None:
    """Return a function that asks questions on the terminal; None if standard input is not a terminal."""
    if not sys.stdin.isatty():
        return None
    return lambda question, default: str(typer.prompt(question, default=default))


class _Questions:
    """Asks the questions of `study init`. Each answer is checked before the next question."""

    def __init__(self, ask: Ask | None, say: Callable[[str], None], name: str) -> None:
        self._ask = ask
        self._say = say
        self._name = name

    def complete(self, options: InitOptions) -> InitOptions:
        """Return `options` with the missing values added. Each missing value is asked for, or set to its default.

        In the result, a model of a package has the form `package:<name>`. `epsilon` is None if each preset keeps its
        budget. Raises StudyError for an option that is wrong.
        """
        known = replace(_DEFAULTS, study=self._answer("name of the study", options.study, "first", self._study))
        question = "images: a folder with a subfolder for each label; or `FOLDER, LIST.csv`; or foolbox for 20 samples"
        # The folder of an option need not exist here, because the study may run on another machine.
        known, found = self._answer(
            question, options.images, SAMPLE, lambda answer: self._images(answer, known, typed=options.images is None)
        )
        given = None if options.count is None else str(options.count)
        up_to = "" if found is None else f", up to {found:,}"
        usual = str(min(_DEFAULTS.count or 1, found or _MOST_IMAGES))
        count = self._answer(f"number of images{up_to}", given, usual, lambda answer: _count(answer, found))
        models = self._answer(
            "models, separated by commas: source and target models, such as resnet50 or timm:resnet50.a1_in1k",
            ", ".join(options.models) or None,
            ", ".join(list(PACKAGES)[:2]),
            lambda answer: self._models(answer, known),
        )
        attacks = self._answer(
            "attacks, separated by commas (`study attacks` lists them)",
            ", ".join(options.attacks) or None,
            ", ".join(_DEFAULTS.attacks),
            _attacks,
        )
        known = replace(known, count=count, models=models, attacks=attacks, targeted=options.targeted)
        if not any(map(_has_epsilon, attacks)):
            if options.epsilon not in (None, OWN):
                raise StudyError(
                    f"no attack of this spec has an epsilon: {', '.join(attacks)}",
                    where="--epsilon",
                    accepted="an epsilon for attacks that have one, such as mi (`study attacks` shows their budgets)",
                    todo="leave out --epsilon, or name such an attack with --attack",
                )
            return known
        epsilon = self._answer(f"budget: {_BUDGETS}", options.epsilon, OWN, lambda answer: self._epsilon(answer, known))
        return replace(known, epsilon=epsilon)

    def _answer(self, question: str, given: str | None, default: str, check: Callable[[str], Answer]) -> Answer:
        """Return a value: from the option `given`, else from an answer to `question`, else from `default`.

        `check` converts a text to the value, and raises StudyError for a wrong text. The question is repeated until
        `check` accepts the answer.
        """
        if given is not None or self._ask is None:
            return check(default if given is None else given)
        while True:
            try:
                return check(self._ask(question, default).strip() or default)
            except StudyError as error:
                for line in filter(None, (error.what, error.accepted, error.todo)):
                    self._say(f"  {line}")

    def _study(self, answer: str) -> str:
        self._resolved(replace(_DEFAULTS, study=answer), "the name of the study")
        return answer

    def _images(self, answer: str, known: InitOptions, *, typed: bool) -> tuple[InitOptions, int | None]:
        """Return `known` with the images that `answer` names, and the number of these images.

        `typed`: whether the user typed `answer` at the question. If the folder is not on this machine, a typed answer
        raises StudyError. A value from an option is accepted, and the number is then None.
        """
        if answer == SAMPLE:
            return replace(known, images=SAMPLE), _SAMPLES
        folder, listing = Path(answer).expanduser(), None
        if not folder.is_dir() and "," in answer:
            folder, listing = (Path(part.strip()).expanduser() for part in answer.split(",", 1))
        chosen = replace(known, images=str(folder), listing=None if listing is None else str(listing))
        if not folder.is_dir():
            if not typed:
                return chosen, None
            raise StudyError(
                f"there is no folder {folder}",
                where="--images",
                accepted=f"a folder of images; `FOLDER, LIST.csv`; or {SAMPLE}",
            )
        file = self._resolved(chosen, "--images")
        try:
            found = len(candidates(file.spec.images, file.spec.seed))
        except StudyError as error:
            error.where = error.where or "--images"
            if error.todo is not None and "`images: " in error.todo:
                # The file with this key is not written yet.
                error.todo = f"name another folder or `FOLDER, LIST.csv`, or {SAMPLE}; or correct the files there"
            raise
        if not found:
            raise StudyError(f"{folder} holds no images", where="--images", accepted="JPEG, PNG and similar files")
        return chosen, found

    def _models(self, answer: str, known: InitOptions) -> tuple[str, ...]:
        given = _listed(answer)
        for one in given:
            if ":" not in one and one not in SHORT_NAMES and one not in PACKAGES:
                raise StudyError(
                    f"no model has the short name '{one}'", where="--model", accepted=names(SHORT_NAMES, one)
                )
        if not given:
            raise StudyError("no model is named", where="--model", accepted=names(SHORT_NAMES))
        references = tuple(f"package:{one}" if one in PACKAGES else one for one in given)
        file = self._resolved(replace(known, models=references), "--model")
        # Only a model library such as timm knows the names of its models. The library is imported for this check only
        # if a user answers questions, because the import takes seconds.
        if self._ask is not None and any(":" in one for one in given):
            from study.models.check import check_models

            self._say("  checking the models")
            check_models(file.spec.models, file.spec.labels, file.where, allow_code=True)
        return references

    def _epsilon(self, answer: str, known: InitOptions) -> str | None:
        """Return the epsilon that `answer` names; None if each preset keeps its budget.

        Raises StudyError for everything else, since the epsilon becomes a part of the YAML text of the spec.
        """
        answer = answer.strip()
        if answer == OWN:
            return None
        if not _LENGTH.fullmatch(answer) or not 0 < float(answer.partition("/")[0]) <= _WHITE:
            raise StudyError(f"'{answer}' is not a possible epsilon", where="--epsilon", accepted=_BUDGETS)
        self._resolved(replace(known, epsilon=answer), "--epsilon")
        return answer

    def _resolved(self, options: InitOptions, where: str) -> SpecFile:
        return _read(starter(options), self._name, where)


def _read(text: str, name: str, where: str) -> SpecFile:
    """Return the spec in `text`. `name` is the path of its file.

    Raises StudyError for an invalid spec. The error has `where` as its place instead of a line of the file, because the
    file is not written yet.
    """
    try:
        file = resolve(documents.parse(text, name, environment={}))
        check_units(file.spec.attacks, file.document)
    except StudyError as error:
        error.where = where
        raise
    return file


def _count(answer: str, found: int | None) -> int:
    number, most = int(answer) if answer.isdecimal() else 0, found or _MOST_IMAGES
    if not 1 <= number <= most:
        raise StudyError(f"'{answer}' is not a possible number of images", where="--count", accepted=f"1 to {most:,}")
    return number


def _attacks(answer: str) -> tuple[str, ...]:
    given = _listed(answer)
    for one in given:
        if presets.preset(one) is None:
            raise unknown_preset(one, where="--attack")
    if not given:
        raise StudyError("no attack is named", where="--attack", accepted="fgsm, mi; `study attacks` lists all")
    return given


def _listed(answer: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(one.strip() for one in answer.split(",") if one.strip()))


def _has_epsilon(attack: str) -> bool:
    """Return whether the budget of a preset is an epsilon (an L-infinity length)."""
    return Attack.model_validate(presets.keys_of(attack, {})).budget.epsilon is not None


def starter(options: InitOptions) -> str:
    """Return the text of a spec with comments. All values of `options` except `epsilon` and `listing` must be set."""
    assert options.study is not None, "the caller sets options.study"
    assert options.images is not None, "the caller sets options.images"
    lines = [
        "# `study validate` checks this study, `study launch` runs it. All keys: docs/spec.md.",
        f"study: {_quoted(options.study)}",
        "seed: 0                            # the seed of all random choices: images, attacks",
        "",
        "images:",
    ]
    if options.images == SAMPLE:
        lines.append("  sample: foolbox                  # 20 ImageNet images from a package; or folder: /data/val")
    else:
        lines.append(f"  folder: {_quoted(options.images)}   # a subfolder for each label, or add list: labels.csv")
        lines += [f"  list: {_quoted(options.listing)}   # columns: file, label"] if options.listing else []
    lines += [
        "  size: 224                        # pixels; each model resizes these images to its own input size",
        "  keep: correct-for-all            # only images that all models classify correctly",
        f"  count: {options.count or 8}",
        "",
        "models:                            # sources and targets; more kinds: docs/models.md",
        *(f"  {name}: {_quoted(model)}" for name, model in _named(options.models).items()),
        "",
        "attacks:                           # presets; change values in the braces, e.g. {steps: 20}",
        *(f"  {attack}: {_keys(attack, options.epsilon)}" for attack in options.attacks),
        "",
        "experiments:                       # attacks x sources x goals; a table for each goal",
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


def _keys(attack: str, epsilon: str | None) -> str:
    """Return the keys of an attack as YAML: `{epsilon: …}` if `epsilon` is given and the preset has one, else `{}`."""
    return "{}" if epsilon is None or not _has_epsilon(attack) else f"{{epsilon: {epsilon}}}"


def _named(references: Sequence[str]) -> dict[str, str]:
    """Return the references of models by their names in the spec. A repeated short name gets a number: `resnet50-2`."""
    named: dict[str, str] = {}
    for reference in references:
        short = _name(reference)
        numbered = (f"{short}-{number}" for number in itertools.count(2))
        named[next(name for name in itertools.chain([short], numbered) if name not in named)] = reference
    return named


def _name(reference: str) -> str:
    """Return a short name for a model: the network in its reference, with `-` for characters that no name has."""
    tail = reference.removesuffix("_pytorch_model").rpartition(":")[2].partition("/")[0].partition(".")[0]
    kept = "".join(mark if mark.isalnum() or mark in "_-" else "-" for mark in tail).strip("-_")[:_SHOWN]
    return kept or "model"


def _quoted(text: str) -> str:
    """Return `text` as a YAML scalar, with quotes if YAML needs quotes."""
    plain = documents.dump(text, width=10_000).splitlines()[0]
    return plain.removesuffix("...").strip()
