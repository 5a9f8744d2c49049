"""What a gradient search logged, for people: a CSV of every alpha step, and one row per epoch for a picture."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from toolchain.files import write_atomic
from toolchain.search.protocols import HistoryRow

_COST: Final = "cost/"
_VIOLATION: Final = "violation/"
_FIRST: Final = ("step", "epoch")


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch of alpha steps, summed up.

    Attributes:
        epoch: from 0.
        accuracy: mean validation accuracy of the mixture, 0 to 1; NaN where it was not logged.
        costs: per budgeted metric (least, middle, greatest) of the architectures before the steps.
        kept: share of the steps whose architecture was within every budget.
        entropy: of softmax(alpha) at the last step, mean over the choices, in nats.
        raw, modified: mean gradient norms before and after the turn.
        opposed: mean number of choices on which two violated constraints pull against each other.
        candidate: accuracy of the architecture at the epoch's end, with inherited weights; NaN before the annealing
            is over.
    """

    epoch: int
    accuracy: float
    costs: Mapping[str, tuple[float, float, float]]
    kept: float
    entropy: float
    raw: float
    modified: float
    opposed: float
    candidate: float


def epochs_of(history: Sequence[HistoryRow]) -> tuple[Epoch, ...]:
    """The log of `connas_search` or `search_table` by epochs; epochs without alpha steps are left out."""
    groups: dict[int, list[Mapping[str, float]]] = {}
    for row in history:
        groups.setdefault(row.epoch, []).append(row.values)
    return tuple(_epoch(epoch, rows) for epoch, rows in groups.items())


def write_trace(history: Sequence[HistoryRow], path: Path) -> Path:
    """Every row as one line of a CSV file: step, epoch, then the named values; empty where a row lacks one."""
    names = sorted({name for row in history for name in row.values})
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow([*_FIRST, *names])
    for row in history:
        writer.writerow(
            [row.step, row.epoch, *(repr(row.values[n]) if n in row.values else "" for n in names)]
        )
    write_atomic(path, text.getvalue().encode())
    return path


def _epoch(epoch: int, rows: Sequence[Mapping[str, float]]) -> Epoch:
    def mean(name: str) -> float:
        found = [row[name] for row in rows if name in row]
        return float(np.mean(found)) if found else math.nan

    costs = {}
    for name in rows[0]:
        if name.startswith(_COST):
            values = [row[name] for row in rows]
            costs[name.removeprefix(_COST)] = (min(values), float(np.median(values)), max(values))
    kept = [all(v == 0 for n, v in row.items() if n.startswith(_VIOLATION)) for row in rows]
    return Epoch(
        epoch,
        mean("accuracy/validation"),
        costs,
        float(np.mean(kept)),
        rows[-1].get("entropy", math.nan),
        mean("gradient/raw"),
        mean("gradient/modified"),
        mean("opposed"),
        mean("candidate/accuracy"),
    )
