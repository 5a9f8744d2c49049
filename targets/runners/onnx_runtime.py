"""ONNX Runtime as an engine, on the CPU or a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from targets.runners.common import TensorSpec, missing, preset, refused, run_batched, version, with_batch
from targets.session import Array, ModelFormat
from toolchain.errors import DeviceError, ModelFileError

_CUDA: Final = "CUDAExecutionProvider"
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
    """ONNX Runtime with inputs and outputs bound once where the model runs, no spinning threads.

    Args:
        threads: of one inference on the CPU.
        gpu: number of the GPU whose CUDA provider runs the model; None: the CPU.
        batch: samples of one inference; files are of one sample or of any number.

    Raises:
        DeviceError: onnxruntime is not installed, or has no CUDA provider.
    """

    model_format: ModelFormat = "onnx"

    def __init__(self, *, threads: int = 1, gpu: int | None = None, batch: int = 1) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise missing("ONNX Runtime", "onnxruntime", "onnx", error) from error
        self._ort = onnxruntime
        self._threads = threads
        self._batch = batch
        self.cuda_version = str(getattr(onnxruntime, "cuda_version", "") or "")  # of a GPU build
        self._place = ("cpu", 0) if gpu is None else ("cuda", gpu)
        self._providers: list[Any] = ["CPUExecutionProvider"]
        if gpu is not None:
            _needs_cuda(onnxruntime)
            self._providers.insert(0, (_CUDA, {"device_id": str(gpu)}))
        self.stack = {
            "runtime": "onnxruntime",
            "runtime_version": version("onnxruntime") or str(onnxruntime.__version__),
            "kernels": "CPUExecutionProvider" if gpu is None else _CUDA,
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
            data = bytes(model) if self._batch == 1 else _open_batch(bytes(model))
            session = self._ort.InferenceSession(data, options, providers=self._providers)
            if len(self._providers) > 1 and session.get_providers()[0] != _CUDA:
                raise DeviceError(
                    f"ONNX Runtime's CUDA provider does not start; it offers {', '.join(session.get_providers())}",
                    remedy="check the driver, and that CUDA and cuDNN are those that this onnxruntime-gpu wants",
                )
            return OnnxModel(self._ort, session, self._place, self._batch)
        except (ModelFileError, DeviceError):
            raise
        except Exception as error:  # its exceptions share no base of their own
            raise refused("ONNX Runtime", str(error)) from error

    def close(self) -> None:
        """Nothing to put back."""


class OnnxModel:
    """A model in an ONNX Runtime session."""

    def __init__(self, ort: Any, session: Any, place: tuple[str, int] = ("cpu", 0), batch: int = 1) -> None:
        self._session = session
        self.inputs = tuple(with_batch(_onnx_spec(node), batch) for node in session.get_inputs())
        names = [node.name for node in session.get_outputs()]
        values = dict(zip((spec.name for spec in self.inputs), preset(self.inputs), strict=True))
        results = session.run(names, values)  # declared output shapes may be symbolic: see the real ones
        if batch > 1 and len(results[0]) != batch:
            raise ModelFileError(f"the model gives {len(results[0])} outputs for a batch of {batch}")
        binding = session.io_binding()
        self._kept = [ort.OrtValue.ortvalue_from_numpy(value, *place) for value in values.values()]
        for name, value in zip(values, self._kept, strict=True):
            binding.bind_ortvalue_input(name, value)
        for name, result in zip(names, results, strict=True):
            out = ort.OrtValue.ortvalue_from_shape_and_type(list(result.shape), result.dtype.type, *place)
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


def _needs_cuda(ort: Any) -> None:
    offered = list(ort.get_available_providers())
    if _CUDA not in offered:
        raise DeviceError(
            f"this ONNX Runtime {ort.__version__} has no CUDA provider, only {', '.join(offered)}",
            remedy="pip uninstall onnxruntime, then pip install onnxruntime-gpu, on a machine with a CUDA GPU",
        )


def _open_batch(model: bytes) -> bytes:
    """The file with any number of samples in its inputs and outputs, where it was written for one.

    Raises:
        ModelFileError: not an ONNX file.
    """
    try:
        import onnx
    except ImportError as error:
        raise missing("A batch of an ONNX file", "onnx", "onnx", error) from error
    try:
        proto = onnx.load_model_from_string(model)
    except Exception as error:  # protobuf's own errors
        raise refused("onnx", str(error)) from error
    for value in (*proto.graph.input, *proto.graph.output):
        dims = value.type.tensor_type.shape.dim
        if dims and dims[0].dim_value == 1:
            dims[0].dim_param = "batch"
    del proto.graph.value_info[:]  # inferred for one sample
    data: bytes = proto.SerializeToString()
    return data


def _onnx_spec(node: Any) -> TensorSpec:
    if node.type not in _ONNX_TYPES:
        raise ModelFileError(f"input {node.name!r} of the ONNX file is {node.type}, which is not supported")
    shape = tuple(size if isinstance(size, int) else 1 for size in node.shape)
    open_batch = bool(node.shape) and not isinstance(node.shape[0], int)
    return TensorSpec(str(node.name), shape, np.dtype(_ONNX_TYPES[node.type]), open_batch)
