"""Words and numbers that tables and pages share."""

from __future__ import annotations

import pytest

from study.report.wording import count_range


@pytest.mark.parametrize(
    ("counts", "text"), [([], "0"), ([20], "20"), ([20, 20], "20"), ([1000, 12, 20], "12 to 1,000")], ids=str
)
def test_the_numbers_of_images_of_a_row(counts, text):
    assert count_range(iter(counts)) == text
