"""What a board answers: replies as objects, and refusals as typed errors with the value, the limit and the remedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from targets.mcu import wire
from targets.mcu.wire import Command, Status
from toolchain.errors import BoardfitError, DeviceError, FlashingError, ModelFileError

_WRITE_FIRMWARE: Final = "write the firmware again: `boardfit flash`"


class Refused(ModelFileError):
    """The board's runtime does not take a model, or fails while it runs it; the next model may do.

    Attributes:
        status: why.
        value, limit: as in the reply; for NO_MEMORY the bytes that the model takes at least (0: unknown) and those that
            there are.
    """

    def __init__(self, message: str, *, status: Status, value: int, limit: int, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.status = status
        self.value = value
        self.limit = limit


class BoardRestarted(DeviceError):
    """The board started anew, for instance after a fault: its session is gone. `BoardLink.hello` begins another."""


@dataclass(frozen=True, slots=True)
class Fault:
    """The fault that ended the firmware before its last start; registers of the core."""

    program_counter: int
    link_register: int
    status: int
    address: int

    def __str__(self) -> str:
        return f"a fault at {self.program_counter:#010x} (status {self.status:#x}, address {self.address:#x})"


@dataclass(frozen=True, slots=True)
class Hello:
    """What a board says about itself.

    Attributes:
        board: its name, as in targets/boards.
        tick_source: where cycles are counted.
        engine, engine_version: the runtime, and the format of models that it takes.
        firmware: fingerprint of the sources and options that it was built from; empty when unknown.
        clock_hz: of the core.
        ticks_ok: the cycle counter counts.
        slot_bytes: of the model slot in flash.
        page_bytes: erase unit of the slot.
        write_bytes: write unit of the slot.
        arena_bytes: RAM for a model.
        chunk_bytes: most data of one frame.
        max_repetitions: of one RUN.
        max_operators: whose ticks are kept.
        lost_bytes: by overruns of the line, since the last HELLO.
        fault: what ended the firmware before this start, told once; None: nothing did.
    """

    board: str
    tick_source: str
    engine: str
    engine_version: str
    firmware: str
    clock_hz: int
    ticks_ok: bool
    slot_bytes: int
    page_bytes: int
    write_bytes: int
    arena_bytes: int
    chunk_bytes: int
    max_repetitions: int
    max_operators: int
    lost_bytes: int
    fault: Fault | None


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """An open model.

    Attributes:
        arena_bytes: RAM that it takes.
        operators: their number.
        input_bytes, output_bytes: of each input and output.
    """

    arena_bytes: int
    operators: int
    input_bytes: tuple[int, ...]
    output_bytes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RunReply:
    """What one RUN gave; see struct bf_run_reply. `ticks` is empty when not timed."""

    input_crc32: int
    output_crc32: int
    stack_bytes: int
    constant_lines: int
    ticks: tuple[int, ...]


def hello(payload: bytes) -> Hello:
    """Raises ValueError where the payload is none of HELLO's."""
    known = wire.fields("hello_reply", payload)
    texts = payload[4 * len(known) :].split(b"\0")
    if len(texts) != 6 or texts[-1]:
        raise ValueError(f"{len(texts) - 1} texts where 5 were expected")
    board, tick_source, engine, engine_version, firmware = (
        text.decode("utf-8", "replace") for text in texts[:5]
    )
    if not known["page_bytes"] or not known["write_bytes"] or known["chunk_bytes"] < known["write_bytes"]:
        raise ValueError("sizes of the flash that make no sense")
    fault = Fault(
        known["fault_program_counter"],
        known["fault_link_register"],
        known["fault_status"],
        known["fault_address"],
    )
    return Hello(
        board=board,
        tick_source=tick_source,
        engine=engine,
        engine_version=engine_version,
        firmware=firmware,
        clock_hz=known["clock_hz"],
        ticks_ok=bool(known["ticks_ok"]),
        slot_bytes=known["slot_bytes"],
        page_bytes=known["page_bytes"],
        write_bytes=known["write_bytes"],
        arena_bytes=known["arena_bytes"],
        chunk_bytes=known["chunk_bytes"],
        max_repetitions=known["max_repetitions"],
        max_operators=known["max_operators"],
        lost_bytes=known["lost_bytes"],
        fault=fault if known["faulted"] else None,
    )


def model(payload: bytes) -> ModelInfo:
    """Raises ValueError where the payload is none of OPEN's."""
    known = wire.fields("open_reply", payload)
    inputs, outputs = known["inputs"], known["outputs"]
    sizes = wire.read_words(payload[4 * len(known) :])
    if len(sizes) != inputs + outputs:
        raise ValueError(f"{len(sizes)} sizes for {inputs} inputs and {outputs} outputs")
    return ModelInfo(known["arena_bytes"], known["operators"], sizes[:inputs], sizes[inputs:])


def run(payload: bytes) -> RunReply:
    """Raises ValueError where the payload is none of RUN's."""
    known = wire.fields("run_reply", payload)
    return RunReply(**known, ticks=wire.read_words(payload[4 * len(known) :]))


_FLASH_STATUS: Final = {
    0x80000001: "outside of the slot",
    0x80000002: "the flash controller stayed busy",
    0x80000003: "it reads otherwise than written",
}


def refusal(status: int, value: int, limit: int, command: Command, board: str) -> BoardfitError:
    """The error that a refusal is.

    Args:
        status: of the reply, not 0.
        value, limit: of the reply; docs/wire-protocol.md, "Statuses", says what they are.
        command: what was asked.
        board: its name, for the message.
    """
    what = f"{board} refuses {command.name}"
    try:
        known = Status(status)
    except ValueError:
        return DeviceError(
            f"{what}: status {status}, which this program does not know", remedy=_WRITE_FIRMWARE
        )
    match known:
        case Status.BAD_MODEL:
            return _refused(
                known, value, limit, f"{board}: no model, or a damaged one", "write the model again"
            )
        case Status.WRONG_VERSION:
            return _refused(
                known,
                value,
                limit,
                f"{board}: the model is of another format than the firmware's",
                _WRITE_FIRMWARE,
            )
        case Status.NO_MEMORY:
            # A runtime may find out only that it lacks more (TFLM), so what it says is a lower bound.
            need = f"at least {value} bytes of RAM" if value else "more RAM than there is"
            return _refused(
                known, value, limit, f"{board}: the model takes {need}, the arena has {limit}",
                "choose a smaller model or a board with more RAM",
            )  # fmt: skip
        case Status.UNSUPPORTED if command is Command.RUN:
            return _refused(
                known, value, limit, f"{board}: the firmware's runtime does not time single operators",
                "time the whole network; a TFLM library needs its profiler hooks (docs/tflm-runtime.md)",
            )  # fmt: skip
        case Status.UNSUPPORTED:
            return _refused(
                known,
                value,
                limit,
                f"{board}: the model has an operator that the firmware lacks",
                _WRITE_FIRMWARE,
            )
        case Status.FAILED:
            return _refused(
                known, value, limit, f"{board}: the runtime failed in run {value}", "try another model"
            )
        case Status.TOO_MANY:
            return _refused(
                known, value, limit, f"{what}: {value} where {limit} is the most", "take a smaller model"
            )
        case Status.SLOT_RANGE:
            return FlashingError(
                f"{what}: {value} does not fit the model slot (limit or unit {limit})",
                remedy="write less at a time, or take a board with more flash",
            )
        case Status.FLASH:
            why = _FLASH_STATUS.get(value, f"status register {value:#x}")
            return FlashingError(
                f"{what}: {why}", remedy="reset the board; check write protection and supply"
            )
        case Status.TICKS_STUCK:
            return DeviceError(
                f"the cycle counter of {board} stands still: there is no time to report",
                remedy="reset the board without a debugger; run untimed where outputs are enough",
            )
        case Status.OUTPUTS_DIFFER:
            return DeviceError(
                f"{board}: outputs differ between repetitions: CRC {limit:#010x} and {value:#010x}",
                remedy="check the board's supply and clock",
            )
        case Status.NO_INPUT:
            return DeviceError(
                f"{what}: its inputs are not set, or last for one run and not for {value}",
                remedy="set the inputs before each run, fill them, or open the model with keep_inputs",
            )
        case Status.NO_MODEL | Status.NOT_RUN:
            return DeviceError(
                f"{what}: {'no model is open' if known is Status.NO_MODEL else 'nothing has run yet'}",
                remedy="open a model and run it first",
            )
        case Status.BAD_VERSION:
            return DeviceError(
                f"{board} speaks version {limit} of the protocol, this program version {wire.VERSION}",
                remedy=_WRITE_FIRMWARE,
            )
        case Status.BAD_SESSION:
            return DeviceError(
                f"{what}: another program began a session with it",
                remedy="close the other program and start again",
            )
        case _:
            return DeviceError(f"{what}: {known.name}, {value} (limit {limit})", remedy=_WRITE_FIRMWARE)


def _refused(status: Status, value: int, limit: int, message: str, remedy: str) -> Refused:
    return Refused(message, status=status, value=value, limit=limit, remedy=remedy)
