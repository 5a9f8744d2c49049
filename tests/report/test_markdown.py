"""The report in Markdown is one comment on GitHub, whatever the names."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from tests.report.reports import target, whole, with_holes
from toolchain.report.document import Report
from toolchain.report.markdown import code, markdown, prose, table


def test_it_has_the_answer_and_the_gaps() -> None:
    text = markdown(whole())
    assert text.startswith("### digits: ✅ All 2 budgets kept on board")
    assert "| `latency_us` | 2.000 ms | 1.900 ms | 1.919 ms (estimated) | -1.0 % | ✅ kept |" in text
    assert "| target, board | 97.21 % | on the target |" in text
    assert "| 2 | `latency_us` | 1.00 % | 2 |" in text
    assert "- anything on real hardware (board): the target is a virtual board (set `target.url`)" in text
    assert "> board: no hardware was used" in text
    assert text.endswith("\n")


@pytest.mark.parametrize(
    "report",
    [whole(), with_holes(), whole(network="", costs=(), accuracy=(), rounds=None, missing=(), targets=())],
    ids=["whole", "holes", "empty"],
)
def test_tables_are_rectangular(report: Report) -> None:
    for block in markdown(report).split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
        assert len(widths) <= 1, block


def test_hostile_names_are_words() -> None:
    hostile = "# <img src=x> | [a](http://b) @someone `x` ~~y~~\n\n## z"
    report = whole()
    text = markdown(
        replace(
            report,
            project=replace(report.project, name=hostile),
            headline=hostile,
            network=hostile,
            targets=(replace(target(), name=hostile, note=hostile),),
        )
    )
    outside = re.sub(r"(`+).*?\1", "", re.sub(r"\\.", "", text))  # without code and escaped characters
    assert "<img" not in outside
    assert "](" not in outside
    assert "@someone" not in outside
    assert "\n## z" not in text


def test_code_survives_backticks_and_bars() -> None:
    assert code("a ``b`` | c") == "``` a ``b`` \\| c ```" or code("a ``b`` | c") == "```a ``b`` \\| c```"
    assert code("`x") == "`` `x ``"
    assert prose("run `boardfit run` *now*") == "run `boardfit run` \\*now\\*"


def test_alignment() -> None:
    assert table(("a", "b|"), [("1", "")]) == "| a | b |\n|---|---:|\n| 1 |   |"
