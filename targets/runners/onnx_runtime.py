"""ONNX Runtime as an engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from targets.runners.common import TensorSpec, missing, preset, refused, run_batched, version
from targets.session import Array, ModelFormat
from toolchain.errors import ModelFileError

_ONNX_TYPES: Final = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}


class OnnxRunner:
    """ONNX Runtime on the CPU, with inputs and outputs bound once, no spinning threads.

    Raises:
        DeviceError: onnxruntime is not installed.
    """

    model_format: ModelFormat = "onnx"

    def __init__(self, *, threads: int = 1) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise missing("ONNX Runtime", "onnxruntime", "onnx", error) from error
        self._ort = onnxruntime
        self._threads = threads
        self.stack = {
            "runtime": "onnxruntime",
            "runtime_version": version("onnxruntime"),
            "kernels": "CPUExecutionProvider",
            "threads": str(threads),
        }

    def load(self, model: bytes) -> OnnxModel:
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.execution_mode = self._ort.ExecutionMode.ORT_SEQUENTIAL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4  # its errors come as exceptions; do not print them as well
        try:
            session = self._ort.InferenceSession(bytes(model), options, providers=["CPUExecutionProvider"])
            return OnnxModel(self._ort, session)
        except ModelFileError:
            raise
        except Exception as error:  # its exceptions share no base of their own
            raise refused("ONNX Runtime", str(error)) from error

    def close(self) -> None:
        """Nothing to put back."""


class OnnxModel:
    """A model in an ONNX Runtime session."""

    def __init__(self, ort: Any, session: Any) -> None:
        self._session = session
        self.inputs = tuple(_onnx_spec(node) for node in session.get_inputs())
        names = [node.name for node in session.get_outputs()]
        values = dict(zip((spec.name for spec in self.inputs), preset(self.inputs), strict=True))
        results = session.run(names, values)  # declared output shapes may be symbolic: see the real ones
        binding = session.io_binding()
        self._kept = [ort.OrtValue.ortvalue_from_numpy(value) for value in values.values()]
        for name, value in zip(values, self._kept, strict=True):
            binding.bind_ortvalue_input(name, value)
        for name, result in zip(names, results, strict=True):
            out = ort.OrtValue.ortvalue_from_shape_and_type(list(result.shape), result.dtype.type)
            self._kept.append(out)
            binding.bind_ortvalue_output(name, out)
        # Straight to the compiled session where there is one: the wrapper checks the binding's class on each call.
        compiled = getattr(getattr(session, "_sess", None), "run_with_iobinding", None)
        inner = getattr(binding, "_iobinding", None)
        if compiled is not None and inner is not None:
            self.invoke: Callable[[], object] = lambda: compiled(inner, None)
        else:
            self.invoke = lambda: session.run_with_iobinding(binding)

    def run(self, *inputs: Array) -> Array:
        def once(parts: Sequence[Array]) -> Array:
            fed = {spec.name: part for spec, part in zip(self.inputs, parts, strict=True)}
            out: Array = self._session.run(None, fed)[0]
            return out

        return run_batched("ONNX Runtime", self.inputs, inputs, once)


def _onnx_spec(node: Any) -> TensorSpec:
    if node.type not in _ONNX_TYPES:
        raise ModelFileError(f"input {node.name!r} of the ONNX file is {node.type}, which is not supported")
    shape = tuple(size if isinstance(size, int) else 1 for size in node.shape)
    open_batch = bool(node.shape) and not isinstance(node.shape[0], int)
    return TensorSpec(str(node.name), shape, np.dtype(_ONNX_TYPES[node.type]), open_batch)
