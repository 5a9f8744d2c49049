"""One sshd for the tests of this folder, and models small enough to be measured in milliseconds."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from profilers.profile import operator_writer
from targets.session import Job
from targets.timing import Settings
from tests.targets.ssh.sshd import WHY_NOT, Sshd, sshd
from toolchain.graph import Operator

pytest.importorskip("paramiko")
# Enough to exercise the protocol; the figures mean nothing.
QUICK = Settings(samples=6, fewest=2, inner_us=20, group=3, retries=0, pause_s=0, settle=1)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    if WHY_NOT:
        pytest.skip(WHY_NOT)
    with sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture
def url(server: Sshd) -> str:
    """The board, with the Python that runs the tests: it has the engines."""
    return f"{server.url}&python={sys.executable}"


@pytest.fixture(scope="session")
def jobs() -> list[Job]:
    write = operator_writer("tflite")
    operators = [Operator.parse(f"conv2d 8x8x{c}->8x8x8 k3x3 s1x1 same relu int8") for c in range(1, 9)]
    return [Job(op.signature, write(op)) for op in operators]


@pytest.fixture
def board_home(server: Sshd) -> Path:
    return server.home
