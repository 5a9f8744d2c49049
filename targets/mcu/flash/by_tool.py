"""The one way of flashing with somebody else's tool; each tool's own file says what differs."""

from __future__ import annotations

import contextlib
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from targets.mcu.board import Board
from targets.mcu.flash import remedies
from targets.mcu.flash.base import Availability, FlashProgress, FlashReport, check_image
from targets.mcu.flash.tool import Symptom, ToolRun, find_tool, judge, run_tool
from toolchain.errors import ConfigurationError, FlashingError

# Tools run in a folder with these names in it, so that no path needs quoting in their own command languages.
IMAGE: Final = "firmware.bin"
READ_BACK: Final = "readback.bin"


@dataclass(frozen=True, slots=True)
class Request:
    """What a tool is asked to do: write `IMAGE`, which has so many bytes, at this address, through this probe."""

    board: Board
    address: int
    size: int
    probe: str | None
    verify: bool


Command = Callable[[Request], list[str]]


@dataclass(frozen=True, slots=True, repr=False)
class ToolFlasher:
    """A back end that runs a tool.

    Attributes:
        name: as `--with` takes it.
        title: the tool's name, for people.
        program: its executable.
        places: where its installer puts that, when not on PATH.
        version: the argument that makes it tell its version, and a regular expression with that as its first group.
        install: the remedy where it is missing.
        knows: whether it can flash a board's part.
        write: the arguments that erase, write, verify (where the tool can) and reset.
        read_back: for a tool whose writing does not verify: the arguments that save the flash as `READ_BACK`
            and reset.
        symptoms: what its sentences mean.
        waits: texts after which it would wait for ever.
        began: said when the flash is about to change.
        written: said when writing has succeeded; empty where the tool says nothing then.
        verified: said when verifying has succeeded.
        always_verifies: it cannot be told not to.
    """

    name: str
    title: str
    program: str
    version: tuple[str, str]
    install: str
    knows: Callable[[Board], bool]
    write: Command
    symptoms: tuple[Symptom, ...]
    began: str
    written: str = ""
    verified: str = ""
    read_back: Command | None = None
    waits: tuple[str, ...] = ()
    places: tuple[Path, ...] = ()
    always_verifies: bool = False

    def __repr__(self) -> str:
        return f"<{self.title}>"

    def available(self) -> Availability:
        """The tool's version, or how to install it."""
        path = find_tool(self.program, self.places)
        if path is None:
            return Availability(False, f"{self.title} is not installed", self.install)
        argument, pattern = self.version
        try:
            run = run_tool([path, argument], timeout_s=10)
        except ConfigurationError as error:
            return Availability(False, error.message, self.install)
        found = re.search(pattern, "\n".join(run.lines))
        if found is None:
            return Availability(False, f"{path} does not tell its version", self.install)
        return Availability(True, found.group(1))

    def fits(self, board: Board) -> str:
        """Why this tool cannot flash the board; empty when it can."""
        return "" if self.knows(board) else f"{self.title} does not know the part of {board.name}"

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
        """See `Flasher.flash`."""
        check_image(image, address)
        path = find_tool(self.program, self.places)
        if path is None:
            raise ConfigurationError(f"{self.title} is not installed", remedy=self.install)
        reason = self.fits(board)
        if reason:
            raise ConfigurationError(reason, remedy=remedies.OTHER_BACK_END)
        begin = time.monotonic()
        request = Request(board, address, len(image), _checked_id(probe), verify or self.always_verifies)
        runs: list[ToolRun] = []
        if progress is not None:
            progress(0, len(image), self.title)
        with _image_folder(image) as folder:

            def run(arguments: list[str], success: Sequence[str]) -> None:
                left = max(0.1, timeout_s - (time.monotonic() - begin))
                runs.append(run_tool([path, *arguments], timeout_s=left, stop_at=self.waits, cwd=folder))
                judge(
                    runs[-1], self.title, self.symptoms, success=[text for text in success if text],
                    began=self.began, timeout_s=timeout_s,
                )  # fmt: skip

            by_tool = request.verify and self.read_back is None
            run(self.write(request), [self.written, self.verified if by_tool else ""])
            if request.verify and self.read_back is not None:
                run(self.read_back(request), [])
                saved = folder / READ_BACK
                compare(saved.read_bytes() if saved.exists() else b"", image, address, self.title)
        if progress is not None:
            progress(len(image), len(image), self.title)
        lines = tuple(line for one in runs for line in one.lines)
        return FlashReport(self.name, len(image), time.monotonic() - begin, request.verify, lines)


def compare(found: bytes, image: bytes, address: int, title: str) -> None:
    """Raises FlashingError unless what was read back is the image; names the first byte that differs."""
    if found == image:
        return
    if len(found) != len(image):
        raise FlashingError(
            f"{title} read back {len(found)} bytes of {len(image)}, so nothing is verified",
            remedy=remedies.AGAIN,
        )
    first = next(i for i, (a, b) in enumerate(zip(found, image, strict=True)) if a != b)
    raise FlashingError(
        f"{title} has written, but at {address + first:#010x} stands {found[first]:#04x}, not {image[first]:#04x}",
        remedy=remedies.AGAIN,
    )


@contextlib.contextmanager
def _image_folder(image: bytes) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="boardfit-") as name:
        (Path(name) / IMAGE).write_bytes(image)
        yield Path(name)


def _checked_id(probe: str | None) -> str | None:
    """A probe's id stands in the tools' own command languages, so it may have letters and digits only."""
    if probe and not re.fullmatch(r"[0-9A-Za-z]+", probe):
        raise ConfigurationError(
            f"{probe!r} is not the id of a probe", remedy="give an id as `boardfit boards` prints it"
        )
    return probe or None
