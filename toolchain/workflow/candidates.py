"""The candidates of a round: the chosen network and the next best ones, measured as whole networks on every target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from profilers.lut import Lut, Network
from profilers.profile import profile_networks
from profilers.settle import settled_plans
from profilers.steady import steady_table
from targets.session import model_format
from toolchain.export.native.plan import Plan
from toolchain.graph import Graph, Operator
from toolchain.spaces import Architecture
from toolchain.units import Budget
from toolchain.workflow.config import TargetSection
from toolchain.workflow.costs import Costs, TargetCosts
from toolchain.workflow.models import structural_graph, structural_onnx
from toolchain.workflow.project import Progress, Project
from toolchain.workflow.search import SearchOutcome
from toolchain.workflow.sessions import open_session
from toolchain.workflow.targets import each


@dataclass(frozen=True)
class MeasuredCandidate:
    """A network of one round. Metrics have the project's names.

    Attributes:
        text, architecture: the network. chosen: it is the round's winner.
        score: validation accuracy with the supernet's weights, 0 to 1.
        predicted: metric -> value by the cost model of this round. measured: on the target; empty where it could not.
        error_percent: metric -> (predicted - measured) / measured in per cent.
        evidence: metric -> how the measured value came to be.
    """

    text: str
    architecture: Architecture
    chosen: bool
    score: float
    predicted: Mapping[str, float]
    measured: Mapping[str, float]
    error_percent: Mapping[str, float]
    evidence: Mapping[str, str]


def next_best(
    project: Project, costs: Costs, found: SearchOutcome, limits: tuple[Budget, ...]
) -> dict[Architecture, float]:
    """The winner and the next best networks that keep the budgets on their real graphs, with their scores."""
    chosen: dict[Architecture, float] = {found.architecture: found.score}
    for text, score in found.alternatives:
        if len(chosen) > project.config.run.candidates:
            break
        architecture = project.space.decode(text)
        exact = costs.exact(architecture)
        if all(b.keeps(exact[b.metric]) for b in limits):
            chosen.setdefault(architecture, score)
    return chosen


def measure_patches(
    project: Project, costs: Costs, networks: list[Architecture], wait: bool, progress: Progress
) -> bool:
    """Measure what the table lacks of the operators of these networks' patches, on every target with plans.

    Returns:
        Whether a row was missing: then prices have changed, and perhaps plans.

    Raises:
        DeviceError: a target cannot be opened or is busy.
    """
    wanted: dict[str, tuple[TargetCosts, dict[str, Graph]]] = {}
    for one in costs.targets:
        graphs = {}
        for architecture in networks if one.plans is not None and one.values else ():
            graph = structural_graph(project, architecture, one.target.precision)
            with Lut.open(project.lut_path) as lut:
                if lut.missing(one.stack, one.shares(graph, one.plan(graph)), one.metric):
                    graphs[project.space.encode(architecture)] = graph
        if graphs:
            wanted[one.target.name] = one, graphs

    def work(target: TargetSection, tell: Progress) -> None:
        found, graphs = wanted[target.name]

        def choose(graph: Graph, values: Mapping[Operator, float]) -> Plan:
            return replace(found, patched=values).plan(graph)

        with (
            Lut.open(project.lut_path) as lut,
            open_session(target.url, target.precision, tell) as session,
        ):
            settled_plans(
                lut, session, graphs, choose,
                wait=wait, progress=lambda done, total: tell("patches", done, total, "operators"),
            )  # fmt: skip

    if wanted:
        each([one.target for one, _ in wanted.values()], work, progress)
    return bool(wanted)


def measure(
    project: Project,
    measured: list[TargetCosts],
    networks: list[Architecture],
    title: str,
    wait: bool,
    progress: Progress,
) -> bool:
    """Measure what the table lacks of these networks into it, on different devices side by side.

    Returns:
        Whether anything was measured.
    """
    # Prepared here: torch's seeds are the process's, and measuring has a thread for each device.
    missing = {one.target.name: _missing(project, one, networks) for one in measured}
    wanted = {one.target.name: one for one in measured if missing[one.target.name].graphs}

    def work(target: TargetSection, tell: Progress) -> None:
        costs, these = wanted[target.name], missing[target.name]
        with (
            Lut.open(project.lut_path) as lut,
            open_session(target.url, target.precision, tell) as session,
        ):
            profile_networks(
                lut,
                session,
                these.graphs,
                files=these.files,
                plans={name: costs.plan(graph) for name, graph in these.graphs.items()},
                retry_unstable=True,
                wait=wait,
                progress=lambda done, total: tell(title, done, total, "candidates measured"),
            )

    if wanted:
        each([one.target for one in wanted.values()], work, progress)
    return bool(wanted)


def compared(
    project: Project,
    measured: list[TargetCosts],
    networks: Mapping[Architecture, float],
    winner: Architecture,
) -> tuple[MeasuredCandidate, ...]:
    """Predicted beside measured, as it stands in the table; the winner first."""
    tables = {}
    for one in measured:
        with Lut.open(project.lut_path) as lut:
            tables[one.target.name] = steady_table(lut, one.stack, one.metric)
    result = []
    for architecture, score in networks.items():
        predicted, there, errors, evidence = {}, {}, {}, {}
        for one in measured:
            table = tables[one.target.name]
            graph = structural_graph(project, architecture, one.target.precision)
            foretold = one.of_graph(graph)
            value = table.values.get(network_of(project, one, architecture, graph))
            for plain, amount in one.measured(value or 0.0).items():
                metric = project.metric(one.target, plain)
                predicted[metric] = foretold[plain]
                if value is not None and table.evidence is not None:
                    there[metric], evidence[metric] = amount, table.evidence.value
                    errors[metric] = 100 * (foretold[plain] - amount) / amount
        text = project.space.encode(architecture)
        chosen = architecture == winner
        result.append(
            MeasuredCandidate(text, architecture, chosen, score, predicted, there, errors, evidence)
        )
    return tuple(result)


def network_of(project: Project, costs: TargetCosts, architecture: Architecture, graph: Graph) -> Network:
    """A candidate as the table has it."""
    return Network(project.space.encode(architecture), costs.plan(graph).operators(graph))


@dataclass(frozen=True)
class _Missing:
    """Candidates without a row on a target: by name, and their ONNX files where it takes int8 ONNX."""

    graphs: Mapping[str, Graph]
    files: Mapping[str, bytes]


def _missing(project: Project, costs: TargetCosts, networks: list[Architecture]) -> _Missing:
    target = costs.target
    with Lut.open(project.lut_path) as lut:
        there = lut.known(costs.stack, costs.metric, "network", retry_unstable=True)
    graphs, files = {}, {}
    onnx = target.precision == "int8" and model_format(target.url) == "onnx"
    for architecture in networks:
        graph = structural_graph(project, architecture, target.precision)
        network = network_of(project, costs, architecture, graph)
        if network.fingerprint not in there:
            graphs[network.name] = graph
            if onnx:
                files[network.name] = structural_onnx(project, architecture)
    return _Missing(graphs, files)
