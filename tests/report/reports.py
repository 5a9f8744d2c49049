"""Documents to render: one with everything in it, and ones with holes."""

from __future__ import annotations

import math
from dataclasses import replace

from toolchain.report.document import (
    Accuracy,
    Block,
    Cost,
    Missing,
    ProjectFacts,
    Provenance,
    Record,
    Report,
)
from toolchain.report.document_search import (
    Choices,
    Course,
    Effect,
    Epoch,
    Network,
    Reason,
    Round,
    Rounds,
    Swap,
    Worth,
)
from toolchain.report.document_target import Kind, Memory, Place, Sample, Step, Table, Target
from toolchain.report.number import EVIDENCE, Number

STACK = "0123456789abcdef"


def predicted(value: float, unit: str = "us") -> Number:
    return Number(value, unit, "predicted", "cycles_estimated", STACK)


def measured(value: float, unit: str = "us") -> Number:
    return Number(value, unit, "cycles_estimated", "", STACK)


def share(value: float, evidence: str = "shared_weights", error: float | None = None) -> Number:
    return Number(value, "share", evidence, error=error)


def network(index: int, *, chosen: bool = False, on_target: bool = False) -> Network:
    cost = 1000.0 + 150 * index
    return Network(
        f"net-{index}",
        share(0.5 + 0.05 * index),
        {"latency_us": predicted(cost), "flash_bytes": Number(40_000.0 + index, "bytes", "computed")},
        {"latency_us": measured(cost * 1.01)} if on_target else {},
        chosen,
    )


def target(name: str = "board", metric: str = "cycles") -> Target:
    steps = tuple(
        Step(
            i,
            f"conv2d 8x8x{i}->8x8x8 k3x3 s1x1 same relu int8",
            measured(100.0 * i, "count"),
            measured(2.0 * i),
        )
        for i in range(1, 4)
    )
    places = (
        Place("x", 0, 512, 0, 1, False),
        Place("y", 512, 512, 1, 2, False),
        Place("scratch memory of node 1", 0, 128, 2, 2, True),
        Place("z", 1024, 64, 2, 3, False),
    )
    return Target(
        name,
        f"virtual:{name}",
        "int8",
        STACK,
        "no hardware was used: a timing model",
        "/results/deployed",
        "model_int8.bfp",
        metric,
        (*steps, Step(4, "softmax 10 int8", None)),
        measured(97.0, "count"),
        Memory(
            "native runtime",
            tuple(s.signature for s in steps),
            places,
            Number(1088.0, "bytes", "computed"),
            Number(1088.0, "bytes", "computed"),
            (512, 1024, 704, 64),
            Number(1088.0, "bytes", "counted", "", STACK),
        ),
        Table(
            metric,
            (Kind("conv2d", 10, 8, 1, 1, 2), Kind("add", 3, 3, 0, 0, 0)),
            (("conv2d 1x1", "no such kernel"),),
            0.4,
            "measured constant",
            3,
            0.99,
            3.1,
            tuple(Sample(f"net-{i}", predicted(100.0 * i, "count"), measured(101.0 * i, "count")) for i in (1, 2, 3)),
            "the sum of the operators' own + 97 for the runtime",
            (("2026-11-22T08:00:00+00:00", '{"mape": 0.4}'),),
            "2026-11-21T08:00:00+00:00",
            "2026-11-22T08:00:00+00:00",
        ),
        {"stack_bytes": "700"},
        1.0,
    )  # fmt: skip


def course() -> Course:
    costs = {"latency_us": (900.0, 1000.0, 1300.0)}
    epochs = tuple(
        Epoch(e, 0.1 + 0.05 * e, 0.2 + 0.05 * e if e > 2 else None, costs, 0.5, 2.0) for e in range(6)
    )
    nets = (
        network(6, chosen=True, on_target=True),
        network(4, on_target=True),
        *(network(i) for i in range(4)),
    )
    return Course("connas", 0, 40, 12.5, False, epochs, nets, (), "")


def choices() -> Choices:
    costs = {"latency_us": predicted(1700.0)}
    return Choices(
        (
            Effect("kernel 5 instead of 3", share(0.012, "estimated", 0.002)),
            Effect("squeeze excite", share(-0.003, "estimated", 0.002)),
        ),
        (Worth("latency_us", Number(2000.0, "us", "asked"), Number(2200.0, "us", "asked"), share(0.004, "estimated")),),
        "proved by the checker (bound): nothing is better",
        0.71,
        0.88,
        32,
        (
            Reason(
                "stage1_block1",
                "k3",
                (Swap("k3", costs, (), True), Swap("k5", {"latency_us": predicted(2500.0)}, ("latency_us",), False)),
            ),
        ),
    )  # fmt: skip


def rounds() -> Rounds:
    def one(number: int, off: float) -> Round:
        nets = tuple(
            replace(
                network(i, chosen=i == 6),
                measured={"latency_us": measured((1000.0 + 150 * i) * (1 - off))},
            )
            for i in (6, 4)
        )
        return Round(
            number,
            30.0,
            nets,
            {"latency_us": 100 * off},
            {"latency_us": {"factor": 1 + off}},
            f"what {number} said",
        )

    return Rounds((one(1, 0.08), one(2, 0.01)), {"latency_us": 2.0}, 4, True, "within the tolerance")


def whole(**changes: object) -> Report:
    """A report with everything in it."""
    costs = (
        Cost("latency_us", Number(2000.0, "us", "asked"), predicted(1900.0), measured(1919.0), -1.0, True),
        Cost(
            "flash_bytes",
            Number(52_000.0, "bytes", "asked"),
            Number(40_006.0, "bytes", "predicted", "computed", STACK),
            Number(40_006.0, "bytes", "counted", "", STACK),
            0.0,
            True,
        ),
        Cost("params", None, Number(1234.0, "count", "computed"), Number(1234.0, "count", "computed"), 0.0, None),
    )  # fmt: skip
    found = Report(
        "2026-11-22T09:00:00+00:00",
        "0.1.0",
        ProjectFacts("digits", 0, "digits: 10 classes", "feedfeedfeedfeed", "image2d, 6 choices", "4,112,784"),
        "kept",
        "All 2 budgets kept on board; 97.49 % of 359 test samples right.",
        "net-6",
        (Block("stem", "-", "1x8x8", "8x8x8", 80, 4608), Block("stage1_block1", "k3", "8x8x8", "12x4x4", 756, 20352)),
        (
            Accuracy("supernet", "validation, shared weights", share(0.8886)),
            Accuracy("float", "test, trained", share(0.9749, "reference"), 359),
            Accuracy("int8", "test, trained", share(0.9721, "reference"), 359),
            Accuracy("target", "board", Number(0.9721, "share", "on_target", "", STACK), 359, "every value equal"),
        ),
        costs,
        None,
        course(),
        (target(),),
        choices(),
        rounds(),
        Provenance(
            {STACK: {"core": "cortex-m4", "target": "virtual:board"}},
            {"boardfit": "0.1.0", "numpy": "2.4.0"},
            (("boardfit run", "does all of this"),),
            (Record("search", "2026-11-22T08:30:00+00:00", "aba059b69dc3fe17", True),),
            {"model_int8.bfp": (9136, "dd79" * 16)},
            dict(EVIDENCE),
        ),
        (Missing("anything on real hardware (board)", "the target is a virtual board", "set `target.url`"),),
    )  # fmt: skip
    return replace(found, **changes)  # type: ignore[arg-type]


def with_holes() -> Report:
    """NaN and unknown values wherever a number may be unknown."""
    nothing = Number(math.nan, "us", "predicted")
    unknown = Number(None, "us", "predicted")
    full = whole()
    assert full.course is not None
    nets = (
        Network("net-a", None, {"latency_us": nothing}),
        Network("net-b", Number(math.nan, "share", "shared_weights"), {"latency_us": unknown}),
        network(3, chosen=True),
    )
    table = full.targets[0].table
    assert table is not None
    return replace(
        full,
        costs=(Cost("latency_us", Number(2000.0, "us", "asked"), unknown, nothing),),
        course=replace(full.course, networks=nets, epochs=(Epoch(0, None, None, {}, 0.0, None),)),
        targets=(
            replace(
                full.targets[0],
                steps=(Step(1, "softmax 10 int8", None),),
                memory=None,
                table=replace(table, samples=(), mape=None, spearman=None),
            ),
        ),
        rounds=Rounds((), {}, None, False, ""),
    )
