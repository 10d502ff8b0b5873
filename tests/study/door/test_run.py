"""A run as an object: its rows are those of the present plan, and its rates are counted by hand."""

from __future__ import annotations

import json
import shutil

import numpy as np
import polars as pl
import pytest
import yaml

import study
from study.images import decoding
from study.images.image_sets import candidates
from study.results import scanning
from tests.conftest import MANY, TINY, run_here


@pytest.fixture(scope="module")
def many(many_run) -> study.Run:
    return study.load(many_run)


def success(row: dict) -> bool:
    return row["top1"] == row["target_label"] if row["goal"] == "targeted" else row["top1"] != row["label"]


def rate(run: study.Run, sources: str, target: str, **point) -> float:
    """The rate by a loop over all rows: the mean of the rates of its seeds."""
    by_seed: dict[int, list[bool]] = {}
    for row in run.rows.to_dicts():
        same = all(row[key] == value for key, value in point.items())
        if same and "+".join(row["sources"]) == sources and row["target"] == target:
            by_seed.setdefault(row["seed"], []).append(success(row))
    return float(np.mean([np.mean(each) for each in by_seed.values()]))


def test_what_it_names(many, many_run):
    assert (many.folder, many.spec.study, many.models) == (str(many_run), "many", ("a", "a-jpeg", "b", "c"))
    assert list(many.experiments) == ["one", "many", "smallest"]
    with pytest.raises(TypeError):
        many.experiments["more"] = many.experiments["one"]
    assert "study 'many'" in repr(many)


def test_rows_are_all_rows_of_an_unchanged_study(many, many_run):
    everything = scanning.scan(many_run).collect()
    assert many.rows.height == everything.height
    assert many.rows.equals(everything.sort("craft", "steps", "budget", "target", "image"))
    assert many.scan().collect().height == everything.height


def test_nobody_changes_the_rows_of_a_run(many):
    width = many.rows.width
    many.rows.insert_column(0, pl.Series("mine", [0] * many.rows.height))
    assert many.rows.width == width


@pytest.mark.parametrize("seed", [0, 2, "mean"])
@pytest.mark.parametrize("goal", ["untargeted", "targeted"])
def test_matrix_is_counted_by_hand(many, seed, goal):
    found = many.matrix("many", attack="fgsm", goal=goal, budget=16, seed=seed)
    assert found.columns == ["sources", "seeds", "images", "a", "a-jpeg", "b", "c"]
    assert found["sources"].to_list() == ["a", "b", "a+b"]
    assert set(found["seeds"]) == {3 if seed == "mean" else 1}
    assert set(found["images"]) == {4}
    point = {"attack": "fgsm", "goal": goal, "budget": 16.0} | ({} if seed == "mean" else {"seed": seed})
    for row in found.iter_rows(named=True):
        for target in many.models:
            assert row[target] == pytest.approx(rate(many, row["sources"], target, **point))


def test_steps_are_chosen(many):
    for steps in (1, 2):
        found = many.matrix("one", steps=steps)
        assert found["sources"].to_list() == ["a", "b"]
        expected = [rate(many, one, "b", attack="pgd", goal="untargeted", steps=steps, seed=0) for one in ("a", "b")]
        assert found["b"].to_list() == pytest.approx(expected)
    assert found.columns[3:] == ["a", "b"]


def test_a_search_has_no_budget_to_choose(many):
    found = many.matrix("smallest")
    assert found["b"].to_list() == pytest.approx([rate(many, "a", "b", attack="fg-minimal")])


@pytest.mark.parametrize(("relation", "kept"), [("white", {"a"}), ("grey", {"a-jpeg"}), ("black", {"b", "c"})])
def test_relations(many, relation, kept):
    whole = many.matrix("many", attack="fgsm", goal="untargeted", budget=4, seed=1).row(0, named=True)
    found = many.matrix("many", attack="fgsm", goal="untargeted", budget=4, seed=1, relation=relation)
    row = found.row(0, named=True)
    assert {name for name in many.models if row[name] is not None} == kept
    assert all(row[name] == whole[name] for name in kept)


def refused(run: study.Run, experiment: str, **asked) -> str:
    with pytest.raises(study.StudyError) as caught:
        run.matrix(experiment, **asked)
    return str(caught.value)


def test_nothing_is_mixed(many):
    said = refused(many, "many")
    fields = ("attacks", "goals", "seeds", "numbers of steps", "budgets")
    assert " and ".join(f"several {field}" for field in fields) in said
    assert "attack= 'pgd', 'fgsm'" in said
    assert "goal= 'untargeted', 'targeted'" in said
    assert "seed= 0, 1, 2, 'mean'" in said
    assert "steps= 1, 2" in said
    assert "budget= 4, 16" in said
    assert "steps" not in refused(many, "many", attack="fgsm", goal="targeted", seed=0)
    assert "budget= 4, 16" in refused(many, "many", attack="fgsm", goal="targeted", seed="mean")
    assert "steps= 1, 2" in refused(many, "one")
    # Every choice that is named can be made, and leaves nothing open.
    many.matrix("many", attack="pgd", goal="targeted", seed=0, steps=1)


@pytest.mark.parametrize(
    ("asked", "what", "accepted"),
    [
        ({"attack": "mi"}, "has no attack 'mi'", "'pgd', 'fgsm'"),
        ({"attack": "fgsm", "goal": "both"}, "has no goal 'both' with attack='fgsm'", "'untargeted', 'targeted'"),
        ({"attack": "fgsm", "budget": 8}, "has no budget 8 with attack='fgsm'", "4, 16"),
        ({"attack": "pgd", "seed": 3}, "has no seed 3 with attack='pgd'", "0, 1, 2"),
        ({"attack": "pgd", "steps": 3}, "has no steps 3 with attack='pgd'", "1, 2"),
        ({"relation": "pink"}, "no relation 'pink'", "white, grey, black"),
    ],
)
def test_what_there_is_not(many, asked, what, accepted):
    said = refused(many, "many", **asked)
    assert what in said
    assert all(one in said.partition("accepted:")[2] for one in accepted.split(", "))


def test_an_unknown_experiment(many):
    assert "single, " not in refused(many, "manny")
    assert "many (the nearest)" in refused(many, "manny")


def changed(text: str, **changes) -> str:
    return yaml.safe_dump(yaml.safe_load(text) | changes)


def test_rows_of_an_earlier_plan_are_left_out(tiny_run, spec_file, tmp_path):
    """An attack, a target and a goal fewer: their rows stay in the folder, and are no rows of the run."""
    run = shutil.copytree(tiny_run, tmp_path / "run")
    single = {"attacks": ["fg", "mi"], "sources": "each", "goal": "untargeted", "targets": ["a", "b"]}
    status, printed = run_here(spec_file(changed(TINY, experiments={"single": single})), run)
    assert status == 0, printed
    found, everything = study.load(run), scanning.scan(run).collect()
    assert everything.height == scanning.scan(tiny_run).collect().height
    # The optimization is there for the budget of fg.
    assert set(found.rows["attack"]) == {"fg", "mi", "optimization"}
    assert set(found.rows["goal"]) == {"untargeted"}
    assert set(found.rows["target"]) == {"a", "b"}
    assert found.rows.height == 3 * 3 * 2 * 6
    same = everything.filter(
        pl.col("target") != "c", pl.col("attack") != "fgs", pl.col("sources").list.len() == 1, goal="untargeted"
    )
    assert found.rows.equals(same.sort("craft", "steps", "budget", "target", "image"))


def test_attack_runs_that_depend_on_all_images(spec_file, tmp_path):
    """More images make them anew; where the new plan was never recorded, the run is refused, not mixed."""
    attacks = {"igsm": {"steps": 1}, "fgs": {"budget": {"rmsd": "matched", "to": "igsm", "by": "mean"}}}
    one = {"attacks": attacks, "experiments": {"x": {"attacks": ["fgs"], "sources": {"each": ["c"]}}}}
    spec, run = spec_file(changed(TINY, **one)), tmp_path / "run"
    assert run_here(spec, run, "images.count=2")[0] == 0
    assert run_here(spec, run, "images.count=4")[0] == 0
    found = study.load(run)
    assert found.rows.filter(attack="fgs").height == 4 * 3
    assert scanning.scan(run).filter(attack="fgs").collect().height == (2 + 4) * 3
    assert found.matrix("x")["images"].to_list() == [4]
    (run / "planned.json").unlink()
    with pytest.raises(study.StudyError, match="two versions of the same attack run"):
        study.load(run)
    assert run_here(spec, run, "images.count=4")[0] == 0
    assert study.load(run).rows.equals(found.rows)


def test_an_incomplete_run_shows(many_run, tmp_path):
    run = shutil.copytree(many_run, tmp_path / "run")
    for part in sorted((run / "results").iterdir()):
        if pl.read_parquet(part).filter(attack="fgsm", seed=2).height:
            part.unlink()
    found = study.load(run)
    assert "the run has no rows" in refused(found, "many", attack="fgsm", goal="targeted", budget=4, seed=2)
    assert set(found.matrix("many", attack="fgsm", goal="targeted", budget=4, seed="mean")["seeds"]) == {2}
    assert json.loads((run / "models.json").read_text()).keys() == set(found.models)


def test_no_run(tmp_path):
    for path in (tmp_path / "nothing", str(tmp_path)):
        with pytest.raises(study.StudyError, match="is not the run folder of a study that has begun"):
            study.load(path)


def test_a_damaged_part_is_named(many_run, tmp_path):
    run = shutil.copytree(many_run, tmp_path / "run")
    part = sorted((run / "results").iterdir())[0]
    part.write_bytes(part.read_bytes()[:-100])
    with pytest.raises(study.StudyError) as caught:
        study.load(run).rows  # noqa: B018 - reading them is the test
    assert part.name in str(caught.value)


KEPT = changed(
    MANY,
    attacks={"pgd": {"steps": 2, "checkpoints": [1]}, "fgsm": {"epsilon": [4, 16]},
             "fg-minimal": {"budget": {"minimal": {"from": 4, "to": 40, "by": 6}}}},
    experiments={
        "one": {"attacks": ["pgd", "fgsm"], "sources": ["b", ["a", "b"]], "goal": ["untargeted", "targeted"]},
        "smallest": {"attacks": ["fg-minimal"], "sources": ["b"]},
    },
    run={"shard": 2, "actors": 1, "flush_seconds": 0, "keep_images": True},
)  # fmt: skip


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> study.Run:
    folder = tmp_path_factory.mktemp("kept")
    (folder / "spec.yaml").write_text(KEPT)
    status, printed = run_here(folder / "spec.yaml", folder / "run")
    assert status == 0, printed
    return study.load(folder / "run")


@pytest.mark.parametrize(
    ("asked", "point"),
    [
        ({"attack": "pgd", "sources": ["b"], "goal": "targeted", "steps": 1}, 1),
        ({"attack": "pgd", "sources": ["b", "a"], "goal": "untargeted", "steps": 2}, 2),
        ({"attack": "fgsm", "sources": "a+b", "goal": "targeted", "budget": 16}, 16.0),
        ({"attack": "fgsm", "sources": "b", "goal": "untargeted", "budget": 4, "seed": 7}, 4.0),
    ],
)
def test_images_have_the_distances_of_their_rows(kept, asked, point):
    """Against the rows, and against clean images read by hand."""
    found = kept.images(**asked)
    assert point in (found.steps, found.budget)
    images = kept.spec.images
    clean = {one.image: decoding.read(one.file, images) for one in candidates(images, kept.spec.seed)}
    assert found.pixels.dtype == np.uint8
    assert found.pixels.shape == (len(found), 3, 48, 48) == (4, 3, 48, 48)
    assert list(found.ids) == sorted(found.ids)
    rows = kept.rows.filter(craft=found.craft, target="c", steps=found.steps, budget=found.budget)
    assert rows["image"].to_list() == list(found.ids)
    assert rows["label"].to_list() == found.labels.tolist()
    targets = None if found.target_labels is None else found.target_labels.tolist()
    assert (targets or [None] * 4) == rows["target_label"].to_list()
    moved = found.pixels.astype(float) - np.stack([clean[one] for one in found.ids])
    assert np.sqrt((moved**2).mean(axis=(1, 2, 3))) == pytest.approx(rows["rmsd"].to_list())
    assert np.abs(moved).max(axis=(1, 2, 3)).tolist() == rows["linf"].to_list()
    assert np.array_equal(found.clean, found.pixels - moved)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "several attacks"),
        ({"attack": "pgd"}, "sources= 'b', 'a+b'"),
        ({"attack": "pgd", "sources": ["b"], "goal": "targeted"}, "steps= 1, 2"),
        ({"attack": "pgd", "sources": ["c"]}, "no sources 'c'"),
        ({"attack": "pgd", "seed": "mean"}, "has no seed 'mean' with attack='pgd'"),
        ({"attack": "fg-minimal"}, "the search finds a different image for each target"),
    ],
)
def test_images_are_never_mixed(kept, asked, said):
    with pytest.raises(study.StudyError) as caught:
        kept.images(**asked)
    assert said in str(caught.value)


def test_a_run_that_kept_no_images_says_so(many):
    with pytest.raises(study.StudyError) as caught:
        many.images("pgd", sources=["a"], goal="targeted", seed=0, steps=1)
    assert "did not keep the images of a.pgd.targeted.s0" in caught.value.what
    assert "keep_images: true" in caught.value.accepted


def test_images_that_were_kept_in_part(kept, tmp_path):
    run = shutil.copytree(kept.folder, tmp_path / "run")
    mine = kept.images("pgd", sources="b", goal="targeted", steps=1)
    for part in (run / "kept").iterdir():
        if pl.read_parquet(part).filter(craft=mine.craft).height:
            part.unlink()
            break
    with pytest.raises(study.StudyError, match=r"did not keep \d of 4 images|did not keep the images"):
        study.load(run).images("pgd", sources="b", goal="targeted", steps=1)


def test_a_changed_clean_image_is_noticed(tmp_path):
    from PIL import Image

    (tmp_path / "clean" / "n01440764").mkdir(parents=True)
    file = tmp_path / "clean" / "n01440764" / "x.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(file)
    text = changed(KEPT, images={"folder": str(tmp_path / "clean"), "size": 48, "keep": "all"})
    (tmp_path / "spec.yaml").write_text(text)
    assert run_here(tmp_path / "spec.yaml", tmp_path / "run")[0] == 0
    run, asked = study.load(tmp_path / "run"), {"sources": "b", "goal": "targeted", "steps": 1}
    assert len(run.images("pgd", **asked)) == 1
    Image.new("RGB", (48, 48)).save(file)
    with pytest.raises(study.StudyError, match="has changed since the study began"):
        run.images("pgd", **asked)
    file.unlink()
    with pytest.raises(study.StudyError, match=r"lacks 1 clean image|no images"):
        run.images("pgd", **asked)
