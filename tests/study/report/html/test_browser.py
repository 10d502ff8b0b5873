"""The report in a real browser, without a display or a network: opening, sorting, filtering, images, printing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from study.report.html.document import write
from tests.study.report.html.test_document import hostile_run

__all__ = ["hostile_run"]

_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_HERE = "apt-get install chromium-headless-shell, `playwright install chromium`, or CHROMIUM=<path>"


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as started:
        found = [os.environ.get("CHROMIUM"), *map(shutil.which, _NAMES), started.chromium.executable_path]
        program = next((path for path in found if path and Path(path).is_file()), None)
        if program is None:
            pytest.skip(f"no Chromium is installed: {_HERE}")
        opened = started.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture
def opened(browser):
    """Opens a file. The test fails at its end if a page logged an error or requested another file."""
    contexts, complaints = [], []

    def look(path: Path, **options):
        context = browser.new_context(offline=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: complaints.append(said.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda one: None if one.url.startswith(("file:", "data:")) else complaints.append(one.url))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]", timeout=10_000)
        return page

    yield look
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture(scope="module")
def tiny_report(tiny_run, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("browser") / "report.html"
    write(tiny_run, path)
    return path


@pytest.fixture(scope="module")
def hostile_report(hostile_run, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("browser") / "report.html"
    write(hostile_run, path)
    return path


def matrix(page):
    return page.locator("div.table", has=page.get_by_text("single, untargeted", exact=True))


def column(table, index: int) -> list[str]:
    return table.locator(f"tbody tr:visible td:nth-child({index})").all_inner_texts()


def test_sorting(opened, tiny_report):
    table = matrix(opened(tiny_report))
    before = column(table, 4)
    heading = table.get_by_role("button", name="RMSD")
    heading.click()
    assert column(table, 4) == sorted(before, key=float, reverse=True)
    assert table.locator("th").nth(3).get_attribute("aria-sort") == "descending"
    heading.press("Enter")
    assert column(table, 4) == sorted(before, key=float)
    table.get_by_role("button", name="attack").click()
    assert column(table, 1) == sorted(column(table, 1))
    assert table.locator("th[aria-sort]").count() == 1


def test_filtering(opened, tiny_report):
    table = matrix(opened(tiny_report))
    everything = column(table, 1)
    table.get_by_role("searchbox").fill("MI")
    assert set(column(table, 1)) == {"optimization", "mi"}
    table.get_by_role("searchbox").fill("fgs b")
    assert column(table, 1) == ["fgs"]
    assert table.get_by_text("1 of 12 rows").is_visible()
    table.get_by_role("searchbox").fill("")
    assert column(table, 1) == everything


def test_intervals_by_keyboard_and_mouse(opened, tiny_report):
    page = opened(tiny_report)
    table, tip = matrix(page), page.locator("#tip")
    assert tip.is_hidden()
    assert table.locator("td[tabindex='0']").count() == 1
    table.locator("td[tabindex='0']").focus()
    assert "95 %:" in tip.inner_text()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("[document.activeElement.cellIndex, document.activeElement.parentElement.rowIndex]") == [5, 2]
    assert tip.is_visible()
    page.keyboard.press("Escape")
    assert tip.is_hidden()
    table.locator("tbody td").nth(6).hover()
    assert "of 6 images" in tip.inner_text()


def test_gallery(opened, hostile_report):
    page = opened(hostile_report)
    cards = page.locator(".card")
    page.wait_for_selector(".card canvas")
    assert cards.count() == 2
    before = cards.locator("img:visible").nth(1).get_attribute("alt")
    page.locator("#gallery-choice select").nth(1).select_option(index=1)
    page.wait_for_selector(".card .difference canvas")
    for card in cards.all():
        assert card.locator(".shots button:visible").count() == 3, "clean, adversarial, difference"
        assert card.locator("img:visible").nth(1).get_attribute("alt") != before
    cards.first.locator(".shots button:visible").nth(1).click()
    dialog = page.locator("dialog")
    assert dialog.is_visible()
    assert dialog.locator("figure").count() == 3
    assert dialog.locator("img").first.evaluate("one => one.naturalWidth") == 48
    first = dialog.locator("img").first.get_attribute("alt")
    page.keyboard.press("ArrowRight")
    assert dialog.locator("img").first.get_attribute("alt") != first
    page.keyboard.press("Escape")
    assert dialog.is_hidden()


_PIXELS = """one => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [one.naturalWidth || one.width, one.naturalHeight || one.height];
    canvas.getContext("2d").drawImage(one, 0, 0);
    return Array.from(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data);
}"""


def test_the_difference_is_stretched_around_grey(opened, hostile_report):
    page = opened(hostile_report)
    page.wait_for_selector(".card .difference canvas")
    card = page.locator(".card").first
    clean, adversarial = (np.array(card.locator("img:visible").nth(at).evaluate(_PIXELS)) for at in (0, 1))
    shown = np.array(card.locator("canvas").evaluate(_PIXELS))
    change = (adversarial - clean).reshape(-1, 4)[:, :3]
    times = 127 / np.abs(change).max()
    assert np.abs(shown.reshape(-1, 4)[:, :3] - (128 + change * times)).max() <= 0.5 + 1e-9
    assert card.locator(".difference").inner_text() == f"difference x {times:.1f}"


def test_answers_follow_the_selected_attack(opened, tiny_report):
    page = opened(tiny_report)
    said = page.evaluate("JSON.parse(document.getElementById('gallery-data').textContent)")
    sources, attack = page.locator("#gallery-choice select").all()
    for craft in (0, 4, len(said["crafts"]) - 1):
        sources.select_option(said["crafts"][craft][0])
        attack.select_option(said["crafts"][craft][1])
        for place in (0, 3):
            rows = page.locator(".card").nth(place).locator("tbody tr").all()
            shown = [row.locator("td").all_inner_texts() for row in rows]
            assert shown == said["images"][place][str(craft)]


def test_markup_in_names_does_not_run(opened, hostile_report):
    page = opened(hostile_report)
    page.locator("#gallery-choice select").nth(1).select_option(index=1)
    page.locator("#failures td", has_text="onmouseover").first.hover()
    assert page.evaluate("window.harmed") is None


@pytest.mark.parametrize("size", [(390, 844), (1280, 900)], ids=["phone", "desktop"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_wide_tables_scroll_within_the_page(opened, tiny_report, size, scheme):
    page = opened(tiny_report, viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    for each in page.locator("details").all():
        each.evaluate("one => { one.open = true; }")
    assert page.evaluate("document.documentElement.scrollWidth") == size[0]


def test_print_hides_controls_only(opened, tiny_report):
    page = opened(tiny_report)
    page.emulate_media(media="print")
    assert page.get_by_role("searchbox").count() == 0
    assert page.locator("nav").is_hidden()
    assert matrix(page).locator("td").first.is_visible()
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_page_is_complete_without_scripts(browser, tiny_report):
    context = browser.new_context(java_script_enabled=False, offline=True)
    page = context.new_page()
    page.goto(tiny_report.as_uri())
    assert "95 %:" in matrix(page).locator("td[title]").first.get_attribute("title")
    assert page.locator("button:visible", has_text="RMSD").count() == 0
    context.close()
