"""What exact selection says beside the chosen network, as it is recorded and shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Alternative:
    """Another network of the space.

    Attributes:
        text: as people read it.
        accuracy: predicted from contributions, 0 to 1.
        measured: accuracy with shared weights, 0 to 1; None where it was not measured.
        costs: metric -> value by the table.
        refused: what the exact check found, where it refused this network; "" for one that was not checked.
    """

    text: str
    accuracy: float
    measured: float | None
    costs: Mapping[str, float]
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Worth:
    """What more of one budget buys.

    Attributes:
        metric: of the budget. bound: it, as searched under.
        price: shadow price, accuracy (0 to 1) per unit of the metric: the slope of the Lagrangian bound at this budget.
        more: bound of the trial, `MORE` above. gain: accuracy that the exact optimum under it adds.
    """

    metric: str
    bound: float
    price: float
    more: float
    gain: float


@dataclass(frozen=True, slots=True)
class Selection:
    """What exact selection says beside the chosen network. Accuracies are 0 to 1, with the supernet's shared weights.

    Attributes:
        predicted_accuracy: of the chosen network, and its standard error `predicted_error`, the contributions taken
            as independent; 0 for a fit. base: mean accuracy that they add to.
        optimum, bound: predicted accuracy of the best network within the budgets, and what none of them exceeds.
        proved: bound and optimum are equal; `how` it was proved by the checker: "bound", "search" or "open".
        milliseconds: of the solve. arcs: size of the model.
        worth: per budget, what more of it buys.
        alternatives: next best networks within the budgets. refused: better ones that the exact check refused.
        front_metric, front_size: the Pareto front of accuracy against this cost, all others free.
        kendall, spearman, ranked: agreement of predicted and measured accuracy on so many random networks.
        contribution_samples: validation samples spent on contributions.
        effects: (design choice, mean contribution, standard error), the largest first.
        plots: files that were drawn. note: why none were.
    """

    predicted_accuracy: float
    predicted_error: float
    base: float
    optimum: float
    bound: float
    proved: bool
    how: str
    milliseconds: float
    arcs: int
    worth: tuple[Worth, ...]
    alternatives: tuple[Alternative, ...]
    refused: tuple[Alternative, ...]
    front_metric: str
    front_size: int
    kendall: float
    spearman: float
    ranked: int
    contribution_samples: int
    effects: tuple[tuple[str, float, float], ...]
    plots: tuple[str, ...] = ()
    note: str = ""

    @property
    def gap(self) -> float:
        """How much better than the optimum found a network within the budgets might be; 0 when proved."""
        return self.bound - self.optimum


def selection_from_record(stored: Mapping[str, Any]) -> Selection:
    """The selection that a record describes."""
    values = dict(stored)
    values["worth"] = tuple(Worth(**w) for w in stored["worth"])
    for key in ("alternatives", "refused"):
        values[key] = tuple(Alternative(**a) for a in stored[key])
    values["effects"] = tuple((what, value, error) for what, value, error in stored["effects"])
    values["plots"] = tuple(stored["plots"])
    return Selection(**values)
