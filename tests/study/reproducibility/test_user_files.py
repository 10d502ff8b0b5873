"""Files and modules of users are found and read, and nothing runs."""

from __future__ import annotations

import importlib
import json
import sys

import pytest
import yaml

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


def write(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return folder


@pytest.mark.parametrize("before", [False, True], ids=["not imported before", "imported before"])
def test_a_file_beside_wins_over_one_on_pythonpath(tmp_path, monkeypatch, before):
    """A file imports the text that its id contains, as a Python script would, not a module of another folder."""
    write(tmp_path / "elsewhere", own_helper="VALUE = 'elsewhere'\n", only_there="VALUE = 'there'\n")
    mine = write(
        tmp_path / "mine",
        own_helper="VALUE = 'beside'\n",
        mine="import json\nimport only_there\nimport own_helper\n\n\ndef value():\n    return own_helper.VALUE\n",
    )
    monkeypatch.syspath_prepend(str(tmp_path / "elsewhere"))
    monkeypatch.delitem(sys.modules, "only_there", raising=False)
    if before:
        first = importlib.import_module("own_helper")
        assert first.VALUE == "elsewhere"
    try:
        text = f"{mine / 'mine.py'}:value"
        with user_files.run(user_files.read(text, text)) as module:
            assert (module.value(), module.only_there.VALUE, module.json) == ("beside", "there", json)
        user_files.forget()
        assert importlib.import_module("own_helper").VALUE == "elsewhere"
        assert not before or sys.modules["own_helper"] is first
    finally:
        sys.modules.pop("own_helper", None)
        sys.modules.pop("only_there", None)


def test_an_installed_module_wins_over_a_file_beside(tmp_path):
    mine = write(tmp_path / "mine", yaml="raise SystemExit\n", mine="import yaml\n\n\ndef value():\n    return yaml\n")
    text = f"{mine / 'mine.py'}:value"
    with user_files.run(user_files.read(text, text)) as module:
        assert module.value() is yaml
