"""What a command would do, what it would take from earlier work and why, and how long that takes. Does nothing.

No device is opened and nothing in the project is written. What can only be said by talking to a device (an SSH board's
stack) is said to be so. Times come from this project's own past: rows of the table with the time they were taken, and
results/pace.json; where there is none, they are unknown.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from profilers.footprint import with_algorithms
from profilers.lut import Lut
from profilers.profile import session_metric
from targets.session import Description, describe
from toolchain.errors import BoardfitError
from toolchain.measurement import Measurement, Stack
from toolchain.units import Budget, QuantileBudget
from toolchain.workflow.budgets import asked_budgets, priced
from toolchain.workflow.config import TargetSection, parse_share
from toolchain.workflow.deploy import check_exported
from toolchain.workflow.exported import changed_file, export_inputs
from toolchain.workflow.methods import connas_config
from toolchain.workflow.pace import part_name, seconds_of
from toolchain.workflow.profile import calibration_networks
from toolchain.workflow.project import Project
from toolchain.workflow.search import BASELINES, search_inputs

Does = Literal["reuse", "do", "go on", "open"]
_PAUSE_S: Final = 60.0  # rows with more between them were not measured in one go
_FEW: Final = 5  # rows that a rate needs


@dataclass(frozen=True)
class Step:
    """One stage, on one target where it is done on each.

    Attributes:
        stage: "profile", "search", "rounds", "export" or "deploy".
        target: its name; empty where the step is of no target.
        does: "reuse": an earlier result stands; "do"; "go on" with what was interrupted; "open": cannot be said.
        what: what would be done, in words.
        why: the reason.
        seconds: how long that takes; None where nothing is known.
        basis: what the time rests on.
    """

    stage: str
    target: str
    does: Does
    what: str
    why: str
    seconds: float | None
    basis: str


@dataclass(frozen=True)
class DryRun:
    """What a command would do, in order."""

    steps: tuple[Step, ...]

    @property
    def seconds(self) -> float | None:
        """Of all steps; None where one is unknown."""
        found = [step.seconds for step in self.steps]
        return None if None in found else sum(s for s in found if s is not None)


@dataclass(frozen=True)
class Asked:
    """The options of the command.

    Attributes:
        budgets, method, force, strict, retry, share: as the stages take them.
    """

    budgets: tuple[Budget | QuantileBudget, ...] = ()
    method: str = ""
    force: bool = False
    strict: bool = False
    retry: bool = False
    share: str = ""


def dry_profile(project: Project, asked: Asked) -> DryRun:
    """What `boardfit profile` would measure on each target."""
    return DryRun(tuple(_profile(project, target, asked) for target in project.config.target))


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
    steps = [_profile(project, target, asked) for target in project.config.target]
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


def _profile(project: Project, target: TargetSection, asked: Asked) -> Step:
    about = _described(target)
    if about is None:
        return Step(
            "profile", target.name, "open", "measure what the table lacks",
            f"which rows are there can only be said by opening {target.url}", None, "unknown",
        )  # fmt: skip
    metric = session_metric(about)
    space = with_algorithms(about.model_format, project.space.chain(target.precision).operators)
    networks = [
        project.space.encode(a) for a in calibration_networks(project, project.config.profile.networks)
    ]
    if not project.lut_path.exists():
        return _measuring(target, len(space), len(networks), asked, "there is no table yet", None, None)
    again = {"retry_failures": asked.retry, "retry_unstable": asked.retry}
    with Lut.open(project.lut_path, read_only=True) as lut:
        known = lut.known(about.stack, metric, "operator", **again)
        measured = {network.name for network, _ in lut.networks(about.stack, metric)}
        rates = [_seconds_per_row(lut, about.stack, metric, kind) for kind in ("operator", "network")]
    operators = sum(op.signature not in known for op in space)
    missing = sum(name not in measured for name in networks)
    if not known and not measured:
        why = f"the table has no rows of {about.stack.label} as it is now"
    else:
        why = f"{len(space) - operators} of {len(space)} operators and "
        why += f"{len(networks) - missing} of {len(networks)} networks are there"
    return _measuring(target, operators, missing, asked, why, *rates, project=project)


def _measuring(
    target: TargetSection,
    operators: int,
    networks: int,
    asked: Asked,
    why: str,
    operator_s: float | None,
    network_s: float | None,
    *,
    project: Project | None = None,
) -> Step:
    share = parse_share(asked.share or (project.config.profile.share if project else "100 %"))
    if not operators and not networks:
        return Step("profile", target.name, "reuse", "nothing to measure", why, 0.0, "")
    what = f"measure {operators:,} operators and {networks:,} networks"
    if share < 1:
        what += f", of the operators at most {100 * share:g} % of the space"
    times = [
        0.0 if not count else None if each is None else count * each
        for count, each in ((operators, operator_s), (networks, network_s))
    ]
    known = [seconds for seconds in times if seconds is not None]
    whole = sum(known) if len(known) == len(times) else None
    basis = "unknown: nothing was measured on it yet"
    if operator_s is not None:
        basis = f"{operator_s:.2g} s per operator on this target"
        if whole is None:
            basis = f"unknown: no network was measured yet; {basis}"
    return Step("profile", target.name, "do", what, why, whole, basis)


def _seconds_per_row(
    lut: Lut, stack: Stack, metric: str, kind: Literal["operator", "network"]
) -> float | None:
    """The usual time between two rows, by when they were taken."""
    times = sorted(
        datetime.fromisoformat(row.outcome.taken_at)
        for row in lut.rows(stack, metric, subject=kind)
        if isinstance(row.outcome, Measurement)
    )
    gaps = [(b - a).total_seconds() for a, b in itertools.pairwise(times)]
    gaps = [gap for gap in gaps if gap < _PAUSE_S]
    return statistics.fmean(gaps) if len(gaps) >= _FEW else None


def _described(target: TargetSection) -> Description | None:
    """What a target is, where that can be said without opening it."""
    if target.url.partition(":")[0] == "ssh":
        return None
    return describe(target.url)


def _search(project: Project, asked: Asked) -> Step:
    method = asked.method or project.config.search.method
    if any(_described(target) is None for target in project.config.target):
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
    return _timed(project, "search", does, what, why, [(part_name(p, method), n) for p, _, n in parts])


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
    return _timed(
        project,
        "export",
        does,
        f"train {training.epochs} epochs, quantise {how}, write and verify",
        why,
        parts,
    )


def _deploy(project: Project) -> Step:
    names = ", ".join(target.url for target in project.config.target)
    return _timed(
        project, "deploy", "do", f"check outputs, copy and measure on {names}", "it is measured every time",
        [("deploy", 3 * len(project.config.target))],
    )  # fmt: skip


def _timed(
    project: Project, stage: str, does: Does, what: str, why: str, parts: Sequence[tuple[str, int | None]]
) -> Step:
    """A step with the sum of its parts' times, as they were in this project."""
    times = {name: seconds_of(project, name, steps) for name, steps in parts}
    unknown = [name for name, seconds in times.items() if seconds is None]
    if unknown:
        return Step(
            stage, "", does, what, why, None, f"unknown: {', '.join(unknown)} not done yet in this project"
        )
    each = [
        f"{seconds_of(project, name, 1):.2g} s per step of {name}"
        for name, steps in parts
        if steps is not None
    ]
    return Step(
        stage, "", does, what, why, sum(s for s in times.values() if s is not None),
        ", ".join(each) + " the last time",
    )  # fmt: skip
