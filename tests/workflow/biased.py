"""A project on a virtual board whose table is wrong, as if it had been measured on another one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from profilers.lut import Lut
from targets.session import describe
from tests.workflow.projects import channels_of, edit, make_project
from toolchain.graph.operator import Operator
from toolchain.measurement import Measurement
from toolchain.workflow.costs import open_costs
from toolchain.workflow.profile import profile
from toolchain.workflow.project import open_project

BOARD = "virtual:nucleo-l4r5zi"


def wide_project(folder: Path, *, samples: str, search_epochs: int, epochs: int) -> Path:
    """30 networks and a table of their operators.

    Args:
        samples: in place of "samples = 8" in the project file.
    """
    make_project(
        folder,
        space=channels_of(3, 4, 5, 6, 8),
        url=BOARD,
        budgets='cycles = "1 M"',
        search_epochs=search_epochs,
        epochs=epochs,
    )
    edit(folder, "samples = 8", samples)
    profile(open_project(folder))
    return folder


def bias(folder: Path, factor: Callable[[Operator], float]) -> None:
    """As if the table had been measured on another board: operators' rows, but not those of whole networks."""
    stack = describe(BOARD).stack
    with Lut.open(folder / "lut.sqlite") as lut:
        for row in lut.rows(stack, "cycles", subject="operator"):
            assert isinstance(row.subject, Operator)
            found = row.measurement
            value = found.value * factor(row.subject)
            lut.put(stack, row.subject, Measurement("cycles", value, found.evidence, details=found.details))


def price_of_the_middle(folder: Path) -> float:
    """Cycles that half of the networks keep, by the table before it was biased."""
    project = open_project(folder)
    prices = open_costs(project, ["cycles"]).table.price(list(project.space))[:, 0]
    return float(sorted(prices)[len(prices) // 2])
