"""An SSH connection as the user's own `ssh` makes it: config file, agent, keys, jump hosts, and verified host keys.

A host key is never taken on trust. It must stand in a known_hosts file, or its fingerprint in the target's URL.
"""

from __future__ import annotations

import base64
import getpass
import hashlib
import os
import shlex
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from targets.session import unknown_option
from toolchain.errors import ConfigurationError, DeviceError

CONNECT_S: Final = 15.0
KEEPALIVE_S: Final = 15
PASSPHRASE: Final = (
    "BOARDFIT_SSH_PASSPHRASE"  # environment variable: of a key that is neither in an agent nor open
)
_MOST_JUMPS: Final = 8
# URL options of the connection; those of the engine are in targets/ssh/session.py.
OPTIONS: Final = {
    "identity": "FILE",
    "fingerprint": "SHA256:...",
    "jump": "USER@HOST",
    "config": "FILE",
    "known_hosts": "FILE",
    "python": "PATH",
}


@dataclass(frozen=True)
class Address:
    """Where and how to connect; fields that are empty come from the user's SSH configuration.

    Attributes:
        host: as written: a name, an address, or an alias of ~/.ssh/config.
        user, port: of the URL.
        identity: a private key's file.
        fingerprint: of the host key, `SHA256:...` as `ssh-keygen -l` prints it; replaces known_hosts.
        jump: `user@host:port`, several separated by commas.
        config: SSH configuration file; ~/.ssh/config by default.
        known_hosts: file of host keys; ~/.ssh/known_hosts (and the system's) by default.
        python: Python on the device; by default the agent's own environment there, else python3.
    """

    host: str
    user: str = ""
    port: int | None = None
    identity: str = ""
    fingerprint: str = ""
    jump: str = ""
    config: str = ""
    known_hosts: str = ""
    python: str = ""

    @property
    def label(self) -> str:
        """`user@host:port`, as far as given."""
        return f"{self.user}@" * bool(self.user) + self.host + (f":{self.port}" if self.port else "")


def parse_address(url: str, others: tuple[str, ...] = ()) -> tuple[Address, dict[str, str]]:
    """The address in an `ssh://` URL, and the options that are not the connection's.

    Args:
        url: `ssh://[user@]host[:port][?option=value&...]`.
        others: options that the caller knows.

    Raises:
        ConfigurationError: no host, a password, a path, an unknown option.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigurationError(f"{url!r} is not a URL: {error}", remedy=_EXAMPLE) from error
    if parts.scheme != "ssh" or not parts.hostname or parts.path.strip("/") or parts.fragment:
        raise ConfigurationError(f"{url!r} is not an address of a board", remedy=_EXAMPLE)
    if parts.password is not None:
        raise ConfigurationError(
            "a password in a URL ends in logs and histories",
            remedy="use a key: ssh-keygen, then ssh-copy-id USER@HOST",
        )
    own: dict[str, str] = {}
    rest: dict[str, str] = {}
    for key, value in parse_qsl(parts.query, keep_blank_values=True):
        if key in OPTIONS:
            own[key] = value
        elif key in others:
            rest[key] = value
        else:
            raise unknown_option("ssh://", f"{key}={value}", {**OPTIONS, **dict.fromkeys(others, "...")})
    # urlsplit lowers host names, which is right for DNS and wrong for an alias of the user's configuration.
    netloc = parts.netloc.rpartition("@")[2]
    host = netloc if ":" not in netloc or netloc.startswith("[") else netloc.partition(":")[0]
    if host.startswith("["):
        host = parts.hostname
    if host.startswith("-") or (parts.username or "").startswith("-"):
        raise ConfigurationError(f"{host!r} is not a host name", remedy=_EXAMPLE)
    return Address(host=unquote(host), user=unquote(parts.username or ""), port=port, **own), rest


_EXAMPLE: Final = "write for example ssh://pi@raspberrypi.local"


def fingerprint(key: bytes) -> str:
    """The fingerprint of a public host key as OpenSSH prints it. Source: ssh-keygen(1), option -l."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")


class Connection:
    """An open connection. Use `connect`; it closes this, and what it jumped over, whatever happens."""

    def __init__(self, client: Any, under: list[Any], address: Address) -> None:
        self._client = client
        self._under = under
        self.address = address

    @property
    def alive(self) -> bool:
        """False once either side has noticed that the connection is gone."""
        transport = self._client.get_transport()
        return bool(transport is not None and transport.is_active())

    def start(self, *words: str) -> Any:
        """Start a program and give its channel. The words are quoted: none of them is read by the remote shell.

        Raises:
            DeviceError: the connection is gone.
        """
        import paramiko

        try:
            channel = self._client.get_transport().open_session(timeout=CONNECT_S)
            channel.exec_command(" ".join(shlex.quote(word) for word in words))
        except (paramiko.SSHException, EOFError, OSError, AttributeError) as error:
            raise lost(self.address, error) from error
        return channel

    def sftp(self) -> Any:
        """A file transfer client; close it after use.

        Raises:
            DeviceError: the connection is gone, or the device has no sftp.
        """
        import paramiko

        try:
            return self._client.open_sftp()
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise DeviceError(
                f"{self.address.label} offers no file transfer: {error}",
                remedy="install openssh-sftp-server on the device",
            ) from error

    def close(self) -> None:
        """Close; twice does no harm."""
        for client in (self._client, *self._under):
            with suppress(Exception):  # a connection that is gone cannot be closed politely
                client.close()


@contextmanager
def connected(address: Address) -> Iterator[Connection]:
    """`connect`, closed at the end."""
    connection = connect(address)
    try:
        yield connection
    finally:
        connection.close()


def connect(address: Address) -> Connection:
    """Connect and authenticate.

    Raises:
        DeviceError: paramiko is not installed, the host does not answer, its key is unknown or has changed, or no key
            of the user opens it. The message says which, the remedy how to go on.
        ConfigurationError: a file that the address names does not exist.
    """
    try:
        import paramiko
    except ImportError as error:
        raise DeviceError(f"SSH needs paramiko: {error}", remedy="pip install 'boardfit[ssh]'") from error
    under: list[Any] = []
    try:
        client = _connect(paramiko, address, under, 0)
    except BaseException:
        for each in reversed(under):
            each.close()
        raise
    return Connection(client, under, address)


def _connect(paramiko: Any, address: Address, under: list[Any], depth: int) -> Any:
    if depth > _MOST_JUMPS:
        raise ConfigurationError(
            f"more than {_MOST_JUMPS} jump hosts", remedy="check ProxyJump in ~/.ssh/config"
        )
    known = _configuration(paramiko, address)
    host = str(known.get("hostname", address.host))
    port = address.port or int(known.get("port", 22))
    user = address.user or str(known.get("user", getpass.getuser()))
    asked = replace(address, user=user, port=port)
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(_policy(paramiko, asked))
    if not address.fingerprint:
        _load_known_hosts(client, address, known)
    jump = address.jump or str(known.get("proxyjump", ""))
    through: Any = None
    if jump and jump.lower() != "none":
        through = _jump(paramiko, address, jump, (host, port), under, depth)
    elif str(known.get("proxycommand", "none")).lower() != "none":
        through = paramiko.ProxyCommand(known["proxycommand"])  # of the user's own configuration
    identities = [address.identity] if address.identity else list(known.get("identityfile", []))
    for name in identities:
        if address.identity and not Path(name).expanduser().is_file():
            raise ConfigurationError(f"no key file {name}", remedy="check `identity` in the target's URL")
    try:
        client.connect(
            host,
            port=port,
            username=user,
            key_filename=[
                str(Path(name).expanduser()) for name in identities if Path(name).expanduser().is_file()
            ]
            or None,
            passphrase=os.environ.get(PASSPHRASE) or None,
            look_for_keys=not address.identity,
            sock=through,
            timeout=CONNECT_S,
            banner_timeout=CONNECT_S,
            auth_timeout=CONNECT_S,
        )
    except paramiko.BadHostKeyException as error:
        client.close()
        raise DeviceError(
            f"the host key of {asked.label} has changed: known {fingerprint(error.expected_key.asbytes())}, "
            f"offered {fingerprint(error.key.asbytes())}",
            remedy="if you set the board up anew: ssh-keygen -R "
            + (host if port == 22 else f"[{host}]:{port}")
            + ", then connect once with ssh; otherwise somebody else answers",
        ) from error
    except paramiko.PasswordRequiredException as error:
        client.close()
        raise DeviceError(
            f"the key for {asked.label} has a passphrase", remedy=f"run ssh-add, or set {PASSPHRASE}"
        ) from error
    except paramiko.AuthenticationException as error:
        client.close()
        raise DeviceError(
            f"{asked.label} accepts none of your keys",
            remedy=f"ssh-copy-id -p {port} {user}@{host}, or name a key: ?identity=FILE",
        ) from error
    except (paramiko.SSHException, EOFError, OSError) as error:
        client.close()
        if isinstance(error, _HostKeyError):
            raise DeviceError(error.text, remedy=error.remedy) from error
        raise DeviceError(
            f"cannot reach {asked.label}: {_why(error)}",
            remedy="check that the board is on, in the same network, and that SSH is enabled on it",
        ) from error
    transport = client.get_transport()
    transport.set_keepalive(KEEPALIVE_S)
    return client


def _jump(
    paramiko: Any, address: Address, jump: str, to: tuple[str, int], under: list[Any], depth: int
) -> Any:
    """A channel to `to` through the last of the jump hosts, which is reached through those before it."""
    before, _, last = jump.rpartition(",")
    user, _, place = last.rpartition("@")
    host, _, port = place.partition(":")
    if not host or (port and not port.isdecimal()):
        raise ConfigurationError(f"{last!r} is not a jump host", remedy="write USER@HOST:PORT")
    hop = Address(
        host=host, user=user, port=int(port) if port else None, identity=address.identity,
        jump=before, config=address.config, known_hosts=address.known_hosts,
    )  # fmt: skip
    client = _connect(paramiko, hop, under, depth + 1)
    under.append(client)
    try:
        return client.get_transport().open_channel("direct-tcpip", to, ("127.0.0.1", 0), timeout=CONNECT_S)
    except (paramiko.SSHException, EOFError, OSError) as error:
        raise DeviceError(
            f"the jump host {hop.label} does not reach {to[0]}:{to[1]}: {error}",
            remedy="check that it may forward: AllowTcpForwarding in its sshd_config",
        ) from error


def _configuration(paramiko: Any, address: Address) -> dict[str, Any]:
    path = Path(address.config or "~/.ssh/config").expanduser()
    if not path.is_file():
        if address.config:
            raise ConfigurationError(
                f"no SSH configuration {path}", remedy="check `config` in the target's URL"
            )
        return {}
    try:
        return dict(paramiko.SSHConfig.from_path(str(path)).lookup(address.host))
    except (paramiko.SSHException, OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read {path}: {error}") from error


def _load_known_hosts(client: Any, address: Address, known: dict[str, Any]) -> None:
    standard = str(known.get("userknownhostsfile", "~/.ssh/known_hosts ~/.ssh/known_hosts2")).split()
    files = [address.known_hosts] if address.known_hosts else [*standard, "/etc/ssh/ssh_known_hosts"]
    for name in files:
        path = Path(name).expanduser()
        if path.is_file():
            try:
                client.load_system_host_keys(str(path))
            except (OSError, ValueError) as error:
                raise ConfigurationError(f"cannot read {path}: {error}") from error
        elif address.known_hosts:
            raise ConfigurationError(
                f"no file of host keys {path}", remedy="check `known_hosts` in the target's URL"
            )


class _HostKeyError(OSError):
    def __init__(self, text: str, remedy: str) -> None:
        super().__init__(text)
        self.text = text
        self.remedy = remedy


def _policy(paramiko: Any, address: Address) -> Any:
    """What to do with a host key that stands in no file: compare with the given fingerprint, or refuse."""

    class Policy(paramiko.MissingHostKeyPolicy):  # type: ignore[misc]
        def missing_host_key(self, client: Any, hostname: str, key: Any) -> None:
            offered = fingerprint(key.asbytes())
            if address.fingerprint == offered:
                return
            if address.fingerprint:
                raise _HostKeyError(
                    f"{address.label} offers the host key {offered}, the URL asks for {address.fingerprint}",
                    "if you set the board up anew, put the new fingerprint there; otherwise somebody else answers",
                )
            port = "" if address.port in (None, 22) else f"-p {address.port} "
            raise _HostKeyError(
                f"the host key of {address.label} is unknown: {key.get_name()} {offered}",
                "compare it with `ssh-keygen -l -f /etc/ssh/ssh_host_ed25519_key.pub` on the board; then accept "
                f"it with `ssh {port}{address.user}@{address.host}`, or put fingerprint={offered} "
                "into the target's URL",
            )

    return Policy()


def _why(error: BaseException) -> str:
    if isinstance(error, socket.gaierror):
        return "there is no such host"
    if isinstance(error, TimeoutError):
        return f"no answer within {CONNECT_S:.0f} s"
    text = str(error).strip()
    return text or type(error).__name__


def lost(address: Address, error: BaseException) -> DeviceError:
    """The error for a connection that ended."""
    return DeviceError(
        f"the connection to {address.label} is lost: {_why(error)}",
        remedy="run the command again: what was measured is kept",
    )
