"""A report as data: what a project has found, in plain values, each number with what it is worth.

One frozen document, of which the HTML page, the JSON and the Markdown are renderings. `as_json` gives JSON values
only; report.schema.json describes them, docs/report.md explains them. `SCHEMA` rises when a field changes its
meaning or goes; a new field alone leaves it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from toolchain.report.comparison import ComparisonRow
from toolchain.report.document_search import Choices, Course, Rounds
from toolchain.report.document_target import Target
from toolchain.report.number import Number, finite, plain, unit_of

SCHEMA: Final = 1
KIND: Final = "report"

# kept, broken: by what was found on the targets. predicted: nothing was measured on them yet. infeasible: no network
# keeps the budgets. empty: no search has finished.
Status = Literal["kept", "broken", "predicted", "infeasible", "empty"]


@dataclass(frozen=True, slots=True)
class Block:
    """One choice of the network: its name, what stands there, shapes (torch's), parameters, MACs."""

    name: str
    choice: str
    input: str
    output: str
    params: int
    macs: int


@dataclass(frozen=True, slots=True)
class Accuracy:
    """One step of the accuracy's trail.

    Attributes:
        stage: "estimator", "supernet", "float", "int8", or "target".
        where: e.g. "validation, shared weights" or the target's name.
        samples: behind it; 0 where that is not recorded.
        note: e.g. "every value equal to the reference's".
    """

    stage: str
    where: str
    number: Number
    samples: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Cost:
    """One metric: budget, prediction, measurement. Names as in the project (`Config.metric`).

    Attributes:
        error_percent: (predicted - measured) / measured. ok: whether the measured value keeps the budget.
    """

    metric: str
    budget: Number | None
    predicted: Number | None
    measured: Number | None
    error_percent: float | None = None
    ok: bool | None = None


@dataclass(frozen=True, slots=True)
class Infeasible:
    """Why no network keeps the budgets, and what is possible instead."""

    message: str
    remedy: str
    least: Mapping[str, Number]
    binding: tuple[str, ...]
    nearest: str
    nearest_costs: Mapping[str, Number]


@dataclass(frozen=True, slots=True)
class Record:
    """A file that a stage left: when, and whether it answers today's project file (None: cannot be said)."""

    stage: str
    written_at: str
    inputs: str
    current: bool


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where the numbers come from: stacks by fingerprint, versions of packages, commands that make them again,
    records of the stages, files with bytes and SHA-256."""

    stacks: Mapping[str, Mapping[str, str]]
    versions: Mapping[str, str]
    commands: tuple[tuple[str, str], ...]
    records: tuple[Record, ...]
    files: Mapping[str, tuple[int, str]]
    evidence: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Missing:
    """Something that this report does not show or that was not measured: why, and the command that gets it.

    Attributes:
        damaged: a file that was there could not be read, so that more is lacking than the work so far explains.
    """

    what: str
    why: str
    how: str = ""
    damaged: bool = False


@dataclass(frozen=True, slots=True)
class ProjectFacts:
    """What was asked: name, seed, data (words and fingerprint), space, and networks in it (text: it can be huge)."""

    name: str
    seed: int
    data: str
    data_fingerprint: str
    space: str
    networks: str


@dataclass(frozen=True, slots=True)
class Report:
    """The whole report. `made_at`: ISO 8601 time in UTC. `headline`: the answer in one sentence."""

    made_at: str
    boardfit: str
    project: ProjectFacts
    status: Status
    headline: str
    network: str
    blocks: tuple[Block, ...]
    accuracy: tuple[Accuracy, ...]
    costs: tuple[Cost, ...]
    infeasible: Infeasible | None
    course: Course | None
    targets: tuple[Target, ...]
    choices: Choices | None
    rounds: Rounds | None
    provenance: Provenance
    missing: tuple[Missing, ...]

    @property
    def damage(self) -> tuple[str, ...]:
        """A sentence, with what to do, for each file that could not be read."""
        found = (one for one in self.missing if one.damaged)
        return tuple(f"{one.what}: {one.why}" + (f" ({one.how})" if one.how else "") for one in found)

    @property
    def hardware_free(self) -> bool:
        """Whether any figure comes from a board that exists only in an emulator."""
        return any(target.url.startswith("virtual:") for target in self.targets)

    def as_json(self) -> dict[str, Any]:
        """JSON values alone: no NaN, no tuples."""
        values = plain(asdict(self))
        assert isinstance(values, dict)
        return {"schema": SCHEMA, "kind": KIND, **values}

    def numbers(self) -> Iterator[Number]:
        """Every `Number` in the document."""
        yield from _numbers(self)


def cost_of(row: ComparisonRow, prediction: Number, stack: str) -> Cost:
    """A row of the comparison; `prediction` says what the predicted value rests on, `stack` where it was measured."""
    unit = unit_of(row.metric)
    return Cost(
        row.metric,
        None if row.budget is None else Number(row.budget, unit, "asked"),
        None if row.predicted is None else prediction,
        None
        if row.measured is None or row.evidence is None
        else Number(row.measured, unit, row.evidence.value, "", stack, unstable=row.unstable),
        finite(row.error_percent),
        row.ok,
    )


def _numbers(value: Any) -> Iterator[Number]:
    if isinstance(value, Number):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _numbers(inner)
    elif isinstance(value, tuple | list):
        for inner in value:
            yield from _numbers(inner)
    elif hasattr(value, "__dataclass_fields__"):
        for name in value.__dataclass_fields__:
            yield from _numbers(getattr(value, name))
