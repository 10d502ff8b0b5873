"""Files and modules of users are found and read, and nothing runs."""

from __future__ import annotations

import sys

import pytest

from study.errors import StudyError
from study.reproducibility import user_files


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package `outer.inner` with a module `part`; each of them leaves a file when it runs."""
    folder = tmp_path / "outer" / "inner"
    folder.mkdir(parents=True)
    for place in (folder.parent / "__init__.py", folder / "__init__.py", folder / "part.py"):
        place.write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write(__name__)\n\n\nclass Part:\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [one for one in sys.modules if one.partition(".")[0] == "outer"]:
        del sys.modules[name]


@pytest.mark.parametrize("module", ["outer", "outer.inner", "outer.inner.part"])
def test_modules_are_found_and_no_package_runs(module, package):
    text = f"{module}:Part"
    assert user_files.find(text, text).is_relative_to(package)
    assert b"class Part" in user_files.find(text, text).read_bytes()
    assert user_files.read(text, text).called == "Part"
    assert not (package / "ran").exists()
    assert not [name for name in sys.modules if name.partition(".")[0] == "outer"]


@pytest.mark.parametrize("module", ["nowhere", "outer.nowhere", "outer.inner.part.more", "sys.path"])
def test_modules_that_do_not_exist(module, package):
    with pytest.raises(StudyError, match="there is no module"):
        user_files.find(f"{module}:Part", f"{module}:Part")
    assert not (package / "ran").exists()
