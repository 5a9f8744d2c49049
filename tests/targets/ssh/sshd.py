"""A real sshd on loopback, with throwaway keys, for tests. Runs as whoever runs the tests."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from getpass import getuser
from pathlib import Path

SSHD = shutil.which("sshd") or ("/usr/sbin/sshd" if Path("/usr/sbin/sshd").exists() else None)
KEYGEN = shutil.which("ssh-keygen")
WHY_NOT = "" if SSHD and KEYGEN else "sshd is not installed (apt-get install openssh-server)"


@dataclass(frozen=True)
class Sshd:
    """A running server.

    Attributes:
        port: on 127.0.0.1.
        folder: its files: host key, user key, known_hosts.
        home: the home folder that logins see.
    """

    port: int
    folder: Path
    home: Path

    @property
    def url(self) -> str:
        """The target's URL without engine options."""
        return (
            f"ssh://{getuser()}@127.0.0.1:{self.port}?identity={self.folder / 'user'}"
            f"&known_hosts={self.folder / 'known_hosts'}&config={self.folder / 'config'}"
        )

    @property
    def host_key(self) -> str:
        """Type and base64 of the host's public key."""
        return " ".join((self.folder / "host.pub").read_text().split()[:2])


def keygen(path: Path) -> None:
    """A fresh ed25519 key pair without passphrase."""
    assert KEYGEN
    path.unlink(missing_ok=True)
    subprocess.run(
        [KEYGEN, "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True, stdin=subprocess.DEVNULL
    )


@contextmanager
def sshd(
    folder: Path, *, environment: Mapping[str, str] | None = None, options: tuple[str, ...] = ()
) -> Iterator[Sshd]:
    """Start a server; it is stopped, with all its sessions, at the end.

    Args:
        folder: for its files; made if it does not exist.
        environment: set for logins; HOME decides where the agent goes.
        options: more lines of sshd_config.
    """
    assert SSHD
    folder.mkdir(parents=True, exist_ok=True)
    home = folder / "home"
    home.mkdir(exist_ok=True)
    for name in ("host", "user"):
        if not (folder / name).exists():
            keygen(folder / name)
    (folder / "authorized_keys").write_text((folder / "user.pub").read_text())
    (folder / "config").write_text("")
    port = free_port()
    (folder / "known_hosts").write_text(
        f"[127.0.0.1]:{port} {' '.join((folder / 'host.pub').read_text().split()[:2])}\n"
    )
    variables = {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache"), **(environment or {})}
    lines = [
        f"Port {port}",
        "ListenAddress 127.0.0.1",
        f"HostKey {folder / 'host'}",
        f"AuthorizedKeysFile {folder / 'authorized_keys'}",
        f"PidFile {folder / 'sshd.pid'}",
        "StrictModes no",
        "UsePAM no",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        # sshd goes to the account's own home; the server's files must not depend on it.
        f"Subsystem sftp internal-sftp -d {home}",
        "SetEnv " + " ".join(f'"{key}={value}"' for key, value in variables.items()),
        *options,
    ]
    (folder / "sshd_config").write_text("\n".join(lines) + "\n")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # privilege separation wants it
    log = (folder / "sshd.log").open("wb")
    process = subprocess.Popen(
        [SSHD, "-D", "-e", "-f", str(folder / "sshd_config")],
        stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
    )  # fmt: skip
    try:
        _wait(process, port, folder / "sshd.log")
        yield Sshd(port, folder, home)
    finally:
        process.terminate()
        process.wait(timeout=10)
        log.close()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    for _ in range(200):
        if process.poll() is not None:
            raise RuntimeError(f"sshd ended: {log.read_text()}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise RuntimeError(f"sshd does not listen: {log.read_text()}")


def python_that(tmp_path: Path, code: str, *options: str) -> str:
    """A Python on the "board" that runs `code` before the agent."""
    prelude = tmp_path / "prelude.py"
    prelude.write_text(
        f"import runpy, sys\nsys.path.insert(0, sys.argv[1])\n{code}\n"
        "runpy.run_path(sys.argv[1], run_name='__main__')\n"
    )
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} {" ".join(options)} {prelude} "$@"\n')
    script.chmod(0o755)
    return str(script)
