"""Hardware in the loop: the best candidates are measured as whole networks, before anything is trained for long.

Costs of a network do not depend on its weights, so the chosen network and the next best ones run on the target as
soon as they are chosen. Where the prediction of the chosen one is further off than the tolerance, or its measured
value breaks a budget, the cost model is corrected (`workflow.corrections`) and selection runs again, in seconds, from
what is kept. A network that was measured is decided by its measurement, so one that was seen to break a budget is not
chosen again, and the rounds come to an end: each either measures something new or is the last.

Every round is recorded in results/rounds.json before its correction goes into the table, and recorded corrections are
offered to the table again at every start. So a run that is killed anywhere goes on with the round that it was in.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from profilers.lut import Lut
from toolchain.errors import InfeasibleError
from toolchain.measurement import Measurement
from toolchain.units import Budget, QuantileBudget
from toolchain.workflow.budgets import Prices, asked_budgets, priced
from toolchain.workflow.candidates import (
    MeasuredCandidate,
    compared,
    measure,
    measure_patches,
    next_best,
)
from toolchain.workflow.corrections import Learnt, forget_rows, keep, learn
from toolchain.workflow.costs import Costs, TargetCosts
from toolchain.workflow.project import Progress, Project, fingerprint, silent
from toolchain.workflow.search import SearchOutcome, search, search_inputs
from toolchain.workflow.sessions import MEASURED

STAGE = "rounds"
# run.tolerance where the project does not say.
TOLERANCE, BOARD_TOLERANCE = 5.0, 2.0


@dataclass(frozen=True)
class Round:
    """One round.

    Attributes:
        round: its number, from 1. seconds: that it took.
        candidates: what was measured, the winner first.
        correction: metric -> what was put into the table after this round; empty where nothing was.
        why: what followed from it.
        again: metric -> signatures of operators whose rows were measured again; those that moved are in `correction`.
    """

    round: int
    seconds: float
    candidates: tuple[MeasuredCandidate, ...]
    correction: Mapping[str, Mapping[str, Any]]
    why: str
    again: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class RoundsOutcome:
    """What the loop found.

    Attributes:
        search: the last selection.
        rounds: all, in order. tolerance: metric -> per cent. limit: on the number of rounds.
        settled: the prediction of the chosen network is within the tolerance, and what was measured keeps all budgets;
            True also where nothing that is measured has a budget. why: the reason.
        began: why the rounds were begun (again).
        reused: nothing had changed since the rounds that stand here.
    """

    search: SearchOutcome
    rounds: tuple[Round, ...]
    tolerance: Mapping[str, float]
    limit: int
    settled: bool
    why: str
    began: str
    reused: bool = False


def search_in_rounds(
    project: Project,
    *,
    progress: Progress = silent,
    budgets: tuple[Budget | QuantileBudget, ...] = (),
    force: bool = False,
    wait: bool = False,
    strict: bool = False,
) -> RoundsOutcome:
    """Search, measure, correct, and search again, until the winner's prediction holds; goes on where it was stopped.

    Args: as `workflow.run.run`.

    Raises:
        InfeasibleError: no network keeps the budgets by the costs as they are now; the rounds so far are recorded.
        DeviceError: a target cannot be opened or is busy. What was measured before stays.
    """
    asked = asked_budgets(project, budgets)
    prices = priced(project, asked, strict=strict)
    measured = _judged(project, prices[0], asked)
    tolerance = {
        project.metric(one.target, metric): _tolerance(project, one)
        for one in measured
        for metric in one.measured(1.0)
    }
    limit = project.config.run.rounds
    depends = _depends(project, asked, prices[0])
    began = project.why(STAGE, depends, force=force)
    stored = project.record(STAGE, depends, force=force)
    if force:
        forget_rows(project)
    reason = "" if stored is None else _contradicted(project, stored, measured)
    if reason:
        stored, began = None, reason
    elif stored is not None:
        began = str(stored["began"])
    rounds = [] if stored is None else [_round_from(one) for one in stored["rounds"]]
    kept = [keep(project, one.correction, measured) for one in rounds]
    if any(kept):  # stopped between the record and the table
        prices = priced(project, asked, strict=strict)
    done = stored is not None and bool(stored["done"])
    settled, why = (bool(stored["settled"]), str(stored["why"])) if stored else (False, "")

    def write(done: bool) -> None:
        values = {"tolerance": tolerance, "limit": limit, "settled": settled, "why": why}
        values |= {"done": done, "began": began}
        project.write_record(STAGE, depends, {**values, "rounds": [asdict(one) for one in rounds]})

    def selected(prices: Prices, force: bool) -> tuple[SearchOutcome, Prices]:
        """What the search finds when all operators of its networks' patches are measured, and the prices since."""
        found = search(project, progress=progress, budgets=budgets, force=force, strict=strict, prices=prices)
        while limit and not done:
            networks = list(next_best(project, prices[0], found, prices[1]))
            if not measure_patches(project, prices[0], networks, wait, progress):
                break
            prices = priced(project, asked, strict=strict)
            found = search(project, progress=progress, budgets=budgets, strict=strict, prices=prices)
        return found, prices

    try:
        found, prices = selected(prices, force)
    except InfeasibleError:
        if stored is None:  # earlier rounds led to a network that does not keep these budgets
            project.drop_record(STAGE)
        raise
    if done:
        return RoundsOutcome(found, tuple(rounds), tolerance, limit, settled, why, began, found.reused)
    while True:
        if not measured or not limit:
            settled = not measured
            why = "run.rounds is 0" if measured else "no budget on a measured metric: nothing to correct"
            break
        if len(rounds) == limit:
            settled, why = (
                False,
                f"the limit of {_rounds(limit)} is reached; the last choice is measured by deploy",
            )
            break
        started = time.monotonic()
        number = len(rounds) + 1
        networks = next_best(project, prices[0], found, prices[1])
        measured = _judged(project, prices[0], asked)
        if measure(project, measured, list(networks), f"round {number}", wait, progress):
            # Where the machine was faster than ever before, all values are told at that speed from now on.
            prices = priced(project, asked, strict=strict)
            measured = _judged(project, prices[0], asked)
        candidates = compared(project, measured, networks, found.architecture)
        verdict = _verdict(candidates[0], tolerance, found.budgets)
        learnt = Learnt({}, {})
        if verdict:
            learnt = learn(
                project,
                measured,
                candidates,
                number,
                tolerance,
                [one.again for one in rounds],
                fingerprint(depends),
                wait,
                progress,
            )
        if not verdict:
            settled, why = (
                True,
                f"round {number}: the prediction of the chosen network is within the tolerance",
            )
        elif not learnt.correction:
            settled, why = (
                False,
                f"{verdict}; it, its neighbours and their operators are measured, so another round learns nothing",
            )
        seconds = time.monotonic() - started
        rounds.append(Round(number, seconds, candidates, learnt.correction, verdict or why, learnt.again))
        write(done=not learnt.correction)
        forget_rows(project)
        if not learnt.correction:
            break
        keep(project, learnt.correction, measured)
        prices = priced(project, asked, strict=strict)
        why = verdict
        try:
            found, prices = selected(prices, False)
        except InfeasibleError:
            why = f"{verdict}; by the corrected costs no network keeps the budgets"
            write(done=True)
            raise
    write(done=True)
    return RoundsOutcome(found, tuple(rounds), tolerance, limit, settled, why, began)


def _depends(project: Project, asked: tuple[Budget | QuantileBudget, ...], costs: Costs) -> dict[str, str]:
    """What the rounds depend on: all that the search does, but for the corrections that they make."""
    inputs = search_inputs(project, asked, project.config.search.method, costs)
    del inputs["correction of costs"]
    return {**inputs, "run settings": fingerprint(project.config.run.model_dump())}


def _judged(project: Project, costs: Costs, asked: tuple[Budget | QuantileBudget, ...]) -> list[TargetCosts]:
    """The targets on which a budget is on something that is measured."""
    budgeted = {b.metric for b in asked}
    return [
        one
        for one in costs.targets
        if one.values and any(project.metric(one.target, metric) in budgeted for metric in MEASURED)
    ]


def _tolerance(project: Project, costs: TargetCosts) -> float:
    given = project.config.run.tolerance
    usual = TOLERANCE if costs.device is None else BOARD_TOLERANCE
    return usual if given is None else given


def _verdict(winner: MeasuredCandidate, tolerance: Mapping[str, float], budgets: tuple[Budget, ...]) -> str:
    """What is wrong with the winner's prediction; "" when nothing is."""
    unknown = [metric for metric in tolerance if metric not in winner.measured]
    if unknown:
        return f"{unknown[0]} of the chosen network could not be measured"
    broken = [b for b in budgets if b.metric in winner.measured and not b.keeps(winner.measured[b.metric])]
    if broken:
        return f"{broken[0].metric} of the chosen network breaks its budget"
    off = {m: winner.error_percent[m] for m in tolerance if abs(winner.error_percent[m]) > tolerance[m]}
    for metric, error in off.items():
        return f"{metric} of the chosen network is predicted {error:+.1f} % off, tolerance {tolerance[metric]:g} %"
    return ""


def _contradicted(project: Project, stored: Mapping[str, Any], measured: list[TargetCosts]) -> str:
    """Why finished rounds do not stand: deploy has measured their winner since, and it breaks a budget that it kept."""
    record = project.latest("search")
    if not stored["done"] or not stored["rounds"] or record is None:
        return ""
    budgets = [Budget(b["metric"], b["bound"]) for b in record["budgets"]]
    before = {c["text"]: c["measured"] for one in stored["rounds"] for c in one["candidates"]}
    for one in measured:
        with Lut.open(project.lut_path) as lut:
            rows = {network.name: found for network, found in lut.networks(one.stack, one.metric)}
        found: Measurement | None = rows.get(record["text"])
        if found is None or found.unstable:
            continue
        for plain, value in one.measured(found.value).items():
            metric = project.metric(one.target, plain)
            broken = [b for b in budgets if b.metric == metric and not b.keeps(value)]
            if broken and any(b.keeps(before.get(record["text"], {}).get(metric, 0.0)) for b in broken):
                return f"{metric} of the deployed network breaks its budget"
    return ""


def _round_from(stored: Mapping[str, Any]) -> Round:
    candidates = tuple(
        replace(MeasuredCandidate(**one), architecture=tuple(int(i) for i in one["architecture"]))
        for one in stored["candidates"]
    )
    again = {metric: tuple(names) for metric, names in stored.get("again", {}).items()}
    return Round(stored["round"], stored["seconds"], candidates, stored["correction"], stored["why"], again)


def _rounds(count: int) -> str:
    return "1 round" if count == 1 else f"{count} rounds"
