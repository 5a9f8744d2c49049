"""The pictures: files that open, the same bytes again, labels with units, and a plain word without matplotlib."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from toolchain.errors import ConfigurationError
from toolchain.report.plots import (
    Bar,
    FrontPicture,
    Panel,
    Point,
    RankingPicture,
    plot_front,
    plot_panels,
    plot_ranking,
)

pytest.importorskip("matplotlib")

FRONT = FrontPicture(
    metric="latency_us",
    evidence="predicted from host_wall",
    costs=np.array([400.0, 900.0, 2500.0]),
    accuracies=np.array([0.7, 0.8, 0.9]),
    chosen=Point(900.0, 0.8),
    alternatives=(Point(880.0, 0.79),),
    bound=1000.0,
    within="ram_bytes ≤ 10.000 kB",
    held="flash_bytes ≤ 64.000 kB",
    held_costs=np.array([400.0, 900.0]),
    held_accuracies=np.array([0.7, 0.75]),
)
BARS = tuple(
    Bar(str(g), s, 0.01 * g, 0.002) for g in (1, 2) for s in ("kernel 5 instead of 3", "squeeze excite")
)
RANKING = RankingPicture(np.array([0.5, 0.6]), np.array([0.5, 0.7]), np.array([0.02, 0.02]), 1.0, 1.0, 359)


def test_a_front_names_its_unit_its_evidence_and_its_budgets(tmp_path: Path) -> None:
    png, svg = plot_front(FRONT, tmp_path / "plots" / "front")
    assert png.read_bytes().startswith(b"\x89PNG")
    text = svg.read_text()
    for part in (
        "latency [ms], predicted from host_wall",
        "ram_bytes ≤ 10",
        "flash_bytes ≤ 64",
        "chosen",
        "budget",
        "3 networks",
    ):
        assert part in text, part


def test_ranking_and_panels_are_labelled(tmp_path: Path) -> None:
    text = plot_ranking(RANKING, tmp_path / "ranking")[1].read_text()
    assert "Kendall 1.00, Spearman 1.00" in text
    assert "359 samples" in text
    panels = (Panel("by stage", "stage", BARS), Panel("nothing", "stage", ()))
    text = plot_panels(panels, "What adds", tmp_path / "panels")[1].read_text()
    for part in ("What adds", "by stage", "kernel 5 instead of 3", "percentage points", "standard error"):
        assert part in text, part
    assert "nothing" not in text


def test_the_same_picture_gives_the_same_bytes(tmp_path: Path) -> None:
    first = [path.read_bytes() for path in plot_front(FRONT, tmp_path / "a")]
    assert [path.read_bytes() for path in plot_front(FRONT, tmp_path / "a")] == first


def test_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nothing to draw"):
        plot_panels((), "empty", tmp_path / "empty")


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigurationError, match=r"plots need matplotlib .*boardfit\[plots\]"):
        plot_front(FRONT, tmp_path / "front")
