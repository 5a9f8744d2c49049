"""What a deployed network costs on its target: measured, counted, and foretold with rows of its patches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from profilers.footprint import footprint_of
from profilers.lut import Lut, Network
from profilers.profile import session_metric
from profilers.settle import settled_plans
from profilers.steady import best_anchor, slowdown, steady_table
from targets.session import Job, Session
from toolchain.errors import DeviceError, VerificationError
from toolchain.export.native.plan import Plan
from toolchain.graph import Graph
from toolchain.graph.operator import Operator
from toolchain.measurement import Evidence, Measurement
from toolchain.workflow.config import TargetSection
from toolchain.workflow.project import Progress, Project
from toolchain.workflow.sessions import in_time
from toolchain.workflow.target_costs import open_target_costs

MEASURE_TRIES: Final = 4


def measure(session: Session, model: bytes, wait: bool) -> Measurement:
    """The whole network; on a CPU measured again, up to `MEASURE_TRIES` times, while the machine is in a slow phase.

    Raises:
        DeviceError: the target could not measure the network.
    """
    tries: list[Measurement] = []
    while len(tries) < MEASURE_TRIES and not (tries and not tries[-1].unstable):
        (result,) = session.measure([Job("network", model)], wait=wait)
        if result.measurement is None:
            raise DeviceError(
                f"the target could not measure the network: {result.failure}",
                remedy="look at the target: `boardfit doctor --target URL`; then run the command again",
            )
        tries.append(result.measurement)
    best = best_anchor(tries)
    return min(tries, key=lambda found: (found.unstable, slowdown(found, best)))


def with_time(session: Session, found: Measurement) -> dict[str, Measurement]:
    """The measurement, and a board's cycles as a time, too."""
    time = in_time(found, session)
    return {found.metric: found, **({} if time is None else {time.metric: time})}


def counted(
    session: Session, plan: Plan, graph: Graph, tflite: str, found: Measurement
) -> dict[str, Measurement]:
    """Flash, RAM, parameters and MACs. On a machine with files, of the network's .tflite file, also where another
    runtime's file is deployed (docs/cli.md). On a board, what the part holds, as the device itself counts it.

    Raises:
        VerificationError: a board counts otherwise than was computed.
    """
    footprint = footprint_of(session.model_format, graph.operators, session.device)
    computed = footprint.of_graph(graph, plan)
    counts = {**computed, "params": graph.params, "macs": graph.macs}
    rows = {
        metric: Measurement(metric, float(value), Evidence.COMPUTED, details={"file": tflite})
        for metric, value in counts.items()
    }
    if session.device is not None:
        for metric in ("flash_bytes", "ram_bytes"):
            value = float(found.details[metric])
            if footprint.exact and value != computed[metric]:
                raise VerificationError(
                    f"the device counts {value:,.0f} {metric}, the plan says {computed[metric]:,}",
                    remedy="run `boardfit export --force`; if it stays, report it as a bug",
                )
            rows[metric] = Measurement(metric, value, Evidence.COUNTED)
    return rows


def remember(
    project: Project, session: Session, text: str, operators: tuple[Operator, ...], found: Measurement
) -> float:
    """Keep the whole network's measurement, from which the next calibration learns; gives its `slowdown`."""
    with Lut.open(project.lut_path) as lut:
        lut.put_network(session.stack, Network(text, operators), found)
        return slowdown(found, steady_table(lut, session.stack, session_metric(session)).best_anchor_us)


def with_patches(
    project: Project,
    target: TargetSection,
    session: Session,
    plan: Plan,
    graph: Graph,
    predicted: Mapping[str, float],
    wait: bool,
    progress: Progress,
) -> dict[str, float]:
    """What the table foretells of a plan with patches when all of their operators have rows, as in rounds. A search
    alone opens no device: it takes those without a row as shares of whole ones.
    """
    metric = session_metric(session)
    if project.metric(target, metric) not in predicted:
        return {}  # nothing that is measured was foretold
    with Lut.open(project.lut_path) as lut:
        settled_plans(
            lut, session, {"": graph}, lambda *_: plan,
            wait=wait, progress=lambda done, total: progress("patches", done, total, "operators"),
        )  # fmt: skip
    costs = open_target_costs(project, target, [metric], strict=False)
    found = costs.of_graph(graph, plan)
    return {project.metric(target, name): found[name] for name in costs.measured(0.0)}
