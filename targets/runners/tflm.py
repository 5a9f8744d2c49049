"""TensorFlow Lite Micro's interpreter on the host as an engine: the meaning of an int8 model.

It does not check its file and would read outside the buffer, so LiteRT looks at the file first where it is
installed (1,200 damaged files: no crash; without it 5 of 400).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from targets.runners.common import (
    TensorSpec,
    check_tflite,
    missing,
    preset,
    refused,
    run_batched,
    stderr_captured,
    tflite_spec,
    version,
)
from targets.runners.litert import LiteRtRunner
from targets.session import Array, ModelFormat
from toolchain.errors import DeviceError

# The wheel's arena: tried in this order, because TFLM says only that the memory did not suffice, not how much would.
_ARENAS: Final = (1 << 20, 1 << 24, 1 << 28)


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
            raise missing("TensorFlow Lite Micro", "tflite-micro", "tflm", error) from error
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
            with stderr_captured() as text:
                try:
                    interpreter = self._make(bytes(model), arena_size=size)
                except (RuntimeError, ValueError) as error:
                    interpreter, failure = None, str(error)
            if interpreter is not None:
                return TflmModel(interpreter)
            said = _tflm_reason(text(), failure)
            if "memory" not in said:
                break
        raise refused("TensorFlow Lite Micro", said)

    def close(self) -> None:
        """Nothing to put back."""


class TflmModel:
    """A model in a TFLM interpreter."""

    def __init__(self, interpreter: Any) -> None:
        self._interpreter = interpreter
        found: list[TensorSpec] = []
        while True:
            try:
                with stderr_captured():
                    found.append(tflite_spec(interpreter.get_input_details(len(found))))
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

        return run_batched("TensorFlow Lite Micro", self.inputs, inputs, once)

    def arena_bytes(self) -> tuple[int, int]:
        """(head, tail) of the arena in bytes: tensors and scratch; and what lives as long as the interpreter.

        The tail is that of a 64-bit machine: larger than on a microcontroller.

        Raises:
            ModelFileError: the model cannot be invoked.
        """
        for index, values in enumerate(preset(self.inputs)):
            self._interpreter.set_input(values, index)
        try:
            with stderr_captured() as text:
                self._interpreter.invoke()
                self._interpreter.print_allocations()
        except RuntimeError as error:
            raise refused("TensorFlow Lite Micro", str(error)) from error
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
