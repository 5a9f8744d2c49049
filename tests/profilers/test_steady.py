"""Host times brought to one speed."""

import pytest

from profilers.lut import Lut, Network
from profilers.steady import steady_table
from toolchain.errors import LutError
from toolchain.graph import Operator
from toolchain.measurement import Evidence, Measurement, Stack

STACK = Stack.of({"target": "cpu:litert"})
OPS = [Operator.parse(f"fully_connected {n}->1 none int8") for n in (1, 2, 3)]


def took(value: float, anchor: str | None, evidence: Evidence = Evidence.HOST_WALL) -> Measurement:
    details = {} if anchor is None else {"anchor_us": anchor}
    return Measurement("latency_us", value, evidence, details=details)


def test_rows_of_a_slow_phase_come_to_the_best_speed() -> None:
    with Lut.in_memory() as lut:
        lut.put(STACK, OPS[0], took(3.0, "6.0"))
        lut.put(STACK, OPS[1], took(8.0, "9.0"))
        lut.put(STACK, OPS[2], took(5.0, "not a number"))
        network = Network("n", (OPS[0],))
        lut.put_network(STACK, network, took(12.0, "12"))
        table = steady_table(lut, STACK, "latency_us")
        assert table.best_anchor_us == 6.0
        assert table.values == {OPS[0]: 3.0, OPS[1]: pytest.approx(8 / 1.5), OPS[2]: 5.0, network: 6.0}
        assert table.slow == {OPS[1], network}
        assert lut.get(STACK, OPS[1], "latency_us").value == 8.0  # type: ignore[union-attr]


def test_other_evidence_is_not_touched_and_never_mixed() -> None:
    with Lut.in_memory() as lut:
        lut.put(STACK, OPS[0], took(3.0, "6.0", Evidence.CYCLES_MEASURED))
        lut.put(STACK, OPS[1], took(3.0, "3.0", Evidence.CYCLES_MEASURED))
        assert set(steady_table(lut, STACK, "latency_us").values.values()) == {3.0}
        lut.put(STACK, OPS[2], took(3.0, "3.0"))
        with pytest.raises(LutError, match="different evidence"):
            steady_table(lut, STACK, "latency_us")


def test_an_empty_table() -> None:
    with Lut.in_memory() as lut:
        table = steady_table(lut, STACK, "latency_us")
        assert (dict(table.values), table.evidence, table.best_anchor_us) == ({}, None, None)
