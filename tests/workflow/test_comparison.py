"""Predicted beside measured."""

import pytest

from toolchain.errors import BudgetError
from toolchain.measurement import Evidence, Measurement
from toolchain.report.comparison import compare, raise_for_budgets
from toolchain.units import Budget


def measured(metric: str, value: float, evidence: Evidence, unstable: bool = False) -> dict[str, Measurement]:
    return {metric: Measurement(metric, value, evidence, unstable=unstable)}


def test_rows_carry_error_evidence_and_verdict() -> None:
    rows = compare(
        (Budget("latency_us", 20.0), Budget("ram_bytes", 1000)),
        {"latency_us": 19.0, "ram_bytes": 900, "macs": 5.0},
        {
            **measured("latency_us", 20.0, Evidence.HOST_WALL, unstable=True),
            **measured("ram_bytes", 1001, Evidence.COMPUTED),
        },
    )
    assert [row.metric for row in rows] == ["latency_us", "ram_bytes", "macs"]
    assert [row.ok for row in rows] == [True, False, None]
    assert rows[0].error_percent == pytest.approx(-5.0)
    assert rows[0].cells()[-2:] == ("host_wall (unstable)", "kept")
    assert rows[2].cells() == ("macs", "-", "5", "-", "-", "-", "-")
    with pytest.raises(BudgetError, match=r"ram_bytes is 1\.001 kB, the budget 1\.000 kB"):
        raise_for_budgets(rows)
    raise_for_budgets(rows[:1])


@pytest.mark.parametrize(
    ("unstable", "says"), [(True, "`boardfit deploy` measures again"), (False, "search again")]
)
def test_a_busy_machine_is_not_blamed_on_the_network(unstable: bool, says: str) -> None:
    rows = compare(
        (Budget("latency_us", 2.0),), {}, measured("latency_us", 3.0, Evidence.HOST_WALL, unstable)
    )
    with pytest.raises(BudgetError) as caught:
        raise_for_budgets(rows)
    assert says in caught.value.remedy
    assert ("busy" in caught.value.remedy) is unstable
