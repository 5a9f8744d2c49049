"""What the engines share: the protocols of runners, checks of inputs and files, preset inputs, caught output."""

from __future__ import annotations

import importlib.metadata
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import numpy as np

from targets.session import Array, ModelFormat
from toolchain.errors import ConfigurationError, DeviceError, ModelFileError

_TFLITE_IDENTIFIER: Final = b"TFL3"


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


def with_batch(spec: TensorSpec, batch: int) -> TensorSpec:
    """The input of a model of one sample, or of any batch, when it runs on `batch` samples at once.

    Raises:
        ModelFileError: the model was made for another batch.
    """
    if batch == 1:
        return spec
    if not spec.shape or spec.shape[0] != 1:
        raise ModelFileError(
            f"input {spec.name!r} of the model is {spec.shape}: made for another batch than 1 or {batch}"
        )
    return replace(spec, shape=(batch, *spec.shape[1:]), any_batch=False)


def version(distribution: str) -> str:
    """The installed version of a package, or an empty text."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def run_batched(
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
    if len({len(values) for values in inputs}) != 1:
        raise ConfigurationError(
            f"the inputs hold {', '.join(str(len(v)) for v in inputs)} samples: not as many each"
        )
    total = len(inputs[0])
    step = total if all(spec.any_batch for spec in specs) else specs[0].shape[0]
    outputs = []
    try:
        for start in range(0, total, step):
            outputs.append(once([np.ascontiguousarray(values[start : start + step]) for values in inputs]))
    except Exception as error:  # each engine raises its own, without a common base
        raise refused(engine, str(error) or type(error).__name__) from error
    return outputs[0] if len(outputs) == 1 else np.concatenate(outputs)


def tflite_spec(detail: Mapping[str, Any]) -> TensorSpec:
    """A tensor as LiteRT and TFLM describe it."""
    shape = tuple(int(size) for size in detail["shape"])
    return TensorSpec(str(detail.get("name", "")), shape, np.dtype(detail["dtype"]))


@contextmanager
def stderr_captured() -> Iterator[Callable[[], str]]:
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


def missing(engine: str, package: str, extra: str, error: ImportError) -> DeviceError:
    """The error for an engine that is not installed."""
    return DeviceError(
        f"{engine} is not installed: {error}",
        remedy=f"pip install {package}, or boardfit[{extra}]",
    )


def refused(engine: str, text: str) -> ModelFileError:
    """The error for a model that an engine does not take, with the first line of what it says."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return ModelFileError(f"{engine} refuses the model: {lines[0] if lines else 'it gives no reason'}")
