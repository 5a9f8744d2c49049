"""Two runs are compared only where their numbers mean the same."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from tests.report.reports import whole
from toolchain.errors import ConfigurationError, EvidenceError
from toolchain.report.document import Block
from toolchain.report.markdown import runs_markdown
from toolchain.report.runs import check_document, compare_reports, rows_of


def document(**changes: Any) -> dict[str, Any]:
    return whole(**changes).as_json()


def edited(metric: str, **changes: Any) -> dict[str, Any]:
    """A document in which one measured number is another."""
    found = copy.deepcopy(document())
    cost = next(c for c in found["costs"] if c["metric"] == metric)
    cost["measured"] = {**cost["measured"], **changes}
    return found


def test_the_same_stack_is_compared() -> None:
    blocks = (whole().blocks[0], Block("stage1_block1", "k5", "8x8x8", "12x4x4", 900, 30000))
    faster = edited("latency_us", value=1535.2)
    faster |= {"blocks": replace(whole(), blocks=blocks).as_json()["blocks"], "network": "net-7"}
    found = compare_reports(document(), faster, names=("before", "after"))
    pair = next(p for p in found.pairs if p.name == "latency_us")
    assert pair.difference.value == pytest.approx(1535.2 - 1919.0)
    assert pair.percent == pytest.approx(-20.0)
    assert found.blocks == (("stage1_block1", "k3", "k5"),)
    names = [p.name for p in found.pairs]
    assert names[:4] == ["accuracy, supernet", "accuracy, float", "accuracy, int8", "accuracy, target board"]
    accuracy = found.pairs[0]
    assert (accuracy.difference.value, accuracy.percent) == (0.0, None)
    cells = {row[0]: row for _, _, rows in rows_of(found) for row in rows}
    assert cells["latency_us"] == (
        "latency_us",
        "1.919 ms",
        "1.535 ms",
        "-383.800 us",
        "-20.0 %",
        "estimated",
    )
    assert cells["A"][1] == "before"
    text = runs_markdown(found)
    assert "| latency\\_us | 1.919 ms | 1.535 ms |" in text
    assert found.as_json()["names"] == ["before", "after"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"evidence": "cycles_measured"}, "one is cycles_estimated, the other cycles_measured"),
        ({"evidence": "predicted"}, "one is cycles_estimated, the other predicted"),
        ({"stack": "ffffffffffffffff"}, "one is of stack 0123456789abcdef, the other of ffffffffffffffff"),
        ({"unit": "count"}, "one is in us, the other in count"),
        ({"source": "host_wall"}, "from host_wall"),
    ],
)
def test_other_evidence_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(EvidenceError) as refused:
        compare_reports(document(), edited("latency_us", **changes))
    assert why in refused.value.message
    assert refused.value.exit_code == 3
    assert "--metric flash_bytes --metric params" in refused.value.remedy


def test_a_prediction_is_no_measurement() -> None:
    other = document()
    other["costs"][0]["measured"] = None
    with pytest.raises(EvidenceError, match="the other predicted"):
        compare_reports(document(), other)


def test_exact_numbers_are_compared_across_stacks() -> None:
    other = edited("flash_bytes", stack="ffffffffffffffff", value=39_000.0)
    found = compare_reports(document(), other, metrics=("flash_bytes", "params"))
    assert [p.name for p in found.pairs] == ["flash_bytes", "params"]
    assert found.pairs[0].difference.value == -1006.0


def test_counted_bytes_are_no_bytes_of_a_file() -> None:
    """A board counts its firmware with the network."""
    with pytest.raises(EvidenceError, match="one is counted, the other computed"):
        compare_reports(document(), edited("flash_bytes", evidence="computed"), metrics=("flash_bytes",))


def test_accuracies_of_other_data_are_refused() -> None:
    other = document()
    other["project"]["data_fingerprint"] = "0000"
    with pytest.raises(EvidenceError, match="different data: feedfeedfeedfeed and 0000"):
        compare_reports(document(), other)
    assert compare_reports(document(), other, metrics=("latency_us",)).pairs


def test_metrics_of_one_run_alone_are_named() -> None:
    other = document()
    other["costs"] = other["costs"][:2]
    found = compare_reports(document(), other)
    assert found.only == (("params", "left"),)
    with pytest.raises(ConfigurationError, match="B has no params"):
        compare_reports(document(), other, metrics=("params",))


def test_a_run_without_a_network_cannot_be_compared() -> None:
    with pytest.raises(ConfigurationError, match="B has no network to compare: Nothing yet"):
        compare_reports(document(), document(network="", headline="Nothing yet."))


def test_unknown_values_have_no_difference() -> None:
    found = compare_reports(edited("latency_us", value=None), document(), metrics=("latency_us",))
    assert (found.pairs[0].difference.value, found.pairs[0].percent) == (None, None)
    assert rows_of(found)[1][2][0][:4] == ("latency_us", "-", "1.919 ms", "-")


@pytest.mark.parametrize("wrong", [[], {}, {"kind": "report"}, {"kind": "report", "schema": 2}, "text", None])
def test_what_is_no_report_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"x\.json"):
        check_document(wrong, "x.json")
    assert check_document(document(), "x.json")["schema"] == 1
