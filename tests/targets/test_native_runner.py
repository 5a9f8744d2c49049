"""host:native: programs on this machine, against TensorFlow Lite Micro's interpreter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from targets.runners import NativeRunner, TflmRunner, native
from targets.session import open_target
from tests.random_graphs import int8_graphs, random_inputs
from toolchain import compiled
from toolchain.errors import ConfigurationError, DeviceError, ModelFileError
from toolchain.export.native.footprint import arena_bytes
from toolchain.export.native.writer import write_program
from toolchain.export.tflite_writer import write_tflite
from toolchain.graph import Graph, GraphBuilder, Quantization

SCALE = Quantization.per_tensor(0.05, 3)


def net(channels: int) -> Graph:
    b = GraphBuilder("int8")
    x = b.input((1, 4, 4, channels), SCALE)
    y = b.pool("max_pool", x, (2, 2), quantization=SCALE)
    return b.build(b.binary("add", y, y, quantization=SCALE))


@settings(max_examples=15, deadline=None)
@given(graph=int8_graphs(max_blocks=5))
def test_outputs_are_those_of_tflm(graph: Graph) -> None:
    pytest.importorskip("tflite_micro")
    inputs = random_inputs(graph, 2, 0)
    expected = TflmRunner().load(write_tflite(graph)).run(*inputs)
    for isa in ("dsp", "plain"):
        model = NativeRunner().load(write_program(graph, isa))
        assert model.arena_bytes == arena_bytes(graph, isa)
        np.testing.assert_array_equal(model.run(*inputs), expected.reshape(2, -1))


def test_models_take_turns() -> None:
    runner = NativeRunner()
    one, other = runner.load(write_program(net(3))), runner.load(write_program(net(8)))
    x, y = random_inputs(net(3), 2, 1)[0], random_inputs(net(8), 2, 2)[0]
    first, second = one.run(x), other.run(y)
    np.testing.assert_array_equal(one.run(x), first)
    np.testing.assert_array_equal(other.run(y), second)
    assert first.shape == (2, 12)


def test_session_runs_programs(tmp_path: Path) -> None:
    graph = net(4)
    x = random_inputs(graph, 3, 3)[0]
    with open_target("host:native", cache=tmp_path) as session:
        assert session.model_format == "native-dsp"
        assert "native" in session.stack.label
        assert session.run(write_program(graph), x).shape == (3, 16)


def test_what_is_refused() -> None:
    program = write_program(net(4))
    runner = NativeRunner()
    with pytest.raises(ModelFileError, match="no program, or it is damaged"):
        runner.load(program[:-1] + b"\1")
    with pytest.raises(ModelFileError, match="no program"):
        runner.load(write_tflite(net(4)))
    with pytest.raises(ModelFileError, match="format version"):
        runner.load(program[:4] + b"\2\0" + program[6:])
    with pytest.raises(ConfigurationError, match="shape"):
        runner.load(program).run(np.zeros((1, 3, 3, 4), np.int8))
    with pytest.raises(ConfigurationError, match="float32"):
        runner.load(program).run(np.zeros((1, 4, 4, 4), np.float32))


def test_no_compiler_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    native._library.cache_clear()
    monkeypatch.setattr(native, "shared_library", lambda *_: None)
    with pytest.raises(DeviceError, match="no C compiler"):
        NativeRunner()
    native._library.cache_clear()


def test_libraries_are_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source, header = tmp_path / "one.c", tmp_path / "one.h"
    source.write_text('#include "one.h"\nint one(void) { return ONE; }\n')
    header.write_text("#define ONE 1\n")
    first = compiled.shared_library("one", [source], [header])
    assert first is not None
    assert first.parent == tmp_path / "boardfit"
    built = first.stat().st_mtime_ns
    assert compiled.shared_library("one", [source], [header]) == first
    assert first.stat().st_mtime_ns == built
    header.write_text("#define ONE 2\n")
    assert compiled.shared_library("one", [source], [header]) != first
    source.write_text("no C at all\n")
    assert compiled.shared_library("one", [source]) is None
    first.chmod(0o666)
    source.write_text('#include "one.h"\nint one(void) { return ONE; }\n')
    header.write_text("#define ONE 1\n")
    assert compiled.shared_library("one", [source], [header]) is None
    assert [path.name for path in (tmp_path / "boardfit").glob("tmp*")] == []
