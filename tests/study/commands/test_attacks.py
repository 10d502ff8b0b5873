"""What `study attacks` prints, and that every preset is what it says."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from study.attacks import Attack
from study.attacks.presets import combinations, keys_of, known, preset
from study.commands.attacks import print_attacks
from study.errors import StudyError


def printed(*words, width=100):
    out = io.StringIO()
    print_attacks(Console(file=out, width=width), *words)
    return out.getvalue()


@pytest.mark.parametrize("width", [60, 200])
def test_every_preset_is_listed_with_its_source(width):
    text = printed(width=width)
    for name in known():
        assert name in text
    assert text.count("(arXiv:") >= 20
    assert max(len(line.rstrip()) for line in text.split("gradients: per image")[0].splitlines()) <= width


@pytest.mark.parametrize("name", known())
def test_every_preset_is_a_recipe(name):
    attack = Attack.model_validate(keys_of(name, {}))
    assert Attack.model_validate(attack.model_dump(mode="json")) == attack
    assert preset(name).source
    assert f"{attack.gradients(attack.steps, 1):,} gradient" in printed(name)


@pytest.mark.parametrize("name", combinations())
def test_a_combination_has_the_parts_of_all(name):
    keys = keys_of(name, {})
    for one in name.split("+"):
        for part in preset(one).joins:
            assert keys[part] == preset(one).keys[part]


def test_any_presets_combine():
    keys = keys_of("pgd+ti+si+sg-igsm", {})
    assert {"start", "kernel", "scales", "smoothing"} <= keys.keys()
    assert preset("ti+fgsm") is None
    with pytest.raises(StudyError, match="no preset named 'mj'"):
        print_attacks(Console(file=io.StringIO()), "mj")
