"""Success rates against a naive loop over the rows of a real run."""

from __future__ import annotations

from collections import defaultdict

import pytest

from study.analysis.transfer import success_rates
from study.results import store
from tests.conftest import rows


@pytest.mark.parametrize("top", [1, 5])
def test_success_rates(tiny_run, top):
    outcomes = defaultdict(list)
    moved = defaultdict(list)
    for row in rows(tiny_run).to_dicts():
        best = row["top5"][:top]
        hit = row["target_label"] in best if row["goal"] == "targeted" else row["label"] not in best
        cell = ("+".join(row["sources"]), row["attack"], row["goal"], row["target"])
        outcomes[cell].append(hit)
        moved[cell].append(row["rmsd"])
    ours = success_rates(store.scan(tiny_run), top=top, by=("sources", "attack", "goal", "target"))
    assert ours.height == len(outcomes) == 90
    for row in ours.to_dicts():
        cell = (row["sources"], row["attack"], row["goal"], row["target"])
        assert row["images"] == 10
        assert row["success"] == pytest.approx(sum(outcomes[cell]) / 10)
        assert row["rmsd"] == pytest.approx(sum(moved[cell]) / 10)
        assert row["white_box"] == (row["target"] in row["sources"].split("+"))
