"""Two runs beside each other, from their report documents (as JSON values, so that a file of last month serves too).

Numbers are only set beside each other when they mean the same: one unit, one kind of evidence, and, unless the value
follows exactly from the network (bytes, parameters, MACs), one stack. Everything else is refused, not footnoted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from toolchain.errors import ConfigurationError, EvidenceError
from toolchain.report.document import KIND, SCHEMA
from toolchain.report.number import LABELS, Number, plain, shown

Document = Mapping[str, Any]
EXACT: Final = ("computed", "counted")


@dataclass(frozen=True, slots=True)
class Pair:
    """One metric or accuracy of both runs; `percent`: how much more the right one has."""

    name: str
    left: Number
    right: Number
    difference: Number
    percent: float | None


@dataclass(frozen=True, slots=True)
class RunComparison:
    """Two runs.

    Attributes:
        names: as the user called them. networks: as people read them. verdicts: each report's status.
        pairs: accuracies, then costs. blocks: (block, left's choice, right's) where they differ.
        only: (metric, "left" or "right") that the other does not have.
    """

    names: tuple[str, str]
    networks: tuple[str, str]
    verdicts: tuple[str, str]
    pairs: tuple[Pair, ...]
    blocks: tuple[tuple[str, str, str], ...]
    only: tuple[tuple[str, str], ...]

    def as_json(self) -> dict[str, Any]:
        """JSON values alone."""
        values = plain(asdict(self))
        assert isinstance(values, dict)
        return values


def check_document(document: Any, name: str) -> Document:
    """A parsed file, when it is a report of this version's schema.

    Raises:
        ConfigurationError: it is not.
    """
    again = "write it anew with `boardfit report --json`"
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise ConfigurationError(f"{name} is no report", remedy=again)
    if document.get("schema") != SCHEMA:
        raise ConfigurationError(
            f"{name} has report schema {document.get('schema')!r}, this version reads {SCHEMA}", remedy=again
        )
    return document


def compare_reports(
    left: Document, right: Document, *, metrics: Sequence[str] = (), names: tuple[str, str] = ("A", "B")
) -> RunComparison:
    """Set two reports beside each other.

    Args:
        metrics: only these costs, and no accuracies; empty: all that both have.

    Raises:
        EvidenceError: two numbers do not mean the same; the remedy names the metrics that can be compared.
        ConfigurationError: a report without a network, or a metric that one of them does not have.
    """
    for document, name in ((left, names[0]), (right, names[1])):
        if not document["network"]:
            raise ConfigurationError(
                f"{name} has no network to compare: {document['headline']}", remedy="run `boardfit run` there"
            )
    costs = [{c["metric"]: _known(c) for c in d["costs"]} for d in (left, right)]
    wanted = metrics or [m for m in costs[0] if m in costs[1]]
    for metric in wanted:
        for own, name in zip(costs, names, strict=True):
            if metric not in own:
                raise ConfigurationError(f"{name} has no {metric}", remedy=f"it has {', '.join(own)}")
    why = {m: reason for m in wanted if (reason := _refusal(costs[0][m], costs[1][m]))}
    if why:
        fine = [m for m in wanted if m not in why]
        first = next(iter(why))
        others = f" (and {len(why) - 1} more)" if len(why) > 1 else ""
        options = " ".join(f"--metric {m}" for m in fine)
        raise EvidenceError(
            f"{first} of the two runs cannot be compared{others}: {why[first]}",
            remedy=f"compare what is exact: {options}" if fine else "measure both on one target",
        )
    pairs = [] if metrics else _accuracies(left, right)
    pairs += [_pair(m, costs[0][m], costs[1][m]) for m in wanted]
    return RunComparison(
        names,
        (left["network"], right["network"]),
        (left["status"], right["status"]),
        tuple(pairs),
        _blocks(left, right),
        ()
        if metrics
        else (
            *((m, "left") for m in costs[0] if m not in costs[1]),
            *((m, "right") for m in costs[1] if m not in costs[0]),
        ),
    )


def rows_of(found: RunComparison) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """The comparison as tables: title, columns ("|": right), rows."""
    a, b = found.names
    tables: list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]] = [
        (
            "Runs",
            ("", "run", "budgets", "network"),
            [
                (letter, name, verdict, network)
                for letter, name, verdict, network in zip(
                    "AB", (a, b), found.verdicts, found.networks, strict=True
                )
            ],
        ),
        (
            "A and B",
            ("", "A|", "B|", "B - A|", "", "evidence"),
            [
                (
                    pair.name,
                    shown(pair.left),
                    shown(pair.right),
                    _change(pair.difference),
                    "" if pair.percent is None else f"{pair.percent:+.1f} %",
                    LABELS.get(pair.left.evidence, pair.left.evidence)
                    + (", unstable" if pair.left.unstable or pair.right.unstable else ""),
                )
                for pair in found.pairs
            ],
        ),
    ]
    if found.blocks:
        tables.append(("Blocks that differ", ("block", "A", "B"), list(found.blocks)))
    if found.only:
        rows: list[tuple[str, ...]] = [
            (metric, "A" if side == "left" else "B") for metric, side in found.only
        ]
        tables.append(("In one run alone", ("metric", "run"), rows))
    return tables


def _change(difference: Number) -> str:
    """A difference with its sign; of accuracies in points."""
    if difference.value is not None and difference.unit == "share":
        return f"{100 * difference.value:+.2f} points"
    return ("+" if (difference.value or 0) > 0 else "") + shown(difference)


def _known(cost: Mapping[str, Any]) -> Number:
    """What was found on the target, else the prediction."""
    number = cost["measured"] or cost["predicted"]
    return Number(None, "", "") if number is None else Number(**number)


def _refusal(a: Number, b: Number) -> str:
    """Why two numbers cannot stand beside each other; empty when they can."""
    if a.unit != b.unit:
        return f"one is in {a.unit or 'nothing'}, the other in {b.unit or 'nothing'}"
    if a.evidence != b.evidence:
        return f"one is {a.evidence}, the other {b.evidence}"
    if a.source != b.source:
        return f"one is {a.evidence} from {a.source or 'nothing'}, the other from {b.source or 'nothing'}"
    exact = a.evidence in EXACT or a.source in EXACT
    if a.stack != b.stack and not exact:
        return f"one is of stack {a.stack or 'none'}, the other of {b.stack or 'none'}"
    return ""


def _accuracies(left: Document, right: Document) -> list[Pair]:
    """Steps of the trail that both have.

    Raises:
        EvidenceError: the runs were made with different data.
    """
    data = [d["project"]["data_fingerprint"] for d in (left, right)]
    if data[0] != data[1]:
        fine = [c["metric"] for c in left["costs"] if c["predicted"] and c["metric"] in ("params", "macs")]
        raise EvidenceError(
            f"the accuracies of the two runs are of different data: {data[0]} and {data[1]}",
            remedy=f"compare costs alone: {' '.join(f'--metric {m}' for m in fine or ['flash_bytes'])}",
        )
    trails = [{(a["stage"], a["where"]): Number(**a["number"]) for a in d["accuracy"]} for d in (left, right)]
    return [
        _pair(
            f"accuracy, {stage}" + (f" {where}" if stage == "target" else ""), value, trails[1][stage, where]
        )
        for (stage, where), value in trails[0].items()
        if (stage, where) in trails[1]
    ]


def _pair(name: str, a: Number, b: Number) -> Pair:
    if a.value is None or b.value is None:
        return Pair(name, a, b, Number(None, a.unit, a.evidence), None)
    difference = Number(b.value - a.value, a.unit, a.evidence, a.source, a.stack)
    share = a.unit == "share"  # the difference of two shares is in points already
    return Pair(name, a, b, difference, None if share or not a.value else 100 * (b.value / a.value - 1))


def _blocks(left: Document, right: Document) -> tuple[tuple[str, str, str], ...]:
    sides = [{b["name"]: b["choice"] for b in d["blocks"]} for d in (left, right)]
    names = dict.fromkeys((*sides[0], *sides[1]))
    rows = ((name, sides[0].get(name, "-"), sides[1].get(name, "-")) for name in names)
    return tuple(row for row in rows if row[1] != row[2])
