"""One measurement at a time: two processes that measure on one CPU would each measure the other."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from toolchain.errors import BoardfitError, DeviceError
from toolchain.files import cache_folder


@contextmanager
def exclusive(
    folder: Path, *, wait: bool = False, poll_s: float = 0.2, sleep: Callable[[float], object] = time.sleep
) -> Iterator[Path]:
    """Hold this machine's measuring lock.

    The file's name holds the machine's, because home folders are shared between machines.

    Args:
        folder: where the lock file stands; the same for all who must not disturb each other.
        wait: wait for the holder instead of raising.
        poll_s: seconds between two tries while waiting.
        sleep: for tests.

    Raises:
        DeviceError: another process holds it; its pid is in the message. Or the folder cannot be written.
    """

    def busy(pid: str) -> BoardfitError:
        return DeviceError(
            f"process {pid} is measuring on this machine; two at once would disturb each other",
            remedy="wait until it has finished; --wait does that",
        )

    def refused(path: Path, reason: str) -> BoardfitError:
        return DeviceError(
            f"cannot open the lock file {path}: {reason}",
            remedy="set XDG_CACHE_HOME to a folder that you can write",
        )

    path = folder / f"measuring-{platform.node() or 'machine'}.lock"
    with hold(path, busy=busy, refused=refused, wait=wait, poll_s=poll_s, sleep=sleep):
        yield path


@contextmanager
def hold(
    path: Path,
    *,
    busy: Callable[[str], BoardfitError],
    refused: Callable[[Path, str], BoardfitError],
    wait: bool = False,
    poll_s: float = 0.2,
    sleep: Callable[[float], object] = time.sleep,
) -> Iterator[None]:
    """Hold a lock file with this process's pid in it.

    The lock is the operating system's (flock): it ends with the process, also when that is killed, so a stale file
    never blocks anybody. Where the system has no flock (Windows) nothing is locked.

    Args:
        busy: the error when another process holds it, from its pid.
        refused: the error when the file cannot be written, from its path and the reason.
        wait, poll_s, sleep: as `exclusive`.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise refused(path, error.strerror or str(error)) from error
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not wait:
                    raise busy(_holder(path)) from None
                sleep(poll_s)
        try:
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps({"pid": os.getpid()}).encode(), 0)
        except OSError as error:
            raise refused(path, error.strerror or str(error)) from error
        yield
    finally:
        os.close(handle)  # ends the lock; the file stays, since removing it would race with another holder


def exclusive_port(port: str, cache: Path | None = None) -> AbstractContextManager[Path]:
    """Hold a board's lock by the port that it is on: while one measures, another must not flash it.

    Args:
        port: a device or a URL.
        cache: folder of locks; by default the user's cache folder.

    Raises:
        DeviceError: see `exclusive`.
    """
    name = re.sub(r"[^A-Za-z0-9]+", "-", port).strip("-")
    return exclusive((cache or cache_folder()) / "ports" / name)


def _holder(path: Path) -> str:
    try:
        return str(json.loads(path.read_bytes())["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return "(unknown)"  # it has just taken the lock and not written its pid yet
