"""Flashing through the bootloader in the chip's ROM, over a serial line: ST's application note AN3155.

stm32loader speaks the protocol; here stand what it leaves open: limits, the order of things, and what a failure means.
Three of its habits are worked around. It prints on stderr, so that is caught and becomes the report's log. It toggles
RTS and DTR, which Nucleo boards do not connect to reset and BOOT0, and pseudo terminals refuse. And a reply that is
cut off ends in an IndexError or a TypeError.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from targets.mcu.board import Board
from targets.mcu.flash import remedies
from targets.mcu.flash.base import Availability, FlashProgress, FlashReport, check_image
from targets.mcu.flash.by_tool import compare
from targets.mcu.port import PORT_FAILURES, not_opened
from toolchain.errors import BoardfitError, ConfigurationError, DeviceError, FlashingError

_CHUNK: Final = 256  # bytes per read or write command (AN3155, sections 3.4 and 3.6)
_ERASE_S: Final = (
    40.0  # a mass erase: STM32F4's 2 MB part takes up to 32 s (its datasheet, flash memory programming)
)
_SYNCHRONISE: Final = 0x7F
_WRITE_UNIT: Final = 16  # bytes; STM32H5 writes 128 bits at once, all others less
_TITLE: Final = "the bootloader"


class _DeadlineError(Exception):
    """All time is used up."""


@dataclass(frozen=True, slots=True)
class Bootloader:
    """AN3155 through stm32loader.

    Attributes:
        baud: any up to 115200; the bootloader measures it (AN3155, section 2).
        reply_s: how long a reply may take.
        erase_s: how long erasing may take: tens of seconds for 2 MB (STM32F4 datasheets, flash memory programming).
    """

    name: str = field(default="uart", init=False)
    baud: int = 115200
    reply_s: float = 1.0
    erase_s: float = 40.0

    def available(self) -> Availability:
        """stm32loader's version."""
        try:
            import serial  # noqa: F401
            import stm32loader
        except ImportError as error:
            return Availability(False, f"the package {error.name} is not installed", remedies.INSTALL_BOARDS)
        return Availability(True, f"stm32loader {stm32loader.__version__}")

    def fits(self, board: Board) -> str:
        """It needs the device id, lest it should write to another chip."""
        return "" if board.programmer.device_id else f"the device id of {board.name} is not known"

    def flash(
        self,
        board: Board,
        image: bytes,
        *,
        address: int,
        probe: str | None,
        verify: bool = True,
        progress: FlashProgress | None = None,
        timeout_s: float = 120.0,
    ) -> FlashReport:
        """See `Flasher.flash`. The whole flash is erased. `probe` is the serial port, and cannot be None."""
        check_image(image, address)
        available, reason = self.available(), self.fits(board)
        if not available.ready or reason:
            raise ConfigurationError(
                reason or available.detail, remedy=available.remedy or remedies.OTHER_BACK_END
            )
        if not probe:
            raise DeviceError("no serial port is named", remedy=remedies.NO_BOOTLOADER)
        begin = time.monotonic()
        padded = image + b"\xff" * (-len(image) % _WRITE_UNIT)
        said = io.StringIO()
        stages: list[str] = []
        with _opened(probe, self.baud, self.reply_s, begin + timeout_s) as line:
            from stm32loader.bootloader import Stm32Bootloader

            boot = Stm32Bootloader(line, verbosity=0)

            def step(stage: str, todo: Callable[..., Any], *arguments: Any) -> Any:
                stages.append(stage)
                known = _explained(probe, stage, touched="erase" in stages, timeout_s=timeout_s)
                with contextlib.redirect_stderr(said), known:
                    return todo(*arguments)

            step("synchronise", _synchronise, line)
            version = step("get", boot.get)
            _same_chip(board, step("get the chip's id", boot.get_id), probe)
            if progress is not None:
                progress(0, len(image), "erase")
            line.reply_s = self.erase_s
            step("erase", boot.erase_memory)
            line.reply_s = self.reply_s
            for start in range(0, len(padded), _CHUNK):
                part = padded[start : start + _CHUNK]
                where = address + start
                step(f"write at {where:#010x}", boot.write_memory, where, part)
                if progress is not None:
                    progress(min(start + _CHUNK, len(image)), len(image), "write")
            if verify:
                found = bytearray()
                for start in range(0, len(image), _CHUNK):
                    where, size = address + start, min(_CHUNK, len(image) - start)
                    found += step(f"read at {where:#010x}", _read, boot, where, size)
                    if progress is not None:
                        progress(len(found), len(image), "verify")
                compare(bytes(found), image, address, _TITLE)
            try:
                step("go", boot.go, address)
            except FlashingError as error:
                done = "written and verified" if verify else "written"
                raise FlashingError(
                    f"the firmware is {done}, but does not start: {error.message}",
                    remedy=remedies.PRESS_RESET,
                ) from error
        log = (f"bootloader {version >> 4}.{version & 15} on {probe}", *said.getvalue().splitlines())
        return FlashReport(self.name, len(image), time.monotonic() - begin, verify, log)


def _same_chip(board: Board, found: int, port: str) -> None:
    wanted = board.programmer.device_id
    if found != wanted:
        raise DeviceError(
            f"the chip on {port} has device id {found:#05x}, but that of {board.name} is {wanted:#05x}",
            remedy=remedies.OTHER_CHIP,
        )


def _synchronise(line: Any) -> None:
    """0x7F makes the bootloader measure the baud rate and acknowledge. One that has done so before takes it for half
    a command: it answers the second one with NACK, which is as good."""
    replies = b""
    for _ in range(3):
        line.write(bytes([_SYNCHRONISE]))
        replies = line.read(1)
        if replies in (b"\x79", b"\x1f"):
            return
    from stm32loader.bootloader import CommandError

    raise CommandError(f"answers with {replies.hex()}, no bootloader" if replies else "no answer")


def _read(boot: Any, address: int, size: int) -> bytes:
    data = bytes(boot.read_memory(address, size))
    if len(data) < size:
        from stm32loader.bootloader import CommandError

        raise CommandError(f"{len(data)} bytes came, not {size}")
    return data


@contextlib.contextmanager
def _explained(port: str, stage: str, *, touched: bool, timeout_s: float) -> Iterator[None]:
    """What a failure means: until erasing begins, the board is as it was."""
    from stm32loader.bootloader import Stm32LoaderError

    error: type[BoardfitError] = FlashingError if touched else DeviceError
    remedy = remedies.AGAIN if touched else remedies.NO_BOOTLOADER
    try:
        yield
    except _DeadlineError:
        raise error(
            f"{_TITLE} on {port} took longer than {timeout_s:g} s", remedy=remedies.TOO_SLOW
        ) from None
    except Stm32LoaderError as cause:
        refused = str(cause).startswith("NACK")
        if refused and stage == "erase":
            remedy = remedies.PROTECTED
        raise error(f"{_TITLE} on {port} failed to {stage}: {cause}", remedy=remedy) from cause
    except (IndexError, TypeError) as cause:  # stm32loader's own, on a reply that is cut off
        raise error(f"{_TITLE} on {port} fell silent ({stage})", remedy=remedy) from cause
    except PORT_FAILURES as cause:
        raise error(f"the port {port} failed ({stage}): {cause}", remedy=remedy) from cause


@contextlib.contextmanager
def _opened(port: str, baud: int, reply_s: float, deadline: float) -> Iterator[Any]:
    """The port as stm32loader wants it, for us alone; released whatever happens."""
    import serial
    from stm32loader.uart import SerialConnection

    class Line(SerialConnection):  # type: ignore[misc]
        reply_s: float

        def connect(self) -> None:
            # Even parity (AN3155, section 1); pseudo terminals have none, and refuse.
            parity = "N" if port.startswith("/dev/pts/") else "E"
            line = serial.serial_for_url(port, do_not_open=True, baudrate=baud, parity=parity)
            line.timeout = line.write_timeout = reply_s
            with contextlib.suppress(AttributeError, ValueError, NotImplementedError):
                line.exclusive = True
            line.open()
            self.serial_connection = line

        @property
        def timeout(self) -> float:
            return self.reply_s

        @timeout.setter
        def timeout(self, seconds: float) -> None:
            """stm32loader's own opinion, half a minute for erasing: ours holds."""

        def write(self, data: bytes) -> None:
            if time.monotonic() >= deadline:
                raise _DeadlineError
            self.serial_connection.write(data)

        def read(self, size: int = 1) -> bytes:
            left = deadline - time.monotonic()
            if left <= 0:
                raise _DeadlineError
            self.serial_connection.timeout = min(self.timeout, left)
            data = bytes(self.serial_connection.read(size))
            if len(data) < size and time.monotonic() >= deadline:
                raise _DeadlineError
            return data

        def enable_reset(self, enable: bool = True) -> None:
            """Left alone."""

        def enable_boot0(self, enable: bool = True) -> None:
            """Left alone."""

    line = Line(port, baud)
    line.reply_s = reply_s
    refusals: tuple[type[Exception], ...] = (*PORT_FAILURES, ValueError)  # the last: a URL that is none
    try:
        line.connect()
    except refusals as error:
        raise not_opened(port, error) from error
    try:
        yield line
    finally:
        with contextlib.suppress(*PORT_FAILURES):  # a port that is gone is released, too
            line.disconnect()


BOOTLOADER: Final = Bootloader()
