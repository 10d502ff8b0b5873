"""`study findings`: claims that hold, do not, and cannot be told, held against rates counted in a loop."""

from __future__ import annotations

import json

import pytest
import yaml

from tests.conftest import TINY, rows

CLAIMS = """
findings:
  own-model-is-fooled:
    claim: Some images fool the model that they were made on.
    source: a test
    check: {rate: {of: {experiment: single, attacks: mi, goal: untargeted, boxes: white}, above: 0.0, holds: average}}
  nothing-transfers:
    claim: Nothing ever transfers.
    source: a test
    check:
      rate: {of: {experiment: single, attacks: optimization, goal: untargeted, boxes: any}, below: 0.01, holds: average}
"""


@pytest.fixture
def claims(spec_file):
    return spec_file(TINY + CLAIMS, "claims.yaml")


def naive(run, attack: str, *, white: bool | None) -> float:
    """The share of wrong answers among images of an attack, all cells alike."""
    cells: dict[tuple[str, str], list[bool]] = {}
    for row in rows(run).iter_rows(named=True):
        if row["attack"] != attack or row["goal"] != "untargeted" or len(row["sources"]) != 1:
            continue
        if white is None or (row["relation"] == "white") == white:
            cells.setdefault((row["sources"][0], row["target"]), []).append(row["top1"] != row["label"])
    return sum(sum(one) / len(one) for one in cells.values()) / len(cells)


def test_verdicts_and_effects(door, tiny_run, claims):
    status, printed, error = door("findings", tiny_run, "--spec", claims, "--json")
    assert status == 0, error
    found = {one["finding"]: one for one in json.loads(printed)}
    assert found["own-model-is-fooled"]["average"]["effect"] == pytest.approx(naive(tiny_run, "mi", white=True))
    assert found["own-model-is-fooled"]["verdict"] == "replicated"
    assert found["nothing-transfers"]["average"]["effect"] == pytest.approx(naive(tiny_run, "optimization", white=None))
    assert found["nothing-transfers"]["verdict"] == "not replicated"


def test_what_is_printed(door, tiny_run, claims):
    status, printed, _ = door("findings", tiny_run, "--spec", claims)
    assert status == 0
    assert "nothing-transfers: not replicated\n  Nothing ever transfers. (a test)\n" in printed
    assert printed.splitlines()[-1] == "1 replicated, 1 not replicated, 0 undecided"


def test_no_claims(door, tiny_run):
    status, _, error = door("findings", tiny_run)
    assert status == 2
    assert "tiny has no findings" in error
    assert "--spec" in error


def test_a_claim_about_nothing_is_an_error_with_its_place(door, tiny_run, spec_file):
    changed = yaml.safe_load(TINY + CLAIMS)
    changed["findings"]["nothing-transfers"]["check"]["rate"]["of"]["experiment"] = "singel"
    path = spec_file(yaml.safe_dump(changed), "wrong.yaml")
    status, _, error = door("findings", tiny_run, "--spec", path)
    assert status == 2
    for part in ("singel", "single (the nearest)", "findings.nothing-transfers", "wrong.yaml, line"):
        assert part in error, error


UNDECIDED = """
findings:
  moves-more:
    claim: MI fools more often than optimization.
    source: a test
    check:
      compare:
        better: {experiment: single, attacks: mi, goal: untargeted, boxes: any}
        than: {experiment: single, attacks: optimization, goal: untargeted, boxes: any}
        holds: HOLDS
"""


@pytest.mark.parametrize("holds", ["average", "each", "some"])
def test_average_and_every_cell_are_apart_and_say_how_many_images_would_decide(door, tiny_run, spec_file, holds):
    claims = spec_file(TINY + UNDECIDED.replace("HOLDS", holds), "claims.yaml")
    (found,) = json.loads(door("findings", tiny_run, "--spec", claims, "--json")[1])
    status, printed, _ = door("findings", tiny_run, "--spec", claims)
    assert status == 0
    for name, words in (("average", "the average"), ("each", "every cell")):
        reading = found[name]
        assert f"  {words}: {reading['verdict']}: {reading['reason']}" in printed
        (line,) = [line for line in printed.splitlines() if line.startswith(f"  {words}: ")]
        assert ("images would decide it, if the effect stays (6 here)" in line) == (reading["needed"] is not None)
        assert reading["needed"] is None or reading["needed"] > 6
        assert words in printed.partition("The first line of a finding")[0], "and a line of the table"
