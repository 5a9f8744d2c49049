"""What a network takes of a target's flash and RAM: of one graph exactly, of a whole space arc by arc.

On a machine with files the bytes are those of the .tflite file and of TensorFlow Lite Micro's arena. On a board they
are everything that the part must hold: the firmware and the model, the firmware's data, its stack and the arena. There
they depend on the plan, too: on the algorithm of each operator (`toolchain.export.native.plan`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache

from profilers.cost import RAM_BYTES, ArcMetric, flash_bytes
from profilers.counts import flash_model, graph_costs
from targets.session import Device, ModelFormat
from toolchain.export.native import footprint as native
from toolchain.export.native.layout import Isa
from toolchain.export.native.plan import DIRECT, Plan, choose_plan
from toolchain.export.native.weights import algorithms
from toolchain.graph import Graph, Operator
from toolchain.graph.chain import Arc
from toolchain.graph.liveness import align
from toolchain.graph.memory import NATIVE_ALIGNMENT
from toolchain.graph.operator import WEIGHTED, Algorithm
from toolchain.measurement import Evidence

FLASH, RAM = "flash_bytes", "ram_bytes"
ISA: Mapping[ModelFormat, Isa] = {"native-dsp": "dsp", "native-plain": "plain"}


@dataclass(frozen=True, eq=False)
class Footprint:
    """How bytes are counted on one target.

    Attributes:
        flash, ram: of the arcs of a space, for `profilers.cost.CostTable`; of each operator by its own algorithm.
        count: `flash_bytes` and `ram_bytes` of one network under a plan.
        limits: `flash_bytes` and `ram_bytes` that the part has; empty where nothing limits them.
        exact: a device's own count must be equal to `of_graph`. TensorFlow Lite Micro's is not: its interpreter takes
            memory that no plan shows.
        isa: of the kernels, where networks become programs with a plan; None elsewhere.
        beside: the firmware's own `flash_bytes` and `ram_bytes`, which are part of all figures here.
    """

    flash: ArcMetric
    ram: ArcMetric
    count: Callable[[Graph, Plan], Mapping[str, int]]
    limits: Mapping[str, int]
    exact: bool = True
    isa: Isa | None = None
    beside: Mapping[str, int] = field(default_factory=lambda: {FLASH: 0, RAM: 0})

    def of_graph(self, graph: Graph, plan: Plan = DIRECT) -> Mapping[str, int]:
        """`flash_bytes` and `ram_bytes` of one network."""
        return self.count(graph, plan)

    def plan(self, graph: Graph, bounds: Mapping[str, float], cost: Callable[[Operator], float]) -> Plan:
        """The plan with the least cost within bounds: what is written for a network on this target, everywhere.

        Args:
            bounds: `flash_bytes` and `ram_bytes` of everything that the part holds; one that is not there is no limit.
            cost: of an operator, its algorithm included; inf where it was never measured.
        """
        if self.isa is None:
            return DIRECT

        def room(metric: str) -> int | None:
            return None if metric not in bounds else math.floor(bounds[metric]) - self.beside[metric]

        return choose_plan(
            graph,
            self.isa,
            flash_bytes=room(FLASH),
            ram_bytes=room(RAM),
            cycles=lambda op, algorithm: cost(replace(op, algorithm=algorithm)),
        )


def with_algorithms(form: ModelFormat, operators: Iterable[Operator]) -> tuple[Operator, ...]:
    """Distinct operators, each followed by itself under every other algorithm that a format's kernels offer: what
    there is to measure.
    """
    found: dict[Operator, None] = {}
    for op in operators:
        found |= dict.fromkeys(replace(op, algorithm=name) for name in algorithms_of(form, op))
    return tuple(found)


def algorithms_of(form: ModelFormat, op: Operator) -> tuple[Algorithm, ...]:
    """The algorithms of an operator in a format, the default first."""
    return algorithms(op, ISA[form]) if form in ISA and op.kind in WEIGHTED else ("direct",)


def footprint_of(form: ModelFormat, operators: Iterable[Operator], device: Device | None) -> Footprint:
    """The footprint of models of a format.

    Args:
        operators: all that can occur, e.g. a chain's.
        device: the microcontroller; None counts the model alone.
    """
    if form in ISA:
        found = _programs(ISA[form])
    else:
        found = Footprint(flash_bytes(flash_model(operators)), RAM_BYTES, _of_file, {}, exact=device is None)
    return found if device is None else _on(device, found)


def _of_file(graph: Graph, plan: Plan) -> dict[str, int]:
    del plan
    costs = graph_costs(graph)
    return {FLASH: costs[FLASH], RAM: costs[RAM]}


def _programs(isa: Isa) -> Footprint:
    """Programs of the native runtime: their bytes are a sum over operators, and their arena is the largest of what
    lives at one operator, its kernel's scratch memory included.
    """
    bytes_of = cache(lambda op: native.operator_bytes(op, isa, op.algorithm))

    def flash(arc: Arc) -> float:
        total = sum(bytes_of(op) for op in arc.operators)
        for op, band in zip(arc.operators, arc.bands, strict=False):  # a descriptor for each patch
            total += (band.runs - 1) * (bytes_of(op) - native.constant_bytes((op,), isa, op.algorithm))
        return total

    def arena(arc: Arc) -> float:
        if not arc.operators:
            return align(arc.ram_bytes, NATIVE_ALIGNMENT)
        operators = [band.operator for band in arc.bands] or arc.operators
        return max(
            native.step_bytes(op, live, isa, op.algorithm)
            for op, live in zip(operators, arc.live, strict=True)
        )

    return Footprint(
        flash=ArcMetric(
            "sum",
            flash,
            native.BASE_BYTES,
            origin=Evidence.COMPUTED.value,
        ),
        ram=ArcMetric("max", arena, origin=Evidence.COMPUTED.value),
        count=lambda graph, plan: {
            FLASH: native.program_bytes(graph, isa, plan=plan),
            RAM: native.arena_bytes(graph, isa, plan=plan),
        },
        limits={},
        isa=isa,
    )


def _on(device: Device, found: Footprint) -> Footprint:
    """The same with the firmware's own bytes beside each model."""
    flash, ram = device.firmware_flash_bytes, device.firmware_ram_bytes
    return Footprint(
        flash=replace(found.flash, base=found.flash.base + flash),
        ram=replace(found.ram, base=found.ram.base + ram, value=lambda arc: found.ram.value(arc) + ram),
        count=lambda graph, plan: {
            FLASH: found.count(graph, plan)[FLASH] + flash,
            RAM: found.count(graph, plan)[RAM] + ram,
        },
        limits={FLASH: flash + device.slot_bytes, RAM: ram + device.arena_bytes},
        exact=found.exact,
        isa=found.isa,
        beside={FLASH: flash, RAM: ram},
    )
