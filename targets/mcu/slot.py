"""The model slot in a board's flash: read by its CRC, erased by pages, written where it differs."""

from __future__ import annotations

import zlib
from collections.abc import Callable

from targets.mcu import wire
from targets.mcu.dialogue import Dialogue
from targets.mcu.wire import Command
from toolchain.errors import FlashingError

SlotProgress = Callable[[int, int], None]  # (bytes that are right, all bytes)


def slot_crc(line: Dialogue, offset: int, count: int) -> int:
    """See `BoardLink.slot_crc`."""
    payload = line.ask(Command.SLOT_CRC, wire.words(offset, count), work_s=count * 1e-6)
    return line.parsed(Command.SLOT_CRC, lambda data: wire.fields("slot_crc_reply", data), payload)["crc32"]


def erase(line: Dialogue, offset: int, count: int) -> None:
    """See `BoardLink.erase`."""
    page = line.board.page_bytes
    if offset < 0 or offset % page or count % page:
        raise FlashingError(
            f"{count} bytes at offset {offset} are no whole pages of {page} bytes", remedy="erase whole pages"
        )
    for at in range(offset, offset + count, page):
        line.ask(Command.SLOT_ERASE, wire.words(at, page))


def write(line: Dialogue, offset: int, data: bytes, progress: SlotProgress | None = None) -> int:
    """See `BoardLink.write_slot`."""
    board = line.board
    whole = data + b"\xff" * (-len(data) % board.write_bytes)
    if offset < 0 or offset % board.page_bytes:
        raise FlashingError(
            f"offset {offset} of the slot is no multiple of its page of {board.page_bytes} bytes",
            remedy="write from the start of a page",
        )
    if offset + len(whole) > board.slot_bytes:
        raise FlashingError(
            f"{len(whole)} bytes at offset {offset} exceed the model slot of {board.slot_bytes} bytes",
            remedy="write less at a time, or take a board with more flash",
        )
    if not whole or slot_crc(line, offset, len(whole)) == zlib.crc32(whole):
        if progress is not None:
            progress(len(data), len(data))
        return 0
    written = 0
    for at in range(0, len(whole), board.page_bytes):
        page = whole[at : at + board.page_bytes]
        written += _write_page(line, offset + at, page)
        if progress is not None:
            progress(min(at + len(page), len(data)), len(data))
    return written


def _write_page(line: Dialogue, offset: int, page: bytes) -> int:
    """Bring a page (or the first bytes of one) into the slot; the bytes that were written."""
    board, wanted = line.board, zlib.crc32(page)
    found = slot_crc(line, offset, len(page))
    if found == wanted:
        return 0
    if found != zlib.crc32(b"\xff" * len(page)):
        erase(line, offset, board.page_bytes)
    chunk = board.chunk_bytes // board.write_bytes * board.write_bytes
    for at in range(0, len(page), chunk):
        part = page[at : at + chunk]
        if part.strip(b"\xff"):  # an erased chunk reads so already
            line.ask(Command.SLOT_WRITE, wire.words(offset + at) + part)
    found = slot_crc(line, offset, len(page))
    if found != wanted:
        raise FlashingError(
            f"the slot at offset {offset} has CRC {found:#010x} after it was written, not {wanted:#010x}",
            remedy="the flash may be worn out; try another board",
        )
    return len(page)
