"""A cable between client and sshd that can be cut, slowed down and pulled out: a TCP proxy on loopback."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Cable:
    """Forwards connections to a port.

    Args:
        to: port on 127.0.0.1.
        cut_after: bytes from the server after which a connection is cut, one number per connection; when they are used
            up, connections live.
        cut_after_sent: the same for bytes to the server.
        delay_s: wait before each forwarded part.
        part_bytes: most bytes per part.
    """

    def __init__(
        self,
        to: int,
        *,
        cut_after: list[int] | None = None,
        cut_after_sent: list[int] | None = None,
        delay_s: float = 0.0,
        part_bytes: int = 65536,
    ) -> None:
        self._to = to
        self._cuts = list(cut_after or [])
        self._cuts_sent = list(cut_after_sent or [])
        self._delay_s = delay_s
        self._part = part_bytes
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.connections = 0
        self._ended = False
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._ended = True
        self._listener.close()

    def _accept(self) -> None:
        while not self._ended:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            back = self._cuts.pop(0) if self._cuts else None
            sent = self._cuts_sent.pop(0) if self._cuts_sent else None
            threading.Thread(target=self._forward, args=(near, back, sent), daemon=True).start()

    def _forward(self, near: socket.socket, back: int | None, sent: int | None) -> None:
        with near, socket.create_connection(("127.0.0.1", self._to)) as far, suppress(OSError):
            while not self._ended:
                ready, _, _ = select.select([near, far], [], [], 0.2)
                for source in ready:
                    left = back if source is far else sent
                    data = source.recv(self._part if left is None else min(self._part, left))
                    if not data:
                        return
                    time.sleep(self._delay_s)
                    (far if source is near else near).sendall(data)
                    if left is not None:
                        left -= len(data)
                        if not left:
                            return
                        if source is far:
                            back = left
                        else:
                            sent = left


@contextmanager
def cable(
    to: int,
    *,
    cut_after: list[int] | None = None,
    cut_after_sent: list[int] | None = None,
    delay_s: float = 0.0,
    part_bytes: int = 65536,
) -> Iterator[Cable]:
    """A `Cable`, pulled out at the end."""
    made = Cable(
        to, cut_after=cut_after, cut_after_sent=cut_after_sent, delay_s=delay_s, part_bytes=part_bytes
    )
    try:
        yield made
    finally:
        made.close()
