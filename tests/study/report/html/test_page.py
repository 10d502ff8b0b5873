"""What a page is put together from: contrast, escaping, room."""

from __future__ import annotations

import json
import re

import pytest

from study.report.html.page import LEVELS, Cell, Room, Table, contrast, ink, island, ramp


def test_contrast_is_that_of_the_standard():
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    # The lightest grey that passes on white, as WebAIM and others list it.
    assert contrast((118, 118, 118), (255, 255, 255)) == pytest.approx(4.54, abs=0.005)


@pytest.mark.parametrize("level", range(LEVELS + 1))
def test_every_cell_can_be_read(level):
    assert contrast(ink(ramp(level / LEVELS)), ramp(level / LEVELS)) >= 4.5


def test_the_ramp_falls_in_grey_too():
    luminance = [contrast(ramp(level / LEVELS), (0, 0, 0)) for level in range(LEVELS + 1)]
    assert luminance == sorted(luminance, reverse=True)


def test_an_island_cannot_be_left():
    value = {"</script><!--": ["&", "\u2028", "é"]}
    text = island("data", value)
    inside = re.fullmatch(r'<script type="application/json" id="data">(.*)</script>', text)[1]
    assert not set(inside) & set("<>&\u2028")
    assert json.loads(inside) == value


def test_room_is_bounded_and_cuts_are_said():
    table = Table("t", ["a", "b"], [[Cell("1"), Cell("2")]] * 1000, "whole(1 < 2)")
    room = Room(400)
    assert table.html(room).count("<tr>") == 201
    cut = table.html(room)
    assert cut.count("<tr>") == 21
    assert "The first 20 of 1,000 lines" in cut
    assert "whole(1 &lt; 2)" in cut
