"""Steps that follow from numbers of gradients, counted naively."""

from __future__ import annotations

import pytest

from study.attacks.costs import steps_within
from study.attacks.recipe import Attack
from study.errors import StudyError
from study.spec.loading import resolve
from study.spec.yaml_document import parse
from tests.conftest import TINY

HEAD = TINY[: TINY.index("experiments:")]


def spec(attacks, experiments, head=HEAD):
    text = head[: head.index("attacks:")] if "attacks:" in head else head
    return resolve(parse(f"{text}attacks: {attacks}\nexperiments: {experiments}\n", "spec")).spec


@pytest.mark.parametrize(
    ("keys", "per_step", "before"),
    [
        ({"momentum": 1}, 1, 0),
        ({"scales": 5}, 5, 0),
        ({"smoothing": {"sigma": 10, "copies": 20}, "scales": 2}, 40, 0),
        # Variance tuning takes no neighbours after the last step.
        ({"variance": {"samples": 20}}, 21, -20),
    ],
)
@pytest.mark.parametrize("sources", [1, 3])
def test_steps_within_is_the_last_that_fits(keys, per_step, before, sources):
    attack = Attack.model_validate({"step": "sign", "epsilon": 16, **keys})
    for gradients in (1, 7, 40, 400, 401):
        expected = 0
        while per_step * (expected + 1) + before <= gradients:
            expected += 1
        assert steps_within(attack, gradients, sources) == expected


def test_steps_within_refuses_what_has_no_steps():
    noise = Attack.model_validate({"step": "sign", "steps": 0, "start": {"gaussian": {"sigma": 5}}})
    with pytest.raises(StudyError, match="has no steps"):
        steps_within(noise, 10, 1)


def test_gradients_of_a_budget_decide_the_steps():
    found = spec(
        "{sg-igsm: {gradients: 110, step_size: 1}, mi: {gradients: 25}}", "{e: {attacks: [sg-igsm, mi], sources: each}}"
    )
    per_step = found.attacks["sg-igsm"].gradients(1, 1)
    assert found.attacks["sg-igsm"].steps == 110 // per_step
    assert found.attacks["mi"].steps == 25
    assert found.attacks["mi"].step_size == 16 / 25
    assert resolve(parse(found.text(), "resolved")).spec == found


def test_at_cost_gives_checkpoints_and_keeps_the_step():
    found = spec(
        "{}",
        "{cost: {attacks: [mi, vmi, admix], sources: each, at-cost: {gradients: [10, 50, 200]}},"
        " plain: {attacks: [mi], sources: each}}",
    )
    assert found.experiments["cost"].attacks == ("mi-to-200", "vmi-to-200", "admix-to-200")
    mi, vmi, admix = (found.attacks[name] for name in found.experiments["cost"].attacks)
    assert (mi.checkpoints, mi.steps, mi.step_size) == ((10, 50), 200, 1.6)
    # 1, 22, 43, … and 15, 30, … gradients after 1, 2, 3, … steps.
    assert (vmi.checkpoints, vmi.steps) == ((1, 3), 10)
    assert (admix.checkpoints, admix.steps) == ((3,), 13)
    assert found.attacks["mi"].checkpoints == ()
    assert resolve(parse(found.text(), "resolved")).spec == found


@pytest.mark.parametrize(
    ("attacks", "experiments", "message"),
    [
        (
            "{admix: {gradients: 14}}",
            "{e: {attacks: admix, sources: each}}",
            "one step of 'admix' takes 15 gradients per source model, and the limit is 14",
        ),
        (
            "{}",
            "{e: {attacks: admix, sources: each, at-cost: {gradients: [10]}}}",
            "one step of 'admix' takes 15 gradients per source model",
        ),
        ("{}", "{e: {attacks: mi, sources: each, at-cost: {gradients: [50, 10]}}}", "ascending order"),
        (
            "{}",
            "{e: {attacks: gaussian-noise, sources: each, at-cost: {gradients: [50]}}}",
            "cannot stop at a number of gradients",
        ),
    ],
)
def test_what_fits_no_step_is_refused(attacks, experiments, message):
    with pytest.raises(StudyError, match=message):
        spec(attacks, experiments)
