"""LiteRT (TensorFlow Lite) as an engine; its predecessor tflite-runtime where only that exists.

Old 32-bit systems have no ai-edge-litert. tflite-runtime is only tried where ai-edge-litert is not installed: with
numpy 2 it does not work (docs/dependencies.md).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, Final

from targets.runners.common import (
    check_tflite,
    missing,
    preset,
    refused,
    run_batched,
    stderr_captured,
    tflite_spec,
    version,
)
from targets.session import Array, ModelFormat

# Module, distribution, and the runtime's name in a stack, in the order of preference.
_PACKAGES: Final = (
    ("ai_edge_litert.interpreter", "ai-edge-litert", "litert"),
    ("tflite_runtime.interpreter", "tflite-runtime", "tflite-runtime"),
)


class LiteRtRunner:
    """LiteRT (TensorFlow Lite) on the CPU.

    Args:
        threads: of one inference.
        kernels: "xnnpack" (the default of the runtime) or "reference" (plain kernels: slow, close to TFLM).

    Raises:
        DeviceError: neither ai-edge-litert nor tflite-runtime is installed, or the one that is cannot be imported.
    """

    model_format: ModelFormat = "tflite"

    def __init__(self, *, threads: int = 1, kernels: str = "xnnpack") -> None:
        interpreter, distribution, runtime = _interpreter()
        self._make = interpreter.Interpreter
        types = interpreter.OpResolverType
        self._resolver = types.BUILTIN_REF if kernels == "reference" else types.AUTO
        self._threads = threads
        self.stack = {
            "runtime": runtime,
            "runtime_version": version(distribution),
            "kernels": kernels,
            "threads": str(threads),
        }

    def load(self, model: bytes) -> LiteRtModel:
        check_tflite(model)
        try:
            with stderr_captured():  # the runtime announces its delegate there, once
                interpreter = self._make(
                    model_content=bytes(model),
                    num_threads=self._threads,
                    experimental_op_resolver_type=self._resolver,
                )
                interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise refused("LiteRT", str(error)) from error
        return LiteRtModel(interpreter)

    def close(self) -> None:
        """Nothing to put back."""


class LiteRtModel:
    """A model in a LiteRT interpreter."""

    def __init__(self, interpreter: Any) -> None:
        self._interpreter = interpreter
        self._in = interpreter.get_input_details()
        self._out = interpreter.get_output_details()
        self.inputs = tuple(tflite_spec(detail) for detail in self._in)
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

        return run_batched("LiteRT", self.inputs, inputs, once)


def _interpreter() -> tuple[Any, str, str]:
    """(module, distribution, name in a stack) of the first package that is installed."""
    first: ImportError | None = None
    for module, distribution, runtime in _PACKAGES:
        try:
            return importlib.import_module(module), distribution, runtime
        except ImportError as error:
            first = first or error
            # Installed but broken: say so, rather than measure with something else.
            if not isinstance(error, ModuleNotFoundError) or error.name not in {
                module,
                module.partition(".")[0],
            }:
                raise missing("LiteRT", distribution, "tflite", error) from error
    assert first is not None
    raise missing("LiteRT", "ai-edge-litert", "tflite", first) from first
