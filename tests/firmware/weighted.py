"""Weighted kernels outside a firmware: one operator's constants, and the host process that runs it under sanitizers."""

from __future__ import annotations

import math
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from numpy.typing import NDArray

from toolchain.export.native import layout, weights
from toolchain.graph import Graph, Operator
from toolchain.graph import fixed_point as fp
from toolchain.graph.integer_reference import activation_range
from toolchain.graph.operator import same_padding

ROOT: Final = Path(__file__).parents[2]
KERNELS: Final = ROOT / "firmware" / "kernels"
SOURCES: Final = tuple(
    KERNELS / name
    for name in (
        *("conv2d.c", "conv2d_columns.c", "columns.c", "winograd.c", "pixel.c", "fully_connected.c"),
        *("depthwise_conv2d.c", "depthwise_planes.c", "depthwise_3x3.c", "depthwise_line.c", "planes.c"),
    )
)
KINDS: Final = {
    "conv2d": layout.CONV2D,
    "depthwise_conv2d": layout.DEPTHWISE,
    "fully_connected": layout.FULLY_CONNECTED,
}
Int8Array = NDArray[np.int8]


@dataclass(frozen=True)
class Layer:
    """One weighted operator with its numbers, as `layout_weighted` takes them."""

    op: Operator
    weights: Int8Array
    bias: NDArray[np.int32]
    in_zero: int
    out_zero: int
    multipliers: NDArray[np.int64]
    shifts: NDArray[np.int64]
    least: int
    greatest: int

    algorithm: weights.Algorithm = "direct"

    def laid_out(self, isa: layout.Isa) -> weights.WeightedLayout:
        """Constants in the kernel's layout."""
        *values, algorithm = [getattr(self, name) for name in self.__dataclass_fields__]
        return weights.layout_weighted(*values, isa, algorithm)


def layer_of(graph: Graph, algorithm: weights.Algorithm = "direct") -> Layer:
    """The numbers of a graph of one weighted operator."""
    (node,) = graph.nodes
    op = node.operator
    source, output = (graph.tensors[n].quantization for n in (node.inputs[0], node.output))
    scales = graph.tensors[node.inputs[1]].quantization
    assert source is not None
    assert output is not None
    assert scales is not None
    pairs = [fp.quantize_multiplier(source.scale[0] * s / output.scale[0]) for s in scales.scale]
    least, greatest = activation_range(op.activation, output)
    return Layer(
        op=op,
        weights=graph.constants[node.inputs[1]],
        bias=graph.constants[node.inputs[2]],
        in_zero=source.zero_point[0],
        out_zero=output.zero_point[0],
        multipliers=np.array([m for m, _ in pairs], np.int64),
        shifts=np.array([s for _, s in pairs], np.int64),
        least=least,
        greatest=greatest,
        algorithm=algorithm,
    )


def descriptor(layer: Layer, laid: weights.WeightedLayout, weights_at: int, channels_at: int) -> bytes:
    """struct bf_window of the operator."""
    op = layer.op
    if op.kind == "fully_connected":
        into: tuple[int, ...] = (1, 1, math.prod(op.inputs[0]))
        out: tuple[int, ...] = (1, 1, op.output[-1])
    else:
        into, out = op.inputs[0][1:], op.output[1:]
    pads = (0, 0)
    if op.padding == "same" and op.kind != "fully_connected":
        pads = (
            same_padding(into[0], op.kernel[0], op.stride[0])[0],
            same_padding(into[1], op.kernel[1], op.stride[1])[0],
        )
    head = layout.OPERATOR.pack(KINDS[op.kind], laid.kernel, 64, 0, 0, 0, 0)
    zeros = (layer.in_zero, layer.out_zero, layer.least, layer.greatest)
    fields = (*into, *out, *op.kernel, *op.stride, *pads, *zeros, laid.steps, laid.chunk)
    return head + layout.WINDOW_BODY.pack(*fields, weights_at, channels_at)


def program(layer: Layer, isa: layout.Isa, channels_first: bool) -> tuple[bytes, bytes]:
    """(descriptor, constants); the order of the constants decides whose overrun a sanitizer sees."""
    laid = layer.laid_out(isa)
    if channels_first:
        return descriptor(layer, laid, len(laid.channels), 0), laid.channels + laid.weights
    gap = -len(laid.weights) % 4
    at = len(laid.weights) + gap
    return descriptor(layer, laid, 0, at), laid.weights + bytes(gap) + laid.channels


class Host:
    """The kernels as a Linux process, compiled with gcc and its sanitizers."""

    def __init__(self, folder: Path, *options: str) -> None:
        gcc = shutil.which("gcc")
        if gcc is None:
            pytest.skip("the sanitizers need gcc")
        binary = folder / "weighted"
        warnings = ("-std=c11", "-Wall", "-Wextra", "-Werror")
        sanitizers = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
        sources = (str(Path(__file__).with_name("weighted_host.c")), *map(str, SOURCES))
        command = [gcc, *warnings, *sanitizers, *options, "-I", str(KERNELS), *sources, "-o", str(binary)]
        subprocess.run(command, check=True, timeout=120)
        self.binary = str(binary)
        self.process: subprocess.Popen[bytes] | None = None

    def run(self, layer: Layer, isa: layout.Isa, x: NDArray[Any], channels_first: bool = True) -> Int8Array:
        """Output of the operator for an input of its shape."""
        head, constants = program(layer, isa, channels_first)
        scratch = weights.weighted_footprint(layer.op, isa, layer.algorithm).scratch_bytes
        size = math.prod(layer.op.output)
        sizes = struct.pack("<4I", len(constants), x.size, size, scratch)
        if self.process is None:
            self.process = subprocess.Popen(
                [self.binary], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        process = self.process
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        data = b""
        try:
            process.stdin.write(head + sizes + constants + x.tobytes())
            process.stdin.flush()
            data = process.stdout.read(size)
        except BrokenPipeError:
            pass
        if len(data) != size:
            self.process = None
            complaint = process.stderr.read().decode(errors="replace")
            self.close(process)
            raise AssertionError(f"{layer.op.signature} {isa}: the kernel process ended\n{complaint[:3000]}")
        return np.frombuffer(data, np.int8).reshape(layer.op.output)

    def close(self, process: subprocess.Popen[bytes] | None = None) -> None:
        """End the process."""
        process = process or self.process
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
