"""Predicted beside measured: one row a metric, with its budget, its evidence, and whether it holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from toolchain.errors import BudgetError
from toolchain.measurement import Evidence, Measurement
from toolchain.units import Budget, format_value


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """One metric of one network on one stack.

    Attributes:
        metric: name with its unit.
        budget: upper bound, or None where the user set none.
        predicted: the cost model's value before deployment; None where it had none.
        measured: the value found on the target; None where the target cannot tell.
        evidence: how the measured value came to be.
        unstable: the measuring gate was not met; the value may be off by more than the protocol's tolerance.
    """

    metric: str
    budget: float | None
    predicted: float | None
    measured: float | None
    evidence: Evidence | None
    unstable: bool = False

    @property
    def error_percent(self) -> float | None:
        """(predicted - measured) / measured in percent; negative: the prediction was too low."""
        if self.predicted is None or not self.measured:
            return None
        return 100.0 * (self.predicted - self.measured) / self.measured

    @property
    def ok(self) -> bool | None:
        """Whether the measured value keeps the budget; None where there is no budget or no measurement."""
        if self.budget is None or self.measured is None:
            return None
        return Budget(self.metric, self.budget).keeps(self.measured)

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "error_percent": self.error_percent, "ok": self.ok}

    def cells(self) -> tuple[str, str, str, str, str, str, str]:
        """The row as text: metric, budget, predicted, measured, error, evidence, verdict."""

        def shown(value: float | None) -> str:
            return "-" if value is None else format_value(self.metric, value)

        error = "-" if self.error_percent is None else f"{self.error_percent:+.1f} %"
        evidence = "-" if self.evidence is None else self.evidence.value
        verdict = {True: "kept", False: "BROKEN", None: "-"}[self.ok]
        return (
            self.metric,
            shown(self.budget),
            shown(self.predicted),
            shown(self.measured),
            error,
            evidence + (" (unstable)" if self.unstable else ""),
            verdict,
        )


def compare(
    budgets: Iterable[Budget], predicted: Mapping[str, float], measured: Mapping[str, Measurement]
) -> tuple[ComparisonRow, ...]:
    """Rows for every metric that is budgeted, predicted or measured; budgeted ones first."""
    limits = {budget.metric: budget.bound for budget in budgets}
    rows = []
    for metric in dict.fromkeys((*limits, *measured, *predicted)):
        found = measured.get(metric)
        rows.append(
            ComparisonRow(
                metric,
                limits.get(metric),
                predicted.get(metric),
                found.value if found else None,
                found.evidence if found else None,
                bool(found and found.unstable),
            )
        )
    return tuple(rows)


def raise_for_budgets(rows: Iterable[ComparisonRow]) -> None:
    """Raise when a measured value breaks its budget.

    Raises:
        BudgetError: names each broken budget with value and limit (exit code 1).
    """
    broken = [row for row in rows if row.ok is False]
    if broken:
        texts = [
            f"{row.metric} is {format_value(row.metric, row.measured or 0)}, "
            f"the budget {format_value(row.metric, row.budget or 0)}"
            for row in broken
        ]
        again = "search again with a smaller budget, or run `boardfit profile` to refresh the table"
        if all(row.unstable for row in broken):
            again = "the machine was busy (unstable): `boardfit deploy` measures again; if it stays, " + again
        raise BudgetError(f"broken on the target: {'; '.join(texts)}", remedy=again)
