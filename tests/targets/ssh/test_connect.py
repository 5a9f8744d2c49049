from __future__ import annotations

import shutil
import subprocess
import sys
from getpass import getuser
from pathlib import Path

import pytest

from targets.ssh.connect import Address, connect, connected, fingerprint, parse_address
from targets.ssh.session import open_session
from tests.targets.ssh.sshd import KEYGEN, Sshd, free_port, keygen, sshd
from toolchain.errors import ConfigurationError, DeviceError


def address(server: Sshd, **changes: str) -> Address:
    found, _ = parse_address(server.url)
    return Address(**{**{name: getattr(found, name) for name in Address.__dataclass_fields__}, **changes})


def test_the_parts_of_a_url() -> None:
    found, rest = parse_address("ssh://pi@Kitchen:2222?identity=~/.ssh/board&threads=4", ("threads",))
    assert found == Address("Kitchen", "pi", 2222, identity="~/.ssh/board")  # aliases keep their capitals
    assert rest == {"threads": "4"}


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("ssh://", "not an address"),
        ("ssh://pi:secret@host", "password"),
        ("ssh://host/folder", "not an address"),
        ("ssh://host:port", "not a URL"),
        ("ssh://-oProxyCommand=x", "not a host name"),
        ("ssh://host?nonsense=1", "no option"),
    ],
)
def test_wrong_urls_say_what_is_wrong(url: str, word: str) -> None:
    with pytest.raises(ConfigurationError, match=word) as caught:
        parse_address(url)
    assert caught.value.remedy


def test_the_fingerprint_is_openssh_s(server: Sshd) -> None:
    assert KEYGEN
    said = subprocess.run(
        [KEYGEN, "-l", "-f", str(server.folder / "host.pub")], capture_output=True, text=True, check=True
    )
    import base64

    assert said.stdout.split()[1] == fingerprint(base64.b64decode(server.host_key.split()[1]))


def test_words_reach_the_program_as_they_are(server: Sshd) -> None:
    words = ["a b", "$HOME", "; echo no", "'", "`id`", "*"]
    with connected(address(server)) as connection:
        channel = connection.start(sys.executable, "-c", "import sys; print(sys.argv[1:])", *words)
        assert channel.makefile("rb").read().decode().strip() == repr(words)


def test_an_unknown_host_key_is_refused_with_its_fingerprint(server: Sshd, tmp_path: Path) -> None:
    (tmp_path / "none").write_text("")
    with pytest.raises(DeviceError, match="unknown: ssh-ed25519 SHA256:") as caught:
        connect(address(server, known_hosts=str(tmp_path / "none")))
    assert "fingerprint=SHA256:" in caught.value.remedy
    assert f"-p {server.port}" in caught.value.remedy


def test_a_fingerprint_in_the_url_replaces_known_hosts(server: Sshd, tmp_path: Path) -> None:
    import base64

    right = fingerprint(base64.b64decode(server.host_key.split()[1]))
    with connected(address(server, known_hosts="", fingerprint=right)) as connection:
        assert connection.alive
    with pytest.raises(DeviceError, match="the URL asks for SHA256:other"):
        connect(address(server, known_hosts="", fingerprint="SHA256:other"))


def test_a_changed_host_key_is_refused(server: Sshd, tmp_path: Path) -> None:
    keygen(tmp_path / "other")
    other = " ".join((tmp_path / "other.pub").read_text().split()[:2])
    (tmp_path / "known").write_text(f"[127.0.0.1]:{server.port} {other}\n")
    with pytest.raises(DeviceError, match="has changed") as caught:
        connect(address(server, known_hosts=str(tmp_path / "known")))
    assert f"ssh-keygen -R [127.0.0.1]:{server.port}" in caught.value.remedy


def test_a_key_that_the_board_does_not_know(
    server: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    keygen(tmp_path / "stranger")
    with pytest.raises(DeviceError, match="accepts none of your keys") as caught:
        connect(address(server, identity=str(tmp_path / "stranger")))
    assert "ssh-copy-id" in caught.value.remedy


def test_a_key_with_a_passphrase(server: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    assert KEYGEN
    locked = tmp_path / "locked"
    shutil.copy(server.folder / "user", locked)
    locked.chmod(0o600)
    subprocess.run([KEYGEN, "-q", "-p", "-f", str(locked), "-P", "", "-N", "open sesame"], check=True)
    monkeypatch.delenv("BOARDFIT_SSH_PASSPHRASE", raising=False)
    with pytest.raises(DeviceError, match="has a passphrase") as caught:
        connect(address(server, identity=str(locked)))
    assert "BOARDFIT_SSH_PASSPHRASE" in caught.value.remedy
    monkeypatch.setenv("BOARDFIT_SSH_PASSPHRASE", "open sesame")
    with connected(address(server, identity=str(locked))) as connection:
        assert connection.alive


def test_nobody_there(server: Sshd) -> None:
    found = address(server)
    with pytest.raises(DeviceError, match="cannot reach") as caught:
        connect(Address("127.0.0.1", "x", free_port(), config=found.config, known_hosts=found.known_hosts))
    assert caught.value.remedy


def test_a_file_that_the_url_names_and_that_does_not_exist(server: Sshd) -> None:
    for name in ("identity", "config", "known_hosts"):
        with pytest.raises(ConfigurationError, match="no "):
            connect(address(server, **{name: "/nowhere/at/all"}))


def test_the_users_configuration_is_respected(server: Sshd, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(
        f"Host board\n  HostName 127.0.0.1\n  Port {server.port}\n  User {getuser()}\n"
        f"  IdentityFile {server.folder / 'user'}\n  UserKnownHostsFile {server.folder / 'known_hosts'}\n"
    )
    with connected(Address("board", config=str(config))) as connection:
        assert connection.alive


def test_through_a_jump_host(server: Sshd, tmp_path: Path) -> None:
    with sshd(tmp_path / "second") as behind:
        known = tmp_path / "known"
        known.write_text(
            (server.folder / "known_hosts").read_text() + (behind.folder / "known_hosts").read_text()
        )
        config = tmp_path / "config"
        config.write_text(
            f"Host gate\n  HostName 127.0.0.1\n  Port {server.port}\n  User {getuser()}\n"
            f"  IdentityFile {server.folder / 'user'}\n"
            f"Host board\n  HostName 127.0.0.1\n  Port {behind.port}\n  User {getuser()}\n"
            f"  IdentityFile {behind.folder / 'user'}\n  ProxyJump gate\n"
        )
        with connected(Address("board", config=str(config), known_hosts=str(known))) as connection:
            assert connection.alive
        with pytest.raises(DeviceError, match="unknown"):  # the jump host's key is verified as well
            connect(Address("board", config=str(config), known_hosts=str(behind.folder / "known_hosts")))


def test_without_paramiko_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "paramiko", None)
    with pytest.raises(DeviceError, match="paramiko") as caught:
        open_session("ssh://pi@board")
    assert "boardfit[ssh]" in caught.value.remedy
