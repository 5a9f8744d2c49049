"""The native runtime: bit-identical to TFLite Micro, inside its memory, and safe from programs that are damaged."""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from firmware import source_folder
from profilers.single import operator_model
from tests.firmware.native import NativeHost, check_graph
from tests.random_graphs import int8_graphs, int8_operators, random_inputs
from toolchain.export.native import layout
from toolchain.export.native.footprint import arena_bytes, scratch_bytes
from toolchain.export.native.layout import Isa
from toolchain.export.native.plan import Plan
from toolchain.export.native.reader import read_program
from toolchain.export.native.weights import algorithms, weighted_footprint
from toolchain.export.native.writer import with_checksum, write_program
from toolchain.graph import Graph, GraphBuilder, Operator, Quantization
from toolchain.graph.operator import KINDS, WEIGHTED, window_output
from toolchain.graph.tflite_reader import read_tflite

ISAS: tuple[Isa, ...] = get_args(Isa)
FIRMWARE = source_folder()
SCALE = Quantization.per_tensor(0.05, 3)
# Enough of hypothesis for a kind in a second or two; the slow tests take many more.
QUIET = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}
BAD_MODEL, WRONG_VERSION, NO_MEMORY, UNSUPPORTED = 1, 2, 3, 4


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeHost]:
    built = NativeHost(tmp_path_factory.mktemp("native"))
    yield built
    built.close()


@pytest.fixture(scope="module")
def hardened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeHost]:
    """For damaged programs: their arithmetic may overflow, as on the device, but memory errors end it."""
    built = NativeHost(tmp_path_factory.mktemp("hardened"), "address")
    yield built
    built.close()


# --- the same outputs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in WEIGHTED])
@settings(max_examples=60, **QUIET)
@given(data=st.data())
def test_random_operators(host: NativeHost, kind, data) -> None:
    graph = data.draw(int8_operators(kind, extreme=data.draw(st.booleans())))
    for isa in ISAS:
        check_graph(host, graph, isa, random_inputs(graph, 2, data.draw(st.integers(0, 999))))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=1000, **QUIET)
@given(data=st.data())
def test_random_operators_at_length(host: NativeHost, kind, data) -> None:
    graph = data.draw(int8_operators(kind, extreme=data.draw(st.booleans())))
    for isa in ISAS:
        check_graph(host, graph, isa, random_inputs(graph, 2, data.draw(st.integers(0, 999))))


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=60, **QUIET)
@given(graph=int8_graphs(max_blocks=5), seed=st.integers(0, 999))
def test_random_graphs(host: NativeHost, isa: Isa, graph: Graph, seed: int) -> None:
    check_graph(host, graph, isa, random_inputs(graph, 1, seed))


@pytest.mark.slow
@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=2000, **QUIET)
@given(graph=int8_graphs(max_blocks=7), seed=st.integers(0, 999))
def test_random_graphs_at_length(host: NativeHost, isa: Isa, graph: Graph, seed: int) -> None:
    check_graph(host, graph, isa, random_inputs(graph, 1, seed))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", ["resnet8", "mbnet", "mbv3", "dscnn", "ts1d"])
def test_networks(host: NativeHost, name: str, isa: Isa) -> None:
    graph = quantized_net(name)
    rng = np.random.default_rng(1)
    shape = graph.tensors[graph.inputs[0]].shape[1:]
    x = np.stack([np.full(shape, -128), np.full(shape, 127), rng.integers(-128, 128, shape)]).astype(np.int8)
    check_graph(host, graph, isa, [x])


@pytest.mark.data
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", ["ic01_resnet8_int8", "kws01_dscnn_int8"])
def test_mlperf_networks(host: NativeHost, name: str, isa: Isa) -> None:
    folder = os.environ.get("BOARDFIT_DATA")
    if not folder:
        pytest.skip("BOARDFIT_DATA is not set")
    [path] = Path(folder).rglob(f"{name}.tflite")
    graph = read_tflite(path.read_bytes())
    rng = np.random.default_rng(2)
    shape = graph.tensors[graph.inputs[0]].shape[1:]
    x = np.stack([np.full(shape, 127), rng.integers(-128, 128, shape)]).astype(np.int8)
    check_graph(host, graph, isa, [x])


def quantized_net(name: str) -> Graph:
    pytest.importorskip("torch")
    from tests import nets
    from toolchain.graph.lower import lower
    from toolchain.quantize import quantize

    net = nets.NETS[name]
    graph = lower(net.build().eval(), net.input_shape)
    shape = (16, *graph.tensors[graph.inputs[0]].shape[1:])
    return quantize(graph, np.random.default_rng(0).normal(size=shape).astype(np.float32))


# --- every value of the rounding paths -----------------------------------------------------------------------------


@pytest.mark.parametrize("zero", [-128, 0, 127])
@pytest.mark.parametrize("ratio", [1.0, 0.5, 0.37, 1e-3, 1e-6, 1.9])
@pytest.mark.parametrize("kind", ["add", "mul"])
def test_all_pairs_of_values(host: NativeHost, kind, ratio: float, zero: int) -> None:
    """Random inputs seldom meet a tie: all 65536 pairs do, for scales that take the short and the general form."""
    values = np.arange(-128, 128).astype(np.int8)
    for out in (0.02, 0.0731, 0.9, 3000.0):
        b = GraphBuilder("int8")
        x = b.input((1, 256, 256), Quantization.per_tensor(0.05, zero))
        y = b.input((1, 256, 256), Quantization.per_tensor(0.05 * ratio, 5))
        z = b.binary(
            kind, x, y, quantization=Quantization.per_tensor(out if kind == "add" else out / 10, -zero // 2)
        )
        inputs = [np.repeat(values, 256).reshape(1, 256, 256), np.tile(values, 256).reshape(1, 256, 256)]
        check_graph(host, b.build(z), "dsp", inputs)


@pytest.mark.parametrize(
    "window", [(1, 1), (2, 3), (5, 7), (16, 16), (1, 257), (1, 300), (19, 19), (1, 1000)]
)
@pytest.mark.parametrize("channels", [3, 4])
def test_means_of_large_windows(host: NativeHost, window: tuple[int, int], channels: int) -> None:
    """Sums at both ends and around every tie; windows beyond what a reciprocal of 24 bits divides exactly."""
    b = GraphBuilder("int8")
    x = b.input((1, *window, channels), SCALE)
    graph = b.build(b.pool("average_pool", x, window, quantization=SCALE))
    rng, size = np.random.default_rng(3), window[0] * window[1]
    samples = [np.full((*window, channels), value) for value in (-128, -127, 127, 126, 0, -1)]
    for _ in range(40):
        sums = rng.integers(-128 * size, 127 * size + 1, channels) // size * size + rng.choice(
            [0, size // 2, size // 2 + 1]
        )
        base = np.broadcast_to(sums // size, (size, channels)).copy()
        for channel in range(channels):
            base[: sums[channel] % size, channel] += 1
        samples.append(np.clip(base, -128, 127).reshape(*window, channels))
    check_graph(host, graph, "dsp", [np.stack(samples).astype(np.int8)])


# --- constants, shared places, several inputs and outputs ----------------------------------------------------------


def test_constants_and_shared_places(host: NativeHost) -> None:
    rng = np.random.default_rng(4)
    b = GraphBuilder("int8")
    x = b.input((1, 4, 4, 8), SCALE)
    constant = b.constant(rng.integers(-128, 128, (1, 4, 4, 8)).astype(np.int8), SCALE)
    joined = b.concatenation((constant, x, constant), 3, quantization=SCALE)
    flat = b.reshape(
        b.constant(rng.integers(-128, 128, (1, 64)).astype(np.int8), SCALE), (1, 4, 16), quantization=SCALE
    )
    high = b.concatenation((x, constant), 1, quantization=SCALE)
    both = b.binary("add", constant, x, quantization=SCALE)
    graph = b.build(joined, high, both, b.reshape(x, (1, 128), quantization=SCALE), flat, x)
    for isa in ISAS:
        check_graph(host, graph, isa, random_inputs(graph, 3, 5))


def test_inputs_can_be_kept(host: NativeHost) -> None:
    graph = quantized_chain()
    x = random_inputs(graph, 1, 6)[0]
    kept = write_program(graph, keep_inputs=True)
    place, size = layout.OPERAND.unpack_from(kept, layout.HEADER.size)
    answer = host.ask(kept, x.tobytes(), arena_bytes(graph, keep_inputs=True), each=True)
    last = answer.payload[(answer.operators - 1) * answer.arena_bytes :]
    assert last[place : place + size] == x.tobytes()
    assert arena_bytes(graph) < arena_bytes(graph, keep_inputs=True)


def quantized_chain() -> Graph:
    b = GraphBuilder("int8")
    x = b.input((1, 8, 8, 4), SCALE)
    y = b.unary("hard_swish", x, quantization=SCALE)
    y = b.pool("max_pool", y, (2, 2), quantization=SCALE)
    y = b.pad(y, ((0, 0), (1, 2), (2, 1), (0, 0)), quantization=SCALE)
    y = b.unary(
        "softmax",
        b.reshape(y, (1, 196), quantization=SCALE),
        quantization=Quantization.per_tensor(1 / 256, -128),
    )
    return b.build(b.binary("mul", y, y, activation="relu", quantization=SCALE))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", WEIGHTED)
@settings(max_examples=60, **QUIET)
@given(data=st.data())
def test_device_and_host_count_the_same_sizes(host: NativeHost, isa: Isa, kind, data) -> None:
    """Scratch memory and weights at the very end: one byte less, and the device refuses the program."""
    graph = data.draw(int8_operators(kind))
    found = weighted_footprint(graph.operators[0], isa)
    program, arena = write_program(graph, isa), arena_bytes(graph, isa)
    at = struct.unpack_from("<I", program, 20)[0]
    x = random_inputs(graph, 1, 0)[0].tobytes()

    def status(scratch: int, weights: int) -> int:
        changed = bytearray(program)
        struct.pack_into("<I", changed, 16, arena + scratch)
        struct.pack_into("<I", changed, at + 12, arena)
        struct.pack_into("<I", changed, at + 52, len(program) - weights)
        return host.ask(with_checksum(bytes(changed)), x, arena + scratch).status

    weights = layout.padded(found.weight_bytes)
    assert status(found.scratch_bytes, weights) == 0
    assert found.scratch_bytes == 0 or status(found.scratch_bytes - 1, weights) == BAD_MODEL
    assert status(found.scratch_bytes, (found.weight_bytes - 1) // 16 * 16) == BAD_MODEL


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=40, **QUIET)
@given(data=st.data())
def test_depthwise_in_place_band_by_band(host: NativeHost, isa: Isa, data) -> None:
    """Images of several bands: rows that a band overwrites are needed by the next one."""
    kernel = data.draw(st.tuples(st.sampled_from([1, 2, 3, 5, 7]), st.sampled_from([1, 3, 4, 5])))
    stride = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 2)))
    if data.draw(st.booleans()):  # the form for 3x3
        kernel, stride = (3, 3), (stride[1], stride[1])
    padding = data.draw(st.sampled_from(["same", "valid"]))
    shape = (1, data.draw(st.integers(8, 40)), data.draw(st.integers(8, 70)), data.draw(st.integers(1, 9)))
    out = (1, *window_output(shape, kernel, stride, padding), shape[3])
    op = Operator("depthwise_conv2d", (shape,), out, kernel, stride, padding, dtype="int8")
    graph = operator_model(op)
    program = check_graph(host, graph, isa, random_inputs(graph, 1, 1))
    operator = read_program(program).operators[0]
    assert (operator.input == operator.output) == (isa == "dsp")


@settings(max_examples=80, **QUIET)
@given(data=st.data())
def test_single_pixels_in_place(host: NativeHost, data) -> None:
    """1x1 convolutions over every number of passes, with pixels left over."""
    channels = data.draw(st.sampled_from([1, 3, 8, 32, 60, 64, 130, 290]))
    shape = (1, data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12)), channels)
    out = (*shape[:3], data.draw(st.integers(1, min(channels, 12))))
    graph = operator_model(Operator("conv2d", (shape,), out, dtype="int8"))
    operator = read_program(check_graph(host, graph, "dsp", random_inputs(graph, 1, 1))).operators[0]
    overlaps = math.prod(out[1:3]) % 4 > 0 and channels > 288
    assert (operator.input == operator.output) == (math.prod(out[1:3]) >= 4 and not overlaps)


OVERLAPS = {
    "conv2d 6x6x4->6x6x4 k3x3 s1x1 same none int8": False,
    "depthwise_conv2d 6x6x4->6x6x4 k3x3 s1x1 same none int8": "dsp",
    "depthwise_conv2d 6x6x4->4x4x4 k3x3 s1x1 valid none int8": "dsp",
    "depthwise_conv2d 6x6x4->6x6x4 k5x5 s1x1 same none int8": "dsp",
    "depthwise_conv2d 1x8x4->1x4x4 k1x3 s1x2 same none int8": "dsp",
    "depthwise_conv2d 6x6x2->6x6x4 k3x3 s1x1 same none int8": False,
    "conv2d 6x6x4->6x6x4 k1x1 s1x1 same none int8": "dsp",
    "conv2d 3x7x8->3x7x5 k1x1 s1x1 valid none int8": "dsp",
    "conv2d 3x7x8->3x7x9 k1x1 s1x1 valid none int8": False,
    "conv2d 6x6x4->3x3x4 k1x1 s2x2 valid none int8": False,
    "conv2d 5x1x320->5x1x4 k1x1 s1x1 valid none int8": False,  # one group a pass: the last one overlaps
    "conv2d 4x1x320->4x1x4 k1x1 s1x1 valid none int8": "dsp",
    "fully_connected 8->8 none int8": False,
    "max_pool 6x6x4->6x6x4 k3x3 s1x1 same none int8": False,
    "pad 2x2x4->2x2x4 p0:0,0:0,0:0,0:0 int8": False,
    "concatenation 2x2x4->2x2x4 axis3 int8": False,
    "add 2x2x4,2x2x4->2x2x4 none int8": True,
    "add 2x2x4,2x2x1->2x2x4 none int8": True,
    "add 2x2x1,2x2x4->2x2x4 none int8": False,  # the first operand is read four times
    "mul 2x2x4,1x1x4->2x2x4 none int8": True,
    "mul 1x1x1,1x1x1->1x1x1 none int8": True,
    "softmax 2x2x4->2x2x4 int8": True,
    "hard_swish 2x2x4->2x2x4 int8": True,
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("signature", "legal"), OVERLAPS.items())
def test_only_what_works_in_place_may_overlap(
    host: NativeHost, isa: Isa, signature: str, legal: bool
) -> None:
    """The output begins at an input or apart from it, scratch memory apart from both: anything else is refused."""
    graph = operator_model(Operator.parse(signature))
    program = write_program(graph, isa)
    at = struct.unpack_from("<I", program, 20)[0]
    inputs = b"".join(x[0].tobytes() for x in random_inputs(graph, 1, 0))
    kind = graph.nodes[0].operator.kind
    size = len(inputs) if kind not in ("add", "mul") else math.prod(graph.operators[0].inputs[0])
    output = math.prod(graph.operators[0].output)
    scratch = scratch_bytes(graph.operators[0], isa)

    def status(source: int, second: int, to: int, scratch: int) -> int:
        changed = bytearray(program)
        struct.pack_into("<I", changed, 16, 4096 + 8192)
        struct.pack_into("<III", changed, at + 4, source, to, scratch)
        if kind in ("add", "mul"):
            struct.pack_into("<I", changed, at + 20, second)
        return host.ask(with_checksum(bytes(changed)), inputs, 4096 + 8192).status

    far, work = 2048, 4096
    assert status(1024, far, 0, work) == 0
    assert status(1024, far, 1024, work) == (0 if legal in (True, isa) else BAD_MODEL)
    assert status(1024, far, 1024 + layout.padded(size, 8), work) == 0  # the next byte
    assert status(1024, far, 1024 - layout.padded(output, 8), work) == 0
    if size > 8:
        assert status(1024, far, 1024 + 8, work) == BAD_MODEL
        assert status(1024, far, 1024 - layout.padded(output, 8) + 8, work) == BAD_MODEL
    if kind in ("add", "mul"):
        assert status(1024, far, far, work) == (
            0 if graph.operators[0].inputs[1] == graph.operators[0].output else BAD_MODEL
        )
    if scratch:
        assert status(1024, far, 0, 1024) == BAD_MODEL
        assert status(1024, far, 0, 0) == BAD_MODEL


# --- damaged programs ----------------------------------------------------------------------------------------------


def test_what_is_no_program_is_refused(host: NativeHost) -> None:
    graph = quantized_chain()
    program, arena = write_program(graph), arena_bytes(graph)
    x = random_inputs(graph, 1, 7)[0].tobytes()

    def status(data: bytes, arena: int = arena) -> int:
        return host.ask(data, x, arena).status

    assert status(program) == 0
    assert status(program + bytes(64)) == 0  # a slot is longer than its program
    assert (
        status(b"")
        == status(program[:20])
        == status(program[:-16])
        == status(bytes(len(program)))
        == BAD_MODEL
    )
    for position in range(16, len(program), 37):
        assert (
            status(program[:position] + bytes([program[position] ^ 4]) + program[position + 1 :]) == BAD_MODEL
        )
    assert status(program[:4] + b"\2\0" + program[6:]) == WRONG_VERSION
    assert status(program[:6] + b"\7" + program[7:]) == WRONG_VERSION
    answer = host.ask(program, x, arena - 1)
    assert (answer.status, answer.arena_bytes) == (NO_MEMORY, arena)
    at = struct.unpack_from("<I", program, 20)[0]
    for kind, kernel in ((12, 0), (255, 0), (layout.TABLE, 1), (layout.CONV2D, 99)):
        assert status(with_checksum(program[:at] + bytes([kind, kernel]) + program[at + 2 :])) == UNSUPPORTED


def damaged(draw: st.DrawFn, program: bytes) -> bytes:
    """A few fields of a program set to other numbers, with the right checksum: whoever wrote it meant it."""
    data = bytearray(program)
    last = len(data) - 4
    for _ in range(draw(st.integers(1, 3))):
        # Most of a program is weights, which are not looked at; descriptors stand in front.
        position = draw(st.one_of(st.integers(16, min(last, 160)), st.integers(16, last)))
        size = draw(st.sampled_from([1, 2, 4]))
        position -= position % size
        small = st.integers(0, 300)
        ends = st.sampled_from([0xFFFFFFFF, 0x80000000, 0x7FFFFFFF, 0xFFFF, 0x8000, 0xFFFFFFF0, 0x80000010])
        value = draw(st.one_of(small, ends, st.integers(0, 2**32 - 1)))
        data[position : position + size] = (value & (2 ** (8 * size) - 1)).to_bytes(size, "little")
    return with_checksum(bytes(data))


def check_damage(host: NativeHost, data: st.DataObject, isa: Isa) -> None:
    kind = data.draw(st.sampled_from((*KINDS, "conv2d 3x3")))
    graph = data.draw(convolutions_3x3() if kind == "conv2d 3x3" else int8_operators(kind))
    ways = algorithms(graph.operators[0], isa) if kind == "conv2d 3x3" else ("direct",)
    plan = Plan(frozenset({0} if data.draw(st.sampled_from(ways)) == "winograd" else ()))
    program = damaged(data.draw, write_program(graph, isa, plan=plan))
    x = b"".join(values.tobytes() for values in random_inputs(graph, 1, 0))
    host.ask(program, x, arena_bytes(graph, isa, plan=plan))


@st.composite
def convolutions_3x3(draw: st.DrawFn) -> Graph:
    """Those that can be computed by Winograd's algorithm."""
    height, width = draw(st.integers(3, 7)), draw(st.integers(3, 7))
    channels, outputs = 4 * draw(st.integers(1, 4)), draw(st.integers(1, 5))
    same = draw(st.booleans())
    out = (height, width) if same else (height - 2, width - 2)
    return operator_model(
        Operator.parse(
            f"conv2d {height}x{width}x{channels}->{out[0]}x{out[1]}x{outputs} k3x3 s1x1 "
            f"{'same' if same else 'valid'} none int8"
        )
    )


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=400, **QUIET)
@given(data=st.data())
def test_damaged_programs_stay_in_their_memory(hardened: NativeHost, isa: Isa, data) -> None:
    check_damage(hardened, data, isa)


@pytest.mark.slow
@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=10000, **QUIET)
@given(data=st.data())
def test_damaged_programs_stay_in_their_memory_at_length(hardened: NativeHost, isa: Isa, data) -> None:
    check_damage(hardened, data, isa)


# --- the format in C and in Python ---------------------------------------------------------------------------------


def test_layout_is_the_headers(tmp_path: Path) -> None:
    """Sizes and offsets of the structs, and the constants, as the C compiler sees them."""
    import shutil
    import subprocess

    gcc = shutil.which("gcc")
    if gcc is None:
        pytest.skip("no C compiler for this machine (gcc)")
    text = (FIRMWARE / "runtime" / "program.h").read_text()
    kinds = dict(re.findall(r"(BF_[A-Z0-9_]+) = (\d+)", text))
    assert {int(value) for value in kinds.values()} == set(layout.KIND_NAMES)
    sizes = {
        "bf_program": layout.HEADER.size,
        "bf_operand": layout.OPERAND.size,
        "bf_channel": layout.CHANNEL.size,
        "bf_operator": layout.OPERATOR.size,
        "bf_window": layout.OPERATOR.size + layout.WINDOW_BODY.size,
        "bf_binary": layout.OPERATOR.size + layout.BINARY_BODY.size,
        "bf_extent": layout.EXTENT.size,
        "bf_pad": layout.OPERATOR.size + layout.PAD_BODY.size,
        "bf_padding": layout.PADDING.size,
        "bf_copy": layout.OPERATOR.size + layout.COPY_BODY.size,
        "bf_softmax": layout.OPERATOR.size + layout.SOFTMAX_BODY.size,
        "bf_table": layout.OPERATOR.size + layout.TABLE_BODY.size,
    }
    numbers = {
        "BF_PROGRAM_MAGIC": layout.MAGIC,
        "BF_PROGRAM_VERSION": layout.VERSION,
        "BF_ISA_PLAIN": layout.ISA_CODES["plain"],
        "BF_ISA_DSP": layout.ISA_CODES["dsp"],
        "BF_IN_PROGRAM": layout.IN_PROGRAM,
        "BF_MAX_RANK": layout.MAX_RANK,
    }
    assert set(re.findall(r"^struct (bf_\w+) \{", text, re.M)) == set(sizes)
    lines = ['#include "runtime/program.h"']
    lines += [f'_Static_assert(sizeof(struct {name}) == {size}, "{name}");' for name, size in sizes.items()]
    lines += [f'_Static_assert({name} == {value}u, "{name}");' for name, value in numbers.items()]
    source = tmp_path / "layout.c"
    source.write_text("\n".join(lines) + "\n")
    command = [
        gcc,
        "-std=c11",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-I",
        str(FIRMWARE),
        "-fsyntax-only",
        str(source),
    ]
    subprocess.run(command, check=True)
