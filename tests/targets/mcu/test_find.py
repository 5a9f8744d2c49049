"""What is attached, told from a made-up USB tree, made-up ports and made-up drives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from targets.mcu.board import list_boards, load_board
from targets.mcu.find import STLINKS, Attached, Mount, Sources, find, find_attached, match, match_board
from targets.mcu.flash import remedies
from toolchain.errors import DeviceError

FIRST, SECOND = "066CFF303435554157113225", "066EFF485457725187052924"


@dataclass
class Port:
    """As serial.tools.list_ports gives one."""

    device: str
    vid: int | None = None
    pid: int | None = None
    serial_number: str | None = None
    product: str | None = None
    location: str | None = None
    description: str = "n/a"


class Machine:
    """A made-up machine: devices are plugged in one by one."""

    def __init__(self, folder: Path, *, linux: bool = True) -> None:
        self.folder = folder
        self.ports: list[Port] = []
        self.mounts: list[Mount] = []
        self.linux = linux
        self.count = 0
        if linux:
            (folder / "usb/usb1").mkdir(parents=True)
            (folder / "usb/1-0:1.0").mkdir()
            (folder / "labels").mkdir()

    @property
    def sources(self) -> Sources:
        return Sources(
            ports=lambda: self.ports, mounts=lambda: self.mounts, usb=self.folder / "usb",
            labels=self.folder / "labels",
        )  # fmt: skip

    def plug_stlink(
        self,
        serial: str,
        *,
        label: str = "",
        code: str = "",
        mounted: bool = True,
        pid: int = 0x374B,
        vcp: int = 1,
        place: str = "",
    ) -> Path:
        """An ST-LINK with its virtual COM ports, and a drive where it has a label. Gives the drive's folder."""
        self.count += 1
        name, disk = place or f"1-{self.count}", f"sd{chr(ord('a') + self.count)}"
        if self.linux:
            usb = self.folder / "usb" / name
            usb.mkdir()
            for key, text in (("idVendor", "0483"), ("idProduct", f"{pid:04x}"), ("product", "STM32 STLink")):
                (usb / key).write_text(text + "\n")
            if serial:
                (usb / "serial").write_text(serial + "\n")
        for number in range(vcp):
            self.ports.append(
                Port(
                    f"/dev/ttyACM{len(self.ports)}", 0x0483, pid, serial or None, "STM32 STLink",
                    f"{name}:1.{2 + 2 * number}" if self.linux else None,
                )
            )  # fmt: skip
        drive = self.folder / "media" / (label or f"drive{self.count}")
        if label or code:
            if self.linux:
                (usb / f"{name}:1.0/host3/target3:0:0/3:0:0:0/block/{disk}").mkdir(parents=True)
                if label:
                    (self.folder / "labels" / label).symlink_to(f"../../{disk}")
            if mounted:
                drive.mkdir(parents=True)
                (drive / "DETAILS.TXT").write_text("Version: 0221\nBuild:   Aug 27 2019 14:32:15\n")
                (drive / "MBED.HTM").write_text(
                    f"<meta http-equiv='refresh' content='0; url=http://mbed.org/device/?code={code or 'FFFF'}0221'/>"
                )
                self.mounts.append(Mount(f"/dev/{disk}" if self.linux else "", drive))
        return drive


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_nothing_attached(machine: Machine, tmp_path: Path) -> None:
    assert find_attached(machine.sources) == []
    assert find(machine.sources) == []
    nowhere = Sources(ports=list, mounts=list, usb=tmp_path / "none", labels=tmp_path / "none")
    assert find_attached(nowhere) == []


def test_this_machine_can_be_asked() -> None:
    assert all(isinstance(one, Attached) for one in find_attached())


@pytest.mark.parametrize("mounted", [True, False], ids=["mounted", "not mounted"])
def test_a_board_by_the_label_of_its_drive(machine: Machine, mounted: bool) -> None:
    drive = machine.plug_stlink(FIRST, label="NODE_F446RE", mounted=mounted)
    assert find_attached(machine.sources) == [
        Attached(
            "ST-LINK/V2-1", FIRST, "0483:374b", "STM32 STLink", ("/dev/ttyACM0",), str(drive) if mounted else "",
            "nucleo-f446re", ("nucleo-f446re",), "its drive is called NODE_F446RE",
        )
    ]  # fmt: skip


def test_a_board_by_the_code_on_its_drive(machine: Machine) -> None:
    """The code goes before the label, which a user can change."""
    machine.plug_stlink(FIRST, label="MY BOARD", code="0776")
    (found,) = find_attached(machine.sources)
    assert (found.guess, found.why) == ("nucleo-l4r5zi", "MBED.HTM on its drive has code 0776")


def test_every_board_with_a_drive_is_guessed(tmp_path: Path) -> None:
    boards = [board for name in list_boards() if (board := load_board(name)).programmer.drive]
    assert len(boards) == 5
    for board in boards:
        pid = int(board.programmer.usb_ids[0][5:], 16)
        assert STLINKS[pid] in board.programmer.probe
        for key, label, code in (
            ("label", board.programmer.drive, ""),
            ("code", "", board.programmer.mbed_code),
        ):
            machine = Machine(tmp_path / f"{board.name} {key}")
            machine.plug_stlink(FIRST, label=label, code=code, pid=pid)
            (found,) = find_attached(machine.sources)
            assert found.guess == board.name
    for key in ("drive", "mbed_code", "device_id"):
        values = [getattr(board.programmer, key) for board in boards]
        assert len({*values}) == len(values)


@pytest.mark.parametrize(
    ("label", "guess"),
    [
        ("NODE_F446RE", "nucleo-f446re"), ("NOD_F446RE", "nucleo-f446re"), ("NODE_F446RE1", "nucleo-f446re"),
        ("NODE_F401RE", ""), ("NODE_F446R", ""), ("DIS_F446RE", ""), ("F446RE", ""),
    ],
)  # fmt: skip
def test_labels(machine: Machine, label: str, guess: str) -> None:
    machine.plug_stlink(FIRST, label=label)
    (found,) = find_attached(machine.sources)
    assert found.guess == guess
    assert label in found.why
    assert found.possible == ((guess,) if guess else ())


def test_a_board_without_facts_is_possible_as_none(machine: Machine) -> None:
    """It is known to be something else, so it must never be flashed as one of ours."""
    machine.plug_stlink(FIRST, label="NODE_F401RE")
    (found,) = find_attached(machine.sources)
    assert (found.guess, found.possible) == ("", ())
    for board in list_boards():
        with pytest.raises(DeviceError, match="nothing attached matches"):
            match_board([found], board)


def test_an_stlink_without_a_drive_may_be_several_boards(machine: Machine) -> None:
    machine.plug_stlink(FIRST, pid=0x3752)
    (found,) = find_attached(machine.sources)
    assert found.guess == ""
    assert found.possible == ("nucleo-f446re", "nucleo-g071rb", "nucleo-l4r5zi")
    assert match_board([found], "nucleo-l4r5zi") == found
    with pytest.raises(DeviceError):
        match_board([found], "nucleo-h563zi")  # its ST-LINK is a V3


def test_two_virtual_com_ports_are_one_device(machine: Machine) -> None:
    machine.plug_stlink(FIRST, pid=0x3753, vcp=2)
    (found,) = find_attached(machine.sources)
    assert found.ports == ("/dev/ttyACM0", "/dev/ttyACM1")
    assert found.kind == "STLINK-V3"


def test_twins_without_serial_numbers_keep_their_ports(machine: Machine) -> None:
    machine.plug_stlink("", place="1-1.2")
    machine.plug_stlink("", place="1-1.20")
    assert [one.ports for one in find_attached(machine.sources)] == [("/dev/ttyACM0",), ("/dev/ttyACM1",)]


def test_other_ports(machine: Machine) -> None:
    machine.ports += [
        Port("/dev/ttyS0", description="ttyS0"),
        Port("/dev/ttyUSB0", 0x0403, 0x6001, "A50285BI", "FT232R USB UART", "1-3"),
        Port("/dev/ttyUSB1", 0x1A86, 0x7523, None, None, "1-4"),
    ]
    machine.plug_stlink(FIRST, label="NODE_L4R5ZI")
    found = find_attached(machine.sources)
    assert [(one.kind, one.id, one.ports) for one in found] == [
        ("ST-LINK/V2-1", FIRST, ("/dev/ttyACM3",)),
        ("USB serial", "A50285BI", ("/dev/ttyUSB0",)),
        ("USB serial", "", ("/dev/ttyUSB1",)),
        ("serial port", "", ("/dev/ttyS0",)),
    ]
    assert not any(one.stlink or one.possible for one in found[1:])
    assert find(machine.sources)[0].url == "serial:/dev/ttyACM3?board=nucleo-l4r5zi"
    assert len(find(machine.sources)) == 1


def test_an_stlink_that_is_programmed_only_has_no_port(machine: Machine) -> None:
    machine.plug_stlink(FIRST, pid=0x3748, vcp=0)
    (found,) = find_attached(machine.sources)
    assert (found.kind, found.ports, found.possible) == ("ST-LINK/V2", (), ())
    assert found.stlink
    assert find(machine.sources) == []


def test_elsewhere_than_linux_one_drive_belongs_to_the_one_stlink(tmp_path: Path) -> None:
    machine = Machine(tmp_path, linux=False)
    drive = machine.plug_stlink(FIRST, label="NODE_F446RE")
    (found,) = find_attached(machine.sources)
    assert (found.id, found.drive, found.guess) == (FIRST, str(drive), "nucleo-f446re")
    machine.plug_stlink(SECOND, label="NODE_L4R5ZI")
    kinds = [(one.kind, one.guess) for one in find_attached(machine.sources)]
    assert kinds == [
        ("ST-LINK/V2-1", ""), ("ST-LINK/V2-1", ""), ("drive", "nucleo-f446re"), ("drive", "nucleo-l4r5zi"),
    ]  # fmt: skip


def test_other_drives_are_none_of_ours(machine: Machine) -> None:
    for files in ((), ("DETAILS.TXT",), ("MBED.HTM",)):
        folder = machine.folder / "stick" / str(len(files) + len("".join(files)))
        folder.mkdir(parents=True)
        for name in files:
            (folder / name).write_text("x")
        machine.mounts.append(Mount("/dev/sdz", folder))
    assert find_attached(machine.sources) == []


# --- one of several ------------------------------------------------------------------------------------------------


@pytest.fixture
def two(machine: Machine) -> list[Attached]:
    machine.plug_stlink(FIRST, label="NODE_F446RE")
    machine.plug_stlink(SECOND, label="NODE_L4R5ZI")
    return find_attached(machine.sources)


def test_match(two: list[Attached]) -> None:
    first, second = two
    for wanted in ("/dev/ttyACM0", FIRST, "303435", "066cff", "nucleo-f446re", "NUCLEO-F446RE", first.drive):
        assert match(two, wanted) == first
    assert match(two, "/dev/ttyACM1") == second


def test_a_whole_id_is_not_taken_for_a_part_of_another(two: list[Attached]) -> None:
    longer = Attached("ST-LINK/V2-1", FIRST + "00", "0483:374b")
    assert match([*two, longer], FIRST) == two[0]


@pytest.mark.parametrize("wanted", ["066", "FF", "5"])
def test_two_matches_are_an_error_that_names_both(two: list[Attached], wanted: str) -> None:
    with pytest.raises(DeviceError) as caught:
        match(two, wanted)
    assert caught.value.exit_code == 5
    assert caught.value.remedy == remedies.AMBIGUOUS
    for part in (
        "2 devices match",
        FIRST,
        SECOND,
        "/dev/ttyACM0",
        "/dev/ttyACM1",
        "nucleo-f446re",
        "nucleo-l4r5zi",
    ):
        assert part in caught.value.message


@pytest.mark.parametrize("wanted", ["", "/dev/ttyACM7", "ZZZ", "nucleo-h563zi"])
def test_no_match_says_what_there_is(two: list[Attached], wanted: str) -> None:
    with pytest.raises(DeviceError) as caught:
        match(two, wanted)
    assert caught.value.remedy == remedies.NO_PROBE
    assert FIRST in caught.value.message
    with pytest.raises(DeviceError, match="there is nothing"):
        match([], "x")


def test_two_of_the_same_board(machine: Machine) -> None:
    machine.plug_stlink(FIRST, label="NODE_F446RE")
    machine.plug_stlink(SECOND, code="0777")
    found = find_attached(machine.sources)
    for wanted in (match, match_board):
        with pytest.raises(DeviceError, match="2 devices match"):
            wanted(found, "nucleo-f446re")


def test_a_board_that_is_guessed_and_one_that_it_may_be_are_two(machine: Machine) -> None:
    machine.plug_stlink(FIRST, label="NODE_F446RE")
    machine.plug_stlink(SECOND)
    with pytest.raises(DeviceError, match="2 devices match nucleo-f446re"):
        match_board(find_attached(machine.sources), "nucleo-f446re")


def test_targets(two: list[Attached], machine: Machine) -> None:
    machine.plug_stlink("0123456789", pid=0x374E)
    targets = find(machine.sources)
    assert [(target.url, target.available) for target in targets] == [
        ("serial:/dev/ttyACM0?board=nucleo-f446re", True),
        ("serial:/dev/ttyACM1?board=nucleo-l4r5zi", True),
        ("serial:/dev/ttyACM2?board=NAME", False),
    ]
    assert "write nucleo-g491re or nucleo-h563zi for NAME" in targets[2].notes
    assert FIRST in targets[0].description
