"""How an exported and a deployed network are shown, and the whole loop."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from toolchain.cli.console import print_json, print_prose, print_table, stdout
from toolchain.cli.progress import duration
from toolchain.cli.show.finding import search, search_json
from toolchain.cli.show.loop import rounds, rounds_json
from toolchain.cli.show.measuring import profile, profile_json
from toolchain.cli.show.words import again, count, note, stack_note

if TYPE_CHECKING:
    from toolchain.export.verify import Comparison
    from toolchain.workflow.deploy import DeployOutcome, UndoOutcome
    from toolchain.workflow.dry_run import DryRun
    from toolchain.workflow.export import CProject, ExportOutcome
    from toolchain.workflow.run import RunOutcome


def export(outcome: ExportOutcome, as_json: bool, c_project: CProject | None = None) -> None:
    """Files and comparisons; and the C project, where one was written."""
    if as_json:
        more = {} if c_project is None else {"c_project": asdict(c_project)}
        print_json("export", {**export_json(outcome), **more})
        return
    title = f"Files in {outcome.folder}{again(outcome.why, outcome.reused, 'files')}"
    print_table(
        title, ("file", "bytes|"), [(name, f"{size:,}") for name, size in sorted(outcome.files.items())]
    )
    sizes = {row.samples for row in outcome.verification.rows if row.samples}
    print_table(
        "Verification on the test split"
        + "".join(f" ({count(size, 'sample')})" for size in sizes if len(sizes) == 1),
        (
            "compared",
            "status",
            *(["samples|"] if len(sizes) > 1 else []),
            "differ|",
            "max error|",
            "top-1|",
            "accuracy|",
        ),
        [_verification_cells(row, len(sizes) > 1) for row in outcome.verification.rows],
    )
    for row in outcome.verification.rows:
        if row.reason:
            print_prose(f"  {row.name}: {row.reason}")
    if c_project is not None:
        print_prose(
            f"C project in {c_project.folder}: {count(len(c_project.files), 'file')}, {c_project.isa} kernels; "
            "`make run` there compares its outputs with the reference's"
        )


def deploy(outcome: DeployOutcome, as_json: bool) -> None:
    """Predicted beside measured."""
    if as_json:
        print_json("deploy", deploy_json(outcome))
        return
    _accuracy_table(outcome)
    print_table(
        "Predicted and measured: "
        + ", ".join(f"{one.model} on {one.stack.label}" for one in outcome.targets),
        ("metric", "budget|", "predicted|", "measured|", "error|", "measured as", "budget is"),
        [r.cells() for r in outcome.rows],
    )
    for one in outcome.targets:
        if len(outcome.targets) > 1:
            stdout().print(f"{one.name}, {one.url}", style="bold")
        if one.slowdown > 1.03:
            print_prose(
                f"note: when this was measured the machine was {one.slowdown:.2f} times slower than in its best "
                "phase, to which predictions refer"
            )
        if "stack_bytes" in one.details:
            print_prose(
                f"on the device: arena {int(one.details['arena_bytes']):,} B, "
                f"model {int(one.details['model_bytes']):,} B, "
                f"deepest stack {int(one.details['stack_bytes']):,} of "
                f"{int(one.details['stack_reserved_bytes']):,} B"
            )
        note(one.note)
        stack_note(one.stack)
        stdout().print(f"deployed in {one.place}")


def undo(outcome: UndoOutcome, as_json: bool) -> None:
    """Where the earlier network stands again."""
    if as_json:
        print_json("undo", {"places": dict(outcome.places)})
        return
    for name, place in outcome.places:
        print_prose(f"{name}: what stood there before stands again in {place}")


def run(outcome: RunOutcome, as_json: bool) -> None:
    """The whole loop."""
    if as_json:
        print_json(
            "run",
            {
                "profile": profile_json(outcome.profile),
                "search": search_json(outcome.search),
                "rounds": rounds_json(outcome.rounds),
                "export": export_json(outcome.export),
                "deploy": deploy_json(outcome.deploy),
                "report": str(outcome.report),
            },
        )
        return
    profile(outcome.profile, False)
    search(outcome.search, False)
    rounds(outcome.rounds)
    export(outcome.export, False)
    deploy(outcome.deploy, False)
    stdout().print(f"report: {outcome.report}")


_DOES = {"reuse": "nothing", "do": "do", "go on": "go on", "open": "perhaps"}


def dry_run(command: str, found: DryRun, as_json: bool) -> None:
    """What a command would do, a block for each stage; times are estimates."""
    if as_json:
        print_json("dry-run", {"command": command, "seconds": found.seconds, **asdict(found)})
        return
    stdout().print(f"boardfit {command} would (nothing was done, no device was opened):", style="bold")
    for step in found.steps:
        name = step.stage + (f" ({step.target})" if step.target and len(found.steps) > 1 else "")
        print_prose(f"{name}: {_DOES[step.does]}: {step.what}")
        if step.why:
            print_prose(f"  why: {step.why}")
        if step.does != "reuse":
            known = (
                f"about {duration(step.seconds)} ({step.basis})" if step.seconds is not None else step.basis
            )
            print_prose(f"  time: {known or 'unknown'}")
    whole = "unknown" if found.seconds is None else f"about {duration(found.seconds)}"
    known_s = sum(step.seconds for step in found.steps if step.seconds is not None)
    if found.seconds is None and known_s:
        whole = f"at least {duration(known_s)}, the rest is unknown"
    print_prose(f"together: {whole}")


def _accuracy_table(outcome: DeployOutcome) -> None:
    said = {
        "estimator": "foretold by the estimator",
        "supernet": "foretold with shared weights",
        "float": "float, trained",
    }
    rows = [
        (said[one.step], f"{100 * one.accuracy:.2f} %", f"validation ({one.samples})")
        for one in outcome.accuracies
        if one.split == "val"
    ]
    test = f"test ({outcome.targets[0].samples})"
    rows += [
        (f"{name}, reference", f"{100 * value:.2f} %", test)
        for name, value in outcome.accuracy_before.items()
    ]
    notes = []
    for one in outcome.targets:
        where = "target" if len(outcome.targets) == 1 else one.name
        equal = "every value equal" if one.differing == 0 else f"top-1 agrees on {100 * one.agreement:.1f} %"
        rows.append((f"on {where} ({one.model})", f"{100 * one.accuracy:.2f} %", test))
        notes.append(
            f"{where} against reference: {equal}, largest difference {one.max_difference:.3g}"
            + (" int8 steps" if one.differing is not None else "")
        )
    print_table(
        "Accuracy, step by step",
        ("network", "accuracy|", "samples"),
        rows,
        notes="\n".join(notes),
    )


def _verification_cells(row: Comparison, samples: bool) -> tuple[str, ...]:
    def number(value: float | int | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    return (
        row.name + (f"\n  {row.limit}" if row.limit else ""),
        row.status.upper() if row.status == "failed" else row.status,
        *([str(row.samples) if row.samples else "-"] if samples else []),
        number(row.differing, ","),
        number(row.max_error, ".2g"),
        "-" if row.agreement is None else f"{100 * row.agreement:.1f} %",
        "-" if row.accuracy is None else f"{100 * row.accuracy:.2f} %",
    )


def export_json(outcome: ExportOutcome) -> dict[str, Any]:
    return {**asdict(outcome), "folder": str(outcome.folder), "verified": outcome.verification.ok}


def deploy_json(outcome: DeployOutcome) -> dict[str, Any]:
    return {
        **asdict(outcome),
        "targets": [{**asdict(one), "stack": one.stack.as_dict()} for one in outcome.targets],
        "rows": [row.as_dict() for row in outcome.rows],
    }
