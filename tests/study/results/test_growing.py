"""A launch that adds to a study and dies while it writes: the folder stays whole, and the next launch goes on."""

from __future__ import annotations

import shutil

import polars as pl
import pytest
import yaml

from study.results.verify import verify
from tests.conftest import rows, run_here
from tests.study.crashing import DEAD, PUBLISH

FILES = ["digests.json", "models.json", "images.parquet", "spec-1.yaml", "spec.yaml", "digests.json again", "the next"]


@pytest.fixture(scope="module")
def grown(small, tmp_path_factory):
    """The small study with one more target and one more image, and an undisturbed run of it."""
    folder = tmp_path_factory.mktemp("grown")
    spec = yaml.safe_load(small[0].read_text())
    spec["models"]["c"] = {"network": "timm:test_resnet", "weights": "random:3", "size": 32}
    spec["images"]["count"] = 3
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec))
    status, printed = run_here(folder / "spec.yaml", folder / "run")
    assert status == 0, printed
    return folder / "spec.yaml", rows(folder / "run", without=("unit",))


def test_the_order_of_what_is_written(crashing, small, grown, tmp_path):
    run = shutil.copytree(small[2], tmp_path / "run")
    found = crashing(grown[0], run)
    assert found["status"] == 0, found
    assert found["trace"][: len(PUBLISH) * len(FILES)] == PUBLISH * len(FILES)
    assert rows(run, without=("unit",)).equals(grown[1])
    assert verify(run).findings == []


CUTS = [(file, "before") for file in FILES] + [(FILES[-1], "after")]


@pytest.mark.parametrize(("file", "how"), CUTS, ids=[f"{how} {file}" for file, how in CUTS])
def test_a_death_between_any_two_files(crashing, small, grown, tmp_path, file, how):
    at = len(PUBLISH) * FILES.index(file) + PUBLISH.index("rename")
    run = shutil.copytree(small[2], tmp_path / "run")
    assert crashing(grown[0], run, at, how)["status"] == DEAD
    assert not [one for one in verify(run).findings if one.kind == "damaged"]
    status, printed = run_here(grown[0], run)
    assert status == 0, printed
    assert rows(run, without=("unit",)).equals(grown[1])
    assert pl.read_parquet(run / "images.parquet").height == 3
    assert verify(run).findings == []
    assert "already complete" in run_here(grown[0], run)[1]
    assert not list((run / "tmp").iterdir())
