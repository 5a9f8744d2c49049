"""Small random models and their answers by enumeration: no code of the solver is used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from toolchain.search.exact import ArcFlow, Layer, Metric, Stages, from_layers, from_stages
from toolchain.search.exact.model import step_of
from toolchain.units import Budget

SUMS = ("latency_us", "flash_bytes", "energy_uj")


def paths(model: ArcFlow) -> Iterator[tuple[int, ...]]:
    """All paths from source to sink."""
    out: dict[int, list[int]] = {}
    for arc, node in enumerate(model.start.tolist()):
        out.setdefault(node, []).append(arc)
    ends = model.end.tolist()

    def walk(node: int, prefix: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        if node == model.nodes - 1:
            yield prefix
            return
        for arc in out.get(node, ()):
            yield from walk(ends[arc], (*prefix, arc))

    return walk(0, ())


def table(model: ArcFlow) -> list[tuple[int, tuple[int, ...], tuple[int, ...]]]:
    """(value, costs, path) of every path, added up in Python integers."""
    values, costs = model.value.tolist(), model.costs.tolist()
    rows = []
    for path in paths(model):
        columns = zip(*(costs[a] for a in path), strict=True) if model.metrics else ()
        sums = tuple(
            max(c) if m.combine == "max" else sum(c) for m, c in zip(model.metrics, columns, strict=True)
        )
        rows.append((sum(values[a] for a in path), sums, path))
    return rows


def best(
    rows: list[tuple[int, tuple[int, ...], tuple[int, ...]]], bounds: Sequence[tuple[int, int]]
) -> list[int]:
    """Values of all paths within the bounds, falling."""
    return sorted((v for v, costs, _ in rows if all(costs[c] <= t for c, t in bounds)), reverse=True)


def stages_model(rng: np.random.Generator, *, coarse: bool = False) -> ArcFlow:
    """A stages x blocks x configurations model with three sums and a maximum; coarse: many ties."""
    shape = tuple(int(x) for x in rng.integers([1, 1, 1], [4, 4, 4]))

    def draw(low: float, high: float, size: tuple[int, ...]) -> np.ndarray:
        return (
            rng.integers(int(low), int(high), size).astype(float) if coarse else rng.uniform(low, high, size)
        )

    contributions = draw(-3, 4, shape)
    if shape[2] > 1:
        contributions[rng.random(shape) < 0.1] = np.nan
        contributions[..., 0] = draw(-3, 4, shape[:2])
    costs = {name: draw(1, 9, shape) for name in SUMS}
    costs["ram_bytes"] = np.rint(rng.uniform(10, 40, shape))
    return from_stages(
        Stages(
            contributions,
            draw(-2, 3, shape[:2]),
            costs,
            min_depth=int(rng.integers(1, shape[1] + 1)),
            base_value=70.0,
            bases={"latency_us": 2.5},
            maxima=("ram_bytes",),
        )
    )


def coupled_model(rng: np.random.Generator, *, coarse: bool = False) -> ArcFlow:
    """Layers with up to four states, missing candidates, and the same metrics."""
    metrics = tuple(
        Metric(n, "max" if n == "ram_bytes" else "sum", 1.0 if n == "latency_us" else 0.0, step_of(n))
        for n in (*SUMS, "ram_bytes")
    )
    count = int(rng.integers(2, 6))
    states = [1, *rng.integers(1, 5, count).tolist()]
    layers = []
    for i in range(count):
        candidates = int(rng.integers(1, 5))
        following = rng.integers(0, states[i + 1], (states[i], candidates))
        following[rng.random(following.shape) < 0.15] = -1
        following[0, 0] = 0  # one path always exists
        value = rng.uniform(-2, 3, following.shape)
        costs = rng.uniform(1, 9, (len(metrics), *following.shape))
        if coarse:
            value, costs = np.rint(value), np.rint(costs)
        layers.append(Layer(following, value, costs, i))
    return from_layers(layers, metrics)


def some_budgets(
    rng: np.random.Generator,
    model: ArcFlow,
    rows: list[tuple[int, tuple[int, ...], tuple[int, ...]]],
    kinds: int,
) -> list[Budget]:
    """Budgets between impossible and loose on the first `kinds` sums, and half the time on RAM."""
    names = list(SUMS[:kinds]) + (["ram_bytes"] if rng.random() < 0.5 else [])
    found = []
    for name in names:
        column = model.column(name)
        low, high = (f(costs[column] for _, costs, _ in rows) for f in (min, max))
        steps = low + rng.uniform(-0.05, 0.9) * (high - low + 1)
        found.append(Budget(name, max(1e-3, model.metrics[column].amount(int(steps)))))
    return found
