"""What a report says first: what was asked, the network, its accuracy's trail, its costs, and one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from toolchain.measurement import Evidence, Stack
from toolchain.report.comparison import ComparisonRow
from toolchain.report.document import Accuracy, Block, Cost, ProjectFacts, Status, cost_of
from toolchain.report.document_target import Target
from toolchain.report.number import Number, shown
from toolchain.units import plain_metric
from toolchain.workflow.project import Project
from toolchain.workflow.report_search import predicted_number


def facts_of(project: Project) -> ProjectFacts:
    data, space = project.data, project.space
    sizes = ", ".join(f"{len(y):,} {split}" for split, y in data.y.items())
    shape = "x".join(str(d) for d in data.input_shape)
    return ProjectFacts(
        project.config.project.name,
        project.config.project.seed,
        f"{project.config.data.kind}: {len(data.classes)} classes, {shape}, samples {sizes}",
        data.fingerprint,
        f"{space.name}, {len(space.choices)} choices",
        f"{space.count():,}",
    )


def blocks_of(project: Project, found: Mapping[str, Any]) -> tuple[Block, ...]:
    def text(shape: Sequence[int]) -> str:
        return "x".join(str(d) for d in shape)

    return tuple(
        Block(row.name, row.candidate, text(row.input), text(row.output), row.params, row.macs)
        for row in project.space.describe(tuple(int(i) for i in found["architecture"]))
    )


def accuracy_of(
    found: Mapping[str, Any],
    exported: Mapping[str, Any] | None,
    deployed: Mapping[str, Any] | None,
    validation: int,
    test: int,
) -> tuple[Accuracy, ...]:
    """The accuracy's trail: estimator, supernet, float, int8, on each target.

    Args:
        validation, test: samples of these splits.
    """
    trail = []
    if found["selection"] is not None:
        chosen = found["selection"]
        number = Number(
            chosen["predicted_accuracy"], "share", "estimated", error=chosen["predicted_error"] or None
        )
        trail.append(Accuracy("estimator", "predicted from contributions", number))
    shared = Number(found["score"], "share", "shared_weights")
    trail.append(Accuracy("supernet", "validation, shared weights", shared, validation))
    for stage, value in (exported or {}).get("accuracy", {}).items():
        trail.append(Accuracy(stage, "test, trained", Number(value, "share", "reference"), test))
    for one in (deployed or {}).get("targets", ()):
        stack = Stack.of(one["stack"]).fingerprint
        equal = (
            "every value equal to the reference's"
            if one["differing"] == 0
            else f"same answer as the reference on {100 * one['agreement']:.1f} % of the samples"
        )
        trail.append(
            Accuracy(
                "target",
                one["name"],
                Number(one["accuracy"], "share", "on_target", "", stack),
                one["samples"],
                equal,
            )
        )
    return tuple(trail)


def costs_of(
    found: Mapping[str, Any], deployed: Mapping[str, Any] | None, targets: Sequence[Target]
) -> tuple[Cost, ...]:
    """Budgets first, then what else is known; measured where the network was deployed."""
    bounds = {b["metric"]: b["bound"] for b in found["budgets"]}
    measured = {row["metric"]: row for row in (deployed or {}).get("rows", ())}
    stacks = {
        one["name"]: Stack.of(one["stack"]).fingerprint for one in (deployed or {}).get("targets", ())
    } or {target.name: target.stack for target in targets}
    rows = []
    for metric in dict.fromkeys((*bounds, *measured, *found["predicted"])):
        one = measured.get(metric, {})
        owner = metric.rpartition(":")[0] or next(iter(stacks), "")
        kind = one.get("evidence")
        prediction = predicted_number(found, metric, found["predicted"].get(metric, float("nan")))
        row = ComparisonRow(
            metric,
            bounds.get(metric),
            found["predicted"].get(metric),
            one.get("measured"),
            None if kind is None else Evidence(kind),
            bool(one.get("unstable", False)),
        )
        plain = plain_metric(metric)
        computed = kind == Evidence.COMPUTED.value or plain in ("params", "macs")
        rows.append(cost_of(row, prediction, "" if computed else stacks.get(owner, "")))
    return tuple(rows)


def status_of(
    found: Mapping[str, Any] | None, rows: Sequence[Cost], deployed: bool, infeasible: bool
) -> Status:
    if found is None:
        return "infeasible" if infeasible else "empty"
    if not deployed:
        return "predicted"
    return "broken" if any(row.ok is False for row in rows) else "kept"


def headline_of(
    status: Status,
    found: Mapping[str, Any] | None,
    rows: Sequence[Cost],
    accuracy: Sequence[Accuracy],
    targets: Sequence[Target],
    why: str,
) -> str:
    if status == "empty":
        return "No search has finished yet."
    if status == "infeasible":
        return f"No network of the space keeps the budgets: {why}"
    assert found is not None
    best = accuracy[-1]
    name = ", ".join(target.name for target in targets)
    counted = [row for row in rows if row.budget is not None]
    if status == "predicted":
        return (
            f"A network was found that keeps {_all(len(counted))} by prediction; it has not been measured on "
            f"{name} yet."
        )
    broken = [row.metric for row in counted if row.ok is False]
    right = f"{shown(best.number)} of {best.samples:,} test samples right"
    if broken:
        return f"{', '.join(broken)} broken on {name}; {right}."
    open_ = [row.metric for row in counted if row.ok is None]
    rest = f", {', '.join(open_)} not measured" if open_ else ""
    kept = _all(len(counted) - len(open_))
    return f"{kept[:1].upper()}{kept[1:]} kept on {name}{rest}; {right}."


def _all(count: int) -> str:
    return {0: "no budget", 1: "the budget"}.get(count, f"all {count} budgets")
