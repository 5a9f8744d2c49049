"""A microcontroller as a target: `virtual:nucleo-l4r5zi`, `serial:/dev/ttyACM0?board=nucleo-l4r5zi`, and the same over
a network (`socket://host:port?board=...`, `rfc2217://...`).

The firmware on the board takes models in the form of its runtime. Many are packed into the slot in flash, written once
and run one after the other: a write to flash is slow and wears it, a run is neither.
"""

from __future__ import annotations

import importlib.util
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self
from urllib.parse import parse_qsl

import numpy as np

from targets.deploy import deploy_folder, undo_folder
from targets.lock import exclusive_port
from targets.mcu.board import Board, list_boards, load_board
from targets.mcu.build import Firmware, build_firmware
from targets.mcu.compilers import find_compiler
from targets.mcu.find import find as find_boards
from targets.mcu.link import BoardLink, ModelInfo, Refused, RunResult
from targets.mcu.port import open_port
from targets.mcu.tflm import INCLUDE_OPTION, LIBRARY_OPTION, require_library
from targets.mcu.virtual.calibration import calibrated
from targets.mcu.virtual.part import timing
from targets.session import (
    Array,
    Description,
    Device,
    Job,
    ModelFormat,
    Progress,
    Result,
    Target,
    unknown_option,
)
from targets.timing import Settings
from toolchain.errors import ConfigurationError, DeviceError, ModelFileError
from toolchain.measurement import MEASURED_METRICS, Evidence, Measurement, Stack

ALIGNMENT: Final = 16  # of models in the slot: firmware/runtime/program.h
SEED: Final = 1  # of the inputs that are measured with: the firmware fills them itself
# Silicon varies by its flash accelerator's state from run to run; a virtual board by nothing.
WARMUP, REPETITIONS = 1, 5
_RUNTIMES: Final = ("native", "tflm")
_COMPILERS: Final = ("auto", "gcc", "zig")


@dataclass(frozen=True, slots=True)
class BoardUrl:
    """A board's URL, taken apart.

    Attributes:
        board: its facts.
        port: URL for pyserial; empty for a virtual board.
        runtime: `native` or `tflm`.
        compiler: of the firmware.
        options: further ones, for the tflm runtime.
    """

    board: Board
    port: str
    runtime: str
    compiler: str
    options: Mapping[str, str]

    @property
    def virtual(self) -> bool:
        return not self.port

    @property
    def target(self) -> str:
        """What numbers belong to: not to a port, which may be another tomorrow."""
        return f"virtual:{self.board.name}" if self.virtual else self.board.name


def parse_url(url: str) -> BoardUrl:
    """Take a URL apart.

    Raises:
        ConfigurationError: no such board or option; a serial port without a board.
    """
    place, _, query = url.partition("?")
    scheme, _, rest = place.partition(":")
    # A plus is a plus: TFLM's own makefile puts its library into a folder cortex_m_generic_cortex-m4+fp_...
    options = dict(parse_qsl(query.replace("+", "%2B"), keep_blank_values=True))
    name = rest if scheme == "virtual" else options.pop("board", "")
    allowed = {"runtime": "|".join(_RUNTIMES), "compiler": "|".join(_COMPILERS)}
    if scheme != "virtual":
        allowed["board"] = "|".join(list_boards())
        if not rest or not name:
            raise ConfigurationError(
                f"target {url!r} does not say which {'board it is' if rest else 'port it is on'}",
                remedy=f"write {scheme}:{rest or '/dev/ttyACM0'}?board=NAME with one of "
                f"{', '.join(list_boards())}",
            )
    runtime, compiler = options.pop("runtime", "native"), options.pop("compiler", "auto")
    known = (LIBRARY_OPTION, INCLUDE_OPTION) if runtime == "tflm" else ()
    wrong = [(key, value) for key, value in options.items() if key not in known]
    if runtime not in _RUNTIMES:
        wrong.append(("runtime", runtime))
    if compiler not in _COMPILERS:
        wrong.append(("compiler", compiler))
    if wrong:
        raise unknown_option(place, "{}={}".format(*wrong[0]), allowed | dict.fromkeys(known, "PATH"))
    port = {"virtual": "", "serial": rest}.get(scheme, place)
    board = load_board(name)
    return BoardUrl(board if port else calibrated(board), port, runtime, compiler, options)


def model_format(url: str) -> ModelFormat:
    """The kind of model that a board takes: by its runtime, and by the core's instructions."""
    return _form(parse_url(url))


def is_board(url: str) -> bool:
    """See `targets.session.is_board`."""
    return True


def device_of(url: str) -> str:
    """See `targets.session.device_of`. A virtual board is one of its own: its counter does not depend on what else
    this machine does.
    """
    return url if url.startswith("virtual:") else url.partition("?")[0]


def describe(url: str) -> Description:
    """See `targets.session.describe`: from the board's facts, and the firmware as it is built here."""
    parsed = parse_url(url)
    firmware = firmware_of(parsed)
    return Description(_stack(parsed, firmware), _form(parsed), _evidence(parsed), _device(parsed, firmware))


def open_session(
    url: str, *, anchor: bytes | None = None, baseline: bytes | None = None, cache: Path | None = None
) -> BoardSession:
    """A session with a board; see `targets.session.open_target`, which calls this. `anchor` and `baseline` play no
    part: a board counts its own cycles.

    Raises:
        ConfigurationError: no such board or option, or no compiler for its firmware.
        DeviceError: the port is not there or busy, nothing answers, or what answers is another firmware or board.
    """
    parsed = parse_url(url)
    firmware = firmware_of(parsed, cache)
    with ExitStack() as stack:
        if not parsed.virtual:
            stack.enter_context(exclusive_port(parsed.port, cache))
        link = stack.enter_context(BoardLink(open_port(parsed.port or url)))
        _check(parsed, firmware, link)
        return BoardSession(parsed, firmware, link, stack.pop_all())


def firmware_of(url: BoardUrl, cache: Path | None = None) -> Firmware:
    """The firmware of a board's URL, compiled when it is not in the cache."""
    library = require_library(url.options) if url.runtime == "tflm" else None
    return build_firmware(url.board, runtime=url.runtime, library=library, compiler=url.compiler, cache=cache)


def _check(url: BoardUrl, firmware: Firmware, link: BoardLink) -> None:
    """What answers must be the board and the firmware that all figures will be filed under.

    Raises:
        DeviceError: it is not; or its cycle counter stands still.
    """
    hello = link.board
    which = f"--board {url.board.name} --probe {url.port}" if url.port else f"--target {url.target}"
    flash = f"run `boardfit flash {which}`"
    if hello.board != url.board.name:
        raise DeviceError(
            f"{url.port} is a {hello.board!r}, not a {url.board.name!r}",
            remedy=f"name the right board in target.url, or {flash}",
        )
    if hello.engine != url.runtime or hello.firmware not in ("", firmware.fingerprint):
        raise DeviceError(
            f"the firmware on {url.target} is another build ({hello.engine}, {hello.firmware or 'unknown'}) than "
            f"the one of this boardfit ({url.runtime}, {firmware.fingerprint})",
            remedy=flash,
        )
    if not hello.ticks_ok:
        raise DeviceError(
            f"the cycle counter of {url.target} ({hello.tick_source}) stands still",
            remedy="reset the board; in an emulator use virtual:..., which has a counter",
        )


def find() -> list[Target]:
    """The virtual boards, and the real ones that are attached. Opens nothing."""
    missing = [
        name for name in ("unicorn", "capstone", "serial", "elftools") if not importlib.util.find_spec(name)
    ]
    why = f"needs {', '.join(missing)}: pip install 'boardfit[virtual]'" if missing else ""
    if not why:
        try:
            find_compiler()
        except ConfigurationError as error:
            why = f"{error.message}: {error.remedy}"
    found = []
    for name in list_boards():
        board = load_board(name)
        text = (
            f"{board.title}, {board.part}: {board.core}, {board.clock.hz / 1e6:g} MHz, emulated: no hardware"
        )
        found.append(Target(f"virtual:{name}", name, text, not why, why or timing_text(board)))
    return found + find_boards()


def timing_text(board: Board) -> str:
    """What a virtual board's numbers are: the timing model with its constants and its band, or none."""
    cycles = board.cycles
    if cycles.kind == "instructions":
        return "the timing of this core is not validated: instructions are counted"
    return (
        f"timing model {cycles.model}, k={cycles.k:g}, a={cycles.a:g}, band ±{100 * cycles.band:g} %, "
        f"{board.clock.hz / 1e6:g} MHz, {board.flash.wait_states} wait states"
    )


def _form(url: BoardUrl) -> ModelFormat:
    if url.runtime == "tflm":
        return "tflite"
    return "native-dsp" if url.board.dsp else "native-plain"


def _evidence(url: BoardUrl) -> Evidence:
    return timing(url.board)[0] if url.virtual else Evidence.CYCLES_MEASURED


def _kernels(url: BoardUrl) -> str:
    """What numbers of this runtime depend on: the form of our kernels, or which library the user built."""
    if url.runtime == "tflm":
        return require_library(url.options).version
    return "dsp" if url.board.dsp else "plain"


def _device(url: BoardUrl, firmware: Firmware) -> Device:
    return Device(
        url.board.clock.hz,
        firmware.flash_bytes,
        firmware.ram_bytes,
        firmware.slot_bytes,
        firmware.arena_bytes,
        f"no hardware was used: {timing_text(url.board)}" if url.virtual else "",
    )


def _stack(url: BoardUrl, firmware: Firmware) -> Stack:
    board = url.board
    return Stack.of(
        {
            "target": url.target,
            "part": board.part,
            "core": board.core,
            "clock_hz": board.clock.hz,
            "wait_states": board.flash.wait_states,
            "runtime": url.runtime,
            "kernels": _kernels(url),
            "compiler": firmware.compiler,
            "flags": firmware.flags,
            "firmware": firmware.fingerprint,
            **(timing(board)[1] if url.virtual else {}),
        }
    )


class Placed(NamedTuple):
    """A job with the place of its model in the slot."""

    job: Job
    offset: int


def pack(jobs: Iterable[Job], slot_bytes: int) -> Iterator[tuple[bytes, list[Placed]]]:
    """Images of the slot, each with as many models as fit, in the order of the jobs, 16-aligned.

    Args:
        jobs: none of them larger than the slot.
    """
    image, placed = bytearray(), list[Placed]()
    for job in jobs:
        start = -(-len(image) // ALIGNMENT) * ALIGNMENT
        if placed and start + len(job.model) > slot_bytes:
            yield bytes(image), placed
            image, placed, start = bytearray(), [], 0
        image += b"\xff" * (start - len(image)) + job.model
        placed.append(Placed(job, start))
    if placed:
        yield bytes(image), placed


class BoardSession:
    """An open board. A context manager; see `targets.session.Session` for what it does.

    Args:
        url: the board's.
        firmware: what runs on it.
        link: to it, open.
        lock: held until the session is closed; it frees the port for other processes.
    """

    def __init__(self, url: BoardUrl, firmware: Firmware, link: BoardLink, lock: ExitStack) -> None:
        self._url, self._firmware, self._link, self._lock = url, firmware, link, lock
        self._loaded = b""  # the model that is open there
        self.device: Device | None = _device(url, firmware)
        self.stack = _stack(url, firmware)
        self.model_format = _form(url)
        self.evidence = _evidence(url)

    def run(self, model: bytes, inputs: Array) -> Array:
        """See `Session.run`; outputs are n x elements. A model that lies in the slot already is not written again."""
        self._load(model)
        batch = np.ascontiguousarray(inputs)
        answers = []
        for sample in batch:
            try:
                self._link.set_input(sample.tobytes())
                self._link.run(warmup=0, timed=False)
            except Refused as error:
                raise ConfigurationError(f"{self._url.target} refuses the input: {error.message}") from error
            answers.append(np.frombuffer(self._link.output(), batch.dtype))
        return np.stack(answers) if answers else np.empty((0, 0), batch.dtype)

    def measure(
        self,
        jobs: Iterable[Job],
        *,
        settings: Settings | None = None,
        progress: Progress | None = None,
        wait: bool = False,
    ) -> Iterator[Result]:
        """See `Session.measure`. A board counts its own cycles, so `settings` play no part; it is this process's alone
        while the session is open, so neither does `wait`.
        """
        listed = list(jobs)
        if len({job.key for job in listed}) != len(listed):
            raise ConfigurationError("two jobs have the same key", remedy="give each job its own key")
        return self._measure(listed, progress)

    def _measure(self, jobs: Sequence[Job], progress: Progress | None) -> Iterator[Result]:
        final = 0
        most = self._firmware.slot_bytes
        for result in self._results([job for job in jobs if len(job.model) <= most]):
            final += 1
            if progress is not None:
                progress(final, len(jobs))
            yield result
        for job in jobs:
            if len(job.model) > most:
                final += 1
                if progress is not None:
                    progress(final, len(jobs))
                yield Result(
                    job.key,
                    None,
                    f"the model takes {len(job.model):,} bytes of flash, the board has {most:,} left",
                )

    def _results(self, jobs: Sequence[Job]) -> Iterator[Result]:
        warmup, repetitions = (0, 1) if self._url.virtual else (WARMUP, REPETITIONS)
        for image, placed in pack(jobs, self._firmware.slot_bytes):
            self._loaded = b""
            self._link.write_slot(0, image)
            for job, offset in placed:
                try:
                    opened = self._link.open_model(offset, len(job.model))
                    self._link.fill_input(SEED)
                    found = self._link.run(warmup, repetitions)
                except Refused as error:
                    yield Result(job.key, None, error.message)
                    continue
                yield Result(job.key, self._measurement(job, opened, found))

    def _measurement(self, job: Job, opened: ModelInfo, found: RunResult) -> Measurement:
        device = self.device
        assert device is not None
        return Measurement(
            metric=MEASURED_METRICS[self.evidence],
            value=float(found.median_ticks),
            evidence=self.evidence,
            samples=tuple(float(t) for t in found.ticks),
            details={
                "min": str(found.min_ticks),
                "max": str(found.max_ticks),
                "flash_bytes": str(device.firmware_flash_bytes + len(job.model)),
                "ram_bytes": str(device.firmware_ram_bytes + opened.arena_bytes),
                "model_bytes": str(len(job.model)),
                "arena_bytes": str(opened.arena_bytes),
                "stack_bytes": str(found.stack_bytes),
                "stack_reserved_bytes": str(self._firmware.stack_bytes),
                "constant_lines": str(found.constant_lines),
                "output_crc32": f"{found.output_crc:08x}",
            },
            taken_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def deploy(self, model: bytes, place: str | Path, *, files: Mapping[str, bytes] | None = None) -> str:
        """See `Session.deploy`: the model in the board's slot, checked by its CRC, and in a folder here the firmware
        and the model as they are on the board.
        """
        self._load(model)
        name = "model.tflite" if self.model_format == "tflite" else "model.bfp"
        own = {
            name: model,
            "firmware.elf": self._firmware.elf.read_bytes(),
            "firmware.bin": self._firmware.image,
            "README.txt": self._readme(name, model).encode(),
        }
        clash = sorted(own.keys() & (files or {}).keys())
        if clash:
            raise ConfigurationError(f"deploy writes {', '.join(clash)} itself", remedy="choose other names")
        return str(deploy_folder({**own, **(files or {})}, Path(place)))

    def undo(self, place: str | Path) -> str:
        """See `Session.undo`: the model that is kept beside the present one is written to the slot, too."""
        name = "model.tflite" if self.model_format == "tflite" else "model.bfp"
        kept = Path(place).with_name(Path(place).name + ".previous")
        if kept.is_dir():  # if not, the folder's own error says so
            try:
                model, image = (kept / name).read_bytes(), (kept / "firmware.bin").read_bytes()
            except OSError as error:
                raise ConfigurationError(
                    f"{kept} holds no model of this runtime: {error.strerror} ({name}, firmware.bin)",
                    remedy="it was deployed to another target; deploy again",
                ) from error
            if image != self._firmware.image:
                raise ConfigurationError(
                    f"the model in {kept} was deployed with other firmware than {self._url.target} has now",
                    remedy="deploy again; the old model's figures would not hold",
                )
            self._load(model)
        return str(undo_folder(Path(place)))

    def _readme(self, name: str, model: bytes) -> str:
        board, firmware = self._url.board, self._firmware
        return (
            f"{board.title} ({board.part})\n"
            f"firmware.bin, firmware.elf: boardfit's firmware, at {firmware.address:#010x} "
            f"({len(firmware.image)} bytes, {firmware.compiler}).\n"
            f"{name}: the model, at {firmware.slot_address:#010x} ({len(model)} bytes, "
            f"CRC-32 {zlib.crc32(model):08x}).\n"
            + (f"{self.device.note}\n" if self.device is not None and self.device.note else "")
        )

    def close(self) -> None:
        """See `Session.close`."""
        try:
            self._link.close()
        finally:
            self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _load(self, model: bytes) -> None:
        """Write and open a model, unless it is open already."""
        if self._loaded == model:
            return
        if len(model) > self._firmware.slot_bytes:
            raise ModelFileError(
                f"the model takes {len(model):,} bytes of flash, {self._url.target} has "
                f"{self._firmware.slot_bytes:,} left beside the firmware",
                remedy="search with a smaller flash budget, or use a board with more flash",
            )
        self._link.write_slot(0, model)
        try:
            self._link.open_model(0, len(model))
        except Refused as error:
            raise ModelFileError(f"{self._url.target} refuses the model: {error.message}") from error
        self._loaded = bytes(model)
