"""Graph -> program of the native runtime. The same graph gives the same bytes.

The host does all that needs a float, a division or a decision, so that the device only reads: fixed-point numbers come
from the functions of the integer reference, weights are laid out for the kernel that will run them, and every tensor
gets its place in the arena. Format: firmware/runtime/program.h.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import replace

import numpy as np

from toolchain.errors import BoardfitError, GraphError, UnsupportedError
from toolchain.export.native import layout
from toolchain.export.native.footprint import memory_plan
from toolchain.export.native.layout import Isa, padded
from toolchain.export.native.patches import Part, patch_parts
from toolchain.export.native.pieces import Piece, Where, pieces_of, window_body
from toolchain.export.native.plan import DIRECT, Plan
from toolchain.export.native.weights import CACHE_BYTES, layout_weighted, weighted_footprint
from toolchain.graph import integer_reference as reference
from toolchain.graph.graph import Graph, Node
from toolchain.graph.memory import scratch_name
from toolchain.graph.operator import WEIGHTED, Algorithm

_WEIGHTED_KINDS = {
    "conv2d": layout.CONV2D,
    "depthwise_conv2d": layout.DEPTHWISE,
    "fully_connected": layout.FULLY_CONNECTED,
}


def write_program(graph: Graph, isa: Isa = "dsp", *, keep_inputs: bool = False, plan: Plan = DIRECT) -> bytes:
    """The program of an int8 graph.

    Args:
        isa: which kernels will run it.
        keep_inputs: leave the network's inputs as they are, so that it can run again on them; else the memory of an
            input is used again after its last use.
        plan: the algorithms of its convolutions (`plan.choose_plan`).

    Returns:
        Bytes in the format of firmware/runtime/program.h, a multiple of 16.

    Raises:
        UnsupportedError: a float graph, or a dimension that does not fit into its field.
        GraphError: scales that TFLite Micro does not accept, or a plan that names an algorithm that a node has not.
    """
    if graph.dtype != "int8":
        raise UnsupportedError(
            "the native runtime runs int8 networks, and this graph is float",
            remedy="quantise it first: toolchain.quantize.quantize",
        )
    constants = [name for name in graph.outputs if name in graph.constants]
    if constants:
        raise UnsupportedError(f"output {constants[0]!r} is a constant: there is nothing to run")
    plan.check(graph, isa)
    memory = memory_plan(graph, isa, keep_inputs=keep_inputs, plan=plan)
    pieces = program_pieces(graph, isa, plan)

    operators_at = layout.HEADER.size + padded((len(graph.inputs) + len(graph.outputs)) * layout.OPERAND.size)
    nowhere = Where(0, 0, 0, 0)
    constants_at = operators_at + sum(len(piece.descriptor(nowhere, 0)) for piece in pieces)
    descriptors, blocks = bytearray(), bytearray()
    stored: dict[tuple[int, bytes], int] = {}  # parts of a node share their constants
    for piece in pieces:
        places, lines = [], piece.constant_lines
        own = stored.setdefault((piece.node, piece.constants), constants_at + len(blocks))
        if own == constants_at + len(blocks):
            blocks += piece.constants.ljust(padded(len(piece.constants)), b"\0")
        for name, walks in zip(piece.inputs, piece.walks, strict=False):
            if name in graph.constants:
                places.append(layout.IN_PROGRAM | (constants_at + len(blocks)))
                data = graph.constants[name].tobytes()
                blocks += data.ljust(padded(len(data)), b"\0")
                # What fits the data cache is read from flash once, anything larger every time.
                lines += -(-len(data) // layout.LINE) * (walks if len(data) > CACHE_BYTES else 1)
            else:
                places.append(memory.offsets[name] + (piece.part.skips[name] if piece.part else 0))
        where = Where(
            input=places[0],
            output=memory.offsets[graph.nodes[piece.node].output] + piece.into,
            scratch=memory.offsets.get(scratch_name(piece.node), 0),
            constants=own,
            second=places[-1],
        )
        descriptors += piece.descriptor(where, lines)

    operands = b"".join(
        layout.OPERAND.pack(memory.offsets[name], math.prod(graph.tensors[name].shape))
        for name in (*graph.inputs, *graph.outputs)
    )
    size = constants_at + len(blocks)
    header = layout.HEADER.pack(
        layout.MAGIC, layout.VERSION, layout.ISA_CODES[isa], 0, size, 0,
        memory.arena_bytes, operators_at, len(pieces), len(graph.inputs), len(graph.outputs), layout.HEADER.size,
    )  # fmt: skip
    program = header + operands.ljust(operators_at - layout.HEADER.size, b"\0") + descriptors + blocks
    return with_checksum(program)


def with_checksum(program: bytes) -> bytes:
    """A program with its CRC-32 set to what its bytes give."""
    crc = zlib.crc32(program[layout.CRC_FROM :])
    return program[: layout.CRC_FROM - 4] + crc.to_bytes(4, "little") + program[layout.CRC_FROM :]


def program_nodes(graph: Graph, isa: Isa = "dsp", plan: Plan = DIRECT) -> tuple[int, ...]:
    """For each operator of the program of a graph, the index of the node that it comes from.

    A reshape has none, a concatenation one for each input, and what is computed patch by patch one for each patch: who
    reports times by node adds them up by this.
    """
    return tuple(piece.node for piece in program_pieces(graph, isa, plan))


def program_pieces(graph: Graph, isa: Isa, plan: Plan = DIRECT) -> list[Piece]:
    """The operators of a program, in order, before they have places."""
    inside = 0 if plan.patches is None else plan.patches.nodes
    patches = () if plan.patches is None else patch_parts(graph, plan.patches)
    work: list[tuple[int, Part | None]] = [(part.node, part) for patch in patches for part in patch]
    work += [(index, None) for index in range(inside, len(graph.nodes))]
    pieces: list[Piece] = []
    for index, part in work:
        node = graph.nodes[index]
        try:
            if node.operator.kind in WEIGHTED:
                found = [_weighted(graph, index, node, isa, plan.algorithm(index), part)]
            else:
                found = pieces_of(graph, index, node, part)
        except (GraphError, UnsupportedError) as error:
            raise _at(error, index, node) from error
        pieces += found if part is None else [replace(piece, part=part, into=part.into) for piece in found]
    return pieces


def _at(error: BoardfitError, index: int, node: Node) -> BoardfitError:
    where = f"node {index} ({node.operator.kind} {node.source})".replace(" )", ")")
    return type(error)(f"{where}: {error.message}", remedy=error.remedy)


def _weighted(
    graph: Graph, index: int, node: Node, isa: Isa, algorithm: Algorithm, part: Part | None
) -> Piece:
    op = node.operator if part is None else part.operator
    source, output = (reference.activation_scale(graph, name) for name in (node.inputs[0], node.output))
    if node.inputs[0] in graph.constants:
        raise UnsupportedError(
            f"{op.kind} of a constant", remedy="compute it before the export: its output is constant as well"
        )
    multipliers, shifts = np.array(reference.weighted_multipliers(graph, node), np.int64).T
    clamp = reference.activation_range(op.activation, output)
    zeros = (source.zero_point[0], output.zero_point[0])
    weights, bias = (graph.constants[name] for name in node.inputs[-2:])
    laid = layout_weighted(op, weights, bias, *zeros, multipliers, shifts, *clamp, isa, algorithm)
    rows = laid.weights.ljust(padded(len(laid.weights)), b"\0")
    return Piece(
        index,
        node.inputs[:1],
        _WEIGHTED_KINDS[op.kind],
        lambda where: window_body(
            op,
            zeros,
            clamp,
            steps=laid.steps,
            chunk=laid.chunk,
            weights=where.constants,
            channels=where.constants + len(rows),
        ),
        laid.kernel,
        rows + laid.channels,
        weighted_footprint(op, isa, algorithm).constant_lines,
    )
