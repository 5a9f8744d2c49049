"""ONNX files: float from a module (through torch's exporter) or straight from a graph, and int8 (QDQ) from float.

Inputs are N x C x H x W here, as ONNX users expect, not NHWC. The same module or graph gives the same bytes.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import (
    ConfigurationError,
    DataError,
    ModelFileError,
    UnsupportedError,
    VerificationError,
)
from toolchain.graph import Graph, Node, Operator, Shape, window_pads
from toolchain.graph.graph import Array
from toolchain.graph.operator import WEIGHTED

try:
    import onnx
    from onnx import helper, numpy_helper
except ImportError as error:
    raise ConfigurationError(
        "writing ONNX files needs the onnx package", remedy="pip install 'boardfit[onnx]'"
    ) from error

if TYPE_CHECKING:
    from torch import nn

# What torch's exporter writes today; HardSwish came with opset 14.
_OPSET: Final = 20
_IR_VERSION: Final = 10
_MAX_BYTES: Final = 2**31 - 1  # of one protobuf message
# NHWC dimension -> NCHW dimension.
_NCHW: Final = {0: 0, 1: 2, 2: 3, 3: 1}
_ACTIVATIONS: Final[dict[str, tuple[str, dict[str, float]]]] = {
    "relu": ("Relu", {}),
    "hard_sigmoid": ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
}
# Left after fusing, these are weighted operators that stayed float.
_FLOAT_WEIGHTED: Final = ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul")


def write_onnx(module: nn.Module, input_shape: Shape) -> bytes:
    """A float ONNX file of a module, for any batch size: input "input", output "output".

    Args:
        module: takes one tensor, gives one; exported in eval mode.
        input_shape: torch's, without batch: (C, H, W), (C, L) or (F,).

    Returns:
        The file: opset 20, batch norms folded, no paths or stack traces of this machine inside.

    Raises:
        UnsupportedError: torch cannot export the module; the reason is torch's.
        ModelFileError: the file would be larger than protobuf's 2 GB.
    """
    import torch

    example = torch.zeros(2, *input_shape)  # a batch of 1 would be taken for a constant
    training = module.training
    module.eval()
    try:
        with _silence():
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                verbose=False,
                opset_version=_OPSET,
                input_names=["input"],
                output_names=["output"],
                dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            )
    except Exception as error:  # the exporter raises whatever its many stages raise
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UnsupportedError(f"torch cannot export this module to ONNX: {first_line}") from error
    finally:
        module.train(training)
    if program is None:
        raise UnsupportedError("torch cannot export this module to ONNX")
    # Through bytes: the exporter's message is another build of the same schema.
    model = onnx.ModelProto.FromString(program.model_proto.SerializeToString())
    _normalise(model)
    return _serialise(model)


def graph_to_onnx(graph: Graph, *, batch: int | None = 1) -> bytes:
    """A float ONNX file straight from a graph: a millisecond, where torch's exporter takes seconds.

    Args:
        graph: float32. A 4-D input of the graph becomes N x C x H x W in the file, and so do 4-D outputs.
        batch: batch size of inputs and outputs; None for any.

    Returns:
        The file: opset 20, one node per operator and one more per activation that is not fused in ONNX.

    Raises:
        UnsupportedError: an int8 graph; a constant joined to a batch that is not 1.
        ModelFileError: the file would be larger than protobuf's 2 GB.
    """
    if graph.dtype != "float32":
        raise UnsupportedError(
            "graph_to_onnx writes float graphs", remedy="quantise the ONNX file with quantize_onnx"
        )
    writer = _Writer(graph, batch)
    for node in graph.nodes:
        writer.node(node)
    model = helper.make_model(
        helper.make_graph(
            writer.nodes,
            "graph",
            [writer.value(name) for name in graph.inputs],
            [writer.value(name) for name in graph.outputs],
            writer.initializers,
        ),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
        producer_name="boardfit",
    )
    return _serialise(model)


def quantize_onnx(
    data: bytes, calibration: Array, *, method: str = "minmax", require_fused: bool = True
) -> bytes:
    """Static quantisation by onnxruntime: QDQ, unsigned 8-bit activations, signed 8-bit weights per channel.

    On x86 this combination alone lets onnxruntime fuse every convolution.

    Args:
        data: a float ONNX file with one input.
        calibration: typical inputs in the layout of the file, float, batch first.
        method: "minmax", "entropy" or "percentile", as onnxruntime has them.
        require_fused: check that no convolution or matrix product stays float when the file is loaded.

    Returns:
        The int8 file; its inputs and outputs stay float.

    Raises:
        DataError: calibration data are empty, not finite, or do not fit the model.
        ModelFileError: not an ONNX file.
        UnsupportedError: unknown method.
        VerificationError: convolutions or matrix products stay float.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    methods = {
        "minmax": CalibrationMethod.MinMax,
        "entropy": CalibrationMethod.Entropy,
        "percentile": CalibrationMethod.Percentile,
    }
    if method not in methods:
        raise UnsupportedError(
            f"unknown calibration method {method!r}", remedy=f"one of {', '.join(methods)}"
        )
    model = _parse(data)
    samples = _checked(model, calibration)
    reader = _reader(model.graph.input[0].name, samples)
    with tempfile.TemporaryDirectory() as folder, _silence():
        prepared, quantized = Path(folder, "prepared.onnx"), Path(folder, "quantized.onnx")
        quant_pre_process(model, prepared)
        quantize_static(
            prepared,
            quantized,
            reader,
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            calibrate_method=methods[method],
        )
        result = onnx.load(quantized)
    _normalise(result)
    written = _serialise(result)
    if require_fused:
        check_fused(written)
    return written


def fused_operator_count(data: bytes) -> dict[str, int]:
    """Operator type -> how often it stands in the model as onnxruntime runs it on a CPU, after fusing.

    QLinearConv, QGemm, QLinearAdd and the like are int8; Conv, FusedConv, Gemm and MatMul are float. The level is
    "extended", which does not depend on the CPU's vector width.

    Raises:
        ModelFileError: onnxruntime refuses the file.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # a warning says that the dumped file suits this machine only
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "optimized.onnx")
        options.optimized_model_filepath = str(path)
        try:
            onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no base of their own
            raise ModelFileError(f"onnxruntime refuses the model: {str(error).splitlines()[0]}") from error
        optimized = onnx.load(path)
    return dict(sorted(Counter(node.op_type for node in optimized.graph.node).items()))


def check_fused(data: bytes) -> dict[str, int]:
    """`fused_operator_count`, after making sure that no convolution or matrix product stays float.

    Raises:
        VerificationError: some do.
        ModelFileError: onnxruntime refuses the file.
    """
    counts = fused_operator_count(data)
    left = {kind: counts[kind] for kind in _FLOAT_WEIGHTED if kind in counts}
    if left:
        listed = ", ".join(f"{count} {kind}" for kind, count in left.items())
        raise VerificationError(
            f"onnxruntime runs {listed} of the int8 model in float: they do not fuse",
            remedy="use the float ONNX file on this CPU, or the TFLite file",
        )
    return counts


class _Writer:
    """ONNX nodes and initializers of a graph, 4-D activations as NCHW."""

    def __init__(self, graph: Graph, batch: int | None) -> None:
        self.graph = graph
        self.batch = batch
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._operands: set[str] = set()

    def value(self, name: str) -> onnx.ValueInfoProto:
        _, *rest = _nchw_shape(self.graph.tensors[name].shape)
        shape = ["batch" if self.batch is None else self.batch, *rest]
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)

    def node(self, node: Node) -> None:
        op = node.operator
        if op.activation == "none":
            self._operator(node, node.output)
            return
        self._operator(node, f"{node.output}_linear")
        if op.activation == "relu6":
            bounds = [self._constant(f"{node.output}_{b}", np.array(b, np.float32)) for b in (0, 6)]
            self._add("Clip", [f"{node.output}_linear", *bounds], node.output)
        else:
            kind, attributes = _ACTIVATIONS[op.activation]
            self._add(kind, [f"{node.output}_linear"], node.output, **attributes)

    def _operator(self, node: Node, output: str) -> None:
        op = node.operator
        if op.kind in WEIGHTED:
            self._weighted(node, output)
            return
        inputs = [self._operand(name) for name in node.inputs]
        if op.kind == "add":
            self._add("Add", inputs, output)
        elif op.kind == "mul":
            self._add("Mul", inputs, output)
        elif op.kind == "max_pool":
            self._add("MaxPool", inputs, output, **_window(op))
        elif op.kind == "average_pool":
            self._add("AveragePool", inputs, output, count_include_pad=0, **_window(op))
        elif op.kind == "pad":
            pads = [op.pads[i] for i in ((0, 3, 1, 2) if len(op.pads) == 4 else range(len(op.pads)))]
            ends = np.array([p[0] for p in pads] + [p[1] for p in pads], np.int64)
            self._add("Pad", [*inputs, self._constant(f"{output}_pads", ends)], output)
        elif op.kind == "reshape":
            self._reshape(op, inputs[0], output)
        elif op.kind == "softmax":
            self._add("Softmax", inputs, output, axis=1 if len(op.output) == 4 else -1)
        elif op.kind == "hard_swish":
            self._add("HardSwish", inputs, output)
        else:
            if self.batch != 1 and any(name in self.graph.constants for name in node.inputs):
                raise UnsupportedError("a constant in a concatenation has a batch of 1", remedy="use batch=1")
            self._add("Concat", inputs, output, axis=_NCHW[op.axis] if len(op.output) == 4 else op.axis)

    def _weighted(self, node: Node, output: str) -> None:
        op = node.operator
        x, (weights, bias) = node.inputs[0], (self.graph.constants[name] for name in node.inputs[1:])
        names = [self._constant(f"{output}_bias", bias)]
        if op.kind == "fully_connected":
            shape = op.inputs[0]
            if len(shape) == 4:  # weights follow the order of NCHW, so that the data need no transposing
                weights = weights.reshape(-1, *shape[1:]).transpose(0, 3, 1, 2).reshape(weights.shape)
            if len(shape) != 2:
                self._add("Flatten", [x], f"{output}_flat")
                x = f"{output}_flat"
            self._add("Gemm", [x, self._constant(f"{output}_weights", weights), *names], output, transB=1)
            return
        order = (0, 3, 1, 2) if op.kind == "conv2d" else (3, 0, 1, 2)
        weight = self._constant(f"{output}_weights", weights.transpose(order))
        group = 1 if op.kind == "conv2d" else op.inputs[0][3]
        self._add("Conv", [x, weight, *names], output, group=group, **_window(op))

    def _reshape(self, op: Operator, x: str, output: str) -> None:
        """A reshape means the order NHWC; transposing is spared where both orders are the same."""
        before, after = op.inputs[0], op.output
        if _orders_differ(before):
            self._add("Transpose", [x], f"{output}_nhwc", perm=(0, 2, 3, 1))
            x = f"{output}_nhwc"
        transpose = _orders_differ(after)
        shape = np.array([-1, *(after if transpose else _nchw_shape(after))[1:]], np.int64)
        reshaped = f"{output}_reshaped" if transpose else output
        self._add("Reshape", [x, self._constant(f"{output}_shape", shape)], reshaped)
        if transpose:
            self._add("Transpose", [reshaped], output, perm=(0, 3, 1, 2))

    def _operand(self, name: str) -> str:
        if name in self.graph.constants and name not in self._operands:
            self._operands.add(name)
            data = self.graph.constants[name]
            self._constant(name, data.transpose(0, 3, 1, 2) if data.ndim == 4 else data)
        return name

    def _constant(self, name: str, data: Array) -> str:
        self.initializers.append(
            numpy_helper.from_array(np.ascontiguousarray(data).reshape(data.shape), name)
        )
        return name

    def _add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], name=name, **attributes))


def _nchw_shape(shape: Shape) -> Shape:
    return (shape[0], shape[3], shape[1], shape[2]) if len(shape) == 4 else shape


def _orders_differ(shape: Shape) -> bool:
    return len(shape) == 4 and shape[3] > 1 and shape[1] * shape[2] > 1


def _window(op: Operator) -> dict[str, Any]:
    (top, bottom), (left, right) = window_pads(op)
    return {"kernel_shape": op.kernel, "strides": op.stride, "pads": (top, left, bottom, right)}


def _normalise(model: onnx.ModelProto) -> None:
    """Drop what tells of this machine or run: paths, stack traces, counters in names, inferred shapes."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    model.ClearField("producer_version")
    graph.ClearField("value_info")
    graph.name = "graph"
    for value in (*graph.input, *graph.output):
        for dim in value.type.tensor_type.shape.dim[:1]:
            if dim.dim_param:
                dim.dim_param = "batch"
    kept = {"", *(v.name for v in (*graph.input, *graph.output)), *(i.name for i in graph.initializer)}
    renamed: dict[str, str] = {name: name for name in kept}
    for index, node in enumerate(graph.node):
        node.name = f"{node.op_type}_{index}"
        for position, name in enumerate(node.output):
            if name not in kept:
                renamed[name] = f"{node.name}_{position}"
    for node in graph.node:
        node.input[:] = [renamed[name] for name in node.input]
        node.output[:] = [renamed[name] for name in node.output]


def _serialise(model: onnx.ModelProto) -> bytes:
    if model.ByteSize() > _MAX_BYTES:
        raise ModelFileError(
            f"the ONNX file would have {model.ByteSize():,} bytes, the limit is {_MAX_BYTES:,}"
        )
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _parse(data: bytes) -> onnx.ModelProto:
    try:
        model: onnx.ModelProto = onnx.ModelProto.FromString(data)
    except Exception as error:  # protobuf has several implementations, each with exceptions of its own
        raise ModelFileError("not an ONNX file") from error
    if not model.graph.node:
        raise ModelFileError("not an ONNX file, or one without operators")
    return model


def _checked(model: onnx.ModelProto, calibration: Array) -> NDArray[np.float32]:
    if len(model.graph.input) != 1:
        raise UnsupportedError(f"calibration needs a model with one input, this has {len(model.graph.input)}")
    dims = model.graph.input[0].type.tensor_type.shape.dim
    samples = np.asarray(calibration)
    wanted = [d.dim_value for d in dims]
    if samples.ndim != len(wanted) or list(samples.shape[1:]) != wanted[1:]:
        raise DataError(f"calibration data are {samples.shape}, the model takes (batch, {wanted[1:]})")
    if len(samples) == 0:
        raise DataError("calibration data are empty", remedy="give 100 to 500 typical samples")
    samples = samples.astype(np.float32)
    if not np.isfinite(samples).all():
        raise DataError("calibration data hold NaN or infinity")
    return samples


def _reader(name: str, samples: NDArray[np.float32]) -> Any:
    """A calibration reader that gives one sample after the other (the file's batch may be fixed to 1)."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
        def __init__(self) -> None:
            self.rest = iter(samples)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            sample = next(self.rest, None)
            return None if sample is None else {name: sample[None]}

    return Reader()


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """No chatter from exporters: prints, warnings about their own innards, log lines below errors."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
