"""Which design choices pay: contributions of single candidates, averaged into effects (BINAS, 5.3).

Candidates of one choice are compared in pairs that differ in one property alone (kernel 5 against 3, all else equal).
Properties are the fields that a space adds to `Candidate`; a space that adds none has family and channels.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from toolchain.report.plots import Bar, Panel
from toolchain.spaces import Candidate, Choice

Floats = npt.NDArray[np.float64]

_SKIPS = ("none", "id")
_COMMON = ("name", "family", "channels")
DEPTH = "having the block"


@dataclass(frozen=True, slots=True)
class Effect:
    """What one property brings at one choice, on average over its pairs of candidates.

    Attributes:
        choice: index of the choice. stage, block: from its name (`stage2_block1`), or None.
        what: e.g. "kernel 5 instead of 3", or "having the block".
        value: difference of accuracies, -1 to 1. error: its standard error, the contributions taken as independent.
    """

    choice: int
    stage: int | None
    block: int | None
    what: str
    value: float
    error: float


def effects(
    choices: Sequence[Choice], values: Sequence[Floats], errors: Sequence[Floats] = ()
) -> tuple[Effect, ...]:
    """Every effect at every choice; those that rest on a candidate that nobody measured are left out.

    Args:
        choices: of the space.
        values: per choice, the contribution of each candidate (0 to 1 is the whole accuracy).
        errors: per choice, their standard errors (inf: not measured); empty for none.
    """
    spread = list(errors) or [np.zeros(len(v)) for v in values]
    found = []
    for index, choice in enumerate(choices):
        stage, block = stage_and_block(choice.name)
        for what, pairs in _comparisons(choice.candidates):
            value, error = _mean_difference(pairs, values[index], spread[index])
            if math.isfinite(error):
                found.append(Effect(index, stage, block, what, value, error))
    return tuple(found)


def overall(found: Sequence[Effect]) -> tuple[tuple[str, float, float], ...]:
    """(what, mean over all choices, standard error), the largest first."""
    names = dict.fromkeys(effect.what for effect in found)
    rows = [(name, *_mean([e for e in found if e.what == name])) for name in names]
    return tuple(sorted(rows, key=lambda row: -row[1]))


def panels(found: Sequence[Effect]) -> tuple[Panel, ...]:
    """Diagrams as the paper's Figure 8: depth by stage, properties by stage, properties by block within a stage.

    A space whose choices have no stages in their names gets one diagram, by choice.
    """
    depth = [effect for effect in found if effect.what == DEPTH]
    rest = [effect for effect in found if effect.what != DEPTH]
    if any(effect.stage is None for effect in found):
        numbered = "choice"
        return (
            Panel("having the block", numbered, _bars(depth, lambda e: str(e.choice + 1))),
            Panel("configuration", numbered, _bars(rest, lambda e: str(e.choice + 1))),
        )
    by_block = tuple(
        Bar(str(e.stage), f"block {e.block}", e.value, e.error) for e in sorted(depth, key=_where)
    )
    return (
        Panel("having the block", "stage", by_block),
        Panel("configuration, by stage", "stage", _bars(rest, lambda e: str(e.stage))),
        Panel("configuration, by block", "block within its stage", _bars(rest, lambda e: str(e.block))),
    )


def stage_and_block(name: str) -> tuple[int | None, int | None]:
    """`stage2_block1` -> (2, 1); (None, None) for names of another form."""
    match = re.search(r"stage(\d+)\D+(\d+)$", name)
    return (int(match.group(1)), int(match.group(2))) if match else (None, None)


def _where(effect: Effect) -> tuple[int, int]:
    return effect.stage or 0, effect.block or 0


def _bars(found: Sequence[Effect], group: Callable[[Effect], str]) -> tuple[Bar, ...]:
    keys = dict.fromkeys((group(e), e.what) for e in found)
    bars = []
    for where, what in keys:
        value, error = _mean([e for e in found if group(e) == where and e.what == what])
        bars.append(Bar(where, what, value, error))
    return tuple(sorted(bars, key=lambda bar: int(bar.group)))


def _mean(found: Sequence[Effect]) -> tuple[float, float]:
    value = sum(e.value for e in found) / len(found)
    return value, math.sqrt(sum(e.error**2 for e in found)) / len(found)


def _comparisons(candidates: Sequence[Candidate]) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """(what, pairs of indices (with, without)); the pairs differ in that one property."""
    full = [i for i, c in enumerate(candidates) if c.name not in _SKIPS]
    for index, candidate in enumerate(candidates):
        if candidate.name in _SKIPS and full:
            yield DEPTH, [(other, index) for other in full]
    names = [f.name for f in fields(candidates[0]) if f.name not in _COMMON]
    properties = names or ["family", "channels"]
    table = [tuple(getattr(candidates[i], name, None) for name in properties) for i in full]
    for column, name in enumerate(properties):
        levels = sorted({row[column] for row in table if row[column] is not None}, key=_order)
        for level in levels[1:]:
            pairs = []
            for i, row in zip(full, table, strict=True):
                if row[column] == level:
                    twin = (*row[:column], levels[0], *row[column + 1 :])
                    pairs += [(i, full[table.index(twin)])] if twin in table else []
            if pairs:
                yield _said(name, level, levels[0]), pairs


def _said(name: str, level: object, base: object) -> str:
    words = name.replace("_", " ")
    if isinstance(level, bool):
        return words
    if name == "family":
        return f"{level} instead of {base}"
    return f"{words} {level} instead of {base}"


def _order(level: object) -> tuple[float, str]:
    return (float(level), "") if isinstance(level, int | float) else (0.0, str(level))


def _mean_difference(pairs: Sequence[tuple[int, int]], values: Floats, errors: Floats) -> tuple[float, float]:
    """Mean of values[with] - values[without]; a candidate that stands in several pairs counts with its whole weight."""
    weights = np.zeros(len(values))
    for plus, minus in pairs:
        weights[plus] += 1 / len(pairs)
        weights[minus] -= 1 / len(pairs)
    used = weights != 0
    return float(weights @ values), float(np.sqrt((weights[used] ** 2 * errors[used] ** 2).sum()))
