"""What `boardfit profile` would measure on a target, by the table as it is, and how long that takes by its rows."""

from __future__ import annotations

import itertools
import statistics
from datetime import datetime
from typing import Final, Literal

from profilers.footprint import with_algorithms
from profilers.lut import Lut
from profilers.profile import session_metric
from targets.session import Description, describe
from toolchain.measurement import Measurement, Stack
from toolchain.workflow.config import TargetSection, parse_share
from toolchain.workflow.dry_step import Asked, Step
from toolchain.workflow.profile import calibration_networks
from toolchain.workflow.project import Project

_PAUSE_S: Final = 60.0  # rows with more between them were not measured in one go
_FEW: Final = 5  # rows that a rate needs


def profile_step(project: Project, target: TargetSection, asked: Asked) -> Step:
    about = described(target)
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


def described(target: TargetSection) -> Description | None:
    """What a target is, where that can be said without opening it."""
    if target.url.partition(":")[0] == "ssh":
        return None
    return describe(target.url)
