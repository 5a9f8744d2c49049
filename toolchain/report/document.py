"""A report as data: what a project has found, in plain values, each number with what it is worth.

One frozen document, of which the HTML page, the JSON and the Markdown are renderings. `as_json` gives JSON values
only; report.schema.json describes them, docs/report.md explains them. `SCHEMA` rises when a field changes its
meaning or goes; a new field alone leaves it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

from toolchain.report.comparison import ComparisonRow
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
class Network:
    """One network of the space beside others.

    Attributes:
        text: as people read it.
        score: its accuracy, by the search's own evaluation; None where none is known.
        predicted, measured: metric -> number; measured on the target as a whole network.
        chosen: the answer.
    """

    text: str
    score: Number | None
    predicted: Mapping[str, Number]
    measured: Mapping[str, Number] = field(default_factory=dict)
    chosen: bool = False


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch of a gradient search: accuracy of the mixture (0 to 1), per metric least, middle and greatest cost of
    its networks, share of steps within the budgets, entropy of the choices in nats."""

    epoch: int
    accuracy: float | None
    candidate: float | None
    costs: Mapping[str, tuple[float, float, float]]
    kept: float
    entropy: float | None


@dataclass(frozen=True, slots=True)
class Course:
    """How the network was found."""

    method: str
    seed: int
    evaluations: int
    seconds: float
    repaired: bool
    epochs: tuple[Epoch, ...]
    networks: tuple[Network, ...]
    front: tuple[tuple[float, float], ...]
    front_metric: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """One operator of the winner: its signature, which step it is, and its cost measured alone.

    Attributes:
        time: the same in microseconds, where the target counts cycles at a known clock.
        how: what computes it, where the target has several ways, e.g. "winograd"; may be empty.
    """

    step: int
    signature: str
    number: Number | None
    time: Number | None = None
    how: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor or scratch memory in the arena: bytes [offset, offset + size) from step `first` to step `last`."""

    name: str
    offset: int
    size: int
    first: int
    last: int
    scratch: bool


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory over time of the winner.

    Attributes:
        method: whose plan it is. steps: what runs at each step, from step 1 on. arena: of the plan, in bytes.
        bound: no plan of these lifetimes is smaller. live: bytes that are needed at each step, from step 0 on.
        device: what the device reports as its arena; None where it reports none.
    """

    method: str
    steps: tuple[str, ...]
    places: tuple[Place, ...]
    arena: Number
    bound: Number
    live: tuple[int, ...]
    device: Number | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """A whole network, predicted and measured, that calibrated or judged the sums of operators."""

    text: str
    predicted: Number
    measured: Number


@dataclass(frozen=True, slots=True)
class Kind:
    """How many operators of a kind the space has, and how many of them are measured, predicted, failed, unstable."""

    kind: str
    operators: int
    measured: int
    predicted: int
    failed: int
    unstable: int


@dataclass(frozen=True, slots=True)
class Table:
    """What the lookup table knows of the space on one target, and how far its sums are off.

    Attributes:
        mape: mean error of predictions on held-out networks, per cent. method: how that was found.
        networks: behind it. predicted_error: of operators without a row, per cent, cross-validated.
        formula: how a sum becomes a network's cost, in words; empty where nothing is corrected.
        history: (time, text) of each calibration, the oldest first.
    """

    metric: str
    kinds: tuple[Kind, ...]
    failures: tuple[tuple[str, str], ...]
    mape: float | None
    method: str
    networks: int
    spearman: float | None
    predicted_error: float | None
    samples: tuple[Sample, ...]
    formula: str
    history: tuple[tuple[str, str], ...]
    first_row: str = ""
    last_row: str = ""

    @property
    def measured(self) -> int:
        """Measured operators of the space."""
        return sum(kind.measured for kind in self.kinds)

    @property
    def operators(self) -> int:
        """Operators of the space."""
        return sum(kind.operators for kind in self.kinds)


@dataclass(frozen=True, slots=True)
class Target:
    """One target: what it is, and the winner on it.

    Attributes:
        note: what every figure must be read with, e.g. that no hardware was used.
        metric: what the target measures; `steps` and `overhead` (what a run costs beside its operators, where that was
            measured) have it.
        details: what the device reported beside its figures.
    """

    name: str
    url: str
    precision: str
    stack: str
    note: str
    place: str
    model: str
    metric: str
    steps: tuple[Step, ...]
    overhead: Number | None
    memory: Memory | None
    table: Table | None
    details: Mapping[str, str] = field(default_factory=dict)
    slowdown: float | None = None


@dataclass(frozen=True, slots=True)
class Effect:
    """What a design choice adds to the accuracy, on average over blocks (BINAS); value and error are shares."""

    what: str
    number: Number


@dataclass(frozen=True, slots=True)
class Worth:
    """What more of a budget buys: bound, the trial's bound, and the accuracy that the exact optimum then gains."""

    metric: str
    bound: Number
    more: Number
    gain: Number


@dataclass(frozen=True, slots=True)
class Swap:
    """One other candidate at one choice: the network's costs with it, and which budgets that would break."""

    candidate: str
    costs: Mapping[str, Number]
    breaks: tuple[str, ...]
    chosen: bool


@dataclass(frozen=True, slots=True)
class Reason:
    """A choice of the winner beside the other candidates that could stand there."""

    choice: str
    chosen: str
    swaps: tuple[Swap, ...]


@dataclass(frozen=True, slots=True)
class Choices:
    """Why the network is as it is.

    Attributes:
        effects: what properties pay. worth: what larger budgets buy. proof: one sentence, or empty.
        kendall, spearman, ranked: agreement of predicted and measured accuracies on so many random networks.
        reasons: per choice, what the others would cost.
    """

    effects: tuple[Effect, ...]
    worth: tuple[Worth, ...]
    proof: str
    kendall: float | None
    spearman: float | None
    ranked: int
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class Round:
    """One round of the loop: candidates measured as whole networks, mean error of their predictions, and what followed
    from it. `correction` is as the table keeps it: metric -> its fields."""

    round: int
    seconds: float | None
    networks: tuple[Network, ...]
    errors_percent: Mapping[str, float]
    correction: Mapping[str, Any]
    why: str = ""


@dataclass(frozen=True, slots=True)
class Rounds:
    """The loop: its rounds, the tolerance (metric -> per cent), whether it settled, and why it ended."""

    rounds: tuple[Round, ...]
    tolerance: Mapping[str, float]
    limit: int | None
    settled: bool
    why: str


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
