"""Crafts, units and their ids."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

from study.images.selection import from_frame
from study.planning.plan import Plan
from study.spec.loading import resolve
from study.spec.yaml_document import parse
from tests.conftest import TINY

DIGESTS = {"a": "1" * 64, "b": "2" * 64, "c": "3" * 64}


@pytest.fixture
def shards(tiny_run):
    return from_frame(pl.read_parquet(tiny_run / "images.parquet"))


def plan_of(text, shards, digests=DIGESTS):
    return Plan(resolve(parse(text, "spec")).spec, digests, shards)


def test_counts(shards):
    plan = plan_of(TINY, shards)
    assert len(plan.crafts) == 3 * 4 * 2 + 3 * 2
    assert len(list(plan.units())) == len(plan.crafts) * 3
    assert plan.cells == len(plan.crafts) * 3
    assert plan.pairs == plan.cells * 3


def test_experiments_share_a_craft(shards):
    text = TINY + "  \n"
    text = text.replace("experiments:\n", "experiments:\n  again: {attacks: [mi], sources: [a], targets: [c]}\n")
    plan = plan_of(text, shards)
    assert plan.crafts.keys() == plan_of(TINY, shards).crafts.keys()
    shared = [craft for craft in plan.crafts.values() if len(craft.experiments) == 2]
    assert [(craft.sources, craft.attack, craft.targets) for craft in shared] == [(("a",), "mi", ("a", "b", "c"))]


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("seed: 7", "seed: 8", None),
        ("size: 48, keep", "size: 52, keep", None),
        ("batch: 2", "batch: 5", None),
        ("mi: {steps: 2}", "mi: {steps: 3}", {"mi"}),
        ("optimization: {steps: 3}", "optimization: {steps: 4}", {"optimization", "fg", "fgs"}),
        ("mi: {steps: 2}", "mi: {steps: 2, epsilon: 16.0, momentum: 1}", set()),
        ("learning_rate: 8", "learning_rate: 8.0, momentum: -0.0", set()),
        ("run: {shard: 2", "run: {shard: 5", set()),
        ("study: tiny", "study: other", set()),
    ],
)
def test_an_id_changes_with_what_decides_its_pixels(shards, old, new, changed):
    before, after = plan_of(TINY, shards), plan_of(TINY.replace(old, new), shards)
    new_ids = after.crafts.keys() - before.crafts.keys()
    expected = {craft.attack for craft in before.crafts.values()} if changed is None else changed
    assert {after.crafts[one].attack for one in new_ids} == expected
    if changed is None:
        assert not after.crafts.keys() & before.crafts.keys()


def test_other_weights_are_other_crafts(shards):
    before, after = plan_of(TINY, shards), plan_of(TINY, shards, DIGESTS | {"b": "4" * 64})
    assert {craft.sources for name, craft in after.crafts.items() if name not in before.crafts} == {
        ("b",), ("b", "c"), ("a", "b"),
    }  # fmt: skip


def test_a_mean_depends_on_all_images_and_nothing_else_does(shards):
    before, after = plan_of(TINY, shards), plan_of(TINY, shards[:-1])
    assert {after.crafts[name].attack for name in after.crafts.keys() - before.crafts.keys()} == {"fgs"}


def test_randomness_is_keyed_without_the_numerics(shards):
    before, after = plan_of(TINY, shards), plan_of(TINY.replace("batch: 2", "batch: 5"), shards)
    assert [craft.key for craft in before.crafts.values()] == [craft.key for craft in after.crafts.values()]


def test_done_targets_are_left_out(shards):
    plan = plan_of(TINY, shards)
    first, second, *_ = plan.units()
    left = {unit.id: unit.targets for unit in plan.units({first.id: {"a", "b", "c"}, second.id: {"b"}})}
    assert first.id not in left
    assert left[second.id] == ("a", "c")


def test_seeds_are_crafted_for_themselves_and_change_no_other(shards):
    one = plan_of(TINY, shards)
    more = plan_of("seeds: [7, 8]\n" + TINY, shards)
    assert one.crafts.keys() < more.crafts.keys()
    assert [craft.seed for craft in more.crafts.values()].count(8) == len(one.crafts)
    alone = plan_of(TINY.replace("sources: each", "seeds: 8, sources: each", 1), shards)
    assert {craft.seed for craft in alone.crafts.values()} == {7, 8}


ADMIX = TINY.replace(
    "  summed:",
    "  admix: {steps: 1, admix: {pool: 2}}\n  to-admix: {preset: fg, budget: {rmsd: matched, to: admix}}\n  summed:",
).replace(
    "experiments:\n",
    "experiments:\n  mixed: {attacks: [admix, to-admix, mi], sources: [a], goal: [untargeted, targeted]}\n",
)


def relabelled(shards, image, **changes):
    """The same shards, but for one image."""
    return [replace(one, images=tuple(replace(at, **changes) if at.image == image else at for at in one.images))
            for one in shards]  # fmt: skip


def test_a_units_id_holds_the_labels_that_decide_its_pixels(shards):
    """Admix mixes in images of other classes: there the true label counts for a targeted goal too, also where only what
    a budget is matched to does so."""
    before = plan_of(ADMIX, shards)
    pool = {one.image for craft in before.crafts.values() for one in before.pool(craft)}
    other = next(one for shard in shards for one in shard.images if one.image not in pool)

    def alone(plan):
        return {name for name, craft in plan.crafts.items() if craft.recipe.budget.by == "image"}

    def changed(**changes):
        after = plan_of(ADMIX, relabelled(shards, other.image, **changes))
        # The mean RMSD of a reference depends on the labels of all images: such ids hold them.
        alone = [
            {name for name, one in plan.crafts.items() if one.recipe.budget.by == "image"} for plan in (after, before)
        ]
        assert alone[0] == alone[1]
        known = {unit.id for unit in before.units()}
        units = [one for one in after.units() if one.id not in known and one.craft.recipe.budget.by == "image"]
        assert all(other.image in [one.image for one in unit.shard.images] for unit in units)
        return {
            (unit.craft.attack, unit.craft.goal) for unit in units if unit.craft.attack in {"admix", "to-admix", "mi"}
        }

    untargeted = {(attack, "untargeted") for attack in ("admix", "to-admix", "mi")}
    assert changed(label=other.label + 1) == untargeted | {("admix", "targeted"), ("to-admix", "targeted")}
    assert changed(target_label=other.target_label + 1) == {(attack, "targeted") for attack, _ in untargeted}
