"""The wheel holds all that it needs: installed into an empty environment, run elsewhere, without the checkout.

The environment sees the dependencies of this one, but nothing of the project that is installed here.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer

from actors.workers import code_digest
from study import __version__
from study.distribution import NAME
from tests.conftest import ROOT
from tests.processes import finish

DEPENDENCIES = Path(typer.__file__).resolve().parents[1]

WATCH = """
import os, sys

def watch(event, arguments, root={root!r}, dependencies={dependencies!r}, log={log!r}):
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        path = os.path.abspath(os.fsdecode(arguments[0]))
        if path.startswith(root) and not path.startswith(dependencies):
            with open(log, "a") as file:
                file.write(path + "\\n")

sys.addaudithook(watch)
"""
"""A module that Python imports when it starts: it writes down each file of the checkout that a process opens."""

ONE_UNIT = (
    *("--set", "images.count=1", "--set", "images.keep=all"),
    "--set",
    "experiments={table: {attacks: [fgsm], sources: {each: [lite0]}, targets: [lite1], published: "
    "{tables: liu2017:1B, attacks: {fgsm: fg}, models: {lite0: vgg16, lite1: googlenet}}}}",
)
"""The quickstart with one attack on one image, put beside a published table."""


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel, an empty working folder, and the log of opened files of the checkout."""

    environment: Path
    folder: Path
    log: Path

    def start(self, program: str, *words: object) -> subprocess.Popen:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "RAY_", "WANDB_"))}
        return subprocess.Popen(
            [str(self.environment / "bin" / program), *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.folder,
            env=kept,
        )

    def study(self, *words: object) -> tuple[int, str]:
        return finish(self.start("study", *words))

    @property
    def site(self) -> Path:
        [site] = (self.environment / "lib").glob("python*/site-packages")
        return site


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The wheel, by the backend that is installed here, or else by one that pip fetches."""
    folder = tmp_path_factory.mktemp("wheel")
    fetched = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    words = ["wheel", "--quiet", "--no-deps", *fetched, "--wheel-dir", folder, ROOT]
    subprocess.run([sys.executable, "-m", "pip", *map(str, words)], check=True)
    [wheel] = folder.iterdir()
    return wheel


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory) -> Installed:
    made = tmp_path_factory.mktemp("installed")
    found = Installed(made / "environment", made / "elsewhere", made / "opened")
    venv.create(found.environment, with_pip=False, symlinks=True)
    found.folder.mkdir()
    python = found.environment / "bin" / "python"
    words = ["--python", python, "install", "--quiet", "--no-deps", "--no-index", built]
    subprocess.run([sys.executable, "-m", "pip", *map(str, words)], check=True)
    (found.site / "dependencies.pth").write_text(f"{DEPENDENCIES}\n")
    paths = {"root": f"{ROOT}{os.sep}", "dependencies": f"{DEPENDENCIES}{os.sep}", "log": str(found.log)}
    (found.site / "sitecustomize.py").write_text(WATCH.format(**paths))
    assert not (DEPENDENCIES / "study").exists()
    return found


@pytest.fixture
def alone(installed):
    """The environment; afterwards, no process of it has opened a file of the checkout."""
    installed.log.unlink(missing_ok=True)
    yield installed
    assert not installed.log.exists(), installed.log.read_text()


def test_the_watch_sees_an_opened_file(installed):
    status, printed = finish(installed.start("python", "-c", f"open({str(ROOT / 'cli.py')!r}).close()"))
    assert status == 0, printed
    assert installed.log.read_text() == f"{ROOT / 'cli.py'}\n"


def test_what_it_puts_into_site_packages(alone):
    """Two packages and no other name: not `cli`, not `specs`, which other projects may have."""
    ours = {path.name for path in alone.site.iterdir()} - {"dependencies.pth", "sitecustomize.py", "__pycache__"}
    assert ours == {"study", "actors", f"{NAME.replace('-', '_')}-{__version__}.dist-info"}
    [found] = importlib.metadata.distributions(path=[str(alone.site)])
    assert (found.metadata["Name"], found.version) == (NAME, __version__)


def test_its_workers_and_those_of_the_checkout_run_the_same_code(alone):
    assert code_digest.digest_of(alone.site) == code_digest.digest_of(ROOT)


def test_commands_that_read_shipped_files(alone):
    status, printed = alone.study("--help")
    assert status == 0, printed
    assert "launch" in printed
    status, printed = alone.study("specs", "small/liu2017")
    assert status == 0
    assert printed == (ROOT / "specs" / "small" / "liu2017.yaml").read_text()
    status, printed = alone.study("attacks", "mi+di")
    assert status == 0, printed
    assert "Xie et al." in printed
    status, printed = alone.study("launch", "quickstar")
    assert status == 2
    assert "quickstart (the nearest)" in printed


def test_a_shipped_spec_is_launched_and_compared_with_a_paper(alone):
    status, printed = alone.study("launch", "quickstart", "--output", "run", "--inline", *ONE_UNIT)
    assert status == 0, printed
    assert "complete in" in printed
    status, printed = alone.study("compare", "run", "--paper", "liu2017", "--all")
    assert status == 0, printed
    assert "Liu et al. 2017 (arXiv:1611.02770)" in printed
    assert "vgg16" in printed


def test_workers_of_ray_import_the_wheel(alone):
    status, printed = alone.study("launch", "quickstart", "--output", "with-ray", *ONE_UNIT)
    assert status == 0, printed
    assert "local Ray" in printed


def test_another_projects_package_of_our_name_is_named(alone, tmp_path):
    """`actors` of another project is found first: one message, in place of an import that fails somewhere inside."""
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors" / "__init__.py").write_text("")
    (alone.site / "a_first.pth").write_text(f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n")
    try:
        status, printed = alone.study("launch", "quickstart")
        assert status == 2
        assert f"`import actors` finds {tmp_path / 'actors' / '__init__.py'}" in printed
        assert str(alone.site / "actors") in printed
    finally:
        (alone.site / "a_first.pth").unlink()


def test_a_cli_of_another_project_changes_nothing(alone):
    (alone.site / "cli.py").write_text("raise RuntimeError('not ours')\n")
    try:
        assert alone.study("--version") == (0, f"{__version__}\n")
    finally:
        (alone.site / "cli.py").unlink()
