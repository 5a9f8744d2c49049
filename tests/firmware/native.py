"""The native runtime as a process under sanitizers, for tests."""

from __future__ import annotations

import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from targets.runners.native import runtime_sources
from toolchain.export.native.footprint import memory_plan
from toolchain.export.native.layout import Isa
from toolchain.export.native.plan import DIRECT, Plan
from toolchain.export.native.writer import program_pieces, write_program
from toolchain.graph import Graph
from toolchain.graph.integer_reference import run_int8_all

Int8Array = NDArray[np.int8]
WARNINGS = ("-std=c11", "-Wall", "-Wextra", "-Werror")


@dataclass(frozen=True)
class Answer:
    """What the process says about a case."""

    status: int
    arena_bytes: int
    operators: int
    payload: bytes


class NativeHost:
    """The process. `sanitizers` as gcc names them."""

    def __init__(self, folder: Path, sanitizers: str = "address,undefined") -> None:
        gcc = shutil.which("gcc")
        if gcc is None:
            pytest.skip("the sanitizers need gcc")
        self.binary = folder / "native"
        options = ("-O1", "-g", f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all")
        sources = map(str, (Path(__file__).with_name("native_host.c"), *runtime_sources()[0]))
        subprocess.run([gcc, *WARNINGS, *options, *sources, "-o", str(self.binary)], check=True, timeout=180)
        self.process: subprocess.Popen[bytes] | None = None

    def ask(self, program: bytes, inputs: bytes, arena_bytes: int, *, each: bool = False) -> Answer:
        """Open and run a program; with `each`, operator by operator."""
        if self.process is None:
            pipe = subprocess.PIPE
            self.process = subprocess.Popen([self.binary], stdin=pipe, stdout=pipe, stderr=pipe)
        process = self.process
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        head = struct.pack("<4I", len(program), arena_bytes, len(inputs), int(each))
        got = b""
        try:
            process.stdin.write(head + program + inputs)
            process.stdin.flush()
            got = process.stdout.read(16)
        except BrokenPipeError:
            pass
        if len(got) < 16:
            complaint = process.stderr.read().decode(errors="replace")
            self.close()
            raise AssertionError(f"the runtime's process ended\n{complaint[:3000]}")
        status, arena, operators, size = struct.unpack("<4I", got)
        return Answer(status, arena, operators, process.stdout.read(size))

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
                if stream is not None:
                    stream.close()
            self.process = None


def check_graph(
    host: NativeHost, graph: Graph, isa: Isa, inputs: list[Int8Array], algorithms: Plan = DIRECT
) -> bytes:
    """Every tensor of every sample equals the integer reference's; gives the program."""
    program = write_program(graph, isa, plan=algorithms)
    plan = memory_plan(graph, isa, plan=algorithms)
    pieces = program_pieces(graph, isa, algorithms)
    expected = run_int8_all(graph, *inputs)

    def of(name: str, sample: int) -> bytes:
        values = expected[name]
        return bytes(values[sample if len(values) > 1 else 0].tobytes())

    for sample in range(len(inputs[0])):
        data = b"".join(values[sample].tobytes() for values in inputs)
        answer = host.ask(program, data, plan.arena_bytes)
        assert (answer.status, answer.arena_bytes) == (0, plan.arena_bytes)
        assert answer.payload == b"".join(of(name, sample) for name in graph.outputs)
        answer = host.ask(program, data, plan.arena_bytes, each=True)
        assert answer.operators == len(pieces)
        for index, piece in enumerate(pieces):
            last_of_node = index + 1 == len(pieces) or pieces[index + 1].node != piece.node
            name = graph.nodes[piece.node].output
            wanted, at = of(name, sample), index * plan.arena_bytes + plan.offsets[name]
            if piece.part is not None:  # some rows of it
                values = expected[name][sample][slice(*piece.part.rows)]
                assert answer.payload[at + piece.into :][: values.size] == values.tobytes(), piece.part
            elif last_of_node:
                assert answer.payload[at : at + len(wanted)] == wanted, graph.nodes[piece.node]
        ticks = struct.unpack_from(f"<{len(pieces)}I", answer.payload, len(pieces) * plan.arena_bytes)
        assert set(ticks) <= {7}
    return program
