"""Numbers of attacks are chosen on images that the study does not use, by a rate that a naive loop gives too."""

from __future__ import annotations

import json

import polars as pl
import pytest
import yaml

from study.attacks.recipe import Attack
from study.attacks.tuning import with_numbers
from study.results.run_reader import open_run
from tests.conftest import rows

SPEC = {
    "study": "tuned",
    "images": {"sample": "foolbox", "size": 48, "keep": "all", "count": 4},
    "models": {
        "a": {"network": "timm:test_efficientnet", "weights": "random:3", "size": 64},
        "c": {"network": "timm:test_resnet", "weights": "random:2", "size": 56},
    },
    "attacks": {
        "mi": {"steps": 2},
        "noisy": {
            "preset": "sg-igsm",
            "steps": 2,
            "smoothing": {"copies": 2, "sigma": 5},
            "tune": {"over": {"smoothing.sigma": [5, 40], "step_size": [1, 8]}, "images": 6},
        },
    },
    "experiments": {"e": {"attacks": ["mi", "noisy"], "sources": "each"}},
    "numerics": {"batch": 2, "threads": 1},
}


def test_the_best_choice_on_other_images_is_used(door, tmp_path):
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(SPEC))
    run = tmp_path / "run"
    status, printed, error = door("launch", tmp_path / "spec.yaml", "--output", run)
    assert status == 0, error
    # The naive loop: the mean over black-box pairs of the share of images that the target gets wrong.
    tried = rows(run / "tuning").filter(pl.col("relation") == "black")
    assert set(tried["attack"]) == {f"noisy-choice-{number}" for number in (1, 2, 3, 4)}
    means = {}
    for number, (sigma, size) in enumerate([(5, 1), (5, 8), (40, 1), (40, 8)], 1):
        mine = tried.filter(attack=f"noisy-choice-{number}")
        shares = [
            sum(one["label"] != one["top1"] for one in cell) / len(cell)
            for cell in (mine.filter(target=target).to_dicts() for target in "ac")
        ]
        means[sigma, size] = sum(shares) / 2
    sigma, size = max(means, key=means.get)
    used = open_run(str(run)).spec.attacks["noisy"]
    assert (used.smoothing.sigma, used.step_size, used.tune) == (sigma, size, None)
    record = json.loads((run / "tuning" / "tuning.json").read_text())["attacks"][0]
    assert record["chosen"] == {"smoothing.sigma": sigma, "step_size": size}
    assert [one["success"] for one in record["choices"]] == pytest.approx(list(means.values()))
    images = set(rows(run)["image"])
    assert len(images) == 4
    assert not images & set(rows(run / "tuning")["image"])
    assert " ".join(printed.split()).count("tuned: noisy: smoothing.sigma") == 1
    # Again: nothing to do, and the same choice.
    status, printed, error = door("launch", tmp_path / "spec.yaml", "--output", run)
    assert status == 0, error
    assert printed.count("already complete") == 2
    page = tmp_path / "page.html"
    assert door("report", run, "--to", page)[0] == 0
    assert "Tuned numbers" in page.read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"images": {"sample": "foolbox", "size": 48, "keep": "all"}},
            "`tune` needs images that the study does not use",
        ),
        (
            {"images": {"sample": "foolbox", "size": 48, "keep": "all", "count": 18}},
            "of the images on which its attacks were tuned",
        ),
        ({"experiments": {"e": {"attacks": ["mi"], "sources": "each"}}}, "no experiment uses the attack 'noisy'"),
        (
            {"more": {"igsm": {"steps": 2, "tune": {"over": {"step_size": [1, 8]}, "images": 6}}}},
            "no experiment uses the attack 'igsm', so its parameters cannot be tuned where:",
        ),
        ({"experiments": {"e": {"attacks": ["noisy"], "sources": ["a"], "targets": ["a"]}}}, "has no black-box target"),
        ({"over": {"smoothing.sigmaa": [1, 2]}}, "has no parameter"),
        ({"over": {"views.ssa.sigma": [1, 2]}}, "the attack has no parameter 'views.ssa.sigma'"),
        ({"over": {"smoothing.sigma": [-1, 2]}}, "is not accepted"),
        ({"over": {"smoothing.sigma": [1]}}, "at least 2 entries"),
    ],
)
def test_what_cannot_be_tuned(door, tmp_path, change, message):
    spec = {**SPEC, **{key: one for key, one in change.items() if key not in ("over", "more")}}
    tune = {"over": change.get("over", {"smoothing.sigma": [5, 40]}), "images": 6}
    spec["attacks"] = {**SPEC["attacks"], "noisy": {**SPEC["attacks"]["noisy"], "tune": tune}, **change.get("more", {})}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
    status, printed, error = door("launch", tmp_path / "spec.yaml", "--output", tmp_path / "run")
    assert status != 0
    assert message in " ".join((printed + error).split())
    assert "Traceback" not in error


def test_numbers_of_lists_and_of_the_recipe():
    attack = Attack.model_validate({"step": "sign", "epsilon": 16, "views": [{"smoothing": {"sigma": 3}}, "diversity"]})
    changed = with_numbers(attack, {"views.smoothing.sigma": 7, "steps": 5, "views.diversity.probability": 0.9})
    smoothing, diversity = changed.assembly.views
    assert (smoothing.sigma, diversity.probability, changed.steps, changed.step_size) == (7, 0.9, 5, None)
    with pytest.raises(KeyError):
        with_numbers(attack, {"smoothing.sigma": 7})


def test_several_numbers_of_one_component_are_all_replaced():
    attack = Attack.model_validate({"step": "sign", "epsilon": 16, "views": [{"smoothing": {"sigma": 3}}]})
    (smoothing,) = with_numbers(attack, {"views.smoothing.sigma": 7, "views.smoothing.copies": 3}).assembly.views
    assert (smoothing.sigma, smoothing.copies) == (7, 3)


def test_numbers_of_a_users_component():
    """Its keys in a list are those of the spec: `python`, or the file and the class, for one of several components."""
    own = [{"python": "mine.py:S", "sigma": 2, "width": 1}, {"python": "mine.py:T", "sigma": 3}]
    attack = Attack.model_validate(
        {"epsilon": 16, "views": ["diversity", *own], "start": {"python": "b.py:B", "by": 1}}
    )
    numbers = {"views.python.sigma": 7, "views.python.width": 4, "views.mine.py:T.sigma": 9, "start.by": 5}
    changed = with_numbers(attack, numbers)
    assert [one.parameters for one in changed.views[1:]] == [{"sigma": 7, "width": 4}, {"sigma": 9}]
    assert [one.python for one in changed.views[1:]] == ["mine.py:S", "mine.py:T"]
    assert changed.start.parameters == {"by": 5}
    assert with_numbers(attack, {"views.mine.py:S.sigma": 8}).views[1].parameters == {"sigma": 8, "width": 1}


@pytest.mark.parametrize(
    "key",
    [
        "views.python.size",
        "views.python",
        "views.python.python",
        "views.mine.py:S",
        "views.diversity",
        "views.S.sigma",
        "points.python.sigma",
        "checkpoints.1",
    ],
)
def test_a_key_that_the_recipe_lacks(key):
    attack = Attack.model_validate({"epsilon": 16, "checkpoints": [1], "views": [{"python": "mine.py:S", "sigma": 2}]})
    with pytest.raises(KeyError):
        with_numbers(attack, {key: 7})
