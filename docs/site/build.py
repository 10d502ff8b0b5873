"""Build the documentation site: `python docs/site/build.py`, or `make docs`. It needs the extra `docs`, and no network.

The pages are the files that a reader of the repository sees: README.md is the first page, CONTRIBUTING.md, CHANGELOG.md
and benchmarks/README.md are pages, and docs/ holds the rest. They are copied into one folder, where each relative link
is rewritten to the place that its target has in the site. A link to a file or heading that is not there ends the build.
"""

from __future__ import annotations

import argparse
import posixpath
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
_HERE = Path(__file__).resolve().parent
_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "measurements.md",
    "docs/results/README.md": "results/index.md",
}
"""Pages that have another place in the site than in the repository; all others lie in docs/."""
_LEFT_OUT = ("site",)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_CODE = re.compile(r"^(```|~~~).*?^\1$|`[^`\n]+`", re.M | re.S)
_LINK = re.compile(r"(\]\(|src=\"|srcset=\"|href=\")([^)\"#\s]*)(#[^)\"\s]*)?(?=[)\"])")
_PICTURE = re.compile(r"<picture>.*?</picture>", re.S)
_DARK = re.compile(r'\s*<source media="\(prefers-color-scheme: dark\)" srcset="([^"]*)">')
_IMAGE = re.compile(r'<img src="([^"]*)"')


def build(to: Path) -> Path:
    """Write the site to `to`/site and return this folder. `to` is emptied first. SystemExit if a link leads nowhere."""
    shutil.rmtree(to, ignore_errors=True)
    source = to / "source"
    stage(source)
    shutil.copy(_HERE / "mkdocs.yml", to / "mkdocs.yml")
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict", "--config-file", str(to / "mkdocs.yml")],
        cwd=to,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(_COLOUR.sub("", done.stdout.partition("Traceback")[0]))
    return to / "site"


def stage(source: Path) -> None:
    """Copy all pages into `source`, with links that are right there, and the files that pages link to."""
    shutil.copytree(ROOT / "docs", source, ignore=lambda folder, _: _LEFT_OUT if Path(folder).name == "docs" else ())
    (source / "results" / "README.md").unlink()
    shutil.copy(_HERE / "extra.css", source / "extra.css")
    for path in _all_pages():
        page = source / _place(path)
        page.write_text(rewritten((ROOT / path).read_text(encoding="utf-8"), path, source), encoding="utf-8")


def _all_pages() -> list[str]:
    found = [one.relative_to(ROOT).as_posix() for one in sorted((ROOT / "docs").rglob("*.md"))]
    inside = [one for one in found if one.split("/")[1] not in _LEFT_OUT and one not in _PAGES]
    return [*_PAGES, *inside]


def _place(path: str) -> str:
    """The place in the site of a file of the repository; `files/…` for one outside docs/ that is no page."""
    return _PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else f"files/{path}")


def rewritten(text: str, path: str, source: Path) -> str:
    """The text of the page `path` with links for the site. Code stays as it is."""
    text = _PICTURE.sub(lambda found: _both(found[0]), text)
    parts, at = [], 0
    for code in _CODE.finditer(text):
        parts += [_linked(text[at : code.start()], path, source), code[0]]
        at = code.end()
    return "".join([*parts, _linked(text[at:], path, source)])


def _both(picture: str) -> str:
    """A picture with a dark version as two images: the site's own switch decides, not the system's setting alone."""
    dark, light = _DARK.search(picture), _IMAGE.search(picture)
    if dark is None or light is None:
        return picture
    plain = _DARK.sub("", picture)
    return "".join(
        re.sub(r"<picture>", f'<picture class="{scheme}-only">', plain.replace(light[1], image), count=1)
        for scheme, image in (("light", light[1]), ("dark", dark[1]))
    )


def _linked(text: str, path: str, source: Path) -> str:
    page = _place(path)

    def at_its_place(found: re.Match[str]) -> str:
        before, link, anchor = found[1], found[2], found[3] or ""
        if not link or re.match(r"[a-z]+:", link):
            return found[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
        place = _place(target)
        if place.startswith("files/") and (ROOT / target).is_file():
            (source / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / target, source / place)
        if not place.endswith(".md") and not (ROOT / target).is_file():
            raise SystemExit(f"{path}: the link to {link} leads to no file")
        return f"{before}{posixpath.relpath(place, posixpath.dirname(page) or '.')}{anchor}"

    return _LINK.sub(at_its_place, text)


def main() -> None:
    """Build the site, and say where it is."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--to", type=Path, default=ROOT / "build" / "docs", help="folder to write to; it is emptied")
    site = build(options.parse_args().to.resolve())
    print(f"{site / 'index.html'}\nwith search: python -m http.server --directory {site}")


if __name__ == "__main__":
    main()
