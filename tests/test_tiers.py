"""Every test that tests/tiers.py leaves to CI exists."""

from __future__ import annotations

import re

import pytest

from tests.conftest import ROOT
from tests.tiers import FIRST, WHOLE


@pytest.mark.parametrize("path", sorted({*FIRST, *WHOLE}))
def test_names_are_those_of_tests(path):
    there = set(re.findall(r"^def (test_\w+)", (ROOT / path).read_text(), re.MULTILINE))
    assert {*FIRST.get(path, ()), *WHOLE.get(path, ())} <= there
