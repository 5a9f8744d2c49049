"""The cost table: against straightforward pricing of every path, to the last bit."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profilers.calibrate import Calibration
from profilers.cost import ArcMetric, CostTable, FlashModel
from toolchain.errors import ConfigurationError, LutError
from toolchain.graph import Arc, Chain, Operator
from toolchain.measurement import Evidence, Stack


def dense(size: int, channels: int) -> Operator:
    return Operator("fully_connected", ((1, size),), (1, channels), dtype="int8")


def random_chain(rng: np.random.Generator, positions: int = 5, most: int = 4, missing: float = 0.2) -> Chain:
    """Random states, arcs and forced positions; some candidates are not available in some states."""
    states = [((1, 8),)]
    arcs: list[tuple[Arc, ...]] = []
    choices = []
    for position in range(positions):
        after = tuple((1, 4 + i) for i in range(int(rng.integers(1, most + 1))))
        forced = rng.random() < 0.3
        candidates = 1 if forced else int(rng.integers(1, most + 1))
        if not forced:
            choices.append(position)
        found = []
        for start, candidate in itertools.product(range(len(states[-1])), range(candidates)):
            if rng.random() < missing:
                continue
            size, channels = states[-1][start][1], int(rng.integers(1, 9))
            operators = tuple(dense(size, channels) for _ in range(int(rng.integers(0, 3))))
            found.append(
                Arc(
                    candidate + (3 if forced else 0),
                    start,
                    int(rng.integers(len(after))),
                    operators,
                    ram_bytes=int(rng.integers(1, 1000)),
                    constant_bytes=int(rng.integers(0, 5000)),
                )
            )
        states.append(after)
        arcs.append(tuple(found))
    return Chain(tuple(states), tuple(arcs), tuple(choices))


def values_of(chain: Chain, rng: np.random.Generator) -> dict[Operator, float]:
    return {op: float(rng.random() * 100) for op in chain.operators}


def walk(chain: Chain, architecture: tuple[int, ...]) -> list[Arc] | None:
    """The arcs of an architecture, or None where a candidate is not available."""
    state, path = 0, []
    picks = dict(zip(chain.choices, architecture, strict=True))
    for position, arcs in enumerate(chain.arcs):
        arc = next(
            (a for a in arcs if a.start == state and picks.get(position, a.candidate) == a.candidate), None
        )
        if arc is None:
            return None
        path.append(arc)
        state = arc.end
    return path


def all_architectures(table: CostTable) -> np.ndarray:
    grid = list(itertools.product(*(range(n) for n in table.candidates)))
    return np.array(grid, np.int64).reshape(len(grid), table.length)


FLASH = FlashModel(600, lambda op: 140.0 + op.output[-1] * 12)


@pytest.mark.parametrize("seed", range(25))
def test_prices_are_those_of_the_paths(seed: int) -> None:
    rng = np.random.default_rng(seed)
    chain = random_chain(rng)
    values = values_of(chain, rng)
    table = CostTable.build(chain, {"latency_us": values}, flash=FLASH, candidates=[4] * len(chain.choices))
    assert table.metrics == ("latency_us", "params", "macs", "flash_bytes", "ram_bytes")
    architectures = all_architectures(table)
    prices = table.price(architectures)
    available = 0
    for architecture, row in zip(architectures.tolist(), prices, strict=True):
        path = walk(chain, tuple(architecture))
        if path is None:
            assert np.isinf(row).all()
            continue
        available += 1
        operators = [op for arc in path for op in arc.operators]
        assert row[0] == pytest.approx(sum(values[op] for op in operators), abs=1e-5)
        assert row[1] == sum(op.params for op in operators)
        assert row[2] == sum(op.macs for op in operators)
        constants = sum(arc.constant_bytes for arc in path)
        assert row[3] == 600 + constants + sum(140 + op.output[-1] * 12 for op in operators)
        assert row[4] == max(arc.ram_bytes for arc in path)
    assert table.paths() == available


@pytest.mark.parametrize("seed", range(25))
def test_swaps_equal_separate_prices_exactly(seed: int) -> None:
    rng = np.random.default_rng(1000 + seed)
    chain = random_chain(rng, positions=6, missing=0.1)
    table = CostTable.build(chain, {"latency_us": values_of(chain, rng)}, flash=FLASH)
    for architecture in rng.permutation(all_architectures(table))[:20].tolist():
        swaps = table.swaps(architecture)
        assert len(swaps) == table.length
        for choice, rows in enumerate(swaps):
            others = np.array([architecture] * len(rows))
            others[:, choice] = range(len(rows))
            np.testing.assert_array_equal(rows, table.price(others))


@pytest.mark.parametrize("seed", range(25))
def test_least_equals_brute_force_exactly(seed: int) -> None:
    rng = np.random.default_rng(2000 + seed)
    chain = random_chain(rng, missing=0.1)
    table = CostTable.build(chain, {"latency_us": values_of(chain, rng)}, flash=FLASH)
    prices = table.price(all_architectures(table))
    if np.isinf(prices).all():
        with pytest.raises(ConfigurationError, match="no architecture"):
            table.least()
        return
    for column, (metric, (value, architecture)) in enumerate(table.least().items()):
        assert metric == table.metrics[column]
        assert value == prices[:, column].min()
        assert table.price([architecture])[0, column] == value


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.floats(0, 0.6))
def test_any_chain_is_consistent(seed: int, positions: int, missing: float) -> None:
    rng = np.random.default_rng(seed)
    chain = random_chain(rng, positions, 3, missing)
    table = CostTable.build(chain, {"energy_uj": values_of(chain, rng)})
    architectures = all_architectures(table)
    prices = table.price(architectures)
    assert not np.isnan(prices).any()
    assert table.paths() == np.isfinite(prices).all(1).sum()
    pick = architectures[seed % len(architectures)]
    for choice, rows in enumerate(table.swaps(tuple(pick.tolist()))):
        np.testing.assert_array_equal(rows[pick[choice]], table.price(pick[None])[0])


def test_batches_and_dtypes_do_not_matter() -> None:
    rng = np.random.default_rng(5)
    chain = random_chain(rng, 4, 4, 0.0)
    table = CostTable.build(chain, {"latency_us": values_of(chain, rng)})
    some = np.stack([rng.integers(0, n, 40000) for n in table.candidates], 1)
    whole = table.price(some)
    np.testing.assert_array_equal(whole, table.price(some.astype(np.uint8)))
    np.testing.assert_array_equal(whole[-7:], table.price(some[-7:]))
    assert table.price(some[:0]).shape == (0, len(table.metrics))


def simple_chain() -> Chain:
    """A stem, one choice of two widths, an identity or a layer, and a head."""
    a, b, c = dense(4, 8), dense(8, 8), dense(8, 16)
    return Chain(
        states=(((1, 4),), ((1, 8),), ((1, 8), (1, 16)), ((1, 8), (1, 16)), ((1, 2),)),
        arcs=(
            (Arc(0, 0, 0, (a,), 12, 40),),
            (Arc(0, 0, 0, (b,), 16, 72), Arc(1, 0, 1, (c,), 24, 144)),
            (Arc(0, 0, 0, (), 8, 0), Arc(0, 1, 1, (), 16, 0), Arc(1, 0, 0, (b,), 16, 72)),
            (Arc(0, 0, 0, (dense(8, 2),), 10, 18), Arc(0, 1, 0, (dense(16, 2),), 18, 34)),
        ),
        choices=(1, 2),
    )


def test_calibration_corrects_a_whole_network() -> None:
    chain = simple_chain()
    values = {op: 2.0 + i for i, op in enumerate(chain.operators)}
    calibration = Calibration(
        "latency_us", 5.0, 0.5, -1.0, 1.0, 1.0, 1.0, 9, 9, "leave-one-out", Evidence.HOST_WALL
    )
    table = CostTable.build(
        chain,
        {"latency_us": values},
        calibrations={"latency_us": calibration},
        stack=Stack.of({"target": "test"}),
    )
    path = walk(chain, (0, 1))
    assert path is not None
    operators = [op for arc in path for op in arc.operators]
    expected = calibration.predict([sum(values[op] for op in operators)], [len(operators)])[0]
    predicted = table.predict((0, 1))
    assert predicted["latency_us"].value == expected
    assert predicted["latency_us"].evidence is Evidence.PREDICTED
    assert predicted["latency_us"].details["from"] == "host_wall"
    assert predicted["latency_us"].details["stack"] == Stack.of({"target": "test"}).fingerprint
    assert predicted["params"].evidence is Evidence.COMPUTED


def test_an_operator_never_costs_less_than_nothing() -> None:
    chain = simple_chain()
    calibration = Calibration("latency_us", 0.0, 1.0, -50.0, 1, 1, 1, 9, 9, "none", Evidence.HOST_WALL)
    values = dict.fromkeys(chain.operators, 3.0)
    table = CostTable.build(chain, {"latency_us": values}, calibrations={"latency_us": calibration})
    assert table.least()["latency_us"][0] == 0


def test_identity_inherits_the_state_and_unavailable_is_inf() -> None:
    table = CostTable.of(simple_chain(), {"ram_bytes": ArcMetric("max", lambda arc: arc.ram_bytes)})
    np.testing.assert_array_equal(
        table.price([[0, 0], [1, 0], [0, 1], [1, 1]])[:, 0], [16.0, 24.0, 16.0, math.inf]
    )
    np.testing.assert_array_equal(table.swaps((0, 1))[0][:, 0], [16.0, math.inf])
    np.testing.assert_array_equal(table.swaps((1, 1))[0][:, 0], [16.0, math.inf])
    np.testing.assert_array_equal(table.swaps((1, 1))[1][:, 0], [24.0, math.inf])
    assert table.paths() == 3


def test_missing_rows_are_named() -> None:
    chain = simple_chain()
    values = dict.fromkeys(chain.operators[:2], 1.0)
    with pytest.raises(
        LutError, match=r"latency_us: 3 of 5 operators.*fully_connected 8->16 none int8"
    ) as error:
        CostTable.build(chain, {"latency_us": values})
    assert "boardfit profile" in error.value.remedy


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_impossible_rows_are_refused(value: float) -> None:
    chain = simple_chain()
    with pytest.raises(LutError, match="must be finite and not negative"):
        CostTable.build(chain, {"latency_us": dict.fromkeys(chain.operators, value)})


@pytest.mark.parametrize(
    ("architectures", "message"),
    [
        ([[0, 2]], r"choice 1 has candidates 0..1; got 2"),
        ([[-1, 0]], "got -1"),
        ([[0]], "n x 2"),
        ([[0.0, 1.0]], "needed: integers"),
    ],
)
def test_wrong_architectures_are_refused(architectures: list[list[int]], message: str) -> None:
    table = CostTable.build(simple_chain(), {})
    with pytest.raises(ConfigurationError, match=message):
        table.price(architectures)
    with pytest.raises(ConfigurationError, match=message):
        table.swaps(architectures[0])


def test_broken_chains_are_refused() -> None:
    chain = simple_chain()
    arc = Arc(0, 0, 0, (), 1, 0)
    broken = {
        "two arcs": Chain(chain.states, ((arc, arc), *chain.arcs[1:]), chain.choices),
        "leaves": Chain(chain.states, ((Arc(0, 0, 7, (), 1, 0),), *chain.arcs[1:]), chain.choices),
        "no choice": Chain(chain.states, chain.arcs, (1,)),
        "ascending": Chain(chain.states, chain.arcs, (2, 1)),
        "sets of states": Chain(chain.states[:-1], chain.arcs, chain.choices),
        "must be finite": Chain(chain.states, ((Arc(0, 0, 0, (), -1, 0),), *chain.arcs[1:]), chain.choices),
    }
    for message, bad in broken.items():
        with pytest.raises(ConfigurationError, match=message):
            CostTable.build(bad, {})


def test_large_sums_stay_exact() -> None:
    """MACs beyond 2^32 take a coarser grid, and stay integers."""
    table = CostTable.of(simple_chain(), {"macs": ArcMetric("sum", lambda arc: 2.0**45 + arc.constant_bytes)})
    assert table.price([[0, 1]])[0, 0] == 4 * 2**45 + 40 + 72 + 72 + 18
    with pytest.raises(ConfigurationError, match="too large"):
        CostTable.of(simple_chain(), {"macs": ArcMetric("sum", lambda arc: 2.0**53)})
