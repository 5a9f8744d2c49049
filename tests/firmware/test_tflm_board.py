"""The firmware with a user's TensorFlow Lite Micro: same protocol, same outputs. Runs where the library is named."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tflite
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from targets.mcu.replies import Refused
from targets.mcu.wire import Status
from targets.session import Job, open_target
from tests.firmware.tflm_board import BOARD, TflmBoard, differing, library_or_skip
from tests.interpreters import run_tflm
from tests.quantize.graphs import everything, integer_input, normal
from tests.random_graphs import int8_operators, random_inputs
from toolchain.export.native.writer import write_program
from toolchain.export.tflite_writer import write_tflite
from toolchain.graph import Graph, GraphBuilder, Quantization
from toolchain.graph.integer_reference import run_int8
from toolchain.graph.operator import KINDS
from toolchain.graph.tflite_reader import read_tflite
from toolchain.quantize.ptq import quantize

SCALE = Quantization.per_tensor(0.05, 3)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("firmware")


@pytest.fixture(scope="module")
def board(cache: Path) -> Iterator[TflmBoard]:
    opened = TflmBoard(library_or_skip(), cache)
    yield opened
    opened.link.close()


def small() -> Graph:
    """A convolution and a pooling."""
    b = GraphBuilder()
    x = b.input((1, 6, 6, 3))
    x = b.conv2d(x, normal(1, 4, 3, 3, 3), normal(2, 4), activation="relu")
    return quantize(b.build(b.pool("average_pool", x, (4, 4))), normal(3, 8, 6, 6, 3))


# --- the same outputs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_operator(board: TflmBoard, kind) -> None:
    @settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(graph=int8_operators(kind), seed=st.integers(0, 999))
    def same(graph: Graph, seed: int) -> None:
        inputs = random_inputs(graph, 2, seed)
        assert differing(board, write_tflite(graph), run_int8(graph, *inputs), *inputs) == (0, 0)

    same()


def test_all_operators_in_one_graph(board: TflmBoard) -> None:
    x = normal(0, 4, 9, 8, 3)
    graph = quantize(everything(), x)
    integers = integer_input(graph, x)
    model = write_tflite(graph)
    assert differing(board, model, run_tflm(model, integers), integers) == (0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet8", "mbnet", "mbv3", "dscnn", "ts1d"])
def test_trained_nets_agree_with_the_wheel_and_the_native_runtime(
    board: TflmBoard, cache: Path, name: str
) -> None:
    pytest.importorskip("torch")
    from tests.nets import NETS, nhwc, trained
    from toolchain.graph.lower import lower

    module, x_test, _, calibration = trained(name)
    graph = quantize(lower(module, NETS[name].input_shape), nhwc(calibration))
    x = integer_input(graph, nhwc(x_test)[:4])
    model = write_tflite(graph)
    assert differing(board, model, run_tflm(model, x), x) == (0, 0)
    with open_target(f"virtual:{BOARD}", cache=cache) as session:
        native = session.run(write_program(graph, "dsp"), x)
    assert differing(board, model, native, x) == (0, 0)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "arena_bytes"), [("ic01_resnet8_int8", 54_996), ("kws01_dscnn_int8", 22_820)]
)
def test_mlperf_networks(board: TflmBoard, name: str, arena_bytes: int) -> None:
    """Outputs, operators, and the arena that TFLM with CMSIS-NN reports for these on a Cortex-M4."""
    folder = os.environ.get("BOARDFIT_DATA")
    if not folder:
        pytest.skip("BOARDFIT_DATA is not set")
    [path] = Path(folder).rglob(f"{name}.tflite")
    model = path.read_bytes()
    graph = read_tflite(model)
    x = random_inputs(graph, 3, 7)[0]
    assert differing(board, model, run_tflm(model, x), x) == (0, 0)
    info, result, ticks = board.time(model)
    assert len(ticks) == info.operators == len(graph.nodes)
    assert 0.99 * result.ticks[0] < sum(ticks) < result.ticks[0]
    if "cmsis-nn" in board.link.board.engine_version:
        assert abs(info.arena_bytes - arena_bytes) < 1024  # the library's release moves it by some bytes


# --- what is reported ----------------------------------------------------------------------------------------------


def test_the_board_says_what_it_runs(board: TflmBoard) -> None:
    hello = board.link.board
    assert (hello.board, hello.engine) == (BOARD, "tflm")
    assert hello.engine_version == library_or_skip().version
    assert hello.firmware == board.firmware.fingerprint


def test_ticks_belong_to_their_operators(board: TflmBoard) -> None:
    """The convolution has 50 times the work of the pooling; both together are the run."""
    info, result, ticks = board.time(write_tflite(small()))
    assert info.operators == len(ticks) == 2
    assert ticks[0] > 3 * ticks[1] > 0
    assert 0.9 * result.ticks[0] < sum(ticks) < result.ticks[0]


def test_nothing_comes_from_a_heap(board: TflmBoard) -> None:
    symbols = board.machine.image.symbols
    assert not symbols.keys() & {"malloc", "_malloc_r", "calloc", "free", "_sbrk", "_sbrk_r", "_Znwj"}
    assert symbols["bf_init_start"] == symbols["bf_init_end"]  # and no static constructors run
    assert {"memcpy", "bf_open"} <= symbols.keys()  # the table does name what is there


def test_the_stack_holds(board: TflmBoard) -> None:
    _, result, _ = board.time(write_tflite(quantize(everything(), normal(0, 4, 9, 8, 3))))
    assert 0 < result.stack_bytes < board.firmware.stack_bytes


@pytest.mark.slow
def test_as_a_target(cache: Path) -> None:
    """By its URL, as profile and deploy use it: the session's stack names the library."""
    library = library_or_skip()
    graph = small()
    x = random_inputs(graph, 2, 1)[0]
    model = write_tflite(graph)
    url = f"virtual:{BOARD}?runtime=tflm&tflm_library={library.archive}"
    with open_target(url, cache=cache) as session:
        assert session.model_format == "tflite"
        assert session.stack.as_dict()["kernels"] == library.version
        assert (session.run(model, x) == run_int8(graph, x).reshape(2, -1)).all()
        good, bad = session.measure([Job("good", model), Job("bad", b"\0" * 100)])
    assert good.measurement is not None
    assert good.measurement.metric == "cycles"
    assert bad.measurement is None
    assert "no model, or a damaged one" in bad.failure


# --- what is refused -----------------------------------------------------------------------------------------------


def refusal(board: TflmBoard, model: bytes) -> Refused:
    with pytest.raises(Refused) as caught:
        board.open(model)
    return caught.value


def test_an_arena_that_is_too_small(board: TflmBoard) -> None:
    """By a tensor, and by so much that not even the tables of tensors fit."""
    b = GraphBuilder("int8")
    x = b.input((1, 700, 700, 2), SCALE)
    error = refusal(board, write_tflite(b.build(b.pool("max_pool", x, (2, 2), quantization=SCALE))))
    assert error.status is Status.NO_MEMORY
    assert error.value > 700 * 700 * 2 > error.limit == board.link.board.arena_bytes
    b = GraphBuilder("int8")
    x = b.input((1, 4), SCALE)
    for _ in range(9000):
        x = b.unary("hard_swish", x, quantization=SCALE)
    error = refusal(board, write_tflite(b.build(x)))
    assert error.status is Status.NO_MEMORY
    assert error.value > error.limit


def test_an_unknown_operator_and_a_float_one(board: TflmBoard) -> None:
    model = write_tflite(small())
    file = tflite.Model.GetRootAs(model)
    code = file.OperatorCodes(1)
    assert code is not None
    assert code.BuiltinCode() == tflite.BuiltinOperator.AVERAGE_POOL_2D
    assert refusal(board, with_code(model, tflite.BuiltinOperator.TANH)).status is Status.UNSUPPORTED
    assert refusal(board, with_code(model, 4000)).status is Status.UNSUPPORTED


def with_code(model: bytes, builtin: int) -> bytes:
    """The pooling's operator code replaced in the file: 32 bits, and the 8 bits of older readers."""
    file = tflite.Model.GetRootAs(model)
    code = file.OperatorCodes(1)
    assert code is not None
    changed = bytearray(model)
    table = code._tab
    place = table.Pos + table.Offset(10)
    changed[place : place + 4] = struct.pack("<i", builtin)
    changed[table.Pos + table.Offset(4)] = min(builtin, 127)
    return bytes(changed)


def test_another_version_of_the_format(board: TflmBoard) -> None:
    model = bytearray(write_tflite(small()))
    table = tflite.Model.GetRootAs(bytes(model))._tab
    place = table.Pos + table.Offset(4)
    model[place : place + 4] = struct.pack("<I", 2)
    assert refusal(board, bytes(model)).status is Status.WRONG_VERSION


def test_damaged_models_are_refused_or_run(board: TflmBoard) -> None:
    """Whatever the bytes: a status, never silence, never a fault; and the next model runs."""
    model = write_tflite(small())
    graph = small()
    x = random_inputs(graph, 1, 5)[0]
    rng = np.random.default_rng(6)
    for size in (0, 16, 100, len(model) // 2, len(model) - 16):
        assert refusal(board, model[: size or 8]).status is Status.BAD_MODEL
    outcomes = set()
    for _ in range(60):
        changed = bytearray(model)
        for at in rng.integers(0, len(model), 3):
            changed[at] = rng.integers(256)
        try:
            board.run(bytes(changed), x)
            outcomes.add(None)
        except Refused as error:
            outcomes.add(error.status)
        assert board.link.board.fault is None
    assert {None, Status.BAD_MODEL} <= outcomes
    assert differing(board, model, run_int8(graph, x), x) == (0, 0)
