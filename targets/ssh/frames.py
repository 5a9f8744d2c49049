"""Messages between this machine and the agent on a device: a JSON head and a body of bytes, with a checksum.

SSH already protects what it carries; the checksum notices what SSH cannot: a login script that prints into the channel,
or an agent that dies in the middle of a message. Standard library only: the agent carries this file.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

MAGIC: Final = b"bfa1"
_PREFIX: Final = struct.Struct("<4sIQI")  # magic, bytes of the head, bytes of the body, CRC-32 of both
MAX_HEAD_BYTES: Final = 1 << 26
MAX_BODY_BYTES: Final = 1 << 32


class FrameError(ValueError):
    """What came is no message. `seen` holds its first bytes, which often say what went wrong."""

    def __init__(self, message: str, seen: bytes = b"") -> None:
        super().__init__(message)
        self.seen = seen


@dataclass(frozen=True)
class Frame:
    """One message.

    Attributes:
        head: what is asked or answered; JSON.
        body: model files, arrays; the head says how they are cut.
    """

    head: Mapping[str, Any]
    body: bytes = b""


def encode(frame: Frame) -> bytes:
    """The bytes of a message.

    Raises:
        FrameError: head or body is larger than a message may be.
    """
    head = json.dumps(frame.head, separators=(",", ":"), allow_nan=False).encode()
    if len(head) > MAX_HEAD_BYTES or len(frame.body) > MAX_BODY_BYTES:
        raise FrameError(f"a message of {len(head)} + {len(frame.body)} bytes is too large")
    check = zlib.crc32(frame.body, zlib.crc32(head))
    return _PREFIX.pack(MAGIC, len(head), len(frame.body), check) + head + frame.body


def read(receive: Callable[[int], bytes]) -> Frame:
    """The next message of a stream.

    Args:
        receive: gives at most so many bytes, at least one, or none at the end of the stream.

    Raises:
        EOFError: the stream ended between two messages.
        FrameError: it ended inside one, or what came is no message.
    """
    first = receive(_PREFIX.size)
    if not first:
        raise EOFError("the stream has ended")
    prefix = first + _exactly(receive, _PREFIX.size - len(first), first)
    magic, head_bytes, body_bytes, check = _PREFIX.unpack(prefix)
    if magic != MAGIC:
        raise FrameError(f"expected a message, got {prefix!r}", prefix)
    if head_bytes > MAX_HEAD_BYTES or body_bytes > MAX_BODY_BYTES:
        raise FrameError(f"a message of {head_bytes} + {body_bytes} bytes is too large", prefix)
    head = _exactly(receive, head_bytes, prefix)
    body = _exactly(receive, body_bytes, prefix)
    if zlib.crc32(body, zlib.crc32(head)) != check:
        raise FrameError("a message's checksum is wrong", prefix)
    try:
        values = json.loads(head)
    except ValueError as error:
        raise FrameError(f"a message's head is no JSON: {error}", prefix) from error
    if not isinstance(values, dict):
        raise FrameError("a message's head is no JSON object", prefix)
    return Frame(values, body)


def _exactly(receive: Callable[[int], bytes], count: int, seen: bytes) -> bytes:
    parts: list[bytes] = []
    while count:
        part = receive(min(count, 1 << 20))
        if not part:
            raise FrameError(f"the stream ended, {count} bytes before the end of a message", seen)
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
