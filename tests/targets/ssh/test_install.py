from __future__ import annotations

import sys

import pytest

from targets.ssh.connect import connected, parse_address
from targets.ssh.install import install, packages, run
from tests.targets.ssh.sshd import Sshd
from toolchain.errors import ConfigurationError, DeviceError


@pytest.mark.parametrize(
    ("runtime", "machine", "python", "wide", "first"),
    [
        ("litert", "aarch64", (3, 11), True, "ai-edge-litert"),
        ("litert", "x86_64", (3, 13), True, "ai-edge-litert"),
        ("litert", "armv7l", (3, 11), False, "tflite-runtime==2.14.0"),
        (
            "litert",
            "aarch64",
            (3, 11),
            False,
            "tflite-runtime==2.14.0",
        ),  # a 32-bit system under a 64-bit kernel
        ("onnxruntime", "aarch64", (3, 12), True, "onnxruntime"),
    ],
)
def test_what_is_installed_where(
    runtime: str, machine: str, python: tuple[int, int], wide: bool, first: str
) -> None:
    wanted = packages(runtime, machine, python, wide)
    assert wanted[0] == first
    assert any(name.startswith("numpy") for name in wanted)


@pytest.mark.parametrize(
    ("runtime", "python", "wide", "word"),
    [
        ("litert", (3, 9), True, "agent needs 3.11"),
        ("litert", (3, 13), False, "no LiteRT for a 32-bit"),
        ("onnxruntime", (3, 11), False, "no ONNX Runtime for a 32-bit"),
    ],
)
def test_what_does_not_exist_is_said_before_anything_is_tried(
    runtime: str, python: tuple[int, int], wide: bool, word: str
) -> None:
    with pytest.raises(ConfigurationError, match=word) as caught:
        packages(runtime, "armv7l", python, wide)
    assert caught.value.remedy


def test_a_program_on_the_board_is_heard_line_by_line(server: Sshd) -> None:
    lines: list[str] = []
    with connected(parse_address(server.url)[0]) as connection:
        said = run(connection, (sys.executable, "-c", "print('one'); print('two')"), say=lines.append)
    assert lines == ["one", "two"]
    assert said == "one\ntwo\n"


def test_a_program_that_fails_gives_its_last_line(server: Sshd) -> None:
    code = "import sys; print('before'); sys.exit('No module named venv')"
    with (
        connected(parse_address(server.url)[0]) as connection,
        pytest.raises(DeviceError, match="No module named venv") as caught,
    ):
        run(connection, (sys.executable, "-c", code), say=lambda line: None)
    assert "python3-venv" in caught.value.remedy


def test_a_board_without_python_is_said(server: Sshd) -> None:
    with pytest.raises(DeviceError, match="/nowhere/python"):
        install(f"{server.url}&python=/nowhere/python")
