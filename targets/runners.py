"""Engines that run model files in this process: LiteRT, ONNX Runtime, torch and TensorFlow Lite Micro.

A runner loads a model file; what it loads gives outputs (`run`) and one bare inference on preset inputs (`invoke`, for
timing). An engine is imported when its runner is made, so that none of them is needed to use another.

Damaged files: LiteRT and ONNX Runtime verify a file themselves. TFLM does not and would read outside the buffer, so
LiteRT looks at the file first where it is installed (1,200 damaged files: no crash; without it 5 of 400). A torch
.pt2 file may hold pickles, which would run code: see `_without_pickles`.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import logging
import os
import re
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from targets.session import Array, ModelFormat
from toolchain.errors import ConfigurationError, DeviceError, ModelFileError

_TFLITE_IDENTIFIER: Final = b"TFL3"
# The wheel's arena: tried in this order, because TFLM says only that the memory did not suffice, not how much would.
_ARENAS: Final = (1 << 20, 1 << 24, 1 << 28)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output of a model: its name, shape with the batch (1 where the model takes any), and dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    any_batch: bool = False


class Loaded(Protocol):
    """A model that is ready to run."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What `run` takes, in order."""
        ...

    @property
    def invoke(self) -> Callable[[], object]:
        """One inference on preset inputs, with as little Python around it as the engine allows."""
        ...

    def run(self, *inputs: Array) -> Array:
        """The first output for a batch; a model made for one sample runs once per sample.

        Raises:
            ConfigurationError: the inputs' number, shape or dtype is not the model's.
            ModelFileError: the engine fails on this model.
        """
        ...


class Runner(Protocol):
    """An engine with its settings."""

    @property
    def model_format(self) -> ModelFormat: ...

    @property
    def stack(self) -> Mapping[str, str]:
        """The engine's part of a stack: runtime, its version, kernels, threads."""
        ...

    def load(self, model: bytes) -> Loaded:
        """Make a model ready to run.

        Raises:
            ModelFileError: the file is corrupt or the engine refuses it; the message says why.
        """
        ...

    def close(self) -> None:
        """Put back what the engine changed for the whole process; twice does no harm."""
        ...


# --- LiteRT --------------------------------------------------------------------------------------------------------


class LiteRtRunner:
    """LiteRT (TensorFlow Lite) on the CPU.

    Args:
        threads: of one inference.
        kernels: "xnnpack" (the default of the runtime) or "reference" (plain kernels: slow, close to TFLM).

    Raises:
        DeviceError: ai-edge-litert is not installed.
    """

    model_format: ModelFormat = "tflite"

    def __init__(self, *, threads: int = 1, kernels: str = "xnnpack") -> None:
        try:
            from ai_edge_litert import interpreter
        except ImportError as error:
            raise _missing("LiteRT", "ai-edge-litert", "tflite", error) from error
        self._make = interpreter.Interpreter
        types = interpreter.OpResolverType
        self._resolver = types.BUILTIN_REF if kernels == "reference" else types.AUTO
        self._threads = threads
        self.stack = {
            "runtime": "litert",
            "runtime_version": version("ai-edge-litert"),
            "kernels": kernels,
            "threads": str(threads),
        }

    def load(self, model: bytes) -> LiteRtModel:
        check_tflite(model)
        try:
            with _stderr_captured():  # the runtime announces its delegate there, once
                interpreter = self._make(
                    model_content=bytes(model),
                    num_threads=self._threads,
                    experimental_op_resolver_type=self._resolver,
                )
                interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise _refused("LiteRT", str(error)) from error
        return LiteRtModel(interpreter)

    def close(self) -> None:
        """Nothing to put back."""


class LiteRtModel:
    """A model in a LiteRT interpreter."""

    def __init__(self, interpreter: Any) -> None:
        self._interpreter = interpreter
        self._in = interpreter.get_input_details()
        self._out = interpreter.get_output_details()
        self.inputs = tuple(_tflite_spec(detail) for detail in self._in)
        for detail, values in zip(self._in, preset(self.inputs), strict=True):
            interpreter.set_tensor(detail["index"], values)
        # The wrapper's `invoke` counts references on each call; the compiled method under it does not.
        self.invoke: Callable[[], object] = getattr(
            getattr(interpreter, "_interpreter", None), "Invoke", interpreter.invoke
        )

    def run(self, *inputs: Array) -> Array:
        def once(parts: Sequence[Array]) -> Array:
            for detail, part in zip(self._in, parts, strict=True):
                self._interpreter.set_tensor(detail["index"], part)
            self.invoke()
            out: Array = self._interpreter.get_tensor(self._out[0]["index"])
            return out

        return _run_batched("LiteRT", self.inputs, inputs, once)


# --- ONNX Runtime --------------------------------------------------------------------------------------------------

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
            raise _missing("ONNX Runtime", "onnxruntime", "onnx", error) from error
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
            raise _refused("ONNX Runtime", str(error)) from error

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

        return _run_batched("ONNX Runtime", self.inputs, inputs, once)


# --- torch ---------------------------------------------------------------------------------------------------------


class TorchRunner:
    """torch on the CPU, from .pt2 files (`torch.export.save`): the exported graph's ATen calls, in inference mode.

    The graph runs without the guards and the argument flattening that `ExportedProgram.module()` adds: they cost
    four times a small convolution. The number of threads is the process's until `close`.

    Raises:
        DeviceError: torch is not installed.
    """

    model_format: ModelFormat = "pt2"

    def __init__(self, *, threads: int = 1) -> None:
        try:
            import torch
        except ImportError as error:
            raise _missing("torch", "torch", "train", error) from error
        self._torch = torch
        self._before: int | None = torch.get_num_threads()
        torch.set_num_threads(threads)
        self.stack = {
            "runtime": "torch",
            "runtime_version": version("torch"),
            "kernels": "aten",
            "threads": str(threads),
        }

    def load(self, model: bytes) -> TorchModel:
        clean = _without_pickles(bytes(model))
        log = logging.getLogger("torch.export")
        level = log.level
        log.setLevel(logging.CRITICAL)  # it logs a whole traceback before it raises
        try:
            program = self._torch.export.load(io.BytesIO(clean))
            return TorchModel(self._torch, program)
        except ModelFileError:
            raise
        except Exception as error:  # damaged files end in whatever the parser stumbles over
            raise _refused("torch", str(error) or type(error).__name__) from error
        finally:
            log.setLevel(level)

    def close(self) -> None:
        """Give the process its number of threads back."""
        if self._before is not None:
            self._torch.set_num_threads(self._before)
            self._before = None


class TorchModel:
    """An exported program with one output."""

    def __init__(self, torch: Any, program: Any) -> None:
        self._torch = torch
        wanted = set(program.graph_signature.user_inputs)
        found = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in wanted]
        self.inputs = tuple(_torch_spec(torch, node) for node in found)
        module = program.module(check_guards=False)
        module.graph.set_codegen(torch.fx.graph.CodeGen())
        module.recompile()
        self._forward = module.forward
        values = tuple(torch.from_numpy(value) for value in preset(self.inputs))
        forward, mode = self._forward, torch.inference_mode

        def invoke() -> object:
            with mode():
                return forward(*values)

        self.invoke: Callable[[], object] = invoke
        invoke()  # a graph that cannot run is refused now, not in the middle of a window

    def run(self, *inputs: Array) -> Array:
        def once(parts: Sequence[Array]) -> Array:
            with self._torch.inference_mode():
                result = self._forward(*(self._torch.from_numpy(part) for part in parts))
            first = result[0] if isinstance(result, (tuple, list)) else result
            out: Array = first.numpy().copy()
            return out

        return _run_batched("torch", self.inputs, inputs, once)


def _without_pickles(data: bytes) -> bytes:
    """A .pt2 archive written anew without its sample inputs; refuses those whose weights or constants are pickled.

    `torch.export.load` reads sample inputs, and weights or constants so marked, through pickle, which runs code.

    Raises:
        ModelFileError: not such an archive, or one with pickles that cannot be left out.
    """
    out = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(out, "w") as target:
            names = source.namelist()
            if not any(name.endswith("models/model.json") for name in names):
                raise ModelFileError("not a .pt2 file of torch.export.save: it has no models/model.json")
            for name in dict.fromkeys(names):
                content = source.read(name)
                if "/data/sample_inputs/" in name:
                    content = b""
                elif "/data/" in name and name.endswith("_config.json"):
                    _refuse_pickled(name, content)
                elif name.endswith((".pt", ".pkl")):
                    raise ModelFileError(f"the .pt2 file holds a pickle, {name}; it could run any code")
                target.writestr(name, content)
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, OSError) as error:
        raise ModelFileError(f"not a .pt2 file of torch.export.save: {error}") from error
    return out.getvalue()


def _refuse_pickled(name: str, content: bytes) -> None:
    try:
        entries = dict(json.loads(content)["config"]).items()
    except (KeyError, TypeError) as error:
        raise ModelFileError(f"{name} of the .pt2 file is not as torch.export.save writes it") from error
    for key, entry in entries:
        if (
            not isinstance(entry, dict)
            or entry.get("use_pickle")
            or not str(entry.get("path_name", "")).startswith(("weight_", "tensor_"))
        ):
            raise ModelFileError(f"{key!r} in {name} of the .pt2 file is a pickle; it could run any code")


# --- TensorFlow Lite Micro -----------------------------------------------------------------------------------------


class TflmRunner:
    """The TensorFlow Lite Micro interpreter of the `tflite-micro` wheel: what an int8 model means on a microcontroller.

    Gives outputs and the arena's use. Its reference kernels on a PC say nothing about time on a board.

    Raises:
        DeviceError: tflite-micro is not installed.
    """

    model_format: ModelFormat = "tflite"

    def __init__(self) -> None:
        try:
            from tflite_micro.python.tflite_micro import runtime
        except ImportError as error:
            raise _missing("TensorFlow Lite Micro", "tflite-micro", "tflm", error) from error
        self._make = runtime.Interpreter.from_bytes
        self._verify = _tflite_verifier()
        self.stack = {
            "runtime": "tflm",
            "runtime_version": version("tflite-micro"),
            "kernels": "reference",
            "threads": "1",
        }

    def load(self, model: bytes) -> TflmModel:
        check_tflite(model)
        self._verify(bytes(model))
        said = ""
        for size in _ARENAS:
            with _stderr_captured() as text:
                try:
                    interpreter = self._make(bytes(model), arena_size=size)
                except (RuntimeError, ValueError) as error:
                    interpreter, failure = None, str(error)
            if interpreter is not None:
                return TflmModel(interpreter)
            said = _tflm_reason(text(), failure)
            if "memory" not in said:
                break
        raise _refused("TensorFlow Lite Micro", said)

    def close(self) -> None:
        """Nothing to put back."""


class TflmModel:
    """A model in a TFLM interpreter."""

    def __init__(self, interpreter: Any) -> None:
        self._interpreter = interpreter
        found: list[TensorSpec] = []
        while True:
            try:
                with _stderr_captured():
                    found.append(_tflite_spec(interpreter.get_input_details(len(found))))
            except (ValueError, IndexError, RuntimeError):
                break  # the interpreter does not say how many inputs there are
        self.inputs = tuple(found)
        self.invoke: Callable[[], object] = interpreter.invoke

    def run(self, *inputs: Array) -> Array:
        def once(parts: Sequence[Array]) -> Array:
            for index, part in enumerate(parts):
                self._interpreter.set_input(part, index)
            self._interpreter.invoke()
            return np.array(self._interpreter.get_output(0))

        return _run_batched("TensorFlow Lite Micro", self.inputs, inputs, once)

    def arena_bytes(self) -> tuple[int, int]:
        """(head, tail) of the arena in bytes: tensors and scratch; and what lives as long as the interpreter.

        The tail is that of a 64-bit machine: larger than on a microcontroller.

        Raises:
            ModelFileError: the model cannot be invoked.
        """
        for index, values in enumerate(preset(self.inputs)):
            self._interpreter.set_input(values, index)
        try:
            with _stderr_captured() as text:
                self._interpreter.invoke()
                self._interpreter.print_allocations()
        except RuntimeError as error:
            raise _refused("TensorFlow Lite Micro", str(error)) from error
        found = dict(re.findall(r"Arena allocation (head|tail) (\d+) bytes", text()))
        if set(found) != {"head", "tail"}:
            raise DeviceError(
                "this tflite-micro does not print its arena's head and tail",
                remedy="install the version that pyproject.toml pins",
            )
        return int(found["head"]), int(found["tail"])


def arena_bytes(model: bytes) -> tuple[int, int]:
    """(head, tail) in bytes of TFLM's arena for a model file, on this 64-bit machine.

    Raises:
        ModelFileError: the file is corrupt or TFLM refuses it.
        DeviceError: tflite-micro is not installed.
    """
    return TflmRunner().load(model).arena_bytes()


def _tflite_verifier() -> Callable[[bytes], object]:
    """LiteRT as a check of structure before TFLM, which has none; without LiteRT only the identifier is checked."""
    try:
        return LiteRtRunner(kernels="reference").load
    except DeviceError:
        return len


def _tflm_reason(said: str, failure: str) -> str:
    """The line that names the cause: TFLM prints it and raises something general."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    for line in lines:
        if "Failed to allocate" in line:
            return f"not enough memory: {line}"
    return lines[0] if lines else failure


# --- shared --------------------------------------------------------------------------------------------------------


def check_tflite(model: bytes) -> None:
    """Refuse what is clearly no TFLite file before any parser sees it.

    Raises:
        ModelFileError: too short, or without the identifier "TFL3" at byte 4.
    """
    if len(model) < 16 or bytes(model[4:8]) != _TFLITE_IDENTIFIER:
        raise ModelFileError(
            f"not a TFLite file: {len(model)} bytes, identifier {bytes(model[4:8])!r} instead of {_TFLITE_IDENTIFIER!r}"
        )


def preset(specs: Sequence[TensorSpec]) -> list[Array]:
    """What timing feeds: uniform in [-1, 1) for floats, over the whole dtype for integers, always the same."""
    rng = np.random.default_rng(0)
    values: list[Array] = []
    for spec in specs:
        if np.issubdtype(spec.dtype, np.integer):
            info = np.iinfo(spec.dtype)
            values.append(rng.integers(info.min, info.max, spec.shape, spec.dtype, endpoint=True))
        else:
            values.append(np.asarray(rng.uniform(-1, 1, spec.shape), dtype=spec.dtype))
    return values


def version(distribution: str) -> str:
    """The installed version of a package, or an empty text."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _run_batched(
    engine: str,
    specs: Sequence[TensorSpec],
    inputs: Sequence[Array],
    once: Callable[[Sequence[Array]], Array],
) -> Array:
    """Check inputs against the model, run it on as many samples at a time as it takes, and join the outputs."""
    if len(inputs) != len(specs):
        raise ConfigurationError(f"the model has {len(specs)} inputs, {len(inputs)} were given")
    for spec, values in zip(specs, inputs, strict=True):
        if values.dtype != spec.dtype:
            raise ConfigurationError(
                f"input {spec.name!r} is {values.dtype}, the model takes {spec.dtype}",
                remedy="quantise the input with the model's scale and zero point"
                if spec.dtype == np.int8
                else "convert it",
            )
        if values.shape[1:] != spec.shape[1:] or len(values) == 0 or len(values) % spec.shape[0]:
            raise ConfigurationError(
                f"input {spec.name!r} has shape {values.shape}, the model takes batches of {spec.shape}"
            )
    total = len(inputs[0])
    step = total if all(spec.any_batch for spec in specs) else specs[0].shape[0]
    outputs = []
    try:
        for start in range(0, total, step):
            outputs.append(once([np.ascontiguousarray(values[start : start + step]) for values in inputs]))
    except Exception as error:  # each engine has its own
        raise _refused(engine, str(error) or type(error).__name__) from error
    return outputs[0] if len(outputs) == 1 else np.concatenate(outputs)


def _tflite_spec(detail: Mapping[str, Any]) -> TensorSpec:
    shape = tuple(int(size) for size in detail["shape"])
    return TensorSpec(str(detail.get("name", "")), shape, np.dtype(detail["dtype"]))


def _onnx_spec(node: Any) -> TensorSpec:
    if node.type not in _ONNX_TYPES:
        raise ModelFileError(f"input {node.name!r} of the ONNX file is {node.type}, which is not supported")
    shape = tuple(size if isinstance(size, int) else 1 for size in node.shape)
    open_batch = bool(node.shape) and not isinstance(node.shape[0], int)
    return TensorSpec(str(node.name), shape, np.dtype(_ONNX_TYPES[node.type]), open_batch)


def _torch_spec(torch: Any, node: Any) -> TensorSpec:
    value = node.meta["val"]
    shape = tuple(size if isinstance(size, int) else 1 for size in value.shape)
    open_batch = bool(value.shape) and not isinstance(value.shape[0], int)
    dtype: NDArray[Any] = torch.empty(0, dtype=value.dtype).numpy()
    return TensorSpec(str(node.name), shape, dtype.dtype, open_batch)


@contextmanager
def _stderr_captured() -> Iterator[Callable[[], str]]:
    """Catch what compiled code writes to standard error; yields a function that gives it once this has been left.

    The descriptor belongs to the whole process: what another thread writes meanwhile is caught too.
    """
    text = ""

    def read() -> str:
        return text

    if sys.stderr is not None:
        sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        try:
            kept = os.dup(2)
        except OSError:  # no standard error at all, as in some services
            yield read
            return
        try:
            os.dup2(file.fileno(), 2)
            yield read
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            text = file.read().decode(errors="replace")


def _missing(engine: str, package: str, extra: str, error: ImportError) -> DeviceError:
    return DeviceError(
        f"{engine} is not installed: {error}",
        remedy=f"pip install {package}, or boardfit[{extra}]",
    )


def _refused(engine: str, text: str) -> ModelFileError:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return ModelFileError(f"{engine} refuses the model: {lines[0] if lines else 'it gives no reason'}")
