"""Plans of whole networks whose operators all have rows.

A patch's operators have shapes of their own, which no space lists: they are measured when a plan wants them. A plan is
chosen, what it lacks is measured, and it is chosen again with the new rows, until nothing is lacking. An operator
without a row costs its share of the whole one, which is rather too little (a small image wastes more of a kernel), so a
plan that would win with its real rows is measured before another one stands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from profilers.lut import Lut
from profilers.predicted import measured_operators
from profilers.profile import Progress, profile_operators, session_metric
from profilers.steady import steady_table
from targets.session import Session
from toolchain.export.native.plan import Plan
from toolchain.graph import Graph, Operator

Choose = Callable[[Graph, Mapping[Operator, float]], Plan]
"""(network, measured operators) -> its plan."""


def patch_operators(graph: Graph, plan: Plan) -> tuple[Operator, ...]:
    """The distinct operators of a plan's patches, those left out that are a whole one of the network as well."""
    if plan.patches is None:
        return ()
    whole = {replace(node.operator, algorithm=plan.algorithm(i)) for i, node in enumerate(graph.nodes)}
    return tuple(op for op in dict.fromkeys(plan.operators(graph)) if op not in whole)


def settled_plans(
    lut: Lut,
    session: Session,
    graphs: Mapping[str, Graph],
    choose: Choose,
    *,
    wait: bool = False,
    progress: Progress | None = None,
) -> dict[str, Plan]:
    """The plan of every network, with a row, or the reason of a failure, for each operator of its patches.

    Args:
        graphs: name -> network.
        wait, progress: as `profile_operators`.

    Raises: as `profile_operators`.
    """
    metric = session_metric(session)
    while True:
        values = measured_operators(steady_table(lut, session.stack, metric))
        plans = {name: choose(graph, values) for name, graph in graphs.items()}
        wanted = dict.fromkeys(
            op for name, plan in plans.items() for op in patch_operators(graphs[name], plan)
        )
        missing = lut.missing(session.stack, wanted, metric)
        if not missing:
            return plans
        profile_operators(lut, session, missing, wait=wait, progress=progress)
