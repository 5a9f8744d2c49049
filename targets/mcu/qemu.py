"""The firmware in QEMU's STM32F405 (machine netduinoplus2): a second emulator, to check the virtual board against.

With `-icount shift=0` an instruction takes one virtual nanosecond, and TIM2 counts those: the board's ticks are
instructions, the same on every run. QEMU has no flash controller, so models are put into the slot before it starts.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from toolchain.errors import ConfigurationError, DeviceError

BOARD: Final = "qemu-netduinoplus2"
PROGRAM: Final = "qemu-system-arm"
_STARTED_S: Final = 20.0
_ENDED_S: Final = 5.0
_LISTENS: Final = re.compile(r"waiting for connection on: \S*tcp:([\d.]+):(\d+)")


def installed() -> bool:
    """Whether QEMU is on the path."""
    return shutil.which(PROGRAM) is not None


@contextmanager
def qemu(elf: Path, slot: bytes = b"", slot_address: int = 0) -> Iterator[str]:
    """Run a firmware in QEMU; gives the URL of its serial line, for `targets.mcu.port.open_port`.

    The firmware starts when somebody connects. One connection: QEMU does not wait for a second one.

    Args:
        elf: the firmware, built for `BOARD`.
        slot: what the model slot holds from its first byte on.
        slot_address: of that byte.

    Raises:
        ConfigurationError: QEMU is not installed, or there is no such file.
        DeviceError: it ended at once (its own words are in the message), or did not start in time.
    """
    program = shutil.which(PROGRAM)
    if program is None:
        raise ConfigurationError(f"{PROGRAM} is not on the path", remedy="apt install qemu-system-arm")
    if not elf.is_file():  # QEMU itself would say so only when somebody has connected
        raise ConfigurationError(f"there is no firmware {elf}", remedy="build it first")
    with tempfile.TemporaryDirectory(prefix="boardfit-qemu-") as folder:
        command = [
            program, "-M", "netduinoplus2", "-display", "none", "-monitor", "none", "-icount", "shift=0",
            # Port 0: the system chooses a free one, and QEMU says which; the firmware waits for the connection.
            "-serial", "tcp:127.0.0.1:0,server=on,wait=on", "-kernel", str(elf),
        ]  # fmt: skip
        if slot:
            image = Path(folder) / "slot.bin"
            image.write_bytes(slot)
            command += ["-device", f"loader,file={image},addr={slot_address:#x},force-raw=on"]
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process:
            guard = threading.Timer(_STARTED_S, process.kill)
            try:
                guard.start()
                assert process.stderr is not None
                url = _address(process.stderr)
                guard.cancel()
                yield url
            finally:
                guard.cancel()
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_ENDED_S)
                process.kill()


def version() -> str:
    """As QEMU calls itself, e.g. "QEMU emulator version 7.2.22"."""
    done = subprocess.run(
        [PROGRAM, "--version"], capture_output=True, text=True, check=False, timeout=_STARTED_S
    )
    return done.stdout.splitlines()[0] if done.stdout else "unknown"


def _address(stderr: IO[str]) -> str:
    said = ""
    for line in stderr:
        said += line
        found = _LISTENS.search(line)
        if found:
            return f"socket://{found[1]}:{found[2]}"
    raise DeviceError(f"QEMU ended before its serial line was there: {said.strip() or 'no message'}")
