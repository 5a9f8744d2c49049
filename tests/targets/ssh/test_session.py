"""Sessions with a real sshd and the real agent, also when cable, disk, Python or engine fail."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from profilers.profile import anchor_model, operator_writer
from targets.session import Job, describe, model_format, open_target
from targets.ssh import session as ssh_session
from targets.ssh.bundle import agent_file, agent_name
from targets.ssh.session import SshSession, open_session
from tests.targets.ssh.cable import cable
from tests.targets.ssh.conftest import QUICK
from tests.targets.ssh.sshd import Sshd, python_that, sshd
from toolchain.errors import BoardfitError, ConfigurationError, DeviceError, ModelFileError
from toolchain.graph import Operator
from toolchain.measurement import Evidence


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh_session, "RECONNECT_S", (0.05, 0.1, 0.2))


def open_ssh(url: str) -> SshSession:
    return open_session(url, anchor=anchor_model("tflite"))


def test_the_agent_is_the_same_file_for_the_same_sources() -> None:
    assert agent_file() == agent_file.__wrapped__()
    assert agent_name().startswith("agent-")


def test_what_a_board_measures_is_a_measurement_like_any_other(url: str, jobs: list[Job]) -> None:
    with open_ssh(url) as board:
        seen = []
        results = list(
            board.measure(jobs, settings=QUICK, progress=lambda done, total: seen.append((done, total)))
        )
    assert sorted(r.key for r in results) == sorted(job.key for job in jobs)
    assert seen == [(n, len(jobs)) for n in range(1, len(jobs) + 1)]
    for result in results:
        assert result.measurement is not None
        assert result.measurement.evidence is Evidence.HOST_WALL
        assert result.measurement.metric == "latency_us"
        assert result.measurement.value > 0
        assert "anchor_ratio" in result.measurement.details
    fields = board.stack.as_dict()
    assert fields["target"] == "ssh:litert"
    assert fields["runtime"] == "litert"


def test_a_refused_model_is_a_result_with_its_reason(url: str, jobs: list[Job]) -> None:
    with open_ssh(url) as board:
        results = {
            r.key: r
            for r in board.measure([Job("broken", b"no model at all, really"), jobs[0]], settings=QUICK)
        }
    assert results["broken"].measurement is None
    assert "TFL3" in results["broken"].failure
    assert results[jobs[0].key].measurement is not None


def test_outputs_are_those_of_the_same_engine_here(url: str, jobs: list[Job]) -> None:
    x = np.random.default_rng(0).integers(-128, 128, (5, 8, 8, 1), np.int8)
    with open_ssh(url) as board, open_target("cpu:litert") as here:
        assert np.array_equal(board.run(jobs[0].model, x), here.run(jobs[0].model, x))
        assert np.array_equal(board.run(jobs[0].model, x[:2]), here.run(jobs[0].model, x[:2]))  # sent once
        with pytest.raises(ModelFileError, match=r"127\.0\.0\.1"):
            board.run(b"rubbish", x)
        assert np.array_equal(board.run(jobs[0].model, x), here.run(jobs[0].model, x))


def test_a_url_tells_its_model_format_without_a_connection() -> None:
    assert model_format("ssh://nobody@nowhere") == "tflite"
    assert model_format("ssh://nobody@nowhere?runtime=onnxruntime") == "onnx"
    with pytest.raises(ConfigurationError, match="no runtime"):
        model_format("ssh://nobody@nowhere?runtime=magic")


def test_onnx_runtime_and_threads_are_part_of_the_stack(url: str) -> None:
    found = describe(f"{url}&runtime=onnxruntime&threads=2")
    assert found.model_format == "onnx"
    assert found.stack.as_dict()["threads"] == "2"
    assert found.stack.as_dict()["target"] == "ssh:onnxruntime"


@pytest.mark.parametrize("seed", range(4))
def test_a_cable_cut_at_random_moments_loses_and_doubles_nothing(
    server: Sshd, jobs: list[Job], seed: int
) -> None:
    rng = random.Random(seed)
    cuts = [rng.randrange(500, 12_000) for _ in range(3)]
    with cable(server.port, cut_after=[10**9, *cuts]) as line:
        board = open_ssh(_at(server, line.port))
        board._hang_up()  # the first connection was only to open; from here on each may be cut
        keys: list[str] = []
        try:
            for _ in range(6):  # a cut while connecting is an error; the next run goes on
                try:
                    board.open()
                    keys += [
                        r.key for r in board.measure([j for j in jobs if j.key not in keys], settings=QUICK)
                    ]
                except DeviceError:
                    continue
                if len(keys) == len(jobs):
                    break
        finally:
            board.close()
    assert sorted(keys) == sorted(job.key for job in jobs)


def _at(server: Sshd, port: int) -> str:
    """The board's URL behind another port of this machine."""
    known = server.folder / "known_hosts"
    known.write_text(known.read_text() + f"[127.0.0.1]:{port} {server.host_key}\n")
    return server.url.replace(f":{server.port}", f":{port}") + f"&python={sys.executable}"


@pytest.mark.parametrize("cut_after_sent", [6_000, 60_000, 150_000])
def test_a_cable_pulled_out_while_deploying_leaves_the_whole_old_model(
    server: Sshd, board_home: Path, jobs: list[Job], cut_after_sent: int
) -> None:
    place = f"boardfit/pulled-{cut_after_sent}"
    folder = board_home / place
    old, new = {"weights": b"old"}, {"weights": np.random.default_rng(0).bytes(200_000)}
    with cable(server.port, cut_after_sent=[10**9, cut_after_sent]) as line:
        url = _at(server, line.port)
        with open_ssh(url) as board:
            board.deploy(jobs[0].model, place, files=old)
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        with pytest.raises(DeviceError) as caught, open_ssh(url) as board:
            board.deploy(jobs[1].model, place, files=new)
        assert caught.value.remedy
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        with open_ssh(url) as board:
            board.deploy(jobs[1].model, place, files=new)
    assert (folder / "weights").read_bytes() == new["weights"]
    assert not [path for path in folder.parent.iterdir() if path.name.startswith(".")]


def test_a_home_that_cannot_be_written_is_said(server: Sshd, tmp_path: Path) -> None:
    with sshd(tmp_path / "sshd") as other:
        (other.home / ".cache").write_text("a file where a folder must be")  # root may write in any folder
        with pytest.raises(DeviceError, match="cannot copy the agent") as caught:
            open_ssh(f"{other.url}&python={sys.executable}")
    assert "check that you may write" in caught.value.remedy


def test_a_slow_link_is_only_slow(server: Sshd, jobs: list[Job]) -> None:
    with (
        cable(server.port, delay_s=0.004, part_bytes=1400) as line,
        open_ssh(_at(server, line.port)) as board,
    ):
        assert len(list(board.measure(jobs[:3], settings=QUICK))) == 3


def test_an_agent_that_is_killed_is_started_again(url: str, jobs: list[Job]) -> None:
    with open_ssh(url) as board:
        results = board.measure(jobs, settings=QUICK)
        keys = [next(results).key]
        os.kill(board.report["pid"], 9)
        keys += [r.key for r in results]
    assert sorted(keys) == sorted(job.key for job in jobs)


def test_an_agent_that_is_killed_between_two_batches_is_started_again(url: str, jobs: list[Job]) -> None:
    x = np.zeros((2, 8, 8, 1), np.int8)
    with open_ssh(url) as board:
        before = board.run(jobs[0].model, x)
        os.kill(board.report["pid"], 9)
        assert np.array_equal(board.run(jobs[0].model, x), before)


def test_a_board_that_comes_back_late_is_waited_for(
    url: str, jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.zeros((1, 8, 8, 1), np.int8)
    with open_ssh(url) as board:
        real, tries = ssh_session.connect, []

        def late(address: object) -> object:
            tries.append(address)
            if len(tries) < 3:
                raise DeviceError("cannot reach it")
            return real(board.address)

        monkeypatch.setattr(ssh_session, "connect", late)
        os.kill(board.report["pid"], 9)
        assert board.run(jobs[0].model, x).shape == (1, 8, 8, 8)
        assert len(tries) == 3


def test_a_model_that_crashes_the_engine_costs_only_itself(
    server: Sshd, jobs: list[Job], tmp_path: Path
) -> None:
    bad = jobs[3]
    (tmp_path / "bad").write_bytes(bad.model)
    python = python_that(
        tmp_path,
        "import os, pathlib, signal\n"
        "from targets.runners import litert\n"
        f"bad = pathlib.Path({str(tmp_path / 'bad')!r}).read_bytes()\n"
        "load = litert.LiteRtRunner.load\n"
        "litert.LiteRtRunner.load = lambda self, model: "
        "os.kill(os.getpid(), signal.SIGSEGV) if bytes(model) == bad else load(self, model)\n",
    )
    with open_ssh(f"{server.url}&python={python}") as board:
        results = {r.key: r for r in board.measure(jobs, settings=QUICK)}
    assert set(results) == {job.key for job in jobs}
    assert "crashed" in results[bad.key].failure
    assert all(r.measurement is not None for key, r in results.items() if key != bad.key)


def test_no_python_on_the_board(server: Sshd) -> None:
    with pytest.raises(DeviceError, match=r"agent on .* ended") as caught:
        open_ssh(f"{server.url}&python=/nowhere/python3")
    assert "doctor" in caught.value.remedy
    assert "/nowhere/python3" in str(caught.value)


def test_a_python_without_numpy_says_so(server: Sshd, tmp_path: Path) -> None:
    script = tmp_path / "bare"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    script.chmod(0o755)
    with pytest.raises(DeviceError, match="needs numpy and an engine"):
        open_ssh(f"{server.url}&python={script}")


def test_a_board_without_the_engine_says_what_to_install(server: Sshd, tmp_path: Path) -> None:
    python = python_that(
        tmp_path, "import sys\nsys.modules['ai_edge_litert'] = None\nsys.modules['tflite_runtime'] = None"
    )
    with pytest.raises(DeviceError, match="LiteRT is not installed") as caught:
        open_ssh(f"{server.url}&python={python}")
    assert "ai-edge-litert" in caught.value.remedy


def test_a_login_shell_that_prints_is_quoted(server: Sshd, tmp_path: Path) -> None:
    script = tmp_path / "chatty"
    script.write_text(
        f'#!/bin/sh\necho "Welcome to the laboratory Pi, please log your hours"\nexec {sys.executable} "$@"\n'
    )
    script.chmod(0o755)
    with pytest.raises(DeviceError, match="'Welcome to the laboratory Pi, please log your hours'") as caught:
        open_ssh(f"{server.url}&python={script}")
    assert ".bashrc" in caught.value.remedy


@pytest.mark.slow
def test_a_stopped_agent_is_replaced(url: str, jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence longer than its signs of life are apart: another agent is started, and the caller sees nothing of it."""
    monkeypatch.setattr(ssh_session, "SILENCE_S", 2.5)
    x = np.zeros((1, 8, 8, 1), np.int8)
    with open_ssh(url) as board:
        expected, stopped = board.run(jobs[0].model, x), board.report["pid"]
        os.kill(stopped, signal.SIGSTOP)
        try:
            assert np.array_equal(board.run(jobs[0].model, x), expected)
            assert board.report["pid"] != stopped
        finally:
            os.kill(stopped, signal.SIGKILL)


@pytest.mark.slow
def test_an_agent_that_is_stopped_while_it_measures_is_named(
    url: str, jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds the board's lock as long as it lives, and nobody knows whether it will wake up."""
    monkeypatch.setattr(ssh_session, "SILENCE_S", 2.5)
    with open_ssh(url) as board:
        results = board.measure(jobs, settings=replace(QUICK, samples=800, inner_us=100))
        stopped = board.report["pid"]
        keys = [next(results).key]
        os.kill(stopped, signal.SIGSTOP)
        try:
            with pytest.raises(DeviceError, match=f"process {stopped} is measuring"):
                keys += [result.key for result in results]
        finally:
            os.kill(stopped, signal.SIGKILL)
        left = [job for job in jobs if job.key not in keys]
        assert len(list(board.measure(left, settings=QUICK, wait=True))) == len(left)


def test_two_measurements_at_once_are_refused_with_the_holder(url: str, jobs: list[Job]) -> None:
    with open_ssh(url) as first, open_ssh(url) as second:
        running = first.measure(jobs, settings=QUICK)
        next(running)
        with pytest.raises(DeviceError, match=f"process {first.report['pid']} is measuring"):
            list(second.measure(jobs[:1], settings=QUICK))
        assert len(list(running)) == len(jobs) - 1
        assert len(list(second.measure(jobs[:1], settings=QUICK))) == 1


def test_a_caller_that_stops_in_the_middle_frees_the_board(url: str, jobs: list[Job]) -> None:
    with open_ssh(url) as first:
        running = first.measure(jobs, settings=QUICK)
        next(running)
        running.close()
        with open_ssh(url) as second:
            assert len(list(second.measure(jobs[:1], settings=QUICK, wait=True))) == 1


def test_throttling_is_noticed_and_reported(server: Sshd, jobs: list[Job], tmp_path: Path) -> None:
    flags = tmp_path / "root/sys/devices/platform/soc/soc:firmware"
    flags.mkdir(parents=True)
    (flags / "get_throttled").write_text("50005\n")
    python = python_that(
        tmp_path,
        "import pathlib\nfrom targets.ssh import health\n"
        f"health.throttling.__defaults__ = (pathlib.Path({str(tmp_path / 'root')!r}),)\n",
    )
    with open_ssh(f"{server.url}&python={python}") as board:
        assert board.report["throttling"] == ["under-voltage", "throttled"]
        (result,) = board.measure(jobs[:1], settings=QUICK)
    assert result.measurement is not None
    assert result.measurement.unstable
    assert result.measurement.details["throttling"] == "under-voltage, throttled"


def test_deploy_and_undo(url: str, jobs: list[Job], board_home: Path) -> None:
    with open_ssh(url) as board:
        where = board.deploy(jobs[0].model, "products/net", files={"labels.txt": b"a\nb\n"})
        assert where.endswith(f":{board_home}/products/net")
        assert (board_home / "products/net/model.tflite").read_bytes() == jobs[0].model
        board.deploy(jobs[1].model, "products/net")
        assert (board_home / "products/net/model.tflite").read_bytes() == jobs[1].model
        board.undo("products/net")
        assert (board_home / "products/net/model.tflite").read_bytes() == jobs[0].model
        assert (board_home / "products/net/labels.txt").read_bytes() == b"a\nb\n"
        with pytest.raises(ConfigurationError, match="nothing to go back to"):
            board.undo("products/other")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    place = tmp_path / "small"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("mounting a tmpfs needs root")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_is_said_and_leaves_nothing_half(small_disk: Path) -> None:
    write = operator_writer("tflite")
    small = write(Operator.parse("fully_connected 8->4 none int8"))
    large = write(Operator.parse("fully_connected 1500->800 none int8"))
    with sshd(small_disk) as server:
        url = f"{server.url}&python={sys.executable}"
        with open_ssh(url) as board:
            board.deploy(small, "net")
            with pytest.raises(BoardfitError, match="No space left") as caught:
                board.deploy(large, "net")
            assert caught.value.remedy
            assert (server.home / "net/model.tflite").read_bytes() == small
        assert not [p for p in server.home.iterdir() if p.name.startswith(".net")]
        (server.home / ".cache/boardfit" / agent_name()).unlink()
        (server.home / "filler").write_bytes(b"")
        with (server.home / "filler").open("ab", buffering=0) as filler:
            try:
                while filler.write(b"x" * 4096):
                    pass
            except OSError:
                pass
        with pytest.raises(DeviceError, match="cannot copy the agent") as refused:
            open_ssh(url)
        assert "disk" in refused.value.remedy
        assert not list((server.home / ".cache/boardfit").glob("agent-*"))
