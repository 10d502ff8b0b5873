"""Rates against a naive loop over the rows of a real run, and against known values for special cases."""

from __future__ import annotations

import statistics

import polars as pl
import pytest

from study import analysis
from study.errors import StudyError
from tests.study.analysis.conftest import grouped

CELL = analysis.CELL


def same_cells(ours: pl.DataFrame, cells: dict, by: tuple) -> list[tuple[dict, list[dict]]]:
    """Pairs of our rows and the loop's; both have the same cells, and ours are sorted."""
    found = [tuple(row[key] for key in by) for row in ours.to_dicts()]
    assert set(found) == set(cells)
    assert len(found) == len(cells)
    assert ours.select(by).equals(ours.select(by).sort(by))
    return [(row, cells[key]) for row, key in zip(ours.to_dicts(), found, strict=True)]


@pytest.mark.parametrize("top", [1, 5])
@pytest.mark.parametrize("among", ["all", "clean-correct"])
@pytest.mark.parametrize(
    "by", [CELL, ("sources", "attack", "goal", "target"), ("target", "steps"), ("label",), ("craft", "budget")], ids=str
)
def test_success_rates(scanned, loop, top, among, by):
    ours = analysis.success_rates(scanned, top=top, by=by, among=among)
    assert ours.columns == [*by, "images", "answers", "hits", "success", "low", "high", "rmsd", "relation"]
    for row, cell in same_cells(ours, grouped(loop, *by), by):
        counts = [one for one in cell if among == "all" or one["clean_top1"] == one["label"]]
        # Each clean image counts once, however many seeds, attacks or targets a cell pools.
        assert row["images"] == len({one["image"] for one in counts}) <= 8
        assert row["answers"] == len(counts)
        assert row["hits"] == sum(one[f"hit{top}"] for one in counts)
        assert row["success"] == (pytest.approx(row["hits"] / len(counts)) if counts else None)
        assert row["rmsd"] == (pytest.approx(statistics.fmean(one["rmsd"] for one in counts)) if counts else None)
        kinds = {one["relation"] for one in cell}
        assert row["relation"] == (kinds.pop() if len(kinds) == 1 else None)


def test_the_interval_of_pooled_answers_counts_images(by_hand):
    """Ten seeds of four images are no forty images."""
    rows = by_hand(*({"image": str(image), "seed": seed, "top5": [3 if image else 1, 2, 4, 5, 6]}
                     for image in range(4) for seed in range(10)))  # fmt: skip
    (pooled,) = analysis.success_rates(rows, by=("target",)).to_dicts()
    (single,) = analysis.success_rates(rows.filter(seed=0)).to_dicts()
    assert (pooled["images"], pooled["answers"], pooled["hits"]) == (4, 40, 10)
    assert (single["images"], single["answers"], single["hits"]) == (4, 4, 1)
    assert [pooled[key] for key in ("success", "low", "high")] == [single[key] for key in ("success", "low", "high")]


def test_rates_do_not_depend_on_the_order_of_rows(scanned):
    """Floating-point sums depend on it, and the threads of a scan finish in any order."""
    frame = scanned.collect()
    by = ("attack", "target")
    expected = analysis.success_rates(scanned, by=by)
    assert frame["rmsd"].n_unique() > 100
    for seed in range(5):
        assert analysis.success_rates(frame.sample(fraction=1, shuffle=True, seed=seed).lazy(), by=by).equals(expected)


def test_run_covers_the_cases_of_these_tests(loop):
    assert len({row["craft"] for row in loop}) == 2 * (2 * 3 * 2 + 2 + 2) + 3
    clean = {row["clean_top1"] == row["label"] for row in loop}
    assert clean == {True, False}
    assert {row["hit1"] for row in loop} == {True, False} == {row["kept1"] for row in loop}


@pytest.mark.parametrize("top", [1, 5])
def test_accuracies(scanned, loop, top):
    for row, cell in same_cells(analysis.accuracies(scanned, top=top), grouped(loop, *CELL), CELL):
        assert row["accuracy"] == pytest.approx(sum(one[f"kept{top}"] for one in cell) / len(cell))
        if row["goal"] == "untargeted":
            assert row["hits"] == sum(not one[f"hit{top}"] for one in cell)


def test_matching_rates(scanned, loop):
    targeted = [row for row in loop if row["goal"] == "targeted"]
    for row, cell in same_cells(analysis.matching_rates(scanned), grouped(targeted, *CELL), CELL):
        assert row["matching"] == sum(one["top5"][0] == one["target_label"] for one in cell) / len(cell)


def test_clean_accuracies(scanned, loop):
    ours = analysis.clean_accuracies(scanned)
    for row, cell in same_cells(ours, grouped(loop, "target"), ("target",)):
        clean = {one["image"]: one["clean_top1"] == one["label"] for one in cell}
        assert (row["images"], row["hits"]) == (len(clean), sum(clean.values())) == (8, row["hits"])


def test_over_seeds(scanned, loop):
    by = tuple(key for key in CELL if key != "seed")
    for row, cell in same_cells(analysis.over_seeds(scanned), grouped(loop, *by), by):
        seeds = grouped(cell, "seed")
        rates = [statistics.fmean(one["hit1"] for one in rows) for rows in seeds.values()]
        assert row["seeds"] == len(seeds)
        assert row["images"] == max(map(len, seeds.values()))
        assert row["success"] == pytest.approx(statistics.fmean(rates))
        assert row["std"] == (pytest.approx(statistics.stdev(rates)) if len(rates) > 1 else None)


def test_over_seeds_refuses_seed_as_a_key(scanned):
    with pytest.raises(StudyError, match="seed"):
        analysis.over_seeds(scanned, by=CELL)


def service(image: str, goal: str, now: list[str], clean: list[str], wanted: list[str] | None) -> dict:
    label = 5 if goal == "targeted" else None
    words = {"names": now, "clean_names": clean, "wanted_names": wanted, "scores": [0.5] * len(now)}
    return {
        "image": image, "goal": goal, "target_label": label, "target": "far", "top5": [], "top5_prob": [],
        "clean_top1": None, **words,
    }  # fmt: skip


def test_services_are_judged_by_their_own_labels(by_hand):
    rows = by_hand(
        service("1", "untargeted", ["dog"], ["cat", "pet"], None),
        service("2", "untargeted", ["dog", "pet"], ["cat", "pet"], None),
        service("3", "untargeted", [], ["cat"], None),
        service("4", "targeted", ["dog"], ["cat"], ["dog", "hound"]),
        service("5", "targeted", ["cat"], ["cat"], ["dog", "hound"]),
        {"image": "6"},
        {"image": "7", "top5": [3, 1, 2, 4, 5]},
    )
    for among in ("all", "clean-correct"):
        ours = analysis.success_rates(rows, by=("target", "goal"), among=among).select(
            "target", "goal", "images", "hits"
        )
        assert ours.rows() == [("far", "targeted", 2, 1), ("far", "untargeted", 3, 2), ("t", "untargeted", 2, 1)]
    left = analysis.accuracies(rows, by=("target", "goal")).select("target", "goal", "hits")
    assert left.rows() == [("far", "targeted", 1), ("far", "untargeted", 1), ("t", "untargeted", 1)]
    assert analysis.clean_accuracies(rows)["target"].to_list() == ["t"]


def test_cells_without_images_that_count(by_hand):
    rows = by_hand({"clean_top1": 9}, {"image": "y", "clean_top1": 8})
    (cell,) = analysis.success_rates(rows, among="clean-correct").to_dicts()
    assert (cell["images"], cell["hits"]) == (0, 0)
    assert [cell[name] for name in ("success", "low", "high", "rmsd")] == [None] * 4
    assert analysis.over_seeds(rows, among="clean-correct").is_empty()
    nothing = by_hand()
    assert analysis.success_rates(nothing).is_empty()
    assert analysis.success_rates(nothing).schema == analysis.success_rates(rows).schema
    (whole,) = analysis.success_rates(nothing, by=()).to_dicts()
    assert (whole["images"], whole["success"]) == (0, None)


@pytest.mark.parametrize(
    ("words", "match"),
    [({"by": ("sorces",)}, "sorces"), ({"top": 0}, "top 0"), ({"top": 6}, "top 6"), ({"among": "some"}, "some")],
)
def test_invalid_options(by_hand, words, match):
    with pytest.raises(StudyError, match=match):
        analysis.success_rates(by_hand({}), **words)


def test_every_public_name_exists():
    assert all(getattr(analysis, name) is not None for name in analysis.__all__)
