"""The document is plain data that its schema describes."""

from __future__ import annotations

import json
import math
import re
from dataclasses import fields
from pathlib import Path
from typing import get_args

import jsonschema
import pytest

from tests.report.reports import whole, with_holes
from toolchain.report.comparison import ComparisonRow
from toolchain.report.document import SCHEMA, Report, Status, cost_of
from toolchain.report.number import EVIDENCE, LABELS, Number, plain, shown, unit_of
from tools import report_schema


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = json.loads(report_schema.PATH.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_schema_file_is_made_from_the_document() -> None:
    """python tools/report_schema.py writes it."""
    assert report_schema.PATH.read_text(encoding="utf-8") == report_schema.text()


@pytest.mark.parametrize("report", [whole(), with_holes()], ids=["whole", "with holes"])
def test_documents_validate_and_are_strict_json(
    report: Report, validator: jsonschema.Draft202012Validator
) -> None:
    text = json.dumps(report.as_json(), allow_nan=False)  # NaN would raise
    document = json.loads(text)
    assert document == report.as_json()  # no tuples, no numpy, no keys that are no text
    validator.validate(document)
    assert (document["schema"], document["kind"]) == (SCHEMA, "report")


def test_the_schema_refuses_what_is_wrong(validator: jsonschema.Draft202012Validator) -> None:
    document = whole().as_json()
    for change in (
        {"schema": 2},
        {"status": "fine"},
        {"targets": None},
        {"costs": [{"metric": "latency_us"}]},
    ):
        assert not validator.is_valid({**document, **change}), change
    assert not validator.is_valid({k: v for k, v in document.items() if k != "headline"})
    evidence = json.loads(json.dumps(document).replace("cycles_estimated", "guessed"))
    assert not validator.is_valid(evidence)


def test_every_number_has_an_evidence_with_words() -> None:
    numbers = [*whole().numbers()]
    assert len(numbers) > 60
    assert {n.evidence for n in numbers} <= set(EVIDENCE)
    assert set(LABELS) == set(EVIDENCE)


def test_measured_numbers_name_their_stack() -> None:
    report = whole()
    of_targets = ("cycles_measured", "cycles_estimated", "instructions", "host_wall", "counted", "on_target")
    assert all(n.stack in report.provenance.stacks for n in report.numbers() if n.evidence in of_targets)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (Number(1848.0, "us", "predicted"), "1.848 ms"),
        (Number(46_744.0, "bytes", "counted"), "46.744 kB"),
        (Number(12.0, "uj", "host_wall"), "12.000 uJ"),
        (Number(221_732.0, "count", "computed"), "221,732"),
        (Number(0.9749, "share", "reference"), "97.49 %"),
        (Number(0.9425, "share", "estimated", error=0.0123), "94.25 ± 1.23 %"),
        (Number(2.26, "percent", "computed"), "2.26 %"),
        (Number(None, "us", "predicted"), "-"),
        (Number(math.nan, "us", "predicted"), "-"),
        (Number(math.inf, "share", "predicted"), "-"),
        (None, "-"),
    ],
)
def test_numbers_as_people_read_them(number: Number | None, text: str) -> None:
    assert shown(number) == text


def test_units_follow_the_metrics_name() -> None:
    names = ["pi:latency_us", "flash_bytes", "energy_uj", "macs", "cycles"]
    assert [unit_of(name) for name in names] == ["us", "bytes", "uj", "count", "count"]


def test_what_is_not_finite_becomes_null() -> None:
    found = plain({"a": math.nan, "b": (1, -math.inf, [2.5]), 3: None, "c": True})
    assert found == {"a": None, "b": [1, None, [2.5]], "3": None, "c": True}


def test_a_row_without_a_measurement_has_no_measured_number() -> None:
    row = ComparisonRow("latency_us", 2000.0, 1900.0, None, None)
    cost = cost_of(row, Number(1900.0, "us", "predicted", "host_wall"), "")
    assert (cost.measured, cost.ok, cost.error_percent) == (None, None, None)
    assert cost.budget == Number(2000.0, "us", "asked")


def test_the_manual_names_every_field() -> None:
    """docs/report.md, the table below "As JSON"."""
    text = (Path(__file__).parents[2] / "docs" / "report.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in text.split("## As JSON")[1].splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named == set(whole().as_json())
    assert f"`schema` is its version, {SCHEMA};" in text
    paragraph = text.split("A number is an object: ")[1].split("\n")[0]
    assert {f.name for f in fields(Number)} <= set(re.findall(r"`(\w+)`", paragraph))
    units = {"us", "bytes", "uj", "count", "share", "percent"}
    assert units <= set(re.findall(r"`(\w+)`", paragraph))
    statuses = {"kept", "broken", "predicted", "infeasible", "empty"}
    row = next(line for line in text.splitlines() if line.startswith("| `status`"))
    assert set(re.findall(r"`(\w+)`", row)) == {"status", *statuses}
    assert set(get_args(Status)) == statuses
