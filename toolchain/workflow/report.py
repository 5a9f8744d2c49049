"""The report stage: what the records, the table and the files of a project say, gathered into one document.

Nothing is measured, trained or searched here, and no device is opened. What cannot be told is not an error: it stands
in the document's list of what is missing, with the command that gets it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from toolchain.files import write_atomic
from toolchain.measurement import Stack
from toolchain.report.document import Missing, Provenance, Record, Report
from toolchain.report.document_target import Target
from toolchain.report.number import EVIDENCE
from toolchain.report.page import page
from toolchain.workflow.costs import Costs
from toolchain.workflow.deploy import STAGE as DEPLOY
from toolchain.workflow.exported import STAGE as EXPORT
from toolchain.workflow.exported import changed_file
from toolchain.workflow.project import Project
from toolchain.workflow.report_answer import (
    accuracy_of,
    blocks_of,
    costs_of,
    facts_of,
    headline_of,
    status_of,
)
from toolchain.workflow.report_search import (
    choices_of,
    course_of,
    infeasible_of,
    measured_networks,
    open_prices,
    rounds_of,
)
from toolchain.workflow.report_targets import gather_target, stacks_of
from toolchain.workflow.search import STAGE as SEARCH

PAGE: Final = "report.html"
ROUNDS: Final = "rounds"
_COMMANDS: Final = (
    ("boardfit profile", "measures the operators of the space into the table"),
    ("boardfit search", "finds the network under the budgets"),
    ("boardfit export", "trains it, quantises it, writes and verifies its files"),
    ("boardfit deploy", "checks it on the target and measures it there"),
    ("boardfit run", "does all of this, as often as the tolerance asks"),
    ("boardfit report", "writes this report"),
)
# Packages whose versions change numbers.
_PACKAGES: Final = (
    "boardfit", "numpy", "torch", "tflite", "tflite-micro", "ai-edge-litert", "onnxruntime", "unicorn", "ziglang",
)  # fmt: skip


def write_report(project: Project, path: Path | None = None, report: Report | None = None) -> Path:
    """Write a project's report as one HTML file.

    Args:
        path: by default results/report.html of the project.
        report: by default gathered here.

    Raises:
        ConfigurationError: the project's data or space cannot be read.
        BoardfitError: the file cannot be written.
    """
    path = project.results / PAGE if path is None else path
    write_atomic(path, page(gather(project) if report is None else report).encode())
    return path


def gather(project: Project, now: datetime | None = None) -> Report:
    """What is known of a project, in one document.

    Args:
        now: the time that stands in it; by default the present.

    Raises:
        ConfigurationError: the project's data or space cannot be read.
    """
    missing: list[Missing] = []
    records = _records(project)
    found = project.latest(SEARCH)
    exported = _of(found, project.latest(EXPORT))
    deployed = _of(found, project.latest(DEPLOY))
    files = exported is not None and changed_file(project, exported) is None
    costs = open_prices(project, missing)
    if found is not None and costs is not None and _other_stacks(found, costs):
        missing.append(
            Missing(
                "prices of networks beside the winner",
                "today's target is of another stack (firmware, board, versions) than the search's prices",
                "`boardfit profile`, then `boardfit search`",
            )
        )
        costs = None
    prices = {} if found is None else {one["name"]: one for one in found["targets"]}
    places = {} if deployed is None else {one["name"]: one for one in deployed["targets"]}
    targets = tuple(
        gather_target(
            project, section, prices.get(section.name, {}), places.get(section.name), files, missing
        )
        for section in project.config.target
    )
    rows = () if found is None else costs_of(found, deployed, targets)
    infeasible = None if found is not None or costs is None else infeasible_of(project, costs)
    status = status_of(found, rows, deployed is not None, infeasible is not None)
    loop = project.latest(ROUNDS)
    if loop is not None and loop["settings"] != project.settings:
        loop = None
    sizes = {split: len(y) for split, y in project.data.y.items()}
    accuracy = () if found is None else accuracy_of(found, exported, deployed, sizes["val"], sizes["test"])
    course = choices = rounds = None
    if found is not None:
        winner = [(row.metric, row.measured) for row in rows if row.measured is not None]
        course = course_of(found, costs, measured_networks(found, loop, winner), missing)
        choices = choices_of(found, costs)
        rounds = rounds_of(found, loop)
    _note_damage(project, records, missing)
    _note_stages(records, found, exported, deployed, missing)
    if found is not None and rounds is None:
        missing.append(
            Missing(
                "whole networks beside the winner on the target",
                "the loop measured no candidates",
                "`boardfit run`",
            )
        )
    _note_virtual(targets, missing)
    return Report(
        (now or datetime.now(UTC)).isoformat(timespec="seconds"),
        metadata.version("boardfit"),
        facts_of(project),
        status,
        headline_of(status, found, rows, accuracy, targets, infeasible.message if infeasible else ""),
        "" if found is None else found["text"],
        () if found is None else blocks_of(project, found),
        accuracy,
        rows,
        infeasible,
        course,
        targets,
        choices,
        rounds,
        _provenance(project, records, targets, deployed, exported),
        tuple(dict.fromkeys(missing)),
    )


def _of(found: Mapping[str, Any] | None, record: dict[str, Any] | None) -> dict[str, Any] | None:
    """A later stage's record, where it is of the network that the search found."""
    return record if found is not None and record is not None and record["text"] == found["text"] else None


def _other_stacks(found: Mapping[str, Any], costs: Costs) -> bool:
    today = {one.target.name: one.stack.fingerprint for one in costs.targets}
    return any(one["stack"] != today.get(one["name"]) for one in found["targets"])


def _records(project: Project) -> tuple[Record, ...]:
    found = []
    for stage in (SEARCH, ROUNDS, EXPORT, DEPLOY):
        stored = project.latest(stage)
        if stored is not None:
            written = (project.results / f"{stage}.json").stat().st_mtime
            found.append(
                Record(
                    stage,
                    datetime.fromtimestamp(written, UTC).isoformat(timespec="seconds"),
                    stored["inputs"],
                    stored["settings"] == project.settings,
                )
            )
    return tuple(found)


def _note_damage(project: Project, records: Sequence[Record], missing: list[Missing]) -> None:
    read = {record.stage for record in records}
    for stage in (SEARCH, ROUNDS, EXPORT, DEPLOY):
        path = project.results / f"{stage}.json"
        if stage not in read and path.exists():
            missing.append(
                Missing(
                    f"what {stage} found",
                    f"{path.name} is damaged",
                    f"`boardfit {'run' if stage == ROUNDS else stage}`",
                    damaged=True,
                )
            )


def _note_stages(
    records: Sequence[Record],
    found: Mapping[str, Any] | None,
    exported: Mapping[str, Any] | None,
    deployed: Mapping[str, Any] | None,
    missing: list[Missing],
) -> None:
    stages = {record.stage for record in records}
    if found is None:
        missing.append(Missing("the network", "no search has finished", "`boardfit search`"))
    for stage, record in ((EXPORT, exported), (DEPLOY, deployed)):
        if record is not None:
            continue
        what = {
            EXPORT: "accuracy after training, files, operators and memory of the network",
            DEPLOY: "what the network costs on the target, and its answers there",
        }[stage]
        why = (
            f"what {stage} left is of another network than the search found"
            if stage in stages and found is not None
            else f"{stage} has not finished"
        )
        missing.append(Missing(what, why, f"`boardfit {stage}`"))
    for left in records:
        if not left.current:
            missing.append(
                Missing(
                    f"{left.stage} under today's project file",
                    "its result was made under other settings (data, space, target, budgets or search)",
                    "`boardfit run`",
                )
            )


def _note_virtual(targets: Sequence[Target], missing: list[Missing]) -> None:
    for target in targets:
        if target.url.startswith("virtual:"):
            missing.append(
                Missing(
                    f"anything on real hardware ({target.name})",
                    "the target is a virtual board: its firmware ran in an emulator, cycles come from a timing model",
                    f"set target.url to a real board, e.g. `serial:/dev/ttyACM0?board={target.url.partition(':')[2]}`",
                )
            )


def _provenance(
    project: Project,
    records: tuple[Record, ...],
    targets: Sequence[Target],
    deployed: Mapping[str, Any] | None,
    exported: Mapping[str, Any] | None,
) -> Provenance:
    known = stacks_of(project)
    used = {target.stack: known[target.stack] for target in targets if target.stack in known}
    for one in (deployed or {}).get("targets", ()):
        used[Stack.of(one["stack"]).fingerprint] = one["stack"]
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    digests = (exported or {}).get("sha256", {})
    sizes = (exported or {}).get("files", {})
    return Provenance(
        used,
        versions,
        _COMMANDS,
        records,
        {name: (int(sizes[name]), str(digests[name])) for name in sorted(sizes) if name in digests},
        dict(EVIDENCE),
    )
