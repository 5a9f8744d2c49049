"""`boardfit report` and `boardfit compare`, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Command
from tests.report.reports import whole


def written(path: Path, **changes: Any) -> Path:
    """A file as `report --json` prints it."""
    path.write_text(json.dumps({**whole().as_json(), **changes}), encoding="utf-8")
    return path


def test_a_project_without_results_has_a_report(boardfit: Command, tiny: Path) -> None:
    done = boardfit("report", "-C", tiny)
    page = tiny / "results" / "report.html"
    assert (done.code, done.out) == (0, f"wrote {page}\n")
    assert "Nothing found yet" in page.read_text(encoding="utf-8")
    done = boardfit("report", "-C", tiny, "--out", tiny / "a" / "b.html")
    assert done.code == 0
    assert (tiny / "a" / "b.html").is_file()


def test_json_and_markdown(boardfit: Command, tiny: Path) -> None:
    document = boardfit("report", "-C", tiny, "--json").document
    assert (document["kind"], document["status"], document["project"]["name"]) == ("report", "empty", "tiny")
    text = boardfit("report", "-C", tiny, "--markdown").out
    assert text.startswith("### tiny: ")
    assert "\n\n\n" not in text
    assert not (tiny / "results" / "report.html").exists()


@pytest.mark.parametrize("options", [("--json", "--markdown"), ("--json", "--out", "x.html")])
def test_one_form_at_a_time(boardfit: Command, tiny: Path, options: tuple[str, ...]) -> None:
    done = boardfit("report", "-C", tiny, *options)
    assert done.code == 2
    assert "exclude each other" in done.err


def test_compare_prints_tables_json_and_markdown(boardfit: Command, tmp_path: Path) -> None:
    before, after = written(tmp_path / "before.json"), written(tmp_path / "after.json", network="net-7")
    done = boardfit("compare", before, after)
    assert done.code == 0
    assert f"A  {before}  kept" in done.out
    line = next(line for line in done.out.splitlines() if line.startswith("latency_us"))
    assert line.split() == [
        "latency_us",
        "1.919",
        "ms",
        "1.919",
        "ms",
        "0.000",
        "us",
        "+0.0",
        "%",
        "estimated",
    ]
    document = boardfit("compare", before, after, "--json").document
    assert (document["kind"], document["networks"]) == ("compare", ["net-6", "net-7"])
    assert "| latency\\_us | 1.919 ms |" in boardfit("compare", before, after, "--markdown").out
    assert boardfit("compare", before, after, "--json", "--markdown").code == 2


def test_compare_refuses_other_evidence(boardfit: Command, tmp_path: Path) -> None:
    costs = whole().as_json()["costs"]
    costs[0]["measured"]["evidence"] = "cycles_measured"
    before, real = written(tmp_path / "before.json"), written(tmp_path / "real.json", costs=costs)
    done = boardfit("compare", before, real)
    assert done.code == 3
    assert (
        "error: latency_us of the two runs cannot be compared: one is cycles_estimated, the other" in done.err
    )
    assert "remedy: compare what is exact: --metric flash_bytes --metric params" in done.err
    done = boardfit("compare", before, real, "--metric", "flash_bytes", "-m", "params")
    assert done.code == 0
    assert "latency_us" not in done.out


def test_compare_needs_two_runs(boardfit: Command, tmp_path: Path, tiny: Path) -> None:
    before = written(tmp_path / "before.json")
    done = boardfit("compare", before, tmp_path / "nothing.json")
    assert done.code == 3
    assert "cannot read" in done.err
    done = boardfit("compare", before, tiny)
    assert done.code == 3
    assert "has no network to compare: No search has finished yet." in done.err
    assert "remedy: run `boardfit run` there" in done.err
