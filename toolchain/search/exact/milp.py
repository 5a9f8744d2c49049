"""The arc-flow program in HiGHS: the fallback where label setting meets its cap, and an independent cross-check.

max Σ v_e x_e, flow conservation, Σ t_e x_e <= T per budget, x binary. HiGHS calculates in floats with tolerances, so
costs are divided by their limits, and whatever it returns is a path of arcs that is added up again in integers.
highspy is an optional dependency (the extra `solvers`); it cannot share a process with ortools.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from toolchain.errors import ConfigurationError
from toolchain.search.exact.model import ArcFlow
from toolchain.search.protocols import Ints

_ROUNDS: Final = 20
_SLACK: Final = 1e-6  # HiGHS's feasibility tolerance, which it may use up against us


@dataclass(frozen=True, slots=True)
class MilpResult:
    """What HiGHS found, checked in integers.

    Attributes:
        path: arc indices; empty when there is none.
        value: of the path, in steps.
        proved: HiGHS ended with gap 0 (in its own tolerances), or says that there is no path.
    """

    path: tuple[int, ...]
    value: int
    proved: bool


def available() -> bool:
    """True when highspy can be imported."""
    return importlib.util.find_spec("highspy") is not None


def solve_milp(
    model: ArcFlow,
    costs: Ints,
    limits: Ints,
    alive: npt.NDArray[np.bool_],
    seconds: float = 60.0,
) -> MilpResult:
    """The path of the largest value on the arcs `alive` whose costs (arcs x kinds) keep their limits (kinds,).

    A path that HiGHS's tolerance let through above a limit is cut off and the rest solved again.

    Raises:
        ConfigurationError: highspy is not installed.
    """
    if not available():
        raise ConfigurationError("HiGHS is not installed", remedy="pip install 'boardfit[solvers]'")
    import highspy

    ids = np.flatnonzero(alive)
    if not len(ids):
        return MilpResult((), 0, True)
    count, kinds = len(ids), len(limits)
    start, end = model.start[ids], model.end[ids]
    value, cost = model.value[ids].astype(float), costs[ids]
    scale = np.maximum(np.abs(limits), 1).astype(float)
    solver = highspy.Highs()  # type: ignore[no-untyped-call]
    solver.setOptionValue("output_flag", False)
    solver.setOptionValue("threads", 1)
    solver.setOptionValue("mip_rel_gap", 0.0)
    solver.setOptionValue("mip_abs_gap", 0.5 * _unit(value))
    solver.setOptionValue("time_limit", float(seconds))
    rows = model.nodes - 1  # flow out minus flow in; the sink's row follows from the others
    program = highspy.HighsLp()
    program.num_col_, program.num_row_ = count, rows + kinds
    program.sense_ = highspy.ObjSense.kMaximize
    program.col_cost_ = value / _scale(value)
    program.col_lower_, program.col_upper_ = np.zeros(count), np.ones(count)
    program.integrality_ = [highspy.HighsVarType.kInteger] * count
    balance = np.zeros(rows)
    balance[0] = 1.0
    program.row_lower_ = np.concatenate([balance, np.full(kinds, -highspy.kHighsInf)])
    program.row_upper_ = np.concatenate([balance, limits / scale])
    entries = [(start, np.ones(count)), (end, -np.ones(count))]
    entries += [(np.full(count, rows + r), cost[:, r] / scale[r]) for r in range(kinds)]
    row = np.concatenate([e[0] for e in entries])
    column = np.tile(np.arange(count), len(entries))
    number = np.concatenate([e[1] for e in entries])
    keep = (row != model.nodes - 1) | (np.repeat(np.arange(len(entries)), count) >= 2)
    keep &= number != 0
    row, column, number = row[keep], column[keep], number[keep]
    order = np.lexsort((row, column))
    program.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    program.a_matrix_.start_ = np.concatenate([[0], np.cumsum(np.bincount(column, minlength=count))])
    program.a_matrix_.index_ = row[order]
    program.a_matrix_.value_ = number[order]
    solver.passModel(program)
    for _ in range(_ROUNDS):
        solver.run()
        status = solver.getModelStatus()
        if status == highspy.HighsModelStatus.kInfeasible:
            return MilpResult((), 0, True)
        info = solver.getInfo()
        if info.primal_solution_status != 2:
            return MilpResult((), 0, False)
        chosen = np.flatnonzero(np.array(solver.getSolution().col_value) > 0.5)
        path = tuple(ids[chosen].tolist())
        if (costs[list(path)].sum(0) <= limits).all():
            proved = status == highspy.HighsModelStatus.kOptimal
            return MilpResult(path, int(model.value[list(path)].sum()), bool(proved))
        solver.addRow(
            -highspy.kHighsInf, len(chosen) - 1.0, len(chosen), chosen.astype(np.int32), np.ones(len(chosen))
        )
    return MilpResult((), 0, False)


def _scale(value: npt.NDArray[np.float64]) -> float:
    """Objective coefficients around 1: HiGHS's tolerances are absolute."""
    return max(1.0, float(np.abs(value).max(initial=1.0)))


def _unit(value: npt.NDArray[np.float64]) -> float:
    return 1.0 / _scale(value)
