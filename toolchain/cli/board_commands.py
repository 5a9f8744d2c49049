"""`boardfit boards` and `boardfit flash`: what is attached, and firmware onto it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toolchain.cli import complete, show
from toolchain.cli.console import working
from toolchain.cli.options import Json
from toolchain.cli.progress import ProgressDisplay
from toolchain.errors import ConfigurationError, UsageError

if TYPE_CHECKING:
    from targets.mcu.session import BoardUrl


def boards(as_json: Json = False) -> None:
    """List the targets: what is here, what is attached, and what is missing."""
    with working("looking for targets"):
        from targets.mcu.find import find_attached
        from targets.session import list_targets

        found, attached = list_targets(), find_attached()
    show.boards(found, attached, as_json)


def flash(
    board: Annotated[
        str,
        typer.Option(
            "--board", autocompletion=complete.boards, help="The board, e.g. nucleo-l4r5zi (boardfit boards)."
        ),
    ] = "",
    target: Annotated[
        str,
        typer.Option("--target", "-t", help="Its URL instead, e.g. serial:/dev/ttyACM0?board=nucleo-l4r5zi."),
    ] = "",
    probe: Annotated[
        str, typer.Option(help="Which one: part of an id, a port, or the folder of its drive.")
    ] = "",
    back_end: Annotated[
        str,
        typer.Option(
            "--with", help="openocd, stm32cube, st-flash, pyocd, drive or uart; default: what fits."
        ),
    ] = "",
    firmware: Annotated[
        Path | None, typer.Option(help="A raw .bin file; default: boardfit's own firmware, built now.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Read the flash back and compare.")
    ] = True,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds for everything together.")] = 120.0,
    as_json: Json = False,
) -> None:
    """Write boardfit's firmware into a board's flash. Exit 5 when no board is there, 6 when writing fails."""
    from targets.mcu.flash import remedies
    from targets.mcu.flash.choose import flash_board

    if bool(board) == bool(target):
        raise UsageError("flash needs either --board or --target", remedy=remedies.NAME_A_BOARD)
    url = _parsed(target or f"virtual:{board}")
    image = _image(url, firmware)
    with ProgressDisplay() as progress:
        report = flash_board(
            url.board, image, preference="virtual" if target and url.virtual else back_end or None,
            wanted=probe or url.port, verify=verify, timeout_s=timeout,
            progress=lambda done, total, what: progress("flash", done, total, f"bytes: {what}"),
        )  # fmt: skip
    show.flash(url.board.name, report, as_json)


def _parsed(url: str) -> BoardUrl:
    from targets.mcu.session import parse_url

    if url.partition(":")[0] not in ("virtual", "serial"):
        raise UsageError(
            f"{url!r} cannot be flashed", remedy="give a target like serial:/dev/ttyACM0?board=nucleo-l4r5zi"
        )
    return parse_url(url)


def _image(url: BoardUrl, file: Path | None) -> bytes:
    """The file's bytes, or the firmware of this boardfit, built for the board."""
    if file is None:
        from targets.mcu.session import firmware_of

        return firmware_of(url).image
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"cannot read {file}: {error.strerror}", remedy="check the path") from error
