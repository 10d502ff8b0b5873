"""What is written is read back as it is, and what a person wrote is expanded once; words that YAML takes for others."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as some

from study.errors import StudyError
from study.spec.loading import read_resolved, resolve
from study.spec.schema import Targets
from study.spec.yaml_document import as_written, dump, override, parse
from tests.conftest import TINY

TRAPS = (
    *("1e-4", "1E5", "1.e3", "016", "0o17", "0x1f", "0b11", "1:30", "1:30.5", "1_000", ".5", "5.", "+1", "-0"),
    *(
        "on",
        "No",
        "y",
        "Y",
        "~",
        "null",
        "Null",
        "true",
        "=",
        "<<",
        ".inf",
        "-.INF",
        ".nan",
        "2026-11-28",
        "---",
        "...",
    ),
    *("${HOME}", "${UNSET_HERE}", "$${HOME}", "team-${SUBTEAM:-x}", "{a: b}", "[a]", "a: b", "a #b", "- a", "!!int 3"),
    *(
        "",
        " ",
        "a ",
        " a",
        "\ta",
        "a\n",
        "\n",
        "a\n b\n\nc",
        "'",
        '"',
        "''",
        "\\n",
        "%",
        "@a",
        "`a",
        "&a",
        "*a",
        "?",
        "|",
    ),
    *("é", "日本", "\U0001f989", "\xa0", "a" * 300, "word " * 60, "- " * 60),
)
TEXT = some.one_of(
    some.sampled_from(TRAPS),
    some.text(some.sampled_from("0123456789eE.+-:_~ \n\t'\"${}[]#&*!|>%@`,?=abonxyNOf"), max_size=40),
    some.text(some.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp", "Cf")), max_size=140),
)
NUMBERS = some.one_of(some.integers(), some.floats(allow_nan=False), some.booleans(), some.none())
KEY = TEXT.filter(lambda key: key != "<<" and len(key) <= 200)
DATA = some.recursive(
    TEXT | NUMBERS,
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(KEY, inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("text", TRAPS)
def test_traps_come_back(text):
    assert as_written(dump([text, {"key": text}]), "written").data == [text, {"key": text}]
    if text != "<<" and len(text) <= 200:
        assert as_written(dump({text: {text: [text]}}), "written").data == {text: {text: [text]}}


@settings(max_examples=400, deadline=None)
@given(DATA)
def test_what_is_written_is_read_back(data):
    found = as_written(dump(data), "written").data
    assert found == data
    assert repr(found) == repr(data)


@settings(max_examples=30, deadline=None)
@given(names=some.lists(TEXT.filter(lambda name: 0 < len(name) < 60), min_size=3, max_size=3, unique=True), group=TEXT)
def test_a_spec_with_any_words_in_it_is_read_back(names, group):
    """Whether the study would be accepted or not: what a launch writes is what it was given."""
    plain = resolve(parse(TINY, "spec")).spec
    models = dict(zip(names, plain.models.values(), strict=True))
    experiments = {
        name: one.model_copy(update={"targets": Targets(models=tuple(names))})
        for name, one in zip(names, plain.experiments.values(), strict=False)
    }
    tracking = plain.tracking.model_copy(update={"group": group})
    images = plain.images.model_copy(update={"labels": tuple(names)})
    update = {"models": models, "experiments": experiments, "tracking": tracking, "images": images}
    spec = plain.model_copy(update=update)
    if "<<" not in names:
        assert as_written(spec.text(), "written").data == spec.model_dump(mode="json")


@pytest.mark.parametrize("name", ["1e-4", "1E5", "016", "0x1f", "on", "No", "null", "1_000", "2026-11-28"])
def test_a_model_of_any_name_is_read_back(name):
    spec = resolve(
        parse(TINY.replace("  a: {", f'  "{name}": {{').replace("sources: each", f'sources: ["{name}"]'), "spec")
    )
    assert name in spec.spec.models
    assert read_resolved(spec.spec.text(), "spec.yaml") == spec.spec


@pytest.mark.parametrize(
    ("word", "taken"),
    [
        ("1e-4", "the number 0.0001"),
        ("on", "the word true"),
        ("No", "the word false"),
        ("~", "nothing"),
        ("null", "nothing"),
        (".5", "the number 0.5"),
        ("1_000", "the number 1000"),
        ("2026-11-28", "a date"),
    ],
)
@pytest.mark.parametrize("key", ["sources", "attacks", "targets"])
def test_words_without_quotes_that_yaml_takes_for_others(key, word, taken):
    lines = TINY.splitlines()
    at = next(index for index, line in enumerate(lines) if line.startswith("  ensembles:"))
    lines[at] = {
        "sources": f"  ensembles: {{attacks: [mi], sources: [a, {word}]}}",
        "attacks": f"  ensembles: {{attacks: [mi, {word}], sources: each}}",
        "targets": f"  ensembles: {{attacks: [mi], sources: each, targets: [a, {word}]}}",
    }[key]
    with pytest.raises(StudyError) as refused:
        resolve(parse("\n".join(lines), "spec"))
    assert f"YAML reads {word} without quotes as {taken}" in refused.value.what
    assert f'put quotes around it: "{word}"' in str(refused.value.todo)
    assert refused.value.where is not None
    assert refused.value.where.startswith(f"spec, line {at + 1}, experiments.ensembles.{key}")


@pytest.mark.parametrize(("word", "number"), [("016", 14), ("1:30", 90), ("-017", -15), ("190:20:30", 685230)])
def test_digits_of_another_base_are_never_guessed(word, number):
    for key in ("seed", "study"):
        with pytest.raises(StudyError) as refused:
            parse(f"images: x\n{key}: {word}\n", "spec")
        assert f"YAML reads {word} as the number {number}" in str(refused.value)
        assert f'"{word}"' in str(refused.value.todo)
        assert refused.value.where == "spec, line 2"
    assert parse(f'study: "{word}"', "spec").data == {"study": word}
    assert parse("seed: 0\nrate: 0.25\nless: 1e-4", "spec").data == {"seed": 0, "rate": 0.25, "less": 1e-4}


def test_what_is_laid_over_a_spec_is_told_of_too():
    document = parse(TINY, "spec")
    override(document, "experiments.single.sources=[on]")
    with pytest.raises(StudyError, match="YAML reads on without quotes as the word true") as refused:
        resolve(document)
    assert "--set experiments.single.sources=[on]" in str(refused.value.where)


def test_a_variable_is_expanded_once():
    text = TINY + "tracking: {group: '${G}'}\n"
    spec = resolve(parse(text, "spec", {"G": "team-${SUBTEAM}"})).spec
    assert spec.tracking.group == "team-${SUBTEAM}"
    assert read_resolved(spec.text(), "spec.yaml") == spec
    assert yaml.safe_load(spec.text())["tracking"]["group"] == "team-${SUBTEAM}"
