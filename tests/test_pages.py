"""The documentation site builds, its examples run, and what it says of other libraries is so."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch
import yaml
from nbclient import NotebookClient

from study.spec import other_names
from study.spec.loading import resolve
from study.spec.yaml_document import parse
from tests.conftest import ROOT

DOCS = ROOT / "docs"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


def blocks(page: str, *languages: str) -> list[tuple[str, str]]:
    return [one for one in BLOCK.findall((DOCS / page).read_text(encoding="utf-8")) if one[0] in languages]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    if importlib.util.find_spec("zensical") is None:
        pytest.skip("the extra `docs` is not installed")
    to = tmp_path_factory.mktemp("site") / "build"
    done = subprocess.run(
        [sys.executable, str(DOCS / "site" / "build.py"), "--to", str(to)],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return to / "site"


def test_the_site_builds_and_every_page_is_in_its_menu(site):
    menu = (DOCS / "site" / "mkdocs.yml").read_text()
    pages = {path.relative_to(site).with_suffix(".md").as_posix() for path in site.rglob("*.html")} - {"404.md"}
    listed = set(re.findall(r": ([\w/-]+\.md)$", menu, re.M))
    assert pages == listed


def test_pages_load_nothing_from_other_hosts(site):
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|source|iframe)[^>]*?(?:src|srcset)=[\"']?([^\"'\s>]+)", text)
        loaded += re.findall(
            r"<link[^>]*?rel=[\"']?(?:stylesheet|preload|icon|preconnect)[^>]*?href=[\"']?([^\"'\s>]+)", text
        )
        assert not [one for one in loaded if re.match(r"(https?:)?//", one)], path
    for path in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//|@import", path.read_text(encoding="utf-8")), path


def test_a_link_that_leads_nowhere_ends_the_build(tmp_path, monkeypatch):
    found = importlib.util.spec_from_file_location("site_build", DOCS / "site" / "build.py")
    build = importlib.util.module_from_spec(found)
    found.loader.exec_module(build)
    assert build.rewritten("[a](docs/models.md#input) [b](LICENSE)", "README.md", tmp_path) == (
        "[a](models.md#input) [b](files/LICENSE)"
    )
    assert (tmp_path / "files" / "LICENSE").is_file()
    assert build.rewritten("`[a](x)`\n```\n[a](nothing.txt)\n```\n", "docs/faq.md", tmp_path).endswith(
        "[a](nothing.txt)\n```\n"
    )
    with pytest.raises(SystemExit, match=r"nothing\.txt"):
        build.rewritten("[a](nothing.txt)", "docs/faq.md", tmp_path)


def test_the_tutorial(tmp_path, monkeypatch, door):
    """Every file and command of the page, as written; launches in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    printed = []
    for kind, text in blocks("tutorial.md", "python", "yaml", "console"):
        if kind == "python":
            (tmp_path / "example.py").write_text(text)
        elif kind == "yaml":
            (tmp_path / "paper.yaml").write_text(text)
        elif text == "python example.py\n":
            runpy.run_path("example.py", run_name="__main__")
        else:
            program, *words = shlex.split(text)
            assert program == "study"
            status, out, error = door(*words)
            assert status == 0, (text, out, error)
            printed.append(out)
    latex = (tmp_path / "table1.tex").read_text()
    assert r"\toprule" in latex
    assert "MI-DI-FGSM" in latex
    assert "Ours" in latex
    assert "mi+di" in printed[3]
    assert "digest" in next(one for one in printed if one.startswith("We use"))
    assert list((tmp_path / "figures").glob("*.pdf"))
    assert (tmp_path / "runs" / "paper" / "report.html").is_file()
    assert " ti " in printed[-1]


def test_the_tutorials_study_is_valid():
    ((_, text),) = blocks("tutorial.md", "yaml")
    spec = resolve(parse(text, "paper.yaml")).spec
    assert (spec.study, list(spec.attacks)) == ("paper", ["fgsm", "mi", "mi+di"])


def test_the_notebook(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    notebook = nbformat.read(DOCS / "notebooks" / "first-study.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code), "commit the notebook without outputs"
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = "".join(one.get("text", "") for cell in code for one in cell.outputs)
    assert "largest change of a pixel: 8" in said
    assert "complete in" in said
    assert sum("image/png" in one.get("data", {}) for cell in code for one in cell.outputs) == 2


def test_what_statistics_says():
    ((_, code), (_, shown)) = blocks("statistics.md", "python", "text")
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(code, {})
    assert said.getvalue() == shown
    ((_, finding),) = blocks("statistics.md", "yaml")
    models = {"a": "resnet18", "b": "vgg16"}
    whole = {"study": "x", "images": {"sample": "foolbox"}, "models": models, **yaml.safe_load(finding)}
    whole |= {"experiments": {"x": {"attacks": ["mi", "bim"], "sources": "each"}}}
    assert resolve(parse(yaml.safe_dump(whole), "x")).spec.findings


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("from-transferattack.md", r"`(MIFGSM|DIM|SIM|VMI-FGSM)`"),
        ("from-torchattacks.md", r"`([A-Z]{2,}FGSM|FGSM|BIM|PGD)`"),
    ],
)
def test_names_of_other_libraries_have_an_answer(page, names):
    text = (DOCS / page).read_text()
    found = set(re.findall(names, text))
    assert len(found) >= 4
    assert all(other_names.preset(one) is not None for one in found)
    rows = re.findall(r"^\| `([A-Z]+FGSM)` \| `([\w+-]+)`", text, re.M)
    assert all(other_names.preset(ours) is not None for _, ours in rows)


def test_specs_on_other_pages_are_valid():
    for page in ("from-transferattack.md", "from-torchattacks.md", "targets.md"):
        for _, text in blocks(page, "yaml"):
            whole = {"study": "x", "images": {"sample": "foolbox"}, "models": {"resnet50": {}}, "attacks": {"mi": {}}}
            whole |= {"experiments": {"x": {"attacks": ["mi"], "sources": ["resnet50"]}}}
            assert resolve(parse(yaml.safe_dump(whole | yaml.safe_load(text)), page)).spec


def test_torchattacks_beside_ours():
    """Both blocks of the page, on one network: the same pixels but for rounding to 8 bits."""
    pytest.importorskip("torchattacks")
    theirs, ours = (text for _, text in blocks("from-torchattacks.md", "python"))
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 8, 3), torch.nn.SiLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(8, 5)).eval()
    images = torch.randint(0, 256, (4, 3, 24, 24), dtype=torch.uint8) / 255
    names: dict = {"model": model, "images": images, "labels": torch.tensor([0, 1, 2, 3])}
    exec(theirs, names)
    exec(ours, names)
    apart = (names["theirs"] - names["ours"]).abs() * 255
    assert (apart < 0.01).float().mean() > 0.99


def test_messages_that_the_faq_quotes_exist():
    files = [path for folder in ("study", "actors") for path in (ROOT / folder).rglob("*.py")]
    source = re.sub(r'"\s*\n\s*f?"', "", "\n".join(path.read_text() for path in files))
    quoted = re.findall(r"^\| `(.+?)` \|", (DOCS / "faq.md").read_text(), re.M)
    assert len(quoted) >= 6
    for message in quoted:
        pattern = ".{,80}".join(map(re.escape, message.strip("…").split("…")))
        assert re.search(pattern, source), message
