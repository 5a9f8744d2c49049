"""What a round learns from its measured candidates: one factor on sums, and rows that are measured again.

The factor of `profilers.correct` mends what all networks share. Where it leaves a candidate further off than the
tolerance, rows of single operators are wrong: then the operators of the candidates are measured again, and where most
rows of a kind moved, the rest of that kind in the space as well. What moved by more than the tolerance stands anew in
the table, and the factor is fitted on the new sums. An operator is measured again once in a loop. Until the round is
recorded the new rows lie in a file of their own, row by row, so that a run that is stopped goes on there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from profilers.correct import (
    Candidate,
    Correction,
    RowAgain,
    correction_row,
    fit_correction,
    has_moved,
    wrong_kinds,
)
from profilers.lut import Lut, Network
from profilers.lut_rows import now
from profilers.profile import profile_operators, session_metric
from profilers.steady import slowdown, steady_table
from targets.session import Session
from toolchain.export.native.plan import Plan
from toolchain.graph import Graph, Operator
from toolchain.measurement import Measurement
from toolchain.workflow.candidates import MeasuredCandidate
from toolchain.workflow.config import TargetSection
from toolchain.workflow.costs import TargetCosts, calibration_fingerprint, scope_of
from toolchain.workflow.models import structural_graph
from toolchain.workflow.project import Progress, Project
from toolchain.workflow.sessions import open_session
from toolchain.workflow.targets import each

SAME = 1e-3  # share of a measured value below which a new one says nothing new
_BESIDE = "again-"  # begins the names of files with rows of a round that is not recorded yet


@dataclass(frozen=True)
class Learnt:
    """What a round learnt.

    Attributes:
        correction: metric -> the correction as it is kept in the table; empty where nothing is new.
        again: metric -> signatures of the operators that were measured again, moved or not.
    """

    correction: Mapping[str, Mapping[str, Any]]
    again: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, eq=False)
class _Seen:
    """A network that was measured, as it ran then. `value`: in the metric's unit at the machine's best known speed."""

    graph: Graph
    plan: Plan
    network: Network
    value: float
    candidate: bool


def learn(
    project: Project,
    measured: Sequence[TargetCosts],
    candidates: tuple[MeasuredCandidate, ...],
    number: int,
    tolerance: Mapping[str, float],
    again: Iterable[Mapping[str, tuple[str, ...]]],
    loop: str,
    wait: bool,
    progress: Progress,
) -> Learnt:
    """The corrections that all networks measured so far ask for, with the rows that had to be measured again.

    Args:
        candidates: of the round, the winner first. number: the round's.
        again: what earlier rounds of the loop measured again.
        loop: what tells this loop from others, in a file's name: rows that it measured again before it was stopped are
            taken, until `forget_rows`.

    Raises:
        DeviceError: a target cannot be opened or is busy; nothing is learnt then, and no row is lost.
    """
    names = {one.target.name: project.metric(one.target, one.metric) for one in measured}
    networks = {one.target.name: _seen(project, one, candidates) for one in measured}
    known = [one for one in measured if networks[one.target.name]]
    winner = candidates[0].architecture

    def fitted(one: TargetCosts, rows: Sequence[RowAgain] = ()) -> Correction:
        return _fitted(project, one, networks[one.target.name], winner, number, rows)

    factors = {one.target.name: fitted(one) for one in known}
    new = any(_is_new(one, networks[one.target.name]) for one in known)
    wanted: dict[str, tuple[TargetCosts, list[Operator]]] = {}
    for one in known:
        name, limit = one.target.name, tolerance[names[one.target.name]]
        done = {signature for earlier in again for signature in earlier.get(names[name], ())}
        if not new or _left_percent(one, factors[name], networks[name]) > limit:
            inside = dict.fromkeys(op for s in networks[name] if s.candidate for op in s.network.operators)
            asked = [op for op in inside if op in one.values or op in one.patched]
            if asked := [op for op in asked if op.signature not in done]:
                wanted[name] = one, asked

    beside = project.checkpoint(f"{_BESIDE}{loop}-{number}.sqlite")

    def work(target: TargetSection, tell: Progress) -> tuple[tuple[str, ...], tuple[RowAgain, ...]]:
        one, asked = wanted[target.name]
        with open_session(target.url, target.precision, tell) as session:
            table = _Again(project, one, session, beside, f"round {number}", wait, tell)
            return table.measured(asked, tolerance[names[target.name]])

    found = each([one.target for one, _ in wanted.values()], work, progress) if wanted else []
    results = dict(zip(wanted, found, strict=True))
    checked = {names[name]: signatures for name, (signatures, _) in results.items()}
    if not new and not any(rows for _, rows in results.values()):
        return Learnt({}, checked)
    corrections = {}
    for one in known:
        plain = factors[one.target.name]
        _, rows = results.get(one.target.name, ((), ()))
        kept = replace(fitted(one, rows), error_before_percent=plain.error_before_percent) if rows else plain
        corrections[names[one.target.name]] = {**json.loads(kept.to_json()), "created_at": now()}
    return Learnt(corrections, checked)


def keep(project: Project, correction: Mapping[str, Any], measured: Iterable[TargetCosts]) -> bool:
    """Put a round's corrections and rows into the table, where they are not there yet.

    Returns:
        Whether anything was not there.
    """
    new = False
    for costs in measured:
        stored = correction.get(project.metric(costs.target, costs.metric))
        if stored is None:
            continue
        values = dict(stored)
        created = str(values.pop("created_at"))
        found = Correction.from_json(json.dumps(values))
        with Lut.open(project.lut_path) as lut:
            rows = [row.row(costs.stack) for row in found.rows]
            report = lut.absorb(rows, [correction_row(costs.stack, found, created)])
        new = new or bool(report.added + report.replaced + report.calibrations)
    return new


def forget_rows(project: Project) -> None:
    """Drop the rows that a round measured again: they are recorded, or to be measured anew."""
    for path in project.checkpoint(_BESIDE).parent.glob(f"{_BESIDE}*"):
        path.unlink(missing_ok=True)


def _seen(project: Project, one: TargetCosts, candidates: tuple[MeasuredCandidate, ...]) -> tuple[_Seen, ...]:
    """The round's candidates, and the networks behind the correction in force, that have a row."""
    names = {c.text: c.architecture for c in candidates}
    mine = set(names)
    names |= {n.name: project.space.decode(n.name) for n in one.correction.networks} if one.correction else {}
    with Lut.open(project.lut_path) as lut:
        values = steady_table(lut, one.stack, one.metric).values
    found = []
    for name, architecture in names.items():
        graph = structural_graph(project, architecture, one.target.precision)
        plan = one.plan(graph)
        network = Network(name, plan.operators(graph))
        if network in values:
            found.append(_Seen(graph, plan, network, values[network], name in mine))
    return tuple(found)


def _is_new(one: TargetCosts, networks: Iterable[_Seen]) -> bool:
    """Whether a candidate, or its value, is not behind the correction in force already."""
    if one.correction is None or one.correction.calibration != calibration_fingerprint(one.calibration):
        return True
    behind = {network.name: network.measured for network in one.correction.networks}
    return any(
        abs(s.value - behind.get(s.network.name, 0.0)) > SAME * s.value for s in networks if s.candidate
    )


def _fitted(
    project: Project,
    one: TargetCosts,
    networks: Iterable[_Seen],
    winner: tuple[int, ...],
    number: int,
    rows: Sequence[RowAgain],
) -> Correction:
    costs = one.with_rows({Operator.parse(row.signature): row.value for row in rows})

    def predicted(graph: Graph, plan: Plan) -> float:
        return costs.of_graph(graph, plan)[one.metric] / one.factor

    graph = structural_graph(project, winner, one.target.precision)
    return fit_correction(
        [
            Candidate(s.network.name, s.network.fingerprint, predicted(s.graph, s.plan), s.value)
            for s in networks
        ],
        metric=one.metric,
        stack=one.stack,
        scope=scope_of(one.chain),
        at=predicted(graph, one.plan(graph)),
        calibration=calibration_fingerprint(one.calibration),
        usual_error=None if one.mape is None else one.mape / 100,
        round=number,
        before=one.factor,
        rows=rows,
    )


def _left_percent(one: TargetCosts, found: Correction, networks: Iterable[_Seen]) -> float:
    """How far the factor leaves the worst of the round's candidates off."""
    predicted = {network.key: network.predicted for network in found.networks}
    return max(
        (
            abs(100 * (found.factor * predicted[s.network.fingerprint] / s.value - 1))
            for s in networks
            if s.candidate
        ),
        default=0.0,
    )


class _Again:
    """Measures operators of one target again, beside the table: a round's rows go in when the round is recorded."""

    def __init__(
        self,
        project: Project,
        costs: TargetCosts,
        session: Session,
        beside: Path,
        title: str,
        wait: bool,
        tell: Progress,
    ) -> None:
        with Lut.open(project.lut_path) as lut:
            table = steady_table(lut, costs.stack, costs.metric)
            rows = lut.rows(costs.stack, costs.metric, subject="operator")
        self._taken_at = {row.subject: row.measurement.taken_at for row in rows if not row.failed}
        self._costs, self._session, self._title, self._wait, self._tell = costs, session, title, wait, tell
        self._beside = beside
        self._there = {op: v for op, v in table.values.items() if isinstance(op, Operator)}
        self._speed = table.best_anchor_us

    def measured(
        self, asked: Sequence[Operator], tolerance_percent: float
    ) -> tuple[tuple[str, ...], tuple[RowAgain, ...]]:
        """Operators, then all others of the space that are of a kind whose rows moved: (all, those that moved)."""
        found = self._values(asked)
        ratios = {op: value / self._there[op] for op, (value, _) in found.items() if op in self._there}
        wrong = wrong_kinds(ratios, tolerance_percent)
        rest = [op for op in self._there if op in self._costs.values and op.kind in wrong and op not in found]
        found |= self._values(rest)
        rows = [
            RowAgain.of(op, self._there.get(op), value, self._speed or 1.0, measurement)
            for op, (value, measurement) in found.items()
            if op not in self._there or has_moved(value / self._stood(op), tolerance_percent)
        ]
        return tuple(op.signature for op in (*asked, *rest)), tuple(rows)

    def _stood(self, op: Operator) -> float:
        """The row's value, or what was predicted in its place."""
        return self._there[op] if op in self._there else self._costs.values[op]

    def _values(self, operators: Sequence[Operator]) -> dict[Operator, tuple[float, Measurement]]:
        """(value at the best known speed, measurement); refused and unstable ones say nothing."""
        self._beside.parent.mkdir(parents=True, exist_ok=True)
        with Lut.open(self._beside) as fresh:
            profile_operators(
                fresh, self._session, operators, wait=self._wait,
                progress=lambda done, total: self._tell(self._title, done, total, "operators measured again"),
            )  # fmt: skip
            rows = fresh.rows(self._session.stack, session_metric(self._session), subject="operator")
        asked = set(operators)
        return {
            row.subject: (
                row.value / slowdown(row.measurement, self._speed),
                self._newer(row.subject, row.measurement),
            )
            for row in rows
            if isinstance(row.subject, Operator) and row.subject in asked and not (row.failed or row.unstable)
        }

    def _newer(self, op: Operator, found: Measurement) -> Measurement:
        """The newer row stands: targets tell whole seconds, so one that seems no newer than the old one gets a time."""
        return found if found.taken_at > self._taken_at.get(op, "") else replace(found, taken_at=now())
