"""Presets of attacks in a spec: what the key `preset` may be."""

from __future__ import annotations

import pytest

from study.errors import StudyError
from study.spec.loading import resolve
from study.spec.yaml_document import parse
from tests.conftest import TINY


def with_attack(keys):
    return parse(TINY.replace("  mi: {steps: 2}", f"  mi: {keys}"), "spec")


def test_a_preset_of_null_is_no_preset():
    with pytest.raises(StudyError) as caught:
        resolve(with_attack("{preset: null, epsilon: 8}"))
    error = caught.value
    assert error.what == "`preset: null` means that 'mi' has no preset, but the attack has no `step` either"
    assert error.where == "spec, line 13, attacks.mi.preset"
    assert error.todo == ("remove `preset: null`, so that 'mi' has the numbers of the preset 'mi'; or give it `step`")
    attack = resolve(with_attack("{preset: null, step: sign, epsilon: 8}")).spec.attacks["mi"]
    assert (attack.momentum, attack.budget.epsilon) == (0, 8)
    assert resolve(with_attack("{epsilon: 8}")).spec.attacks["mi"].momentum == 1
