"""NATS-Bench's topology table and the measured latencies of its networks, as arrays with one axis per edge."""

from __future__ import annotations

import csv
import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from toolchain.search.connas_table import TableCost
from toolchain.spaces.nasbench201 import NasBench201
from toolchain.units import Budget

TABLE = "nats_bench_tss/tss.csv.gz"
LATENCIES = "nb201_latency_help/nb201_latency_ms.csv.gz"
DEVICES = {"raspi4": "Raspberry Pi 4", "pixel3": "Pixel 3", "eyeriss": "Eyeriss", "fpga": "FPGA"}
DATASETS = {"c10": "CIFAR-10", "c100": "CIFAR-100", "im16": "ImageNet16-120"}
SEARCHED = "c10_valid_12"

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Nats:
    """The benchmark.

    Attributes:
        searched: validation accuracy on CIFAR-10 after 12 epochs, 0 to 1: the signal of a search.
        test: data set -> test accuracy after 200 epochs in per cent, which no search sees.
        cost: params and flops by formula (one cell per stage), latency per device in ms.
    """

    searched: Floats
    test: dict[str, Floats]
    cost: TableCost

    def within(self, budgets: list[Budget]) -> npt.NDArray[np.bool_]:
        """(5, ..., 5) True where every budget is kept."""
        mask = np.ones(self.searched.shape, dtype=bool)
        for budget in budgets:
            mask &= self.cost.values[..., self.cost.metrics.index(budget.metric)] <= budget.bound
        return mask

    def constraints(self) -> dict[str, list[Budget]]:
        """The paper's three, with the FLOPs bound as its count implies; then latencies at two quantiles."""
        space = NasBench201()
        params = Budget("params", float(space.params([[2, 3, 4, 4, 4, 4]])[0]))
        flops = Budget("flops", float(space.flops([[2, 3, 4, 4, 4, 0]])[0]))
        found = {"params": [params], "flops": [flops], "params+flops": [params, flops]}
        for device in DEVICES:
            column = self.cost.values[..., self.cost.metrics.index(f"{device}_ms")]
            for share in (0.5, 0.1):
                bound = float(np.quantile(column, share))
                found[f"{device} {share:.0%}"] = [Budget(f"{device}_ms", bound)]
        return found


def available(folder: Path) -> bool:
    """Whether both tables are there."""
    return all((folder / name).exists() for name in (TABLE, LATENCIES))


def read(folder: Path) -> Nats:
    """Both tables, joined."""
    table, latencies = _rows(folder / TABLE), _rows(folder / LATENCIES)
    codes = np.array([[int(digit) for digit in row["ops"]] for row in table])

    def placed(values: npt.ArrayLike) -> Floats:
        result = np.zeros((5,) * 6)
        result[tuple(codes.T)] = values
        return result

    def column(rows: list[dict[str, str]], name: str) -> Floats:
        return placed([float(row[name]) for row in rows])

    space = NasBench201()
    cost = {"params": placed(space.params(codes)), "flops": placed(space.flops(codes))}
    cost.update({f"{device}_ms": column(latencies, device) for device in DEVICES})
    test = {name: column(table, f"{name}_test_200") for name in DATASETS}
    return Nats(column(table, SEARCHED) / 100, test, TableCost(cost))


def _rows(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt") as file:
        return list(csv.DictReader(file))
