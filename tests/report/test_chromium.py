"""The page in a real browser: it loads alone, draws everything, fits a phone, follows the dark, and prints."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.report.reports import target, whole
from toolchain.report.document import Report
from toolchain.report.document_search import Network
from toolchain.report.page import page
from tools.chromium import Chromium, find

WIDTHS = (360, 800, 1280)
LONG = "a-name-without-any-place-to-break-" * 6
HOSTILE = "<script>window.hurt = 1</script><img src=x onerror='window.hurt = 1'>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    program = find()
    if program is None:
        pytest.skip("no Chromium here (make debian)")
    with Chromium(program) as found:
        yield found


def crowded() -> Report:
    """Two targets with budgets of their own, a long name, a hostile one, and long signatures."""
    report = whole()
    costs = tuple(
        replace(cost, metric=f"{name}:{cost.metric}")
        for name in ("pi", "nucleo-l4r5zi")
        for cost in report.costs[:2]
    )
    assert report.course is not None
    assert report.rounds is not None

    def both(network: Network) -> Network:
        found = {c.metric: c.measured for c in costs if c.measured is not None}
        return replace(network, predicted=found, measured=found if network.measured else {})

    course = replace(report.course, networks=tuple(map(both, report.course.networks)))
    rounds = tuple(replace(one, networks=tuple(map(both, one.networks))) for one in report.rounds.rounds)
    first = target("pi:with-a-long-name")
    steps = tuple(replace(s, signature=f"{s.signature} {LONG}") for s in first.steps)
    return replace(
        report,
        project=replace(report.project, name=f"{HOSTILE} {LONG}"),
        network=LONG,
        costs=costs,
        course=course,
        rounds=replace(report.rounds, rounds=rounds),
        targets=(replace(first, steps=steps, place=f"/{LONG}"), target()),
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Addresses of the pages."""
    folder = tmp_path_factory.mktemp("pages")
    addresses = {}
    for name, report in (("whole", whole()), ("crowded", crowded())):
        (folder / f"{name}.html").write_text(page(report), encoding="utf-8")
        addresses[name] = (folder / f"{name}.html").as_uri()
    return addresses


@pytest.mark.parametrize("name", ["whole", "crowded"])
def test_it_loads_alone_and_in_silence(browser: Chromium, files: dict[str, str], name: str) -> None:
    browser.open(files[name])
    assert browser.messages == []
    assert browser.requests == [files[name]]
    assert browser.evaluate("window.hurt") is None
    assert browser.evaluate("document.querySelectorAll('script').length") == 1


def test_every_mark_is_drawn_inside_its_diagram(browser: Chromium, files: dict[str, str]) -> None:
    browser.open(files["crowded"])
    found = browser.evaluate(
        """[...document.querySelectorAll("svg.diagram")].map(svg => {
             const box = svg.getBoundingClientRect();
             const marks = [...svg.querySelectorAll(".tip")].map(m => m.getBoundingClientRect());
             const inside = marks.filter(m => m.width > 0 && m.height > 0 && m.left >= box.left - 1
               && m.right <= box.right + 1 && m.top >= box.top - 1 && m.bottom <= box.bottom + 1);
             return [svg.getAttribute("aria-label"), Number(svg.dataset.marks), inside.length, box.width];
           })"""
    )
    assert len(found) == 14  # four fronts, memory and samples of two targets, course, four of rounds, effects
    for label, promised, drawn, width in found:
        assert promised == drawn > 0, label
        assert width > 300, label


def test_labels_do_not_overlap(browser: Chromium, files: dict[str, str]) -> None:
    browser.open(files["whole"], width=360)
    pairs = browser.evaluate(
        """[...document.querySelectorAll("svg.diagram")].flatMap(svg => {
             const texts = [...svg.querySelectorAll("text")].map(t => [t.textContent, t.getBoundingClientRect()]);
             return texts.flatMap(([a, p], i) => texts.slice(i + 1)
               .filter(([b, q]) => Math.min(p.right, q.right) - Math.max(p.left, q.left) > 1.5
                 && Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top) > 1.5)
               .map(([b, q]) => [svg.getAttribute("aria-label"), a, b]));
           })"""
    )
    assert pairs == []


@pytest.mark.parametrize("width", WIDTHS)
def test_cells_do_not_overlap(browser: Chromium, files: dict[str, str], width: int) -> None:
    browser.open(files["crowded"], width=width)
    browser.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    pairs = browser.evaluate(
        """[...document.querySelectorAll("tr")].flatMap(row => {
             const cells = [...row.cells].map(cell => {
               const range = document.createRange(); range.selectNodeContents(cell);
               return [cell.textContent, range.getBoundingClientRect()];
             }).filter(([text, box]) => text && box.width);
             return cells.flatMap(([a, p], i) => cells.slice(i + 1)
               .filter(([b, q]) => Math.min(p.right, q.right) - Math.max(p.left, q.left) > 1
                 && Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top) > 1)
               .map(([b, q]) => [a, b]));
           })"""
    )
    assert pairs == []


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_screen(browser: Chromium, files: dict[str, str], width: int) -> None:
    browser.open(files["crowded"], width=width)
    browser.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert browser.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [width, width]
    wide = browser.evaluate(
        """[...document.querySelectorAll("body *:not(svg *)")]
             .filter(e => e.getClientRects().length && e.getBoundingClientRect().right > innerWidth + 0.5)
             .map(e => e.tagName + " " + e.textContent.slice(0, 60))"""
    )
    assert wide == []


def test_no_text_is_tiny_on_a_phone(browser: Chromium, files: dict[str, str]) -> None:
    browser.open(files["whole"], width=360)
    smallest = browser.evaluate(
        """Math.min(...[...document.querySelectorAll("body *")]
             .filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) && e.getClientRects().length)
             .map(e => parseFloat(getComputedStyle(e).fontSize)
               * (e.ownerSVGElement ? e.ownerSVGElement.getScreenCTM().a : 1)))"""
    )
    assert smallest >= 8.5


# The text with the least contrast to what it stands on: [ratio, element, its beginning] (WCAG 2, "contrast ratio").
CONTRASTS = """(() => {
  const parts = colour => colour.match(/[\\d.]+/g).map(Number);
  const linear = v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = colour => {
    const [r, g, b] = parts(colour).map(v => linear(v / 255));
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const ground = e => {
    for (; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (parts(colour).length === 3 || parts(colour)[3] > 0) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const ratio = e => {
    const style = getComputedStyle(e), svg = e.ownerSVGElement;
    const [a, b] = [light(svg ? style.fill : style.color), light(ground(svg || e))].sort((x, y) => y - x);
    return (a + .05) / (b + .05);
  };
  return [...document.querySelectorAll("body *")]
    .filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) && e.getClientRects().length)
    .map(e => [ratio(e), e.tagName, e.textContent.slice(0, 40)])
    .sort((x, y) => x[0] - y[0])[0];
})()"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_all_text_has_contrast(browser: Chromium, files: dict[str, str], dark: bool) -> None:
    """At least 4.5 : 1, as WCAG 2 (AA) asks."""
    browser.open(files["whole"], dark=dark)
    ratio, *what = browser.evaluate(CONTRASTS)
    assert ratio >= 4.5, what
    ground = browser.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert max(ground) < 60 if dark else min(ground) > 220


def test_a_mouse_and_a_finger_get_the_tips(browser: Chromium, files: dict[str, str]) -> None:
    browser.open(files["whole"], width=360)

    def centre(index: int) -> dict[str, float]:
        mark = f'document.querySelectorAll("#front .tip")[{index}]'
        browser.evaluate(f'{mark}.scrollIntoView({{block: "center"}})')
        browser.settle()  # scrolling hides the tip
        box = browser.evaluate(f"{mark}.getBoundingClientRect().toJSON()")
        return {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}

    def tip() -> Any:
        return browser.evaluate(
            "[tip.hidden, tip.textContent, tip.getBoundingClientRect().right <= innerWidth]"
        )

    assert tip()[0] is True
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", **centre(0))
    assert tip() == [
        False,
        "net-4\naccuracy 70.00 %\nlatency_us: predicted 1.600 ms, on the target 1.616 ms",
        True,
    ]
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=5, y=5)
    assert tip()[0] is True
    spot = centre(3)
    for kind, points in (("touchStart", [spot]), ("touchEnd", [])):
        browser.call("Input.dispatchTouchEvent", type=kind, touchPoints=points)
    browser.evaluate("new Promise(done => setTimeout(done, 200))")
    hidden, words, _ = tip()
    assert not hidden
    assert words.startswith("net-2\n")


def test_without_javascript_everything_is_readable(browser: Chromium, files: dict[str, str]) -> None:
    browser.scripts(False)
    try:
        browser.open(files["whole"])
        titles = browser.evaluate("document.querySelectorAll('.tip > title').length")
        marks = browser.evaluate("document.querySelectorAll('.tip').length")
        text = browser.evaluate("document.body.innerText")
        assert titles == marks > 20
        assert "All 2 budgets kept on board" in text
        assert browser.evaluate("getComputedStyle(document.getElementById('tip')).display") == "none"
    finally:
        browser.scripts(True)


def test_on_paper_all_is_open_and_black_on_white(
    browser: Chromium, files: dict[str, str], tmp_path: Path
) -> None:
    browser.open(files["whole"], dark=True)
    browser.colours(dark=True, media="print")
    heights = browser.evaluate(
        "[...document.querySelectorAll('details > :not(summary)')].map(e => e.getBoundingClientRect().height)"
    )
    assert heights
    assert min(heights) > 10
    assert browser.evaluate("getComputedStyle(document.body).color") == "rgb(27, 27, 28)"
    assert browser.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    browser.colours(dark=False)
    paper = tmp_path / "report.pdf"
    browser.paper(paper)
    data = paper.read_bytes()
    assert data.startswith(b"%PDF")
    assert 2 <= data.count(b"/Type /Page\n") + data.count(b"/Type /Page ") <= 12


@pytest.mark.parametrize("width", WIDTHS)
def test_pictures_at_three_widths(
    browser: Chromium, files: dict[str, str], width: int, tmp_path: Path
) -> None:
    """Light and dark show the same things in other colours; `make report-picture` takes its picture this way."""
    sizes = []
    for dark in (False, True):
        browser.open(files["whole"], width=width, dark=dark)
        path = tmp_path / f"{width}-{dark}.png"
        browser.picture(path)
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("L"))
        sizes.append(pixels.shape)
        ground = np.median(pixels)
        assert ground < 60 if dark else ground > 220
        assert 0.01 < np.mean(np.abs(pixels.astype(int) - int(ground)) > 60) < 0.5  # something stands there
    assert sizes[0] == sizes[1]
    assert sizes[0][1] == width
