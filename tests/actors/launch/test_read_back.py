"""A launch reads back what an earlier one has written, as it was: names that look like numbers, and text with ${…}."""

from __future__ import annotations

import json

import pytest
import yaml

from study.errors import StudyError
from study.images.labels import label_set
from study.models.memory_estimates import estimates
from study.models.reference import Model
from study.spec.loading import load
from tests.conftest import run_here

NET = {"network": "timm:test_resnet", "weights": "random:1", "size": 32}
SMALL = {
    "study": "back",
    "images": {"sample": "foolbox", "size": 32, "keep": "all", "count": 1},
    "models": {"a": NET},
    "experiments": {"one": {"attacks": ["fgsm"], "sources": ["a"]}},
    "numerics": {"batch": 1, "threads": 1},
    "run": {"actors": 1},
}


@pytest.fixture
def small(tmp_path):
    def write(**changes):
        path = tmp_path / "spec.yaml"
        path.write_text(yaml.safe_dump(SMALL | changes))
        return path

    return write


@pytest.mark.parametrize("name", ["1e-4", "016", "on", "null", "1_000"])
def test_a_model_whose_name_looks_like_something_else(small, door, tmp_path, name):
    experiments = {"one": {"attacks": ["fgsm"], "sources": [name]}}
    path = small(models={name: NET}, experiments=experiments)
    # The name is quoted in what a person wrote, whatever the dumper of this test thinks of it.
    path.write_text(path.read_text().replace(f"- {name}\n", f'- "{name}"\n'))
    for _ in range(2):
        status, printed = run_here(path, tmp_path / "run")
        assert status == 0, printed
    assert "already complete" in printed
    assert door("show", tmp_path / "run")[0] == 0


def test_variables_are_expanded_once_and_by_the_launch_alone(small, door, tmp_path, monkeypatch):
    monkeypatch.setenv("G", "team-${SUBTEAM}")
    path = small(tracking={"group": "${G}"})
    for _ in range(2):
        status, printed = run_here(path, tmp_path / "run")
        assert status == 0, printed
    assert "already complete" in printed
    for words in (["show"], ["status"], ["verify"], ["report", "--to", tmp_path / "r.html"]):
        assert door(words[0], tmp_path / "run", *words[1:])[0] == 0
    monkeypatch.setenv("SUBTEAM", "the secret of the reader")
    assert door("report", tmp_path / "run", "--to", tmp_path / "again.html")[0] == 0
    page = (tmp_path / "again.html").read_text()
    assert "team-${SUBTEAM}" in page
    assert "the secret of the reader" not in page


def test_a_label_that_looks_like_a_variable(small, tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("${HOME}\nowl\n")
    pictures = tmp_path / "pictures"
    from PIL import Image

    for label in ("${HOME}", "owl"):
        (pictures / label).mkdir(parents=True)
        Image.new("RGB", (32, 32), (90, 120, 30)).save(pictures / label / "one.png")
    images = {"folder": str(pictures), "labels": str(labels), "size": 32, "keep": "all", "count": 2}
    path = small(images=images)
    for _ in range(2):
        status, printed = run_here(path, tmp_path / "run")
        assert status == 0, printed
    assert "already complete" in printed


@pytest.mark.parametrize("made", ["{", "}", "{}", "{0}", "x/{sources!r}", "{seed:>9}", "{{sources}}", "{sources.real}"])
def test_braces_in_the_folder_of_made_images(small, made):
    experiments = {"one": {"attacks": ["theirs"], "sources": ["a"]}}
    with pytest.raises(StudyError, match="may have no braces other than"):
        load(small(attacks={"theirs": {"made": made}}, experiments=experiments))


def test_what_stands_in_braces_is_replaced(small):
    spec = load(small(attacks={"theirs": {"made": "x/{sources}/{goal}-{seed}"}})).spec
    recipe = spec.attacks["theirs"]
    assert recipe.precomputed_folder(sources="a+b", goal="targeted", seed="3") == "x/a+b/targeted-3"


@pytest.mark.parametrize("text", ["{", "[1]", '{"x": 3}', '{"x": {"parameters": "many"}}', "\0\0"])
def test_a_broken_cache_of_memory_is_told_once_and_written_anew(tmp_path, monkeypatch, text):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache = tmp_path / "study" / "memory-1.json"
    cache.parent.mkdir()
    cache.write_text(text)
    said = []
    models = {name: Model.model_validate(NET) for name in ("a", "b")}
    for _ in range(2):
        found = estimates(models, labels=label_set("imagenet"), channels=3, batch=4, allow_code=False, say=said.append)
        assert found is not None
        assert found["a"].gradient > 0
    assert len(said) == 1
    assert f"{cache} is damaged" in said[0]
    assert all(isinstance(one, dict) for one in json.loads(cache.read_text()).values())


def test_the_command_line_says_put_quotes_around_it(small, door):
    path = small()
    path.write_text(path.read_text().replace("- a\n", "- 1e-4\n"))
    status, _, error = door("validate", path)
    assert status == 2
    assert 'put quotes around it: "1e-4"' in error
