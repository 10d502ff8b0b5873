"""Pydantic's errors in the words of a spec: the keys that a user writes, and the place where they were written."""

from __future__ import annotations

import pytest

from study.errors import StudyError
from study.spec.loading import resolve
from study.spec.yaml_document import parse


def refused(*, images="", model="resnet18", attack="", experiment=""):
    text = f"""
study: checked
images: {{sample: foolbox, size: 64, count: 4{images}}}
models: {{a: {model}}}
attacks: {{mi: {{{attack}}}}}
experiments: {{x: {{attacks: [mi], sources: each{experiment}}}}}
"""
    with pytest.raises(StudyError) as caught:
        resolve(parse(text, "spec"))
    return caught.value


FORM = "there is no key 'form' here"
RANGE = "from (the nearest), to, by"


@pytest.mark.parametrize(
    ("attack", "where", "what", "accepted"),
    [
        ("budget: {epsilon: {form: 1, to: 3, by: 1}}", ".budget.epsilon.form", FORM, RANGE),
        ("epsilon: {form: 1, to: 3, by: 1}", ".epsilon.form", FORM, RANGE),
        ("budget: {minimal: {form: 1, to: 3, by: 1}}", ".budget.minimal.form", FORM, RANGE),
        ("first: {preset: mi, epsilon: {form: 1}}", ".first.epsilon.form", FORM, RANGE),
        ("epsilon: {from: 1, to: 3}", ".epsilon", "the key 'by' is missing", "from, to, by"),
        ("budget: {rmsd: {from: 1, by: 1}}", ".budget.rmsd", "the key 'to' is missing", "from, to, by"),
        ("epsilon: {from: a, to: 3, by: 1}", ".epsilon.from", "'from' cannot be 'a'", "a number"),
        ("epsilon: [a, 3]", ".epsilon[0]", "'epsilon[0]' cannot be 'a'", "a number"),
        ("epsilon: [[1], 3]", ".epsilon[0]", "'epsilon[0]' cannot be [1]", "a number"),
        ("epsilon: []", ".epsilon", "'epsilon' cannot be []", "at least one entry"),
        ("epsilon: 0", ".epsilon", "'epsilon' cannot be 0", "greater than 0; or a list; or a mapping (key: value)"),
        (
            "epsilon: {from: 3, to: 1, by: 1}",
            ".epsilon",
            "in a range, `to` must not be smaller than `from`, and there must be fewer than 10,000 steps",
            None,
        ),
    ],
)
def test_lengths(attack, where, what, accepted):
    """A length is a number, a list or a range. The message is about the one that the user wrote."""
    error = refused(attack=attack)
    assert (error.what, error.accepted) == (what, accepted)
    assert error.where == f"spec, line 5, attacks.mi{where}"


@pytest.mark.parametrize(
    ("goal", "what", "todo"),
    [
        ("null", "'goal' cannot be None", None),
        ("x", "'goal' cannot be 'x'", None),
        ("3", "'goal' cannot be 3", None),
        ("[x]", "'goal[0]' cannot be 'x'", None),
        ("[null]", "'goal[0]' cannot be None", None),
        ("[x, y]", "'goal[0]' cannot be 'x'", "fix this; 1 more error follows"),
    ],
)
def test_a_wrong_item_is_no_error_about_the_list(goal, what, todo):
    """The message names the items that are accepted, and neither a list nor its size."""
    error = refused(experiment=f", goal: {goal}")
    assert (error.what, error.accepted, error.todo) == (what, "untargeted or targeted", todo)


def test_an_empty_list_is_too_short():
    error = refused(experiment=", goal: []")
    assert (error.what, error.accepted) == ("'goal' cannot be []", "at least one entry")


def test_ranks_of_target_labels():
    error = refused(images=", targets: {rnk: 3}")
    assert (error.what, error.accepted) == ("there is no key 'rnk' here", "rank (the nearest), by")
    assert error.where == "spec, line 3, images.targets.rnk"
    error = refused(images=", targets: {rank: x}")
    assert (error.what, error.accepted) == ("'rank' cannot be 'x'", "a whole number; or last")


@pytest.mark.parametrize(
    ("experiment", "what", "accepted"),
    [
        (", foo: 3", "foo", "attacks, sources, goal, targets, seeds, at-cost, published"),
        (", targets: {foo: [a]}", "foo", "models, not-family-of, among"),
        (", at-cost: {gradient: [1]}", "gradient", "gradients (the nearest)"),
        (", at_cost: {gradient: [1]}", "gradient", "gradients (the nearest)"),
    ],
)
def test_keys_as_a_spec_writes_them(experiment, what, accepted):
    error = refused(experiment=experiment)
    assert (error.what, error.accepted) == (f"there is no key '{what}' here", accepted)


@pytest.mark.parametrize(
    ("key", "nearest"),
    [("gradient: 3", "gradients"), ("pythn: a", "python"), ("argumens: {}", "arguments"), ("epsilonn: 3", "epsilon")],
)
def test_short_keys_of_attacks(key, nearest):
    accepted = refused(attack=key).accepted
    assert accepted is not None
    assert accepted.startswith(f"{nearest} (the nearest), ")


def test_a_refused_key_is_not_called_accepted():
    error = refused(attack="arguments: {}")
    assert error.what == "there is no key 'arguments' here"
    assert error.accepted == "gradients (the nearest), objective, penalty, fusion, … (35 in all)"


@pytest.mark.parametrize(
    ("model", "accepted"),
    [
        ("{network: resnet18, mean: [1, 2, 3, 4]}", "at most 3 entries"),
        ("{network: resnet18, sha256: xx}", "a text that matches ^[0-9a-fA-F]{8,64}$"),
        ("{network: resnet18, family: ''}", "at least one character"),
        (f"{{network: resnet18, family: {'x' * 61}}}", "at most 60 characters"),
    ],
)
def test_lengths_of_texts_and_lists(model, accepted):
    assert refused(model=model).accepted == accepted
