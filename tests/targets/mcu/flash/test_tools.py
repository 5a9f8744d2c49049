"""Somebody else's tools: what each is asked, what its sentences mean, and that none can hang. No board is needed:
recorded sentences come from programs put on PATH, and the real ones look for a probe that cannot exist."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from targets.mcu.board import load_board
from targets.mcu.flash import remedies
from targets.mcu.flash.by_tool import ToolFlasher
from targets.mcu.flash.openocd import OPENOCD
from targets.mcu.flash.pyocd import PYOCD
from targets.mcu.flash.stlink import STLINK
from targets.mcu.flash.stm32cube import STM32CUBE
from targets.mcu.flash.tool import run_tool
from tests.targets.mcu.flash.boards import BOARD, FLASH, make_image
from toolchain.errors import BoardfitError, ConfigurationError, DeviceError, FlashingError

if sys.platform == "win32":
    pytest.skip("the made-up tools are shell scripts", allow_module_level=True)

TOOLS = (OPENOCD, PYOCD, STM32CUBE, STLINK)
NOBODY = "00NOSUCHPROBE00"  # no ST-LINK has this number, so a real tool finds none, whatever is attached
IMAGE = make_image()

OPENOCD_DONE = """Open On-Chip Debugger 0.12.0
Info : clock speed 500 kHz
Info : STLINK V2J40M27 (API v2) VID:PID 0483:374B
** Programming Started **
Info : device idcode = 0x10016470 (STM32L4R/L4Sxx - Rev W : 0x1001)
** Programming Finished **
** Verify Started **
** Verified OK **
** Resetting Target **
shutdown command invoked"""
CUBE_DONE = """      -------------------------------------------------------------------
                       STM32CubeProgrammer v2.17.0
      -------------------------------------------------------------------
ST-LINK SN  : 066CFF303435554157113225
Memory Programming ...
Erasing memory corresponding to segment 0:
Download in Progress:
File download complete
Time elapsed during download operation: 00:00:00.481
Verifying ...
Download verified successfully
MCU Reset"""
STLINK_DONE = """st-flash 1.7.0
2026-01-01T00:00:00 INFO common.c: L4Rx: 640 KiB SRAM, 2048 KiB flash in at least 4 KiB pages.
2026-01-01T00:00:00 INFO common.c: Flash page at addr: 0x08000000 erased
2026-01-01T00:00:01 INFO common.c: Starting verification of write complete
2026-01-01T00:00:01 INFO common.c: Flash written and verified! jolly good!"""
PYOCD_DONE = """0001234 I Loading firmware.bin at 0x08000000 [load_cmd]
[==================================================] 100%
0002345 I Erased 4096 bytes (1 sector), programmed 2048 bytes (8 pages) at 15.00 kB/s [loader]"""
DONE = {OPENOCD: OPENOCD_DONE, STM32CUBE: CUBE_DONE, STLINK: STLINK_DONE, PYOCD: PYOCD_DONE}


class Bench:
    """A PATH with nothing on it but the programs that are put there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked = folder / "asked"

    def put(self, flasher: ToolFlasher, body: str) -> None:
        """A program that notes its arguments and does `body` (sh)."""
        path = self.folder / flasher.program
        path.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\nprintf '%s\\n' \"$*\" >> '{self.asked}'\n{body}\n")
        path.chmod(0o755)

    def says(self, flasher: ToolFlasher, text: str, status: int = 0, then: str = "") -> None:
        """A program that says this and ends."""
        self.put(flasher, f"cat <<'END'\n{text}\nEND\n{then}\nexit {status}")

    def commands(self) -> list[str]:
        return self.asked.read_text().splitlines() if self.asked.exists() else []


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setenv("PATH", str(tmp_path))
    return Bench(tmp_path)


def flash(flasher: ToolFlasher, timeout_s: float = 20, **options: object) -> object:
    return flasher.flash(BOARD, IMAGE, address=FLASH, probe=None, timeout_s=timeout_s, **options)  # type: ignore[arg-type]


def good_pyocd(bench: Bench, image: bytes = IMAGE) -> None:
    """A pyOCD that loads, and reads this back."""
    (bench.folder / "flash").write_bytes(image)
    bench.put(
        PYOCD,
        f"case $1 in commander) cp '{bench.folder}/flash' readback.bin ;; *) cat <<'END'\n{PYOCD_DONE}\nEND\n;; esac",
    )


# --- what is asked -------------------------------------------------------------------------------------------------


def test_openocd_is_asked(bench: Bench) -> None:
    bench.says(OPENOCD, OPENOCD_DONE, then="cp firmware.bin " + str(bench.folder / "seen"))
    steps: list[tuple[int, int, str]] = []
    report = OPENOCD.flash(
        BOARD, IMAGE, address=FLASH, probe="066CFF30", progress=lambda *step: steps.append(step)
    )
    assert (report.back_end, report.bytes, report.verified) == ("openocd", len(IMAGE), True)
    assert "** Verified OK **" in report.log
    assert (bench.folder / "seen").read_bytes() == IMAGE
    assert bench.commands() == [
        "-c gdb_port disabled -c tcl_port disabled -c telnet_port disabled -f interface/stlink.cfg "
        "-c adapter serial 066CFF30 -f target/stm32l4x.cfg -c program firmware.bin verify reset exit 0x08000000"
    ]
    assert steps == [(0, len(IMAGE), "OpenOCD"), (len(IMAGE), len(IMAGE), "OpenOCD")]


def test_stm32cube_is_asked(bench: Bench) -> None:
    bench.says(STM32CUBE, CUBE_DONE)
    assert STM32CUBE.flash(BOARD, IMAGE, address=FLASH, probe="066CFF30").verified
    assert bench.commands() == ["-c port=SWD sn=066CFF30 -w firmware.bin 0x08000000 -v -rst"]


def test_st_flash_is_asked_and_always_verifies(bench: Bench) -> None:
    bench.says(STLINK, STLINK_DONE)
    assert STLINK.flash(BOARD, IMAGE, address=FLASH, probe="066CFF30", verify=False).verified
    assert bench.commands() == ["--reset --serial 066CFF30 write firmware.bin 0x08000000"]


def test_pyocd_is_asked_twice_and_never_waits(bench: Bench) -> None:
    good_pyocd(bench)
    assert PYOCD.flash(BOARD, IMAGE, address=FLASH, probe="066CFF30").verified
    load, save = bench.commands()
    options = "--no-wait --target stm32l4r5zitx --uid 066CFF30"
    assert load == f"load {options} --format bin --base-address 0x08000000 --no-reset firmware.bin"
    assert save == f"commander {options} -c savemem 0x08000000 {len(IMAGE)} readback.bin -c reset"


@pytest.mark.parametrize("flasher", [OPENOCD, STM32CUBE, PYOCD], ids=lambda flasher: flasher.name)
def test_without_verifying(bench: Bench, flasher: ToolFlasher) -> None:
    lines = [line for line in DONE[flasher].splitlines() if "erif" not in line]
    bench.says(flasher, "\n".join(lines))
    report = flasher.flash(BOARD, IMAGE, address=FLASH, probe=None, verify=False)
    assert not report.verified
    (command,) = bench.commands()
    assert "verify" not in command
    assert "-v" not in command.split()
    assert "--no-reset" not in command


# --- what is said --------------------------------------------------------------------------------------------------

STARTED, FAILED = "** Programming Started **\n", "** Programming Failed **"
MISMATCH = "Error: Data mismatch found at address 0x08000400 (byte = 0xB0 instead of 0xC0)"
BEFORE = [  # the board was not reached: exit code 5
    (OPENOCD, 1, "Error: open failed", remedies.NO_PROBE),
    (
        OPENOCD,
        1,
        "Error: libusb_open() failed with LIBUSB_ERROR_ACCESS\nError: open failed",
        remedies.NO_PERMISSION,
    ),
    (
        OPENOCD,
        1,
        "Error: libusb_claim_interface() failed with LIBUSB_ERROR_BUSY\nError: open failed",
        remedies.BUSY,
    ),
    (OPENOCD, 1, "Error: init mode failed (unable to connect to the target)", remedies.NO_TARGET),
    (OPENOCD, 1, "Warn : Cannot identify target as an STM32 L4 family.\n" + FAILED, remedies.OTHER_CHIP),
    (OPENOCD, 1, "embedded:startup.tcl:28: Error: Can't find target/stm32h5x.cfg", remedies.OTHER_BACK_END),
    (STM32CUBE, 1, "Error: No debug probe detected.", remedies.NO_PROBE),
    (
        STM32CUBE,
        1,
        "Error: No STM32 target found! If your product embeds Debug Authentication, ...",
        remedies.NO_TARGET,
    ),
    (STM32CUBE, 1, "Error: ST-LINK error (DEV_USB_COMM_ERR)", remedies.BUSY),
    (STLINK, 255, "2026-01-01T00:00:00 WARN usb.c: Couldn't find any ST-Link devices", remedies.NO_PROBE),
    (STLINK, 255, "WARN common.c: unknown chip id! 0x484", remedies.OTHER_BACK_END),
    (STLINK, 255, "Failed to connect to target", remedies.NO_TARGET),
    (
        PYOCD,
        1,
        "No connected debug probes\n0000280 E No target device available [load_cmd]",
        remedies.NO_PROBE,
    ),
    (PYOCD, 1, "No connected debug probe matches unique ID '0123'", remedies.NO_PROBE),
    (PYOCD, 1, "More than one debug probe matches unique ID '06':", remedies.AMBIGUOUS),
    (PYOCD, 1, "0000308 C Target type stm32l4r5zitx not recognized. Use 'pyocd list'", remedies.PYOCD_PACK),
    (PYOCD, 1, "STLink error (9): Get IDCODE error", remedies.NO_TARGET),
]
AFTER = [  # writing or verifying failed, or nobody can say: exit code 6
    (OPENOCD, 1, STARTED + "Error: flash write failed\n" + FAILED, remedies.AGAIN),
    (OPENOCD, 1, STARTED + "Error: Cannot erase protected sector at 0x0\n" + FAILED, remedies.PROTECTED),
    (OPENOCD, 1, OPENOCD_DONE.replace("** Verified OK **", "** Verify Failed **"), remedies.AGAIN),
    (OPENOCD, 0, OPENOCD_DONE.replace("** Verified OK **", ""), remedies.AGAIN),
    (OPENOCD, 1, "Error: something that nobody has heard of", remedies.OTHER_BACK_END),
    (OPENOCD, 1, "", remedies.OTHER_BACK_END),
    (OPENOCD, 139, OPENOCD_DONE, remedies.AGAIN),
    (STM32CUBE, 0, CUBE_DONE.replace("Download verified successfully", MISMATCH), remedies.AGAIN),
    (STM32CUBE, 1, "Erasing memory corresponding to segment 0:\nError: failed to erase memory", remedies.AGAIN),
    (STM32CUBE, 0, "", remedies.AGAIN),
    (STLINK, 255, "ERROR common.c: Verification of flash failed at offset: 128", remedies.AGAIN),
    (STLINK, 255, "Flash unlock failed! System reset required to be able to unlock it again!", remedies.PROTECTED),
    (STLINK, 0, "", remedies.AGAIN),
    (PYOCD, 1, "0001234 I Loading firmware.bin\n0002000 C flash program page failure", remedies.AGAIN),
    (PYOCD, 1, "0001234 I Loading firmware.bin\n0002000 C something new", remedies.AGAIN),
]  # fmt: skip
SENTENCES = [(*row, DeviceError) for row in BEFORE] + [(*row, FlashingError) for row in AFTER]


@pytest.mark.parametrize(
    ("flasher", "status", "text", "remedy", "kind"),
    SENTENCES,
    ids=[f"{row[0].name} {row[1]} {(row[2].splitlines() or [''])[-1][:40]}" for row in SENTENCES],
)
def test_sentences(
    bench: Bench, flasher: ToolFlasher, status: int, text: str, remedy: str, kind: type[BoardfitError]
) -> None:
    bench.says(flasher, text, status)
    with pytest.raises(BoardfitError) as caught:
        flash(flasher)
    assert type(caught.value) is kind
    assert caught.value.remedy == remedy
    assert flasher.title in caught.value.message
    last = next((line for line in reversed(text.splitlines()) if line), "nothing")
    words = [
        line for line in [*text.splitlines(), last] if line and repr(line.strip()) in caught.value.message
    ]
    assert words or not text  # the tool's own


def test_every_symptom_can_happen() -> None:
    """Each is caused by one of the sentences above, or is written down here as not recorded."""
    unrecorded = {
        ("pyocd", "no permission"), ("pyocd", "the probe is busy"), ("pyocd", "no probe was found"),
        ("st-flash", "no permission to use the ST-LINK"), ("st-flash", "the ST-LINK is busy"),
        ("st-flash", "erasing or writing failed"), ("stm32cube", "no permission"),
        ("stm32cube", "the flash is protected"),
    }  # fmt: skip
    for flasher in TOOLS:
        texts = [row[2] for row in SENTENCES if row[0] is flasher]
        for symptom in flasher.symptoms:
            seen = any(re.search(symptom.pattern, text, re.IGNORECASE | re.MULTILINE) for text in texts)
            assert seen or (flasher.name, symptom.meaning) in unrecorded, symptom


@pytest.mark.parametrize(
    ("found", "part"),
    [
        (IMAGE[:-1], "1799 bytes of 1800"),
        (b"", "0 bytes of"),
        (IMAGE[:77] + b"\x00" + IMAGE[78:], "0x0800004d"),
    ],
)
def test_a_pyocd_that_says_done_but_has_not_written(bench: Bench, found: bytes, part: str) -> None:
    assert IMAGE[77] != 0
    good_pyocd(bench, found)
    with pytest.raises(FlashingError, match=part) as caught:
        flash(PYOCD)
    assert caught.value.exit_code == 6
    assert caught.value.remedy == remedies.AGAIN


def test_a_pyocd_that_cannot_read_back(bench: Bench) -> None:
    bench.says(PYOCD, PYOCD_DONE)
    with pytest.raises(FlashingError, match="0 bytes of 1800"):
        flash(PYOCD)


# --- what hangs ----------------------------------------------------------------------------------------------------


def gone(pids: Path) -> bool:
    """None of these processes runs any more, or soon: being killed takes a moment."""
    numbers = pids.read_text().split()
    assert len(numbers) == 2
    for _ in range(500):
        if not any(runs(int(number)) for number in numbers):
            return True
        time.sleep(0.01)
    return False


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()  # a zombie waits for its parent only
    except ProcessLookupError:
        return False
    except FileNotFoundError:  # it ended in between, or there is no /proc
        return Path("/proc/self").exists() is False


def hang(bench: Bench, flasher: ToolFlasher, text: str = "") -> Path:
    """A tool that says this and then hangs together with a child; gives the file with both numbers."""
    pids = bench.folder / "pids"
    bench.put(flasher, f"sleep 60 &\necho $$ $! > '{pids}'\necho '{text}'\nwait")
    return pids


def test_pyocd_that_waits_for_a_probe_for_ever_is_ended_at_once(bench: Bench) -> None:
    late = bench.folder / "late"
    pids = bench.folder / "pids"
    waiting = "echo Waiting for a debug probe to be connected..."
    bench.put(PYOCD, f"sleep 60 &\necho $$ $! > '{pids}'\n{waiting}\nsleep 4\n: > '{late}'")
    with pytest.raises(DeviceError, match="no probe was found") as caught:
        flash(PYOCD, timeout_s=50)
    assert caught.value.remedy == remedies.NO_PROBE
    assert gone(pids)
    assert not late.exists()


@pytest.mark.parametrize("flasher", TOOLS, ids=lambda flasher: flasher.name)
def test_a_tool_that_hangs_is_ended_with_its_children(bench: Bench, flasher: ToolFlasher) -> None:
    pids = hang(bench, flasher, "hello")
    with pytest.raises(
        DeviceError, match=r"did not finish within 0\.5 s; its last word was 'hello'"
    ) as caught:
        flash(flasher, timeout_s=0.5)
    assert caught.value.remedy == remedies.TOO_SLOW
    assert gone(pids)


def test_a_tool_that_hangs_while_it_writes_has_failed_to_flash(bench: Bench) -> None:
    hang(bench, OPENOCD, "** Programming Started **")
    with pytest.raises(FlashingError, match="did not finish"):
        flash(OPENOCD, timeout_s=0.5)


def test_a_tool_that_floods_its_output_is_read_to_the_end(bench: Bench) -> None:
    """A progress bar, drawn again and again; only the last part is kept."""
    bench.put(OPENOCD, f"yes 'progress' | head -100000\ncat <<'END'\n{OPENOCD_DONE}\nEND")
    run = run_tool([str(bench.folder / "openocd")], timeout_s=20)
    assert run.lines[-1] == "shutdown command invoked"
    assert len(run.lines) < 10_000


def test_colours_and_bars_are_taken_out(bench: Bench) -> None:
    bench.put(OPENOCD, r"printf '\033[31mred\033[0m\r10%%\r20%%\n\n  end \377\n'")
    assert run_tool([str(bench.folder / "openocd")], timeout_s=20).lines == (
        "red",
        "10%",
        "20%",
        "end \N{REPLACEMENT CHARACTER}",
    )


def test_ctrl_c_ends_the_tool(bench: Bench) -> None:
    """It runs in a process group of its own, so the terminal's Ctrl-C does not reach it."""
    pids = hang(bench, OPENOCD)

    def interrupt() -> None:
        while not (pids.exists() and pids.read_text().strip()):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        flash(OPENOCD, timeout_s=30)
    thread.join()
    assert gone(pids)


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flasher", TOOLS, ids=lambda flasher: flasher.name)
def test_a_tool_that_is_not_installed(bench: Bench, flasher: ToolFlasher) -> None:
    absent = replace(flasher, places=())
    with pytest.raises(ConfigurationError, match="is not installed") as caught:
        flash(absent)
    assert caught.value.remedy == flasher.install
    assert (absent.available().ready, absent.available().remedy) == (False, flasher.install)


def test_a_tool_that_its_installer_puts_elsewhere(bench: Bench, tmp_path: Path) -> None:
    elsewhere = Bench(tmp_path / "elsewhere")
    elsewhere.folder.mkdir()
    elsewhere.says(STM32CUBE, CUBE_DONE)
    assert flash(replace(STM32CUBE, places=(tmp_path / "none", elsewhere.folder))).verified  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("flasher", "text", "version"),
    [
        (OPENOCD, "Open On-Chip Debugger 0.12.0\nLicensed under GNU GPL v2", "0.12.0"),
        (PYOCD, "0.46.0", "0.46.0"),
        (STM32CUBE, "STM32CubeProgrammer version: 2.17.0", "2.17.0"),
        (STLINK, "v1.7.0", "1.7.0"),
    ],
)
def test_versions(bench: Bench, flasher: ToolFlasher, text: str, version: str) -> None:
    bench.says(flasher, text)
    assert (flasher.available().ready, flasher.available().detail) == (True, version)
    bench.says(flasher, "Segmentation fault", 139)
    assert not flasher.available().ready


def test_a_file_that_is_no_program(bench: Bench) -> None:
    (bench.folder / "openocd").write_bytes(b"\x7fELF nonsense")
    (bench.folder / "openocd").chmod(0o755)
    assert not OPENOCD.available().ready
    with pytest.raises(ConfigurationError, match="cannot start"):
        flash(OPENOCD)


@pytest.mark.parametrize("probe", ["066C FF", "x; shutdown", "[exec date]", "$x", "-u", "é"])
def test_an_id_that_a_tool_might_take_for_a_command(bench: Bench, probe: str) -> None:
    bench.says(OPENOCD, OPENOCD_DONE)
    with pytest.raises(ConfigurationError, match="not the id of a probe"):
        OPENOCD.flash(BOARD, IMAGE, address=FLASH, probe=probe)
    assert bench.commands() == []


def test_a_part_that_a_tool_does_not_know(bench: Bench) -> None:
    bench.says(STLINK, STLINK_DONE)
    with pytest.raises(ConfigurationError, match="st-flash does not know the part of nucleo-h563zi"):
        STLINK.flash(load_board("nucleo-h563zi"), IMAGE, address=FLASH, probe=None)
    assert bench.commands() == []


def test_no_firmware(bench: Bench) -> None:
    bench.says(OPENOCD, OPENOCD_DONE)
    with pytest.raises(ConfigurationError, match="no firmware"):
        OPENOCD.flash(BOARD, b"\x7fELF" * 100, address=FLASH, probe=None)
    assert bench.commands() == []


# --- the real ones -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flasher", TOOLS, ids=lambda flasher: flasher.name)
def test_no_probe(flasher: ToolFlasher) -> None:
    """The real tool, asked for a probe that does not exist: exit code 5, a remedy, and its own sentence."""
    if not flasher.available().ready:
        pytest.skip(f"{flasher.title} is not installed")
    board = load_board("nucleo-f446re")
    if flasher is PYOCD:  # a part that it knows without a pack
        board = replace(board, programmer=replace(board.programmer, pyocd_target="stm32l475xg"))
    with pytest.raises(DeviceError) as caught:
        flasher.flash(board, IMAGE, address=FLASH, probe=NOBODY, timeout_s=30)
    assert caught.value.exit_code == 5
    assert caught.value.remedy == remedies.NO_PROBE
