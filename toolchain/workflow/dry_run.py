"""What a command would do, what it would take from earlier work and why, and how long that takes. Does nothing.

No device is opened and nothing in the project is written. What can only be said by talking to a device (an SSH board's
stack) is said to be so. Times come from this project's own past: rows of the table with the time they were taken, and
results/pace.json; where there is none, they are unknown.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from toolchain.errors import BoardfitError
from toolchain.workflow.budgets import asked_budgets, priced
from toolchain.workflow.dry_profile import described, profile_step
from toolchain.workflow.dry_step import Asked, Does, Step, timed
from toolchain.workflow.exported import changed_file, check_exported, export_inputs
from toolchain.workflow.methods import connas_config
from toolchain.workflow.pace import part_name
from toolchain.workflow.project import Project
from toolchain.workflow.search import BASELINES, search_inputs


@dataclass(frozen=True)
class DryRun:
    """What a command would do, in order."""

    steps: tuple[Step, ...]

    @property
    def seconds(self) -> float | None:
        """Of all steps; None where one is unknown."""
        found = [step.seconds for step in self.steps]
        return None if None in found else sum(s for s in found if s is not None)


def dry_profile(project: Project, asked: Asked) -> DryRun:
    """What `boardfit profile` would measure on each target."""
    return DryRun(tuple(profile_step(project, target, asked) for target in project.config.target))


def dry_search(project: Project, asked: Asked) -> DryRun:
    """What `boardfit search` would do with the table as it is."""
    return DryRun((_search(project, asked),))


def dry_export(project: Project, asked: Asked) -> DryRun:
    """What `boardfit export` would do with the network that was found.

    Raises:
        ConfigurationError: there is none, or it is of other settings.
    """
    return DryRun((_export(project, project.found(), asked),))


def dry_deploy(project: Project, asked: Asked) -> DryRun:
    """What `boardfit deploy` would do.

    Raises:
        ConfigurationError: there is nothing to deploy, or it is of other settings.
    """
    check_exported(project)
    return DryRun((_deploy(project),))


def dry_run(project: Project, asked: Asked) -> DryRun:
    """What `boardfit run` would do. A stage whose predecessor is done again waits for what that finds."""
    steps = [profile_step(project, target, asked) for target in project.config.target]
    method = asked.method or project.config.search.method
    if any(step.does in ("do", "go on") for step in steps):
        search = _searching(project, method, "do", "the table changes")
    else:
        search = _search(project, asked)
    steps.append(search)
    steps.append(_rounds(project, search.does))
    stored = project.latest("search") if search.does == "reuse" else None
    if stored is not None:
        export = _export(project, stored, asked)
    else:
        does: Does = "open" if project.latest("export") is not None else "do"
        why = "done again when another network is found" if does == "open" else "first time"
        export = _exporting(project, does, why)
    return DryRun((*steps, export, _deploy(project)))


COMMANDS: Final[Mapping[str, Callable[[Project, Asked], DryRun]]] = {
    "profile": dry_profile,
    "search": dry_search,
    "export": dry_export,
    "deploy": dry_deploy,
    "run": dry_run,
}


def _search(project: Project, asked: Asked) -> Step:
    method = asked.method or project.config.search.method
    if any(described(target) is None for target in project.config.target):
        stored = project.latest("search")
        why = (
            "first time"
            if stored is None
            else "whether the prices changed can only be said by opening the targets"
        )
        return _searching(project, method, "do" if stored is None else "open", why)
    limits = asked_budgets(project, asked.budgets)
    try:
        costs, _ = priced(project, limits, strict=asked.strict)
    except BoardfitError as error:
        return Step(
            "search", "", "open", "refused as it stands", f"{error.message}: {error.remedy}", None, ""
        )
    depends = search_inputs(project, limits, method, costs)
    why = project.why("search", depends, force=asked.force)
    if not asked.force and (stored := project.record("search", depends)) is not None:
        return Step("search", "", "reuse", f"the network {stored['text']}", why, 0.0, "")
    return _searching(project, method, "do", why, force=asked.force)


def _searching(project: Project, method: str, does: Does, why: str, *, force: bool = False) -> Step:
    settings, seed = project.config.search, project.config.project.seed
    epochs = connas_config(settings, seed).epochs
    kept = list((project.results / "checkpoints").glob("*.safetensors"))
    supernet = any(path.name.startswith(_KEPT.get(method, "none")) for path in kept) and not force
    begun = any(path.name.startswith(f"{method}-") for path in kept) and not force
    if begun and does == "do":
        does = "go on"
    parts: list[tuple[str, str, int]] = []
    if method == "connas" and not supernet:
        parts.append(("search", "epochs", epochs))
    elif method == "connas":
        parts.append(("select", "networks, with the kept supernet", settings.samples))
    else:
        if not supernet:
            parts.append(("supernet", "epochs", epochs))
        if method in BASELINES:
            parts.append(("search", "networks", settings.samples))
        else:
            parts.append(("contributions", "samples", settings.contribution_samples))
            parts.append(("ranking", "networks", settings.ranking_networks))
    what = f"{method}: " + ", ".join(f"{name} {count:,} {unit}" for name, unit, count in parts)
    return timed(project, "search", does, what, why, [(part_name(p, method), n) for p, _, n in parts])


_KEPT: Final[Mapping[str, str]] = {
    "connas": "supernet-connas-",
    "evolution": "supernet-uniform-",
    "random": "supernet-uniform-",
}


def _rounds(project: Project, search: Does) -> Step:
    """The rounds of `run` in which candidates are measured and the cost model is corrected."""
    settings, stored = project.config.run, project.latest("rounds")
    if stored is not None and stored["done"] and search == "reuse":
        return Step("rounds", "", "reuse", str(stored["why"]), "nothing changed", 0.0, "")
    if not settings.rounds:
        return Step("rounds", "", "reuse", "none", "run.rounds is 0", 0.0, "")
    what = (
        f"at most {settings.rounds} rounds; each measures the chosen network and {settings.candidates} others"
    )
    why = "until the prediction of the chosen network is within the tolerance"
    past = [] if stored is None else [one["seconds"] for one in stored["rounds"]]
    if not past:
        return Step("rounds", "", "do", what, why, None, "unknown: there was no round yet in this project")
    each = statistics.fmean(past)
    return Step(
        "rounds",
        "",
        "do",
        what,
        why,
        settings.rounds * each,
        f"at most; {each:.2g} s per round the last time",
    )


def _export(project: Project, found: Mapping[str, Any], asked: Asked) -> Step:
    depends = export_inputs(project, tuple(int(i) for i in found["architecture"]))
    why = project.why("export", depends, force=asked.force)
    stored = None if asked.force else project.record("export", depends)
    if stored is not None:
        changed = changed_file(project, stored)
        if changed is None:
            return Step("export", "", "reuse", f"{len(stored['files'])} files", why, 0.0, "")
        why = f"{changed.name} is not the file that was verified"
    return _exporting(project, "do", why)


def _exporting(project: Project, does: Does, why: str) -> Step:
    training = project.config.training
    parts: list[tuple[str, int | None]] = [("train", training.epochs)]
    parts.append(("quantise", None))
    parts += [("write", None), ("verify", None)]
    how = "after training" if training.quantization == "ptq" else f"with {training.qat_epochs} epochs in int8"
    return timed(
        project,
        "export",
        does,
        f"train {training.epochs} epochs, quantise {how}, write and verify",
        why,
        parts,
    )


def _deploy(project: Project) -> Step:
    names = ", ".join(target.url for target in project.config.target)
    return timed(
        project, "deploy", "do", f"check outputs, copy and measure on {names}", "it is measured every time",
        [("deploy", 3 * len(project.config.target))],
    )  # fmt: skip
