"""Colours of rates, and the number of table cells in a page."""

from __future__ import annotations

import pytest

from study.report.html.colours import LEVELS, contrast, ramp, text_colour
from study.report.html.components import CellBudget, HtmlTable, TableCell


def test_contrast_agrees_with_the_standard():
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    # The lightest grey that passes on white, as WebAIM and others list it.
    assert contrast((118, 118, 118), (255, 255, 255)) == pytest.approx(4.54, abs=0.005)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("level", range(LEVELS + 1))
def test_text_is_legible_on_every_colour(level, dark):
    background = ramp(level / LEVELS, dark=dark)
    assert contrast(text_colour(background), background) >= 4.5


@pytest.mark.parametrize("dark", [False, True])
def test_ramp_is_ordered_in_greyscale(dark):
    luminance = [contrast(ramp(level / LEVELS, dark=dark), (0, 0, 0)) for level in range(LEVELS + 1)]
    assert luminance == sorted(luminance, reverse=not dark)


def test_budget_bounds_the_cells_of_a_page():
    table = HtmlTable("t", ["a", "b"], [[TableCell("1"), TableCell("2")]] * 1000)
    budget = CellBudget(400)
    assert len(budget.rows(table)) == 200
    assert len(budget.rows(table)) == 20, "a table has 20 rows even in a full page"
    assert len(CellBudget().rows(table)) == 300
