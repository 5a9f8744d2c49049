"""Seeded instances of BINAS's problem for tests, benchmarks and for trying the solver: costs of a MobileNet model,
contributions of plausible size and both signs. Not measurements; the description is in docs/selection.md.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from toolchain.search.exact.infeasible import least_path
from toolchain.search.exact.model import ArcFlow, Layer, Metric, Stages, from_layers, step_of
from toolchain.search.exact.solver import solve
from toolchain.search.protocols import Floats
from toolchain.units import Budget

PAPER: Final = (5, 4, 12)
"""Stages, blocks, configurations of the paper's space (section 4.1.1)."""

TENFOLD: Final = (10, 6, 40)

_CHANNELS: Final = (16, 24, 40, 80, 112, 192)
_SIDES: Final = (112, 56, 28, 14, 14)
_STRIDES: Final = (2, 2, 2, 1, 2)
CONNAS_WIDTHS: Final = (8, 16, 32, 64, 128, 256, 512)


def mobilenet(seed: int, size: tuple[int, int, int] = PAPER) -> Stages:
    """Stages with latency_us, flash_bytes, energy_uj (sums) and ram_bytes (a maximum), contributions in points.

    MACs plus twice the depthwise ones for its inefficiency, 8 % lognormal noise, an overhead per squeeze-excite;
    contributions grow with expansion, kernel and squeeze-excite and are centred; depths count logarithmically.
    """
    stages, depth, count = size
    rng = np.random.default_rng(seed)
    position = np.linspace(0, 4.999, stages) if stages != 5 else np.arange(5.0)
    where = position.astype(int)
    channels = [16] + [int(round(np.interp(p + 1, np.arange(6), _CHANNELS) / 8) * 8) for p in position]
    expansion, kernel, excite = _configurations(count)
    shape = (stages, depth, count)
    latency, flash, ram, gain = (np.zeros(shape) for _ in range(4))
    depths = np.zeros((stages, depth))
    speed = rng.uniform(6, 10) * 1e6  # MACs per ms
    for s in range(stages):
        side_in = _SIDES[where[s]]
        stride = _STRIDES[where[s]] if s == 0 or where[s] != where[s - 1] else 1
        late = 5 * s / stages
        depths[s] = rng.uniform(0.6, 1.4) * (0.35 + 0.25 * late) * np.log(
            np.arange(1, depth + 1) / ((depth + 1) / 2)
        ) + rng.normal(0, 0.05, depth)
        for b in range(depth):
            c_in, c_out = (channels[s] if b == 0 else channels[s + 1]), channels[s + 1]
            out = side_in // stride
            side = side_in if b == 0 else out
            hidden = expansion * c_in
            depthwise = out * out * hidden * kernel**2
            macs = side * side * c_in * hidden + 3 * depthwise + out * out * hidden * c_out
            macs = macs + excite * hidden**2 / 2
            noise = rng.lognormal(0, 0.08, count)
            latency[s, b] = macs / speed * noise + 0.05 + 0.12 * excite * rng.lognormal(0, 0.2, count)
            flash[s, b] = hidden * (c_in + kernel**2 + c_out + 4) + excite * hidden**2 / 2
            ram[s, b] = side * side * hidden + out * out * hidden
            sensitivity = rng.uniform(0.5, 1.5) * (0.10 + 0.05 * late) * (1 - 0.48 * b / depth)
            gain[s, b] = sensitivity * (
                0.9 * np.log(expansion / 4.2) + 0.1 * (kernel - 4) + 0.55 * (excite - 0.5)
            ) + rng.normal(0, 0.03, count)
            gain[s, b] -= 0.7 * gain[s, b].mean()
    energy = latency * rng.lognormal(0, 0.25, shape) * 0.9 + flash / 1024 * 0.002
    costs = {
        "latency_us": latency * 1e3,
        "flash_bytes": np.rint(flash),
        "energy_uj": energy * 1e3,
        "ram_bytes": np.rint(ram),
    }
    return Stages(gain, depths, costs, maxima=("ram_bytes",))


def connas(seed: int, edges: int = 8) -> ArcFlow:
    """The ConNAS space with coupled channels: 7 widths x 2 kinds per edge and identity on every second one; latency_us,
    flash_bytes, energy_uj and ram_bytes. Costs are those of 1-D convolutions, contributions are made up.
    """
    rng = np.random.default_rng(seed)
    metrics = tuple(
        Metric(name, "max" if name == "ram_bytes" else "sum", 0.0, step_of(name))
        for name in ("latency_us", "flash_bytes", "energy_uj", "ram_bytes")
    )
    widths = np.array(CONNAS_WIDTHS)
    layers = []
    before, length = np.array([8]), 256
    for edge in range(edges):
        after_length = length // 2 if edge % 2 == 0 else length
        candidates = 2 * len(widths) + edge % 2
        following = np.full((len(before), candidates), -1)
        value = np.zeros(following.shape)
        costs = np.zeros((len(metrics), *following.shape))
        gain = np.log(widths / 64) * rng.uniform(0.1, 0.5)
        for kind in (0, 1):
            at = slice(kind * len(widths), (kind + 1) * len(widths))
            following[:, at] = np.arange(len(widths))
            weights = before[:, None] * widths * 3 if kind == 0 else before[:, None] * (3 + widths)
            macs = weights * after_length
            latency = macs / 1e2 * rng.lognormal(0, 0.15, macs.shape) + 20 * (1 + kind)
            value[:, at] = gain - 0.3 * kind + rng.normal(0, 0.1, macs.shape)
            costs[:, :, at] = [
                latency,
                weights + 8 * widths,
                latency * rng.lognormal(0, 0.25, macs.shape),
                np.broadcast_to(before[:, None] * length + widths * after_length, macs.shape),
            ]
        if edge % 2:
            following[:, -1] = np.arange(len(before))
            value[:, -1] = -0.2
            costs[3, :, -1] = before * length
        layers.append(Layer(following, value, costs, edge))
        before, length = widths, after_length
    return from_layers(layers, metrics)


def budgets_between(model: ArcFlow, metrics: tuple[str, ...], share: float) -> list[Budget]:
    """Budgets a share of the way from each metric's least value to what the unconstrained optimum needs."""
    most = solve(model, []).resources
    found = []
    for name in metrics:
        column = model.column(name)
        low = model.metrics[column].amount(least_path(model, column)[0])
        found.append(Budget(name, low + share * max(0.0, most[name] - low)))
    return found


def _configurations(count: int) -> tuple[Floats, Floats, Floats]:
    """Expansion, kernel and squeeze-excite of each configuration."""
    if count <= 12:
        rows = [(float(e), float(k), float(x)) for e in (3, 4, 6) for k in (3, 5) for x in (0, 1)]
    else:
        steps = np.linspace(1, 8, max(4, -(-count // 8)))
        rows = [(float(e), float(k), float(x)) for e in steps for k in (3, 5, 7, 9) for x in (0, 1)]
    columns = np.array(rows[:count]).T
    return columns[0], columns[1], columns[2]
