"""Shipped specs by name: they are found in every folder, a local file comes first, and what is no name is answered."""

from __future__ import annotations

from pathlib import Path

import pytest

from study.errors import StudyError
from study.spec import shipped_specs
from study.spec.loading import load
from tests.conftest import ROOT, TINY


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_every_shipped_file_has_a_name():
    files = {path.relative_to(ROOT / "specs").with_suffix("").as_posix() for path in (ROOT / "specs").rglob("*.yaml")}
    assert set(shipped_specs.names()) == files
    assert shipped_specs.names()[-1].startswith("small/")


def test_a_name_is_the_shipped_spec_and_a_file_of_that_name_comes_first(tmp_path):
    assert load(Path("quickstart")).spec.study == "quickstart"
    (tmp_path / "quickstart").mkdir()
    assert load(Path("quickstart")).spec.study == "quickstart"
    (tmp_path / "quickstart").rmdir()
    (tmp_path / "quickstart").write_text(TINY)
    assert load(Path("quickstart")).spec.study == "tiny"


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        (
            "liu2018",
            [
                "liu2018 cannot be read: No such file",
                "no shipped spec",
                "liu2017 (the nearest)",
                "study specs",
            ],
        ),
        ("specs/small/liu2017.yaml", ["small/liu2017 (the nearest)", "write `small/liu2017`, without `specs/`"]),
        ("mine.yaml", ["mine.yaml cannot be read", "a YAML file"]),
    ],
)
def test_what_is_neither(given, parts):
    with pytest.raises(StudyError) as caught:
        load(Path(given))
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("given", ["x" * 300, "a\0b"], ids=["too long", "no name of a file"])
def test_a_path_that_cannot_be(given):
    with pytest.raises(StudyError, match="cannot be read"):
        load(Path(given))


def test_a_folder_is_no_spec(tmp_path):
    (tmp_path / "runs").mkdir()
    with pytest.raises(StudyError, match="runs is a folder; this command needs a spec"):
        load(Path("runs"))


def test_the_list_says_what_a_spec_needs(door, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    status, printed, _ = door("specs")
    assert status == 0
    assert all(f" {name} " in printed for name in shipped_specs.names())
    found = shipped_specs.spec_named("sgm2020")
    assert found.needs == ("IMAGENET_VAL", "IMAGENET_TRUTH")
    assert found.purpose.startswith('Wu, Wang, Xia, Bailey and Ma, "Skip Connections Matter: On the Transferability')
    assert found.purpose.endswith("ICLR 2020 (arXiv:2002.05990)")
    assert shipped_specs.spec_named("small/liu2017").purpose == "Liu et al. 2017 (specs/liu2017.yaml) in small"


def test_a_spec_is_printed_as_it_is(door):
    status, printed, _ = door("specs", "quickstart")
    assert status == 0
    assert printed == (ROOT / "specs" / "quickstart.yaml").read_text()
    status, _, error = door("specs", "nothing")
    assert status == 2
    assert "no spec named 'nothing'" in error
