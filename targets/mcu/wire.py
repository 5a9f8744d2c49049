"""The wire protocol in bytes: docs/wire-protocol.md from the host's side. Pure functions, no port, no time.

The device's side is firmware/protocol/wire.h; tests/targets/mcu/test_wire_page.py compares page, header and this file.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt

VERSION: Final = 1
REPLY: Final = 0x80  # set in the command of a reply
NO_SESSION: Final = 0xFFFFFFFF  # limit of BAD_SESSION where the board has none: it has started anew
RUN_TIMED: Final = 1
RUN_OPERATORS: Final = 2
_HEADER: Final = struct.Struct("<BBHHBx")  # version, command, session, request, status
_LONGEST: Final = 4096  # no frame is longer: what grows beyond it is noise


class Command(IntEnum):
    """What the host asks for."""

    HELLO = 1
    SLOT_ERASE = 2
    SLOT_WRITE = 3
    SLOT_CRC = 4
    OPEN = 5
    INPUT = 6
    FILL = 7
    RUN = 8
    OPERATOR_TICKS = 9
    OUTPUT = 10
    RESET = 11


class Status(IntEnum):
    """How the device answers; below 16 as in firmware/runtime/engine.h."""

    OK = 0
    BAD_MODEL = 1
    WRONG_VERSION = 2
    NO_MEMORY = 3
    UNSUPPORTED = 4
    NO_MODEL = 5
    BAD_REQUEST = 6
    FAILED = 7
    BAD_VERSION = 16
    BAD_COMMAND = 17
    BAD_LENGTH = 18
    BAD_SESSION = 19
    SLOT_RANGE = 20
    FLASH = 21
    NO_INPUT = 22
    NOT_RUN = 23
    TICKS_STUCK = 24
    OUTPUTS_DIFFER = 25
    TOO_MANY = 26


# The 32-bit words of each payload, in order; the structs of wire.h.
WORDS: Final[Mapping[str, tuple[str, ...]]] = {
    "refusal": ("value", "limit"),
    "hello_reply": (
        "clock_hz", "ticks_ok", "slot_bytes", "page_bytes", "write_bytes", "arena_bytes", "chunk_bytes",
        "max_repetitions", "max_operators", "lost_bytes", "faulted", "fault_program_counter",
        "fault_link_register", "fault_status", "fault_address",
    ),
    "slot_erase": ("offset", "bytes"),
    "slot_write": ("offset",),
    "slot_crc": ("offset", "bytes"),
    "slot_crc_reply": ("crc32",),
    "open": ("offset", "bytes", "keep_bytes"),
    "open_reply": ("arena_bytes", "operators", "inputs", "outputs"),
    "input_data": ("index", "offset"),
    "fill": ("seed",),
    "run": ("warmup", "repetitions", "flags"),
    "run_reply": ("input_crc32", "output_crc32", "stack_bytes", "constant_lines"),
    "operator_ticks": ("first", "count"),
    "output_data": ("index", "offset", "bytes"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Frame:
    """One message.

    Attributes:
        command: a `Command`, in a reply with `REPLY` set.
        session: the number that the host chose in its HELLO.
        request: the request's number; its reply has the same.
        payload: words and data.
        status: of a reply; a `Status`, or a number that a newer firmware uses.
        version: of the protocol.
    """

    command: int
    session: int
    request: int
    payload: bytes = b""
    status: int = 0
    version: int = VERSION


def words(*values: int) -> bytes:
    """32-bit words, little-endian. Raises ValueError where a value does not fit."""
    try:
        return struct.pack(f"<{len(values)}I", *values)
    except struct.error as error:
        raise ValueError(f"{list(values)} are not all words of 32 bits: {error}") from error


def read_words(payload: bytes, count: int | None = None) -> tuple[int, ...]:
    """The first `count` words of a payload (all: None).

    Raises:
        ValueError: it is too short, or (all words) no multiple of 4 long.
    """
    if count is None:
        if len(payload) % 4:
            raise ValueError(f"{len(payload)} bytes are no whole words")
        count = len(payload) // 4
    if len(payload) < 4 * count:
        raise ValueError(f"{len(payload)} bytes where {count} words were expected")
    return struct.unpack_from(f"<{count}I", payload)


def fields(name: str, payload: bytes) -> dict[str, int]:
    """A payload's words by their names in `WORDS`. Raises ValueError where it is too short."""
    names = WORDS[name]
    return dict(zip(names, read_words(payload, len(names)), strict=True))


# --- frames --------------------------------------------------------------------------------------------------------


def encode(frame: Frame) -> bytes:
    """The bytes of a frame on the line: 00, COBS(header, payload, CRC-32), 00."""
    message = _HEADER.pack(frame.version, frame.command, frame.session, frame.request, frame.status)
    message += frame.payload
    return b"\0" + cobs_encode(message + words(zlib.crc32(message))) + b"\0"


def decode(segment: bytes) -> Frame | None:
    """What stood between two zero bytes, or None when that is no whole, undamaged frame."""
    message = cobs_decode(segment)
    if message is None or len(message) < _HEADER.size + 4:
        return None
    message, check = message[:-4], message[-4:]
    if words(zlib.crc32(message)) != check:
        return None
    version, command, session, request, status = _HEADER.unpack_from(message)
    return Frame(command, session, request, message[_HEADER.size :], status, version)


def cobs_encode(data: bytes) -> bytes:
    """Consistent overhead byte stuffing (Cheshire and Baker, 1999): the same bytes without a zero among them."""
    out = bytearray()
    for part in data.split(b"\0"):
        start = 0
        while len(part) - start >= 254:
            out += b"\xff" + part[start : start + 254]
            start += 254
        out += bytes([len(part) - start + 1]) + part[start:]
    return bytes(out)


def cobs_decode(data: bytes) -> bytes | None:
    """The bytes before stuffing, or None when these cannot be stuffed bytes."""
    out = bytearray()
    at = 0
    while at < len(data):
        code = data[at]
        block = data[at + 1 : at + code]
        if code == 0 or len(block) != code - 1 or 0 in block:
            return None
        at += code
        out += block
        if code < 255 and at < len(data):
            out.append(0)
    return bytes(out)


class FrameReader:
    """Finds frames in a stream of bytes, among whatever else comes.

    Attributes:
        bytes_seen: all bytes that were fed.
    """

    def __init__(self) -> None:
        self._rest = bytearray()
        self.bytes_seen = 0

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that these bytes complete, in order. Damaged ones are dropped."""
        self.bytes_seen += len(data)
        *segments, rest = (bytes(self._rest) + data).split(b"\0")
        self._rest = bytearray(rest[: _LONGEST + 1])
        found = (decode(segment) for segment in segments if 0 < len(segment) <= _LONGEST)
        return [frame for frame in found if frame is not None]


# --- inputs --------------------------------------------------------------------------------------------------------


def noise(seed: int, input_bytes: Sequence[int]) -> list[npt.NDArray[np.int8]]:
    """The inputs that FILL makes on the device, so that outputs can be computed here.

    Args:
        seed: of 32 bits.
        input_bytes: length of each input.

    Returns:
        An int8 array per input, every value equally likely.

    Raises:
        ValueError: a seed of more bits.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed {seed} is no word of 32 bits")
    made = []
    for index, count in enumerate(input_bytes):
        start = _mix(np.array([seed + index * 0x9E3779B9], np.uint64).astype(np.uint32))
        counters: npt.NDArray[np.uint32] = np.arange((count + 3) // 4, dtype=np.uint32)
        mixed = _mix(np.add(start, counters, dtype=np.uint32))
        made.append(mixed.astype("<u4").view(np.int8)[:count])
    return made


def _mix(x: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))
