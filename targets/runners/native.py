"""The native runtime of the firmware on this machine: the same C, compiled for the host. Outputs only.

Both sets of kernels run here, those with DSP instructions in their C form. How long a run takes on a PC says nothing
about a board.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from firmware import source_folder
from targets.runners.common import TensorSpec, run_batched
from targets.session import Array, ModelFormat
from toolchain.compiled import FLAGS, shared_library
from toolchain.errors import DeviceError, ModelFileError

_SOURCES: Final = source_folder()
_ALIGNMENT: Final = 16
_VISIBLE: Final = tuple(flag for flag in FLAGS if not flag.startswith("-fvisibility"))

# enum bf_status of firmware/runtime/engine.h
_REASONS: Final[Mapping[int, str]] = {
    1: "it is no program, or it is damaged",
    2: "it is of another format version or for other kernels",
    3: "its arena is too large for this machine",
    4: "it has an operator or kernel that this runtime does not have",
    6: "the arena is not aligned",
}


# Whose program is open in the runtime, which this process has once.
_opened: NativeModel | None = None


class _Model(ctypes.Structure):
    """struct bf_model of firmware/runtime/engine.h."""

    _fields_ = (
        ("arena_bytes", ctypes.c_uint32),
        ("operators", ctypes.c_uint16),
        ("inputs", ctypes.c_uint8),
        ("outputs", ctypes.c_uint8),
    )


def runtime_sources() -> tuple[list[Path], list[Path]]:
    """(C files, headers) of runtime and kernels; a program that links them defines `board_ticks`."""
    folders = [_SOURCES / "kernels", _SOURCES / "runtime"]
    sources = [file for folder in folders for file in sorted(folder.glob("*.c"))]
    headers = [file for folder in (*folders, _SOURCES / "boards") for file in sorted(folder.glob("*.h"))]
    return sources, headers


@functools.cache
def _library() -> ctypes.CDLL:
    sources, headers = runtime_sources()
    try:
        path = shared_library("native", [*sources, _SOURCES / "boards" / "library.c"], headers, _VISIBLE)
        if path is None:
            raise DeviceError(
                "no C compiler for the native runtime on this machine",
                remedy="install gcc, or pip install ziglang",
            )
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise DeviceError(f"the native runtime cannot be loaded: {error}") from error
    for name in ("bf_input", "bf_output"):
        getattr(library, name).restype = ctypes.c_void_p
    return library


class NativeRunner:
    """The native runtime as an engine for programs of `toolchain.export.native`.

    One program is open at a time in the runtime; a model opens its own again when another one was opened in between.

    Raises:
        DeviceError: no C compiler.
    """

    model_format: ModelFormat = "native-dsp"

    def __init__(self) -> None:
        self._library = _library()
        version = ctypes.c_char.in_dll(self._library, "bf_engine_version").value.decode()
        self.stack = {
            "runtime": "native",
            "runtime_version": version,
            "kernels": "host",
            "threads": "1",
            # Sources, flags and compiler: all that the speed of this library depends on.
            "library": hashlib.sha256(Path(self._library._name).read_bytes()).hexdigest()[:16],
        }

    def load(self, model: bytes) -> NativeModel:
        return NativeModel(self._library, model)

    def close(self) -> None:
        """Nothing to put back."""


class NativeModel:
    """A program in the native runtime."""

    def __init__(self, library: ctypes.CDLL, model: bytes) -> None:
        self._library = library
        self._program = _aligned(np.frombuffer(model, np.uint8))
        self._arena = _aligned(np.empty(0, np.uint8))
        # The arena's size stands in the program: the first attempt has none.
        found, status = self._open()
        if status == 3:
            self._arena = _aligned(np.zeros(found.arena_bytes, np.uint8))
            found, status = self._open()
        if status:
            raise ModelFileError(
                f"the native runtime refuses the program: {_REASONS.get(status, f'status {status}')}"
            )
        self.arena_bytes = int(found.arena_bytes)
        self.operators = int(found.operators)
        sizes = [self._place(self._library.bf_input, index)[1] for index in range(found.inputs)]
        self.inputs = tuple(
            TensorSpec(f"input {index}", (1, size), np.dtype(np.int8)) for index, size in enumerate(sizes)
        )
        self.outputs = found.outputs
        self.invoke: Callable[[], object] = self._invoke

    def run(self, *inputs: Array) -> Array:
        """The first output, samples x bytes; a sample of an input may have any shape of its number of bytes."""
        return run_batched(
            "the native runtime", self.inputs, _flat(inputs), lambda one: self.run_all(*one)[0][None]
        )

    def run_all(self, *inputs: Array) -> list[NDArray[np.int8]]:
        """All outputs for one sample, flat."""
        self._open()
        for index, values in enumerate(inputs):
            place, size = self._place(self._library.bf_input, index)
            ctypes.memmove(place, np.ascontiguousarray(values, np.int8).ctypes.data, size)
        self._invoke()
        found = [self._place(self._library.bf_output, index) for index in range(self.outputs)]
        return [np.frombuffer(ctypes.string_at(place, size), np.int8) for place, size in found]

    def _open(self) -> tuple[_Model, int]:
        global _opened
        _opened = self
        model = _Model()
        status = self._library.bf_open(
            ctypes.c_void_p(self._program.ctypes.data),
            ctypes.c_uint32(self._program.size),
            ctypes.c_void_p(self._arena.ctypes.data),
            ctypes.c_uint32(self._arena.size),
            ctypes.byref(model),
        )
        return model, int(status)

    def _place(self, function: Callable[..., int | None], index: int) -> tuple[int, int]:
        size = ctypes.c_uint32()
        place = function(ctypes.c_uint32(index), ctypes.byref(size))
        return place or 0, int(size.value)

    def _invoke(self) -> None:
        """One run. On inputs that an earlier run has spent, which the kernels' time does not depend on."""
        if _opened is not self:
            self._open()
        self._library.bf_invoke(ctypes.c_int32(-1), None, ctypes.c_uint32(0))


def _aligned(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A copy at an address that the runtime takes."""
    room = np.zeros(data.size + _ALIGNMENT, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    room[start : start + data.size] = data
    return room[start : start + data.size]


def _flat(inputs: Sequence[Array]) -> list[Array]:
    return [values.reshape(len(values), -1) for values in inputs]
