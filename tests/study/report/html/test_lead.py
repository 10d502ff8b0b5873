"""The sentences at the top of a report: what they say of attacks that are equally far behind the first."""

from __future__ import annotations

import polars as pl
import pytest

from study.report.html import lead
from study.report.html.report_data import read_report_data


def ranked(*followers):
    """A ranking with a first attack of 90 %, and `followers` (attack, success, p)."""
    first = {
        "attack": "first",
        "relation": "black",
        "success": 0.9,
        "low": 0.8,
        "high": 0.95,
        "behind": None,
        "p": None,
    }
    others = [
        first | {"attack": attack, "success": success, "behind": 0.9 - success, "p": p}
        for attack, success, p in followers
    ]
    return pl.DataFrame(
        [one | {"images": 100, "cells": 2, "steps": 1, "level": 8.0} for one in (first, *others)],
        infer_schema_length=None,
    )


@pytest.mark.parametrize(("followers", "said"), [
    ([("a", 0.85, 0.058)], "a is 5.0 percentage points behind, which is not significant with 100 images (p = 0.058)."),
    ([("a", 0.5, 0.0001)], "a is 40.0 percentage points behind (p < 0.001)."),
    (
        [("a", 0.85, 0.058), ("b", 0.85, 0.07)],
        "a and b are 5.0 percentage points behind, which is not significant with 100 images (p = 0.058).",
    ),
    ([("a", 0.85, 0.01), ("b", 0.85, 0.02)], "a and b are 5.0 percentage points behind (p = 0.02)."),
    (
        [("a", 0.85, 0.01), ("b", 0.85, 0.07)],
        "a and b are 5.0 percentage points behind; with 100 images, this is significant only for a.",
    ),
    ([("a", 0.85, None), ("b", 0.85, None)], "which is not significant with 100 images (p = 1)."),
])  # fmt: skip
def test_those_behind_the_first(tiny_run, monkeypatch, followers, said):
    monkeypatch.setattr(lead, "ranking", lambda *_, **__: ranked(*followers))
    monkeypatch.setattr(lead, "_table", lambda *_: None)
    (_, text), *_ = lead.lead(read_report_data(str(tiny_run))).found
    assert said in text
