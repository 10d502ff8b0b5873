"""The catalogue of attacks is up to date, and says of every preset what it is and what tests it."""

from __future__ import annotations

import pytest

from study.attacks import presets
from study.attacks.catalogue_page import PAGE, generated


def test_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == generated(), "run `python -m study.attacks.catalogue_page`"


@pytest.mark.parametrize("name", presets.presets())
def test_every_preset_has_a_formula_and_an_oracle(name):
    one = presets.preset(name)
    assert 1 <= len(one.formula.strip().splitlines()) <= 3
    assert all((one.oracle.strip(), one.title, one.source))
