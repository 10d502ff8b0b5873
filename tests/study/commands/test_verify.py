"""The lines of `study verify`: counts with their nouns."""

from __future__ import annotations

import pytest

from study.commands.verify import lines
from study.results.verify import VerificationReport


@pytest.mark.parametrize(
    ("pairs", "expected", "said"),
    [
        (1, 6, "1 of 6 (unit, target) pairs"),
        (1, 1, "1 of 1 (unit, target) pair"),
        (0, 1, "0 of 1 (unit, target) pair"),
        (1, None, "1 (unit, target) pair"),
        (2, None, "2 (unit, target) pairs"),
    ],
)
def test_the_noun_agrees_with_the_number_before_it(pairs, expected, said):
    report = VerificationReport("run", parts=1, rows=2, units=1, pairs=pairs, expected=expected)
    assert lines(report)[0] == f"run: 1 part, 2 rows, 1 unit, {said}"
