"""What a network takes of a target's flash and RAM: of one graph exactly, of a whole space arc by arc.

On a machine with files the bytes are those of the .tflite file and of TensorFlow Lite Micro's arena. On a board they
are everything that the part must hold: the firmware and the model, the firmware's data, its stack and the arena.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache

from profilers.cost import RAM_BYTES, ArcMetric, flash_bytes
from profilers.counts import flash_model, graph_costs
from targets.session import Device, ModelFormat
from toolchain.export.native import footprint as native
from toolchain.export.native.layout import Isa
from toolchain.graph import Graph, Operator
from toolchain.graph.chain import Arc
from toolchain.graph.liveness import align
from toolchain.graph.memory import NATIVE_ALIGNMENT
from toolchain.measurement import Evidence

FLASH, RAM = "flash_bytes", "ram_bytes"
ISA: Mapping[ModelFormat, Isa] = {"native-dsp": "dsp", "native-plain": "plain"}


@dataclass(frozen=True, eq=False)
class Footprint:
    """How bytes are counted on one target.

    Attributes:
        flash, ram: of the arcs of a space, for `profilers.cost.CostTable`.
        of_graph: `flash_bytes` and `ram_bytes` of one network.
        limits: `flash_bytes` and `ram_bytes` that the part has; empty where nothing limits them.
        exact: a device's own count must be equal to `of_graph`. TensorFlow Lite Micro's is not: its interpreter takes
            memory that no plan shows.
    """

    flash: ArcMetric
    ram: ArcMetric
    of_graph: Callable[[Graph], Mapping[str, int]]
    limits: Mapping[str, int]
    exact: bool = True


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


def _of_file(graph: Graph) -> dict[str, int]:
    costs = graph_costs(graph)
    return {FLASH: costs[FLASH], RAM: costs[RAM]}


def _programs(isa: Isa) -> Footprint:
    """Programs of the native runtime: their bytes are a sum over operators, and their arena is the largest of what
    lives at one operator, its kernel's scratch memory included.
    """
    bytes_of = cache(lambda op: native.operator_bytes(op, isa))
    scratch_of = cache(lambda op: native.scratch_bytes(op, isa))

    def arena(arc: Arc) -> float:
        if not arc.operators:
            return align(arc.ram_bytes, NATIVE_ALIGNMENT)
        return max(
            sum(align(size, NATIVE_ALIGNMENT) for size in live) + align(scratch_of(op), NATIVE_ALIGNMENT)
            for op, live in zip(arc.operators, arc.live_bytes, strict=True)
        )

    return Footprint(
        flash=ArcMetric(
            "sum",
            lambda arc: sum(bytes_of(op) for op in arc.operators),
            native.BASE_BYTES,
            origin=Evidence.COMPUTED.value,
        ),
        ram=ArcMetric("max", arena, origin=Evidence.COMPUTED.value),
        of_graph=lambda graph: {
            FLASH: native.program_bytes(graph, isa),
            RAM: native.arena_bytes(graph, isa),
        },
        limits={},
    )


def _on(device: Device, found: Footprint) -> Footprint:
    """The same with the firmware's own bytes beside each model."""
    flash, ram = device.firmware_flash_bytes, device.firmware_ram_bytes
    return Footprint(
        flash=replace(found.flash, base=found.flash.base + flash),
        ram=replace(found.ram, base=found.ram.base + ram, value=lambda arc: found.ram.value(arc) + ram),
        of_graph=lambda graph: {
            FLASH: found.of_graph(graph)[FLASH] + flash,
            RAM: found.of_graph(graph)[RAM] + ram,
        },
        limits={FLASH: flash + device.slot_bytes, RAM: ram + device.arena_bytes},
        exact=found.exact,
    )
