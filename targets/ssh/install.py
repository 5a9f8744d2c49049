"""Gives a board an engine, when the user asks for it: a virtual environment of boardfit's own, nothing of the system's.

Which packages exist for which machine was read off the package index on the day docs/linux-targets.md names.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from targets.ssh.connect import Connection, connected, parse_address
from targets.ssh.session import FOLDER, RUNTIMES
from toolchain.errors import ConfigurationError, DeviceError

_MINUTES: Final = 20  # a Pi Zero unpacks 14 MB wheels in minutes
_PROBE: Final = (
    "import platform,sys;print(platform.machine(),'.'.join(map(str,sys.version_info[:2])),sys.maxsize>2**32)"
)
# 32-bit ARM has no ai-edge-litert; its tflite-runtime ended at Python 3.11 and dies with numpy 2.
_LITERT: Final = ("ai-edge-litert", "numpy")
_TFLITE: Final = ("tflite-runtime==2.14.0", "numpy<2")
_ONNX: Final = ("onnxruntime", "numpy")


def packages(runtime: str, machine: str, python: tuple[int, int], wide: bool) -> tuple[str, ...]:
    """What pip is asked for.

    Args:
        runtime: "litert" or "onnxruntime".
        machine: as `platform.machine()` says, e.g. aarch64, armv7l.
        python: its version.
        wide: Python is a 64-bit program; a Pi may have a 64-bit kernel under a 32-bit system.

    Raises:
        ConfigurationError: there is no such engine for this machine.
    """
    if python < (3, 11):
        raise ConfigurationError(
            f"the board has Python {python[0]}.{python[1]}, the agent needs 3.11",
            remedy="install a newer system (Raspberry Pi OS 12 or later), or name one with ?python=PATH",
        )
    if runtime == "onnxruntime":
        if not wide:
            raise ConfigurationError(
                f"there is no ONNX Runtime for a 32-bit {machine}",
                remedy="install a 64-bit system, or use LiteRT",
            )
        return _ONNX
    if wide:
        return _LITERT
    if python > (3, 11):
        raise ConfigurationError(
            f"there is no LiteRT for a 32-bit {machine} with Python {python[0]}.{python[1]}",
            remedy="install a 64-bit system, or one with Python 3.11 (Raspberry Pi OS 12)",
        )
    return _TFLITE


def install(url: str, *, say: Callable[[str], object] = lambda line: None) -> str:
    """Make boardfit's own environment on a board and install the engine of the URL into it.

    Args:
        url: `ssh://...`; its `runtime` says which engine.
        say: told each line that the board's tools print.

    Returns:
        The environment's Python on the board; sessions take it by themselves from then on.

    Raises:
        DeviceError: no Python, no venv module, no network there, a full disk: with what the tool said.
        ConfigurationError: there is no such engine for this machine.
    """
    address, options = parse_address(url, ("runtime", "threads", "kernels"))
    runtime = options.get("runtime", "litert")
    if runtime not in RUNTIMES:
        raise ConfigurationError(
            f"a board has no runtime {runtime!r}", remedy=f"use runtime={' or '.join(RUNTIMES)}"
        )
    with connected(address) as connection:
        base = address.python or "python3"
        words = run(connection, (base, "-c", _PROBE), say=lambda line: None).split()
        if len(words) != 3:
            raise DeviceError(
                f"{address.label}: {base} answers {words!r}", remedy="name a Python with ?python=PATH"
            )
        major, _, minor = words[1].partition(".")
        wanted = packages(runtime, words[0], (int(major), int(minor)), words[2] == "True")
        sftp = connection.sftp()
        with suppress(OSError):
            home = str(sftp.normalize("."))
        sftp.close()
        folder = f"{home}/{FOLDER}/runtime"
        run(connection, (base, "-m", "venv", folder), say=say)
        python = f"{folder}/bin/python"
        run(
            connection,
            (python, "-m", "pip", "install", "--disable-pip-version-check", "--only-binary=:all:", *wanted),
            say=say,
        )
        return python


def run(connection: Connection, words: tuple[str, ...], *, say: Callable[[str], object]) -> str:
    """Run a program on the board to its end; gives what it printed.

    Raises:
        DeviceError: it failed, or took too long; with its last line.
    """
    channel: Any = connection.start(*words)
    channel.set_combine_stderr(True)
    channel.settimeout(5.0)
    deadline = time.monotonic() + _MINUTES * 60
    text = bytearray()
    shown = 0
    while True:
        try:
            part = channel.recv(65536)
        except TimeoutError:
            part = b""
            if time.monotonic() > deadline or not connection.alive:
                raise DeviceError(
                    f"{connection.address.label}: {words[0]} did not end within {_MINUTES} minutes",
                    remedy="look at the board; run the command there by hand",
                ) from None
            continue
        if not part:
            break
        text += part
        while (end := text.find(b"\n", shown)) >= 0:
            say(text[shown:end].decode(errors="replace"))
            shown = end + 1
    status = channel.recv_exit_status()
    channel.close()
    said = text.decode(errors="replace")
    if status != 0:
        lines = [line for line in said.splitlines() if line.strip()]
        raise DeviceError(
            f"{connection.address.label}: {' '.join(words[:4])} failed: {lines[-1] if lines else f'status {status}'}",
            remedy=_remedy(said, words[0]),
        )
    return said


def _remedy(said: str, program: str) -> str:
    if "ensurepip" in said or "No module named venv" in said:
        return "on the board: sudo apt-get install python3-venv"
    if "No space left" in said:
        return "free disk space on the board"
    if "not found" in said or "No such file" in said:
        return f"install {program} on the board, or name another with ?python=PATH"
    if "No matching distribution" in said or "Could not find a version" in said:
        return "check the board's network and its package index"
    return "run the command on the board by hand to see more"
