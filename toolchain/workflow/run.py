"""The whole loop: profile, search in rounds that measure and correct, export, deploy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from toolchain.units import Budget, QuantileBudget
from toolchain.workflow.deploy import DeployOutcome, deploy
from toolchain.workflow.export import ExportOutcome, export
from toolchain.workflow.exported import STAGE as EXPORT
from toolchain.workflow.profile import ProfileOutcome, profile
from toolchain.workflow.project import Progress, Project, silent
from toolchain.workflow.report import write_report
from toolchain.workflow.rounds import RoundsOutcome, search_in_rounds
from toolchain.workflow.search import SearchOutcome


@dataclass(frozen=True)
class RunOutcome:
    """What each stage did, and the page that shows it."""

    profile: ProfileOutcome
    search: SearchOutcome
    rounds: RoundsOutcome
    export: ExportOutcome
    deploy: DeployOutcome
    report: Path


def run(
    project: Project,
    *,
    progress: Progress = silent,
    budgets: tuple[Budget | QuantileBudget, ...] = (),
    force: bool = False,
    wait: bool = False,
    strict: bool = False,
) -> RunOutcome:
    """All four stages in order, and the report. Stages whose inputs did not change are not done again, unless forced;
    measuring the deployed network always is.

    Args:
        budgets: replace those of the project file metric by metric.
        wait: wait for another process that measures on a device, or runs in this project.
        strict: refuse prices that rest on predicted operators.

    Raises:
        VerificationError: the exported files do not agree; nothing is deployed then.
        BoardfitError: as the stages do.
    """
    with project.held(wait=wait):
        if force:
            project.set_aside(
                EXPORT
            )  # the last of the stages, so it would be forgotten by an interrupted run
        profiled = profile(project, progress=progress, wait=wait)
        found = search_in_rounds(
            project, progress=progress, budgets=budgets, force=force, wait=wait, strict=strict
        )
        exported = export(project, progress=progress, force=force)
        exported.verification.raise_for_breach()
        deployed = deploy(project, progress=progress, wait=wait)
        progress("report", 0, 1, "")
        report = write_report(project)
        progress("report", 1, 1, str(report))
        return RunOutcome(profiled, found.search, found, exported, deployed, report)
