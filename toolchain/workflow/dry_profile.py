"""What `boardfit profile` would measure on a target, by the table as it is, and how long that takes by its rows."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Collection
from datetime import datetime
from typing import Final, Literal

from profilers.footprint import with_algorithms
from profilers.lut import Lut
from profilers.predictor import fewest
from profilers.profile import session_metric
from targets.session import Description, describe
from toolchain.graph import Operator
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
    share = parse_share(asked.share or project.config.profile.share)
    if not project.lut_path.exists():
        why = "there is no table yet"
        return _measuring(target, _wanted(space, (), share), len(networks), share, why, None, None)
    again = {"retry_failures": asked.retry, "retry_unstable": asked.retry}
    with Lut.open(project.lut_path, read_only=True) as lut:
        there = lut.known(about.stack, metric, "operator")
        known = lut.known(about.stack, metric, "operator", **again)
        measured = {network.name for network, _ in lut.networks(about.stack, metric)}
        rates = [_seconds_per_row(lut, about.stack, metric, kind) for kind in ("operator", "network")]
    repeated = sum(op.signature in there - known for op in space)
    operators = repeated + _wanted(space, there, share)
    missing = sum(name not in measured for name in networks)
    if not known and not measured:
        why = f"the table has no rows of {about.stack.label} as it is now"
    else:
        why = f"{sum(op.signature in known for op in space)} of {len(space)} operators and "
        why += f"{len(networks) - missing} of {len(networks)} networks are there"
    return _measuring(target, operators, missing, share, why, *rates)


def _wanted(space: Collection[Operator], there: Collection[str], share: float) -> int:
    """How many operators lack a row, or are measured of a share of the space; see `next_to_measure`."""
    known = {op: 0.0 for op in space if op.signature in there}
    missing = len(space) - len(known)
    if share >= 1:
        return missing
    return min(missing, max(math.ceil(share * len(space)) - len(known), fewest(space, known)))


def _measuring(
    target: TargetSection,
    operators: int,
    networks: int,
    share: float,
    why: str,
    operator_s: float | None,
    network_s: float | None,
) -> Step:
    if not operators and not networks:
        return Step("profile", target.name, "reuse", "nothing to measure", why, 0.0, "")
    of_share = f" ({100 * share:g} % of the space)" if share < 1 else ""
    what = f"measure {operators:,} operators{of_share} and {networks:,} networks"
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
