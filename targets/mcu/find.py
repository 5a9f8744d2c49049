"""What is attached: serial ports, ST-LINKs with their ids and drives, and a guess of the board behind each.

Nothing is opened and nothing is asked on a line: the operating system knows ports and USB ids, and an ST-LINK's drive
tells the board by its label and by the code in its MBED.HTM. A guess is a guess; two that match are an error and
never a choice, because the wrong board would be overwritten.
"""

from __future__ import annotations

import re
import string
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from targets.mcu.board import list_boards, load_board
from targets.mcu.flash import remedies
from targets.session import Target
from toolchain.errors import DeviceError

_ST: Final = 0x0483
# USB product ids of ST-LINKs (OpenOCD's interface/stlink.cfg and pyOCD's probe/stlink/usb.py agree).
STLINKS: Final = {
    0x3748: "ST-LINK/V2", 0x374A: "ST-LINK/V2-1", 0x374B: "ST-LINK/V2-1", 0x3752: "ST-LINK/V2-1",
    0x374E: "STLINK-V3", 0x374F: "STLINK-V3", 0x3753: "STLINK-V3", 0x3754: "STLINK-V3", 0x3755: "STLINK-V3",
    0x3757: "STLINK-V3",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Attached:
    """One device on this machine.

    Attributes:
        kind: `ST-LINK/V2-1`, `STLINK-V3`, `USB serial`, `serial port`, or `drive` (one whose ST-LINK is not known).
        id: serial number; what `--probe` takes. Empty for a built-in port.
        usb: vendor and product id, `0483:374b`; empty where it is not on USB.
        product: what it calls itself.
        ports: its serial ports.
        drive: folder where its drive is mounted, or empty.
        guess: the board's name, or empty.
        possible: the boards that it may be: the guess alone, or those with this kind of ST-LINK. Empty when it is
            something else.
        why: where the guess comes from, or why there is none.
    """

    kind: str
    id: str = ""
    usb: str = ""
    product: str = ""
    ports: tuple[str, ...] = ()
    drive: str = ""
    guess: str = ""
    possible: tuple[str, ...] = ()
    why: str = ""

    @property
    def stlink(self) -> bool:
        """It is a debug probe."""
        return self.kind.startswith(("ST-LINK", "STLINK"))

    @property
    def label(self) -> str:
        """For a list in a message: everything that tells it from others."""
        named = [self.kind, self.id and f"id {self.id}", *self.ports, self.drive]
        return " ".join(filter(None, named)) + (f" ({self.guess})" if self.guess else "")


@dataclass(frozen=True, slots=True)
class Mount:
    """A file system that is mounted: its device (empty where the system does not tell) and its folder."""

    device: str
    folder: Path


def _system_ports() -> Iterable[Any]:
    try:
        from serial.tools import list_ports
    except ImportError:
        return ()
    return list(list_ports.comports())


def _system_mounts() -> Iterator[Mount]:
    if sys.platform == "win32":
        for letter in string.ascii_uppercase[2:]:
            if (folder := Path(f"{letter}:/")).exists():
                yield Mount("", folder)
        return
    if (table := Path("/proc/self/mounts")).exists():
        for line in table.read_text(errors="replace").splitlines():
            device, place, *_ = line.split()
            # Blanks stand as \040 (fstab(5)).
            name = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found.group(1), 8)), place)
            yield Mount(device, Path(name))
        return
    if (volumes := Path("/Volumes")).exists():
        for folder in volumes.iterdir():
            yield Mount("", folder)


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the knowledge comes from; tests give others.

    Attributes:
        ports: serial ports, as `serial.tools.list_ports.comports` gives them.
        mounts: mounted file systems.
        usb: Linux's folder of USB devices; elsewhere it does not exist, and the ports alone tell the probes.
        labels: udev's folder of links from a file system's label to its device.
    """

    ports: Callable[[], Iterable[Any]] = _system_ports
    mounts: Callable[[], Iterable[Mount]] = _system_mounts
    usb: Path = Path("/sys/bus/usb/devices")
    labels: Path = Path("/dev/disk/by-label")


def find_attached(sources: Sources | None = None) -> list[Attached]:
    """Serial ports, ST-LINKs and their drives; opens none of them.

    Args:
        sources: by default this machine's.

    Returns:
        ST-LINKs first, then other USB ports, then the rest; each device once.
    """
    sources = sources or Sources()
    ports = sorted(sources.ports(), key=lambda port: str(port.device))
    drives = {
        mount.device or str(mount.folder): mount
        for mount in sources.mounts()
        if _is_stlink_drive(mount.folder)
    }
    found: list[Attached] = []
    for usb in _usb_stlinks(sources.usb):
        block = [f"/dev/{name}" for name in usb.blocks]
        mount = next((drives.pop(device) for device in block if device in drives), None)
        label = next((name for device in block if (name := _label(sources.labels, device))), "")
        lines = tuple(str(port.device) for port in ports if _same_device(port, usb))
        found.append(_guessed(usb.product_id, usb.serial, usb.product, lines, mount, label))
    taken = {line for one in found for line in one.ports}
    for port in ports:
        if str(port.device) in taken:
            continue
        if port.vid == _ST and port.pid in STLINKS:
            others = [
                p
                for p in ports
                if p.vid == _ST and p.serial_number == port.serial_number and p.pid == port.pid
            ]
            lines = (
                tuple(str(other.device) for other in others) if port.serial_number else (str(port.device),)
            )
            taken.update(lines)
            found.append(_guessed(port.pid, port.serial_number or "", port.product or "", lines, None, ""))
        elif port.vid is not None:
            usb_id = f"{port.vid:04x}:{port.pid:04x}"
            found.append(
                Attached(
                    "USB serial", port.serial_number or "", usb_id, port.product or "", (str(port.device),)
                )
            )
        else:
            found.append(Attached("serial port", product=_described(port), ports=(str(port.device),)))
    left = list(drives.values())
    probes = [one for one in found if one.stlink]
    if len(left) == 1 and len(probes) == 1 and not probes[0].drive:
        # Without Linux's USB tree a drive cannot be traced to its ST-LINK; with one of each there is no doubt.
        one = probes[0]
        joined = _guessed(int(one.usb[5:], 16), one.id, one.product, one.ports, left.pop(), "")
        found[found.index(one)] = joined
    found += [_guessed(None, "", "", (), mount, "") for mount in left]
    order = {"USB serial": 2, "serial port": 3}
    return sorted(found, key=lambda one: (order.get(one.kind, 0 if one.stlink else 1), one.ports, one.id))


def match(attached: Sequence[Attached], wanted: str) -> Attached:
    """The one device that is meant by a port, a drive's folder, a part of an id, or a board's name.

    Raises:
        DeviceError: none or several match; the message lists them.
    """
    exact = [one for one in attached if wanted == one.id or wanted in one.ports or wanted == one.drive]
    found = exact or [
        one
        for one in attached
        if wanted and (wanted.lower() in one.id.lower() or wanted.lower() == one.guess)
    ]
    return single(found, attached, f"{wanted!r}")


def match_board(attached: Sequence[Attached], board: str) -> Attached:
    """The one device that is, or may be, this board.

    Raises:
        DeviceError: none or several; the message lists them.
    """
    return single([one for one in attached if board in one.possible], attached, board)


def single(found: Sequence[Attached], attached: Sequence[Attached], wanted: str) -> Attached:
    """The only one that was found.

    Args:
        found: what matches.
        attached: all there is, for the message.
        wanted: what was looked for, for the message.

    Raises:
        DeviceError: none or several; the message lists them.
    """
    if len(found) == 1:
        return found[0]
    if found:
        listed = "; ".join(one.label for one in found)
        raise DeviceError(f"{len(found)} devices match {wanted}: {listed}", remedy=remedies.AMBIGUOUS)
    there = "; ".join(one.label for one in attached) or "nothing"
    raise DeviceError(f"nothing attached matches {wanted}; there is {there}", remedy=remedies.NO_PROBE)


def find(sources: Sources | None = None) -> list[Target]:
    """A target for each attached serial port of a board that is guessed; a port without a guess needs `?board=`."""
    found = []
    for one in find_attached(sources):
        if not one.stlink:
            continue
        for port in one.ports[:1]:
            board = load_board(one.guess) if one.guess else None
            name = board.name if board else "NAME"
            what = f"{board.title}, {board.part}" if board else "a board that tells no name"
            notes = (
                one.why if board else f"{one.why}; write {' or '.join(one.possible) or 'its name'} for NAME"
            )
            found.append(
                Target(
                    url=f"serial:{port}?board={name}",
                    name=name if board else port,
                    description=f"{what}, on {one.kind} {one.id}".rstrip(),
                    available=board is not None,
                    notes=notes,
                )
            )
    return found


# --- the pieces ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Usb:
    folder: str
    product_id: int
    serial: str
    product: str
    blocks: tuple[str, ...]


def _usb_stlinks(root: Path) -> Iterator[_Usb]:
    if not root.is_dir():
        return
    for folder in sorted(root.iterdir()):
        try:
            vendor, product_id = (int((folder / name).read_text(), 16) for name in ("idVendor", "idProduct"))
        except (OSError, ValueError):
            continue  # an interface or a hub's port, not a device
        if vendor == _ST and product_id in STLINKS:
            blocks = sorted({path.name for path in folder.glob(f"{folder.name}:*/host*/target*/*/block/*")})
            yield _Usb(
                folder.name, product_id, _line(folder / "serial"), _line(folder / "product"), tuple(blocks)
            )


def _line(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _same_device(port: Any, usb: _Usb) -> bool:
    """By the place on the bus (`1-2:1.2` is an interface of `1-2`), which also tells twins without numbers apart."""
    if port.vid != _ST or port.pid != usb.product_id:
        return False
    if port.location:
        return str(port.location).partition(":")[0] == usb.folder
    return bool(usb.serial) and port.serial_number == usb.serial


def _described(port: Any) -> str:
    text = str(port.description or "")
    return "" if text == "n/a" else text


def _is_stlink_drive(folder: Path) -> bool:
    try:
        return (folder / "DETAILS.TXT").is_file() and (folder / "MBED.HTM").is_file()
    except OSError:
        return False


def _label(labels: Path, device: str) -> str:
    """The label of the file system on a device, mounted or not."""
    if not labels.is_dir():
        return ""
    return next(
        (link.name for link in sorted(labels.iterdir()) if link.resolve().name == Path(device).name), ""
    )


def _guessed(
    product_id: int | None, serial: str, product: str, ports: tuple[str, ...], mount: Mount | None, label: str
) -> Attached:
    """A device with the guess of its board."""
    usb = "" if product_id is None else f"{_ST:04x}:{product_id:04x}"
    kind = "drive" if product_id is None else STLINKS[product_id]
    plain = Attached(kind, serial, usb, product, ports, str(mount.folder) if mount else "")
    boards = [load_board(name) for name in list_boards()]
    code = _mbed_code(mount.folder) if mount else ""
    named = [board.name for board in boards if code and board.programmer.mbed_code == code]
    if named:
        return replace(
            plain, guess=named[0], possible=(named[0],), why=f"MBED.HTM on its drive has code {code}"
        )
    shown = label or (
        mount.folder.name if mount else ""
    )  # a mount's folder has the label's name, or any other
    found = re.fullmatch(r"NODE?_([A-Z0-9]+?)\d?", shown)
    if found:
        # A second mount gets a digit (NODE_F446RE1), and the prefix has three or four letters.
        words = {found.group(1), shown.partition("_")[2]}
        named = [
            b.name for b in boards if b.programmer.drive and b.programmer.drive.partition("_")[2] in words
        ]
        if named:
            return replace(plain, guess=named[0], possible=(named[0],), why=f"its drive is called {shown}")
    if found or label:
        return replace(plain, why=f"its drive is called {shown}, which is no board with facts here")
    if code:
        return replace(plain, why=f"MBED.HTM on its drive has code {code}, which is no board with facts here")
    possible = tuple(board.name for board in boards if usb and usb in board.programmer.usb_ids)
    return replace(plain, possible=possible, why="it shows no drive that would tell the board")


def _mbed_code(folder: Path) -> str:
    try:
        text = (folder / "MBED.HTM").read_text(errors="replace")
    except OSError:
        return ""
    found = re.search(r"[?&]code=([0-9A-Fa-f]{4})", text)
    return found.group(1).upper() if found else ""
