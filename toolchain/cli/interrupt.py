"""Ctrl-C ends a command within a second, wherever it is.

Python hears a signal only between two of its own instructions, and a torch operation, an emulated board or a C solver
can take longer; others swallow the exception (callbacks, destructors). So a thread of its own hears it, too: what has
not ended by itself in time is ended hard. That loses nothing: rows and files are written so that `kill -9` does them no
harm.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final

EXIT_INTERRUPTED: Final = 130
PATIENCE_S: Final = 0.7  # for a command to end by itself, with its files closed and its device given back
_SHOW_CURSOR: Final = b"\x1b[?25h"


class Interruptible:
    """Listens for Ctrl-C while a command runs. A context manager; of use in the main thread only, elsewhere inert.

    Args:
        message: what is said when the command had to be ended hard; called at that moment.
        to_the_end: the process is this command's alone: it is watched until it is gone, also behind the context.

    Attributes:
        arrived: Ctrl-C was pressed; whatever error followed is a consequence.
    """

    def __init__(self, message: Callable[[], str], *, to_the_end: bool) -> None:
        self.arrived = False
        self._message = message
        self._to_the_end = to_the_end
        self._told = threading.Lock()
        self._active = False

    def __enter__(self) -> Interruptible:
        here = threading.current_thread() is threading.main_thread()
        # Who started us in the background (`boardfit run &` in a script) wants Ctrl-C ignored: so it stays.
        if not here or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            return self
        self._active = True
        self._ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        self._theirs = theirs
        self._old_fd = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        self._old_hook = sys.unraisablehook
        sys.unraisablehook = self._unraisable
        signal.signal(signal.SIGINT, self._heard)
        threading.Thread(target=self._watch, name="interrupt", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._active:
            return
        if self._to_the_end:
            # The result stands. What is left is Python's own end, which a late Ctrl-C would fill with tracebacks.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            return
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.set_wakeup_fd(self._old_fd)
        sys.unraisablehook = self._old_hook
        self._theirs.close()  # the thread reads the end of it

    def tell(self, write: Callable[[str], object]) -> None:
        """Say that the command was interrupted, once."""
        if self._told.acquire(blocking=False):
            with contextlib.suppress(OSError):
                write(self._message() + "\n")

    def _heard(self, number: int, frame: FrameType | None) -> None:
        self.arrived = True
        while frame is not None:
            # An exception inside torch's C++ initialisation aborts the process, and nothing is open yet.
            if frame.f_code.co_filename.startswith("<frozen importlib"):
                self._end_hard()
            frame = frame.f_back
        raise KeyboardInterrupt

    def _end_hard(self) -> None:
        if os.isatty(2):
            os.write(2, _SHOW_CURSOR if self._told.locked() else _SHOW_CURSOR + b"\n")
        self.tell(lambda text: os.write(2, text.encode(errors="backslashreplace")))
        end_children()
        os._exit(EXIT_INTERRUPTED)

    def _unraisable(self, found: Any) -> None:
        if not self.arrived:
            self._old_hook(found)

    def _watch(self) -> None:
        number = b"?"
        while number and number[0] != signal.SIGINT:
            number = self._ours.recv(1)
        if number:
            # A second Ctrl-C does not wait; nothing is read when the command ended, in a process that goes on.
            self._ours.settimeout(PATIENCE_S)
            with contextlib.suppress(TimeoutError):
                number = self._ours.recv(1)
        if number:
            self._end_hard()
        self._ours.close()


def end_children() -> None:
    """Kill what this process has started, with what that has started (where /proc tells, so on Linux)."""
    found: list[int] = []
    waiting = [os.getpid()]
    while waiting:
        for task in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
            with contextlib.suppress(OSError, ValueError):
                children = [int(child) for child in task.read_text().split()]
                found += children
                waiting += children
    for child in found:
        with contextlib.suppress(OSError):
            os.kill(child, signal.SIGKILL)
