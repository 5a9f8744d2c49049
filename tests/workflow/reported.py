"""What a report of a finished project with boards must say."""

from __future__ import annotations

import pytest

from toolchain.report.document import Report
from toolchain.workflow.deploy import DeployOutcome
from toolchain.workflow.project import Project
from toolchain.workflow.report import gather


def check_report(project: Project, deployed: DeployOutcome) -> Report:
    """The figures are the deployment's, each with its evidence and its target's stack; on a board the memory is what
    the device counts, and the operators make up the cycles.
    """
    report = gather(project)
    assert report.status == "kept"
    rows = {row.metric: row for row in deployed.rows}
    stacks = {one.name: one.stack.fingerprint for one in deployed.targets}
    alone = next(iter(stacks.values())) if len(stacks) == 1 else ""
    assert [c.metric for c in report.costs] == [*rows]
    for cost in report.costs:
        row = rows[cost.metric]
        assert cost.measured is not None
        assert row.evidence is not None
        assert (cost.measured.value, cost.measured.evidence) == (row.measured, row.evidence.value)
        if row.evidence.value != "computed":
            assert cost.measured.stack == stacks.get(cost.metric.rpartition(":")[0], alone)
    assert set(stacks.values()) <= set(report.provenance.stacks)
    for target, one in zip(report.targets, deployed.targets, strict=True):
        assert target.stack == stacks[target.name]
        assert target.memory is not None
        assert all(step.number is not None for step in target.steps)
        if not target.url.startswith("virtual:"):
            continue
        assert "no hardware was used" in target.note
        assert f"anything on real hardware ({target.name})" in {m.what for m in report.missing}
        assert target.memory.device is not None
        assert target.memory.arena.value == target.memory.device.value == int(one.details["arena_bytes"])
        assert target.overhead is not None
        constant = target.overhead.value or 0.0
        cycles = constant + sum((s.number.value or 0) - constant for s in target.steps if s.number)
        metric = project.metric(next(t for t in project.config.target if t.name == target.name), "cycles")
        assert cycles == pytest.approx(rows[metric].measured, rel=0.02)
        clock = int(one.stack.as_dict()["clock_hz"])
        assert all(
            s.time is not None
            and s.number is not None
            and s.time.value == (s.number.value or 0) * 1e6 / clock
            for s in target.steps
        )
    return report
