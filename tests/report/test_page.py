"""The page says what the document says: every number with its evidence, nothing from outside, whatever the names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from tests.report.reports import measured, network, predicted, target, whole, with_holes
from toolchain.report import explained, sections
from toolchain.report.document import Infeasible, Report
from toolchain.report.document_search import Course
from toolchain.report.html import Html, number, prose, table, tag
from toolchain.report.number import Number, shown
from toolchain.report.page import page

HOSTILE = "<script>alert(1)</script>\"'&<img src=x onerror=alert(1)>"


class Parsed(HTMLParser):
    """Elements with their attributes, the text, and whether every element is closed in its order."""

    VOID = ("meta", "link", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((name, {k: v or "" for k, v in attributes}))
        if name not in self.VOID:
            self._open.append(name)

    def handle_startendtag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((name, {k: v or "" for k, v in attributes}))

    def handle_endtag(self, name: str) -> None:
        assert self._open.pop() == name

    def handle_data(self, data: str) -> None:
        if self._open[-1:] not in (["style"], ["script"]):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def named(self, name: str) -> Iterator[dict[str, str]]:
        return (attributes for found, attributes in self.elements if found == name)


@pytest.fixture(scope="module")
def text() -> str:
    return page(whole())


@pytest.fixture(scope="module")
def full(text: str) -> Parsed:
    return Parsed(text)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Diagrams take most of a page's time."""
    monkeypatch.setattr(sections, "drawn", lambda make: Html(""))


def test_the_answer_comes_first(full: Parsed) -> None:
    answer = full.text[: full.text.index("Accuracy and cost")]
    for words in (
        "digits",
        "✓ Budgets kept",
        "97.49 %",
        "latency_us",
        "2.000 ms",
        "1.919 ms",
        "net-6",
        "Virtual board",
    ):
        assert words in answer
    keys = [attributes["id"] for attributes in full.named("section")]
    assert keys == ["front", "operators", "search", "table", "rounds", "why", "provenance", "missing"]
    links = [a["href"].removeprefix("#") for a in full.named("a")]
    assert links == keys


def test_every_number_of_the_document_is_there_with_its_evidence(full: Parsed, text: str) -> None:
    """Budgets, costs, accuracies, operators, memory, rounds, effects: as `<data>` with value, evidence and stack."""
    report = whole()
    there = {
        (float(a["value"]), a["data-evidence"], a.get("data-stack", ""))
        for a in full.named("data")
        if a["value"]
    }
    samples = [s for t in report.targets if t.table for s in t.table.samples]
    in_tips = {n for s in samples for n in (s.predicted, s.measured)}  # marks of a diagram
    for one in report.numbers():
        if one.value is not None and one not in in_tips and one.unit != "bytes":
            assert (one.value, one.evidence, one.stack) in there, one
    tips = re.findall(r"<title>([^<]*)</title>", text)
    for one in in_tips:
        assert any(shown(one) in tip for tip in tips), one


def test_the_rounds_say_what_followed(full: Parsed) -> None:
    loop = full.text[full.text.index("The loop 2 rounds") :]
    assert loop.startswith("The loop 2 rounds, settled; tolerance of predictions: latency_us 2 %.")
    assert "what 1 said; predicted latency_us is multiplied by 1.0800 from here on what 2 said;" in loop
    assert "1 chosen latency_us 1.900 ms 1.748 ms estimated +8.70 % net-6" in loop


def test_of_cycles_and_latency_one_is_enough() -> None:
    rounds = whole().rounds
    assert rounds is not None
    both = {"cycles": measured(2e5), "latency_us": measured(2e3), "b:cycles": measured(1.0)}
    networks = (replace(rounds.rounds[0].networks[0], measured=both),)
    report = whole(rounds=replace(rounds, rounds=(replace(rounds.rounds[0], networks=networks),)))
    assert explained.round_metrics(report) == ["latency_us", "b:cycles"]
    in_cycles = whole(rounds=report.rounds, costs=(replace(whole().costs[0], metric="cycles"),))
    assert explained.round_metrics(in_cycles) == ["cycles", "b:cycles"]


def test_nothing_comes_from_outside(full: Parsed, text: str) -> None:
    for name, attributes in full.elements:
        for key in ("src", "href", "action", "data", "poster", "srcset"):
            if key in attributes and name != "data":
                assert attributes[key].startswith(("#", "data:,")), (name, attributes)
    assert "@import" not in text
    assert not re.search(r"url\((?!['\"]?#)", text)
    policy = next(a["content"] for a in full.named("meta") if "http-equiv" in a)
    assert policy.startswith("default-src 'none'; ")
    assert "http" not in policy


def test_diagrams_have_a_mark_for_everything(full: Parsed) -> None:
    marks = {a["aria-label"]: int(a["data-marks"]) for a in full.named("svg")}
    assert marks == {
        "Accuracy and latency_us of 6 networks": 6 + 2,  # two of them also as found on the target
        "Accuracy and flash_bytes of 6 networks": 6,
        "Memory over 3 steps": 4,
        "Accuracy over 6 epochs": 6 + 3,
        "latency_us over 6 epochs": 6,
        "3 whole networks, predicted and measured": 3,
        "Errors of predicted latency_us by round": 4,
        "What 2 design choices add": 2,
    }
    assert sum(marks.values()) == len([a for n, a in full.elements if a.get("class") == "tip"])


def test_ids_are_unique_and_references_lead_somewhere(full: Parsed, text: str) -> None:
    ids = [a["id"] for _, a in full.elements if "id" in a]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r"url\(#([^)]+)\)", text)) | {
        a["href"][1:] for n, a in full.elements if n in ("use", "a") and a["href"].startswith("#")
    }
    assert used
    assert used <= set(ids)


def test_the_same_document_gives_the_same_page(text: str) -> None:
    assert page(whole()) == text


def test_hostile_names_stay_text() -> None:
    report = whole()
    hostile = replace(
        report,
        project=replace(report.project, name=HOSTILE, data=HOSTILE),
        headline=HOSTILE,
        network=HOSTILE,
        course=replace(report.course, networks=(replace(network(1, chosen=True), text=HOSTILE),)),
        targets=(replace(target(), name=HOSTILE, note=HOSTILE, place=HOSTILE),),
        missing=(replace(report.missing[0], what=HOSTILE, how=f"`{HOSTILE}`"),),
        provenance=replace(report.provenance, stacks={HOSTILE: {HOSTILE: HOSTILE}}),
    )  # type: ignore[type-var]
    found = Parsed(page(hostile))
    assert [a for n, a in found.elements if n == "script"] == [{}]  # our own
    assert not [*found.named("img")]
    assert not [a for _, a in found.elements if any(key.startswith("on") for key in a)]
    assert found.text.count(HOSTILE) >= 8


@pytest.mark.parametrize(
    ("report", "words"),
    [
        (with_holes(), "not measured"),
        (whole(course=None, choices=None, rounds=None, accuracy=(), costs=(), network="", blocks=()), "digits"),
        (whole(status="broken", headline="latency_us broken on board."), "✗ Budget broken"),
        (whole(status="predicted", rounds=None), "Not measured yet"),
        (whole(targets=(target("a"), target("b"))), "a Each operator"),
        (whole(costs=whole().costs[2:]), "params"),
        (whole(missing=()), "Nothing: every number"),
        (whole(targets=()), "digits"),
    ],
    ids=["holes", "no search", "broken", "not deployed", "two targets", "no budgets", "nothing missing", "no target"],
)  # fmt: skip
def test_reports_with_holes_are_pages_too(report: Report, words: str, undrawn: None) -> None:
    found = Parsed(page(report))
    assert words in found.text
    assert not re.search(r"\b(nan|inf|None)\b", found.text)


def test_an_infeasible_search_says_what_is_possible(undrawn: None) -> None:
    report = whole(
        status="infeasible",
        headline="No network of the space keeps the budgets.",
        network="",
        costs=(),
        accuracy=(),
        course=None,
        choices=None,
        rounds=None,
        infeasible=Infeasible(
            "latency_us cannot be kept",
            'raise it, e.g. `latency = "3 ms"`',
            {"latency_us": predicted(2500.0)},
            ("latency_us",),
            "net-near",
            {"latency_us": predicted(2600.0)},
        ),
    )
    text = Parsed(page(report)).text
    for words in (
        "✗ No network keeps the budgets",
        "2.500 ms",
        "2.600 ms",
        "binds",
        "net-near",
        'latency = "3 ms"',
    ):
        assert words in text


def test_without_matplotlib_the_tables_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sections.importlib.util, "find_spec", lambda name: None)
    found = Parsed(page(whole()))
    assert sections.NO_PLOTS in found.text
    assert not [*found.named("svg")]
    assert "net-4" in found.text


def test_numbers_that_are_unknown_are_not_drawn() -> None:
    """Of three networks two have no score or no cost; of one epoch nothing is known."""
    marks = [int(a["data-marks"]) for a in Parsed(page(with_holes())).named("svg")]
    assert marks == [1, 2]  # the front's only network, and effects


def test_a_network_without_alternatives_is_drawn() -> None:
    course = Course("random", 0, 1, 1.0, False, (), (network(1, chosen=True),), (), "")
    found = Parsed(page(whole(course=course)))
    assert "This method has no course by epochs" in found.text


def test_columns_that_are_empty_are_left_out() -> None:
    made = table(("a", "b|", "c"), [("1", "", "x"), ("2", "", "y")])
    assert '<th scope="col">a</th>' in made
    assert ">b<" not in made


def test_html_escapes_what_is_not_html() -> None:
    assert tag("p", "<b>", Html("<i>x</i>"), title='"<') == '<p title="&quot;&lt;">&lt;b&gt;<i>x</i></p>'
    assert prose("run `a < b` now") == "run <code>a &lt; b</code> now"
    assert prose("a lone ` stays") == "a lone ` stays"


def test_a_numbers_tip_says_what_it_rests_on() -> None:
    made = number(Number(1.0, "us", "predicted", "host_wall", "feed", unstable=True))
    assert "lookup table; from host_wall; stack feed; unstable" in made
    assert "cycles of an emulated board" in number(measured(1.0))
