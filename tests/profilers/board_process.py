"""A board on the end of a line, as a process of its own that can be killed: a virtual one, behind a socket.

Says its TCP port. Each byte `r` on standard input presses the board's reset button.
"""

from __future__ import annotations

import os
import socket
import sys

from targets.mcu.virtual import open_virtual


def main() -> None:
    board = open_virtual(sys.argv[1])
    os.set_blocking(sys.stdin.fileno(), False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        sys.stdout.write(f"{server.getsockname()[1]}\n")
        sys.stdout.flush()
        while True:
            with server.accept()[0] as line:
                serve(board, line)


def serve(board: object, line: socket.socket) -> None:
    """One host, until it goes."""
    line.settimeout(0.005)
    while True:
        try:
            data = line.recv(1 << 16)
            if not data:
                return
            board.write(data)  # type: ignore[attr-defined]
        except TimeoutError:
            pass
        if sys.stdin.buffer.read(1) == b"r":
            board.machine.reset()  # type: ignore[attr-defined]
        line.sendall(board.read(board.in_waiting))  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
