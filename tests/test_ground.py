"""The ground floor: errors, units, evidence, files."""

import contextlib
import errno
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolchain import errors, files
from toolchain.errors import BoardfitError, ConfigurationError
from toolchain.measurement import Stack
from toolchain.units import BUDGET_METRICS, Budget, format_value, parse_budget


@pytest.mark.parametrize(
    ("key", "text", "metric", "bound"),
    [
        ("latency", "2 ms", "latency_us", 2000.0),
        ("latency", "350us", "latency_us", 350.0),
        ("latency", "0.5 s", "latency_us", 500_000.0),
        ("flash", "64 kB", "flash_bytes", 64_000.0),
        ("ram", "18 KiB", "ram_bytes", 18_432.0),
        ("ram", "1_024 B", "ram_bytes", 1024.0),
        ("energy", "1.5 mJ", "energy_uj", 1500.0),
        ("macs", "1.5M", "macs", 1_500_000.0),
        ("params", 12000, "params", 12_000.0),
        ("cycles", "3 M", "cycles", 3_000_000.0),
    ],
)
def test_budgets_as_people_write_them(key: str, text: str | int, metric: str, bound: float) -> None:
    budget = parse_budget(key, text)
    assert (budget.metric, budget.bound) == (metric, pytest.approx(bound, rel=1e-12))


@pytest.mark.parametrize(
    ("key", "text", "part"),
    [
        ("latency", "2", "unit ''"),  # a bare number of what?
        ("latency", "2 kB", "'kB'"),
        ("flash", "64 KB", "'KB'"),  # neither kB nor KiB: ask, do not guess
        ("latency", "-2 ms", "not a number"),
        ("latency", "nan ms", "not a number"),
        ("flash", "0 B", "positive"),
        ("speed", "2 ms", "unknown budget"),
        ("latency", "1e999 ms", "positive finite"),
    ],
)
def test_bad_budgets_are_refused_with_a_reason(key: str, text: str, part: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_budget(key, text)
    assert part in str(caught.value)


@given(st.text(max_size=12), st.sampled_from(sorted(BUDGET_METRICS)))
def test_no_text_breaks_the_budget_parser(text: str, key: str) -> None:
    with contextlib.suppress(ConfigurationError):
        assert parse_budget(key, text).bound > 0


def test_equal_to_the_bound_is_within() -> None:
    assert Budget("ram_bytes", 100).keeps(100)
    assert not Budget("ram_bytes", 100).keeps(100.0000001)


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("latency_us", 1840.0, "1.840 ms"),
        ("latency_us", 0.5, "0.500 us"),
        ("flash_bytes", 64_000, "64.000 kB"),
        ("ram_bytes", 512, "512 B"),
        ("macs", 1_234_567, "1,234,567"),
    ],
)
def test_values_carry_their_unit(metric: str, value: float, text: str) -> None:
    assert format_value(metric, value) == text


def _is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, BoardfitError)


def test_exit_codes_are_those_of_the_manual() -> None:
    codes = {cls.__name__: cls.exit_code for cls in vars(errors).values() if _is_error(cls)}
    assert codes["BudgetError"] == 1
    assert codes["UsageError"] == 2
    assert codes["ConfigurationError"] == codes["DataError"] == codes["LutError"] == 3
    assert (codes["InfeasibleError"], codes["DeviceError"]) == (4, 5)
    assert (codes["FlashingError"], codes["VerificationError"]) == (6, 7)


def test_a_stack_does_not_depend_on_the_order_of_its_fields() -> None:
    assert Stack.of({"a": 1, "b": "x"}) == Stack.of({"b": "x", "a": 1})
    assert Stack.of({"a": 1}).fingerprint != Stack.of({"a": 2}).fingerprint
    assert len(Stack.of({}).fingerprint) == 16


def test_atomic_files_are_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "result.json"
    files.write_json(path, {"b": 1, "a": "µ"})
    assert json.loads(path.read_text()) == {"a": "µ", "b": 1}
    before = path.read_bytes()

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(BoardfitError, match="No space left"):
        files.write_atomic(path, b"new")
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
