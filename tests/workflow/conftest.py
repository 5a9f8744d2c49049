"""Stages run against the real engine of this CPU, in a cache of their own, and time as briefly as they can."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from targets import host
from targets.timing import Settings
from tests.workflow.projects import make_project, virtual_boards
from toolchain.workflow import exported
from toolchain.workflow.project import open_project
from toolchain.workflow.run import run


def be_quick(patch: pytest.MonkeyPatch, cache: Path) -> None:
    """Few short samples: no test here looks at a time."""
    patch.setenv("XDG_CACHE_HOME", str(cache))
    patch.setattr(host, "Settings", lambda: Settings(samples=3, fewest=1, inner_us=20, retries=0, settle=1))


@pytest.fixture(scope="package", autouse=True)
def _firmware_built_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Firmware is compiled once for all tests here; everything else is as in a user's hands."""
    if not virtual_boards():
        yield
        return
    from targets.mcu import session as boards

    kept, build = tmp_path_factory.getbasetemp() / "firmware-of-the-workflow", boards.firmware_of
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boards, "firmware_of", lambda url, cache=None: build(url, kept))
        yield


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    be_quick(monkeypatch, tmp_path / "cache")


@pytest.fixture
def without_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing ONNX files takes most of an export's time."""
    monkeypatch.setattr(exported, "ONNX_PACKAGES", ("a_package_that_is_not_there",))


@pytest.fixture(scope="session")
def _finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        be_quick(patch, folder / "cache")
        patch.setattr(exported, "ONNX_PACKAGES", ("a_package_that_is_not_there",))
        run(open_project(make_project(folder / "tiny")))
    return folder / "tiny"


@pytest.fixture
def finished(_finished: Path, tmp_path: Path, without_onnx: None) -> Path:
    """A copy of a project that has run to its end."""
    return Path(shutil.copytree(_finished, tmp_path / "tiny"))
