"""Laws of the page in a real browser: no error, no request, nothing cut off, and the charts answer mouse and keys."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.report.compare import as_html, compare
from pipeline.report.page import write_report
from tests.pipeline.report import chromium, pretend

pytestmark = [pytest.mark.slow, pytest.mark.skipif(chromium.found() is None, reason="needs Chromium (apt-get install chromium)")]

CHART = "document.querySelector('#stage-base [data-chart]')"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Browser]:
    browser = chromium.Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(pretend.make_run(tmp_path_factory.mktemp("runs")))


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_no_error_no_request_and_nothing_wider_than_the_window(browser: chromium.Browser, page: Path, width: int, theme: str) -> None:
    browser.open(page, width=width, theme=theme, touch=width < 500)
    assert browser.complaints() == []
    assert browser.requests() == []
    assert browser.ask("document.documentElement.scrollWidth") <= width
    paper = browser.ask("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", paper)[:3])) > 380) == (theme == "light")
    assert browser.ask("[...document.querySelectorAll('.family')].filter(tree => tree.getBoundingClientRect().width > 0).length") == 1


def test_no_label_of_the_family_leaves_its_box(browser: chromium.Browser, page: Path) -> None:
    browser.open(page, width=1280)
    outside = """[...document.querySelectorAll('.family.wide .box')].flatMap(box => {
        const edge = box.querySelector('rect').getBoundingClientRect().right + 1;
        return [...box.querySelectorAll('text')].filter(text => text.getBoundingClientRect().right > edge).map(text => text.textContent);
    })"""
    assert browser.ask(outside) == []


def test_pointing_reads_all_charts_of_the_stage_and_dragging_zooms_them(browser: chromium.Browser, page: Path) -> None:
    browser.open(page, width=1280)
    browser.ask(f"{CHART}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
    box = browser.ask(
        f"(() => {{ const b = {CHART}.querySelector('svg').getBoundingClientRect(); return [b.x, b.y, b.width, b.height]; }})()"
    )
    x, y = box[0] + box[2] / 2, box[1] + box[3] / 2
    browser.mouse("mouseMoved", x, y)
    cursors = browser.ask("[...document.querySelectorAll('#stage-base .cursor text')].map(text => text.textContent)")
    assert len(cursors) == browser.ask("document.querySelectorAll('#stage-base [data-chart]').length")
    assert len(set(cursors)) == 1
    before = browser.ask(f"{CHART}.querySelector('path.line').getAttribute('d')")
    browser.mouse("mousePressed", x, y, "left", 1)
    browser.mouse("mouseMoved", x + box[2] / 4, y, "left")
    browser.mouse("mouseReleased", x + box[2] / 4, y, "left", 1)
    zoomed = browser.ask(f"{CHART}.querySelector('path.line').getAttribute('d')")
    assert zoomed != before
    assert browser.ask("document.querySelectorAll('#stage-base [data-zoom][aria-pressed=true]').length") == 0
    browser.mouse("mousePressed", x, y, "left", 2)
    browser.mouse("mouseReleased", x, y, "left", 2)
    assert browser.ask("document.querySelector('#stage-base [data-zoom]').getAttribute('aria-pressed')") == "true"
    assert browser.complaints() == []


def test_keys_read_values_aloud_and_zoom(browser: chromium.Browser, page: Path) -> None:
    browser.open(page, width=1280)
    browser.ask(f"{CHART}.querySelector('svg').focus()")
    browser.key("End")
    assert browser.ask("document.getElementById('say').textContent").startswith("step 366: Loss")
    browser.key("ArrowLeft")
    assert browser.ask("document.getElementById('say').textContent").startswith("step 365: Loss")
    ticks = f"[...{CHART}.querySelectorAll('.grid text')].map(text => text.textContent).join()"
    before = browser.ask(ticks)
    browser.key("+")
    assert browser.ask(ticks) != before
    browser.key("Escape")
    assert browser.ask(ticks) == before  # the script draws the whole range as the page was written


def test_the_scale_button_switches_to_logarithms_and_back(browser: chromium.Browser, page: Path) -> None:
    browser.open(page, width=1280)
    ticks = f"[...{CHART}.querySelectorAll('.grid text')].map(text => text.textContent).join()"
    before = browser.ask(ticks)
    browser.ask(f"{CHART}.querySelector('.scale').click()")
    assert browser.ask(f"{CHART}.querySelector('.scale').getAttribute('aria-pressed')") == "true"
    assert browser.ask(ticks) != before
    assert browser.ask(f"/NaN|Infinity/.test({CHART}.innerHTML)") is False
    browser.ask(f"{CHART}.querySelector('.scale').click()")
    assert browser.ask(ticks) == before


def test_everything_that_acts_is_reached_by_keyboard_and_has_a_name(browser: chromium.Browser, page: Path) -> None:
    browser.open(page, width=1280)
    nameless = """[...document.querySelectorAll('a, button, [tabindex="0"], [role=img], [role=group], summary')]
        .filter(one => !(one.getAttribute('aria-label') || one.textContent.trim())).length"""
    assert browser.ask(nameless) == 0
    levels = browser.ask("[...document.querySelectorAll('h1, h2, h3, h4')].map(heading => +heading.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1


def test_the_script_writes_numbers_as_the_page_does(browser: chromium.Browser, page: Path) -> None:
    browser.open(page, width=1280)
    written = browser.ask("[...document.querySelectorAll('#stage-policy .legend b')].map(value => value.textContent)")
    browser.ask("document.querySelector('#stage-policy svg[tabindex]').focus()")
    browser.key("End")
    assert browser.ask("[...document.querySelectorAll('#stage-policy .legend b')].map(value => value.textContent)") == written


def test_the_page_prints(browser: chromium.Browser, page: Path) -> None:
    browser.open(page, width=1280)
    assert browser.pdf().startswith(b"%PDF")


def test_the_comparison_stands_in_the_browser_too(browser: chromium.Browser, page: Path, tmp_path: Path) -> None:
    target = tmp_path / "compare.html"
    target.write_text(as_html(compare(page.parent, page.parent)))
    browser.open(target, width=390, theme="dark", touch=True)
    assert browser.complaints() == []
    assert browser.requests() == []
    assert browser.ask("document.documentElement.scrollWidth") <= 390
