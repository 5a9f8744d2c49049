"""pyserial's face of a virtual board: `virtual://NAME`. pyserial finds this file by its name."""

from __future__ import annotations

from typing import Any, Final

import serial

from targets.mcu.virtual.machine import VirtualMachine
from targets.mcu.virtual.part import part_of
from toolchain.errors import DeviceError

_BLOCKING_S: Final = 10.0  # of the board's time that a read without a time-out waits


def machine_of(url: str) -> VirtualMachine:
    """The board of a URL with its firmware; see `targets.mcu.virtual.open_virtual`."""
    from targets.mcu.session import firmware_of, parse_url

    name = url.partition(":")[2] if url.startswith("virtual:") else url
    parsed = parse_url("virtual:" + name.removeprefix("//"))
    return VirtualMachine(part_of(parsed.board), firmware_of(parsed).elf)


class VirtualSerial(serial.SerialBase):  # type: ignore[misc]
    """A port of pyserial that leads to a machine in this process.

    Times are the board's: a read gives up after `timeout` seconds of the firmware's own waiting, however long or short
    that takes here. Control lines do nothing, as on a board whose serial line goes through its probe.
    """

    machine: VirtualMachine

    is_open: bool

    def __init__(
        self, port: str | None = None, *args: Any, machine: VirtualMachine | None = None, **options: Any
    ) -> None:
        self._given = machine
        super().__init__(port, *args, **options)

    def open(self) -> None:
        """Start the board; with a machine that was given, take that one as it is."""
        if self.is_open:
            raise serial.SerialException("the port is open")
        if self._port is None:
            raise serial.SerialException("a virtual board needs a name")
        self.machine = self._given or machine_of(self._port)
        self.is_open = True

    def close(self) -> None:
        """End the connection; the machine is gone unless somebody else holds it."""
        if self.is_open:
            self.is_open = False
            del self.machine

    @property
    def in_waiting(self) -> int:
        """Bytes that the firmware has sent by the time it waits for input."""
        return self._open_machine().waiting()

    @property
    def out_waiting(self) -> int:
        return 0

    def read(self, size: int = 1) -> bytes:
        """Up to `size` bytes.

        Raises:
            DeviceError: the firmware stopped; or without a time-out, it sends nothing and waits for input itself.
        """
        data = self._open_machine().read(size, _BLOCKING_S if self._timeout is None else self._timeout)
        if self._timeout is None and len(data) < size:
            raise DeviceError(
                f"{self._port}: {size} bytes were asked for without a time-out; the firmware sent {len(data)} "
                "and waits for input",
                remedy="send it a request first",
            )
        return data

    def write(self, data: Any) -> int:
        """Send; the firmware takes the bytes when something is read."""
        sent = bytes(data)
        self._open_machine().write(sent)
        return len(sent)

    def flush(self) -> None:
        """Run until the firmware waits."""
        self._open_machine().waiting()

    def reset_input_buffer(self) -> None:
        """Forget what the firmware has sent by the time it waits."""
        self._open_machine().discard_output()

    def reset_output_buffer(self) -> None:
        self._open_machine()

    def _open_machine(self) -> VirtualMachine:
        if not self.is_open:
            raise serial.PortNotOpenError()
        return self.machine

    def _reconfigure_port(self, force_update: bool = False) -> None:
        pass

    def _update_break_state(self) -> None:
        pass

    def _update_rts_state(self) -> None:
        pass

    def _update_dtr_state(self) -> None:
        pass

    @property
    def cts(self) -> bool:
        return True

    @property
    def dsr(self) -> bool:
        return True

    @property
    def ri(self) -> bool:
        return False

    @property
    def cd(self) -> bool:
        return True


Serial = VirtualSerial
