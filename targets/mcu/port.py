"""A line to a board: any URL of pyserial (`/dev/ttyACM0`, `COM3`, `socket://`, `rfc2217://`), and `virtual:NAME`."""

from __future__ import annotations

import contextlib
import errno
from types import TracebackType
from typing import Any, Final, Protocol, Self

from targets.mcu.flash import remedies
from toolchain.errors import BoardfitError, ConfigurationError, DeviceError

try:
    from termios import error as _TermiosError
except ImportError:  # Windows
    _TermiosError = OSError  # type: ignore[assignment, misc]

BAUD: Final = 115200
# What pyserial raises: SerialException is an OSError; termios.error and a closed port's TypeError are not.
PORT_FAILURES: Final[tuple[type[Exception], ...]] = (OSError, TypeError, _TermiosError)
_POLL_S: Final = 0.02  # the longest that one read of a port takes when nothing comes


class Port(Protocol):
    """What the link needs of a line.

    Attributes:
        url: where it leads, for messages.
        byte_s: time that one byte takes.
    """

    url: str
    byte_s: float

    def read(self) -> bytes:
        """What has come; nothing when nothing comes for a moment. Raises DeviceError when the line is cut."""
        ...

    def write(self, data: bytes) -> None:
        """Send. Raises DeviceError when the line is cut or does not take the bytes."""
        ...

    def close(self) -> None:
        """Release the line; may be called twice. Never raises."""
        ...


class SerialPort:
    """A port over an object with pyserial's methods. A context manager.

    Args:
        url: for messages.
        serial: the open port; closed with this one.
        baud: its rate.
    """

    def __init__(self, url: str, serial: Any, baud: int = BAUD) -> None:
        self.url = url
        self.byte_s = 10 / baud  # start bit, 8 data bits, stop bit
        self._serial = serial

    def read(self) -> bytes:
        """See `Port.read`."""
        try:
            # No more than what is there: a larger count would wait for bytes that never come.
            data = bytes(self._serial.read(max(1, self._serial.in_waiting)))
            more = self._serial.in_waiting if data else 0
            return data + bytes(self._serial.read(more)) if more else data
        except BoardfitError:
            raise
        except PORT_FAILURES as error:
            raise self._cut(error) from error

    def write(self, data: bytes) -> None:
        """See `Port.write`."""
        try:
            self._serial.write(data)
        except BoardfitError:
            raise
        except PORT_FAILURES as error:
            raise self._cut(error) from error

    def close(self) -> None:
        """See `Port.close`."""
        line = getattr(self._serial, "_socket", None)
        with contextlib.suppress(*PORT_FAILURES):
            self._serial.close()
        if line is not None:  # pyserial forgets to close it where the far end has reset the connection
            line.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _cut(self, error: Exception) -> DeviceError:
        return DeviceError(
            f"{self.url}: the line was cut: {error}",
            remedy="check the cable, and that nothing else resets or unplugs the board",
        )


def open_port(url: str, *, baud: int = BAUD, write_timeout_s: float = 10.0) -> SerialPort:
    """Open a line to a board, for this process alone.

    Args:
        url: a device (`/dev/ttyACM0`, `COM3`), a URL of pyserial, or `virtual:NAME`.
        baud: rate of a serial line; a socket and a virtual board have none.
        write_timeout_s: a port that takes no bytes for so long counts as cut.

    Raises:
        DeviceError: no such port, no right to open it, another program has it, nobody listens.
        ConfigurationError: pyserial is not installed, or the URL is none.
    """
    if url.startswith("virtual:"):
        return _open_virtual(url)
    try:
        import serial
    except ImportError as error:
        raise ConfigurationError(
            "talking to a board needs the package pyserial", remedy="pip install 'boardfit[boards]'"
        ) from error
    # pyserial's RFC 2217 has no time-out of writing: there it is TCP that gives up.
    patience = None if url.startswith("rfc2217:") else write_timeout_s
    try:
        opened = serial.serial_for_url(
            url, baudrate=baud, timeout=_POLL_S, write_timeout=patience, exclusive=True
        )
    except ValueError as error:
        raise ConfigurationError(
            f"{url!r} is no port: {error}",
            remedy="give a device, e.g. /dev/ttyACM0 or COM3, or socket://HOST:PORT",
        ) from error
    except PORT_FAILURES as error:
        raise not_opened(url, error) from error
    return SerialPort(url, opened, baud)


def _open_virtual(url: str) -> SerialPort:
    try:
        from targets.mcu.virtual import open_virtual
    except ImportError as error:
        raise ConfigurationError(
            f"a virtual board needs the package {error.name}", remedy="pip install 'boardfit[virtual]'"
        ) from error
    return SerialPort(url, open_virtual(url))


def not_opened(url: str, error: Exception) -> DeviceError:
    """Why a port cannot be opened: there is none, somebody has it, or it is not ours.

    Args:
        url: where it should lead.
        error: pyserial's.
    """
    number, text = getattr(error, "errno", None), str(error)
    if number in (errno.EBUSY, errno.EAGAIN) or "exclusively lock" in text:
        return DeviceError(f"{url} is busy: another program has it open", remedy=remedies.BUSY)
    if number in (errno.EACCES, errno.EPERM) or "PermissionError" in text:
        return DeviceError(
            f"{url}: no right to open it, or another program has it open",
            remedy=remedies.NO_PORT_PERMISSION,
        )
    if number in (errno.ENOENT, errno.ENODEV, errno.ENXIO) or "FileNotFoundError" in text:
        return DeviceError(f"there is no port {url}", remedy=remedies.NO_PROBE)
    if "Connection refused" in text:
        return DeviceError(f"{url}: nobody listens there", remedy="start the program that offers the port")
    return DeviceError(f"{url} cannot be opened: {text}", remedy=remedies.NO_PROBE)
