"""What every target can do, whatever it is made of: a CPU in this machine, a board on a wire, an emulator.

A `Target` says what exists, `open_target(url)` gives a `Session` with it, and a session takes model files and
gives outputs and measurements. Nothing here knows what a network is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Final, Literal, Protocol, Self, cast, get_args

import numpy as np
from numpy.typing import NDArray

from targets import registry
from targets.timing import Settings
from toolchain.errors import BoardfitError, ConfigurationError
from toolchain.measurement import Evidence, Measurement, Stack

# native-*: a program of the firmware's own runtime, laid out for cores with and without DSP instructions
# (firmware/runtime/program.h).
ModelFormat = Literal["tflite", "onnx", "pt2", "native-dsp", "native-plain"]
Array = NDArray[np.generic]
Progress = Callable[[int, int], None]  # (jobs that are final, all jobs)


@dataclass(frozen=True, slots=True)
class Job:
    """One model file to be measured.

    Attributes:
        key: the caller's name for it, e.g. an operator's signature; unique within one call of `measure`.
        model: the model file in the session's `model_format`.
    """

    key: str
    model: bytes


@dataclass(frozen=True, slots=True)
class Result:
    """The final answer to one job: a measurement, or the reason why there is none.

    Attributes:
        key: the job's.
        measurement: `latency_us` (or `cycles` on a board), or None.
        failure: why there is no measurement, one line; empty when there is one.
        others: of other metrics, that the same run gave on the way, e.g. memory on a GPU.
    """

    key: str
    measurement: Measurement | None
    failure: str = ""
    others: tuple[Measurement, ...] = ()


@dataclass(frozen=True, slots=True)
class Target:
    """Something that a model can run on, as `boardfit boards` shows it.

    Attributes:
        url: what `open_target` takes, e.g. `cpu:litert`.
        name: short, for tables.
        description: one line: engine and version, or what the board is.
        available: it can be opened now.
        notes: what is missing and how to get it, or a limitation worth knowing; may be empty.
    """

    url: str
    name: str
    description: str
    available: bool
    notes: str = ""


@dataclass(frozen=True, slots=True)
class Device:
    """A microcontroller: its clock, what boardfit's firmware takes of its memories, and what that leaves for a model.

    Attributes:
        clock_hz: of the core, and of the cycle counter.
        firmware_flash_bytes: image of the firmware.
        firmware_ram_bytes: its static data and the reserved stack.
        slot_bytes: flash behind the firmware, where the model lies.
        arena_bytes: RAM that is left for the model.
        note: what every figure of it must be read with, e.g. that no hardware was used, and the timing model's band.
    """

    clock_hz: int
    firmware_flash_bytes: int
    firmware_ram_bytes: int
    slot_bytes: int
    arena_bytes: int
    note: str = ""


class Described(Protocol):
    """What is known of a target without running anything on it."""

    @property
    def stack(self) -> Stack:
        """Everything that the target's numbers depend on."""
        ...

    @property
    def model_format(self) -> ModelFormat:
        """The kind of model file that `run` and `measure` take."""
        ...

    @property
    def evidence(self) -> Evidence:
        """How its measurements come to be."""
        ...

    @property
    def device(self) -> Device | None:
        """The microcontroller; None on a machine with an operating system."""
        ...


@dataclass(frozen=True, slots=True)
class Description:
    """`Described`, where there is no session."""

    stack: Stack
    model_format: ModelFormat
    evidence: Evidence
    device: Device | None


class Session(Described, Protocol):
    """An open target. A context manager: leaving it gives the device back, also after an error."""

    def run(self, model: bytes, inputs: Array) -> Array:
        """Outputs of a model with one input and one output.

        Args:
            model: a file in `model_format`.
            inputs: batch first, then the layout of the format (NHWC for tflite, NCHW for onnx and pt2), in the
                dtype of the model's input.

        Returns:
            Batch first, in the dtype of the model's output.

        Raises:
            ModelFileError: the file is corrupt, or the engine refuses it.
            ConfigurationError: the inputs do not fit the model.
            DeviceError: the device stopped answering.
        """
        ...

    def measure(
        self,
        jobs: Iterable[Job],
        *,
        settings: Settings | None = None,
        progress: Progress | None = None,
        wait: bool = False,
    ) -> Iterator[Result]:
        """Time jobs; yields each result as soon as it is final, not always in the order of the jobs.

        Args:
            jobs: model files; a model that the engine refuses becomes a result with a reason, the others go on.
            settings: quality of measuring on a noisy machine; a deterministic device ignores it.
            progress: called after each result with (final, all).
            wait: when another process measures on this device, wait for it instead of raising.

        Raises:
            DeviceError: another process measures on this device (its pid is named), or it stopped answering.
        """
        ...

    def deploy(self, model: bytes, place: str | Path, *, files: Mapping[str, bytes] | None = None) -> str:
        """Put a model where the target runs it, with what it takes to run it there; all or nothing.

        Args:
            model: a file in `model_format`.
            place: a folder on the target, where there are folders. What stood there before is kept beside it
                as `<place>.previous`.
            files: more files for the folder, e.g. labels and a report: name -> contents.

        Returns:
            The place as a user finds it.

        Raises:
            ModelFileError: the target refuses the model; nothing was changed.
            BoardfitError: the folder cannot be written; what stood there before still stands.
        """
        ...

    def undo(self, place: str | Path) -> str:
        """Put back what stood in `place` before the last deployment; what stands there now becomes the previous one.

        A board runs the model again that lies in the folder then.

        Returns:
            The place as a user finds it.

        Raises:
            ConfigurationError: nothing stood there, or on a board a model of other firmware.
            BoardfitError: it cannot be put back; what stands there still stands.
        """
        ...

    def close(self) -> None:
        """Give the device back; twice does no harm."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class _Opener(Protocol):
    def __call__(
        self, url: str, *, anchor: bytes | None, baseline: bytes | None, cache: Path | None
    ) -> Session: ...


ALIASES: Final[Mapping[str, str]] = {"cpu": "cpu:litert"}
HERE: Final = "this machine"  # as `device_of` calls it


def open_target(
    url: str, *, anchor: bytes | None = None, baseline: bytes | None = None, cache: Path | None = None
) -> Session:
    """Open a target by its URL, e.g. `cpu:litert`, `cpu:onnxruntime`, `cpu:torch`, `host:tflm`.

    Args:
        url: see `list_targets`; `cpu` is short for `cpu:litert`. Options stand behind a question mark:
            `cpu:litert?threads=4`, `cpu:litert?kernels=reference`.
        anchor: a small typical model (a convolution) in the session's format, timed beside all others to notice
            a machine that has become slow. Without it the first job of each `measure` is the anchor.
        baseline: the smallest model there is (one trivial operator); its time is recorded with each measurement
            as `overhead_us`. Without it that figure is the time of an empty Python call.
        cache: folder for what is kept between runs; by default the user's cache folder.

    Raises:
        ConfigurationError: unknown URL or option; the message lists what exists.
        DeviceError: it exists, but its engine is not installed or the device does not answer.
    """
    module, full = _module_of(url)
    opener = cast(_Opener, module.open_session)
    return opener(full, anchor=anchor, baseline=baseline, cache=cache)


def model_format(url: str) -> ModelFormat:
    """The kind of model file that a target takes; opens nothing, so a serial port stays untouched.

    Raises:
        ConfigurationError: unknown URL or option.
    """
    module, full = _module_of(url)
    form = cast(Callable[[str], ModelFormat], module.model_format)(full)
    if form not in get_args(ModelFormat):
        raise ConfigurationError(
            f"{url} takes {form!r} files, which boardfit does not write",
            remedy=f"{module.__name__}.model_format must give one of {', '.join(get_args(ModelFormat))}",
        )
    return form


def is_board(url: str) -> bool:
    """A microcontroller, real or virtual: it takes int8 models alone and counts for itself. Anything else is a
    machine, whose noisy times are taken beside an anchor. Opens nothing.

    Raises:
        ConfigurationError: unknown URL.
    """
    return bool(_optional(url, "is_board", lambda full: False))


def device_of(url: str) -> str:
    """What a target is measured on: two of the same device are measured one after the other. `HERE` is this machine,
    where nothing else may run meanwhile. By default each address is a device of its own. Opens nothing.

    Raises:
        ConfigurationError: unknown URL.
    """
    return str(_optional(url, "device_of", lambda full: full.partition("?")[0]))


def describe(url: str) -> Description:
    """Stack, model format, evidence and device of a target, as a session would have them.

    A board's description follows from its facts and from the firmware as it is built here, so no board need be
    attached. The firmware is compiled when it is not in the cache.

    Raises:
        ConfigurationError: unknown URL or option.
        DeviceError: the engine or the compiler is not installed.
    """
    module, full = _module_of(url)
    own = cast("Callable[[str], Description] | None", getattr(module, "describe", None))
    if own is not None:
        return own(full)
    with open_target(full) as session:
        return Description(session.stack, session.model_format, session.evidence, session.device)


def _module_of(url: str) -> tuple[ModuleType, str]:
    """The module that knows the URL, and the URL without abbreviations."""
    full = ALIASES.get(url, url)
    module = registry.module_of(full.partition(":")[0])
    if module is None:
        raise unknown_url(url)
    return module, full


def _optional(url: str, name: str, default: Callable[[str], Any]) -> Any:
    """What a module's function says of a URL, or the default where the module has none."""
    module, full = _module_of(url)
    return getattr(module, name, default)(full)


def list_targets() -> list[Target]:
    """What exists here: CPU engines, boards and plug-ins, installed or not; opens nothing and measures nothing.

    A plug-in that does not work is listed as not available, with the reason.
    """
    found: list[Target] = []
    for source in registry.sources():
        if not source.plugin:
            found.extend(source.load().find())
            continue
        try:
            listed = [*source.load().find()]
            label = f"plug-in {source.plugin}"
            found.extend(replace(t, notes=f"{t.notes}; {label}" if t.notes else label) for t in listed)
        except Exception as error:  # of somebody else's code; the other targets are listed all the same
            why = error if isinstance(error, BoardfitError) else _broken(source, error)
            found.append(Target(f"{source.scheme}:", source.scheme, why.message, False, why.remedy))
    return found


def _broken(source: registry.Source, error: Exception) -> BoardfitError:
    return ConfigurationError(
        f"find() of the plug-in {source.plugin} failed: {type(error).__name__}: {error}",
        remedy=f"report it to its authors, or pip uninstall {source.plugin.partition(' ')[0]}",
    )


def unknown_url(url: str, why: str = "") -> ConfigurationError:
    """The error for a URL that names no target; lists the ones that exist."""
    urls = [target.url for target in list_targets()]
    meant = [known for known in urls if known.partition(":")[2] == url]
    return ConfigurationError(
        f"no target {url!r}{': ' + why if why else ''}",
        remedy=(f"write {meant[0]}; or " if meant else "") + f"use one of {', '.join(urls)}",
    )


def unknown_option(url: str, name: str, allowed: Mapping[str, Any]) -> ConfigurationError:
    """The error for an option behind the question mark of a URL; lists the allowed ones."""
    listed = ", ".join(f"{key}={value}" for key, value in allowed.items()) or "none"
    return ConfigurationError(f"target {url!r} has no option {name!r}", remedy=f"its options: {listed}")
