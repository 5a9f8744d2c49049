"""A board as a target: URLs, packing into the slot, what becomes of models that do not fit, of boards that die."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from targets.mcu import session as module
from targets.mcu.board import load_board
from targets.mcu.build import Firmware
from targets.mcu.link import Refused, RunResult
from targets.mcu.session import ALIGNMENT, BoardSession, find, model_format, open_session, pack, parse_url
from targets.mcu.wire import Status
from targets.session import Job, list_targets
from toolchain.errors import ConfigurationError, DeviceError, ModelFileError
from toolchain.measurement import Evidence

BOARD = "nucleo-l4r5zi"
SLOT = 4096


def firmware(slot_bytes: int = SLOT) -> Firmware:
    """One that was never built."""
    return Firmware(
        board=BOARD, elf=Path("none.elf"), image=b"\x01" * 1000, address=0x0800_0000, entry=0x0800_0101,
        slot_address=0x0800_2000, slot_bytes=slot_bytes, page_bytes=2048, flash_bytes=1000, ram_bytes=5000,
        arena_bytes=600_000, stack_bytes=4096, compiler="cc 1", flags="-O2", fingerprint="0123456789abcdef",
    )  # fmt: skip


class FakeLink:
    """A board whose models are their own cost: the first two bytes are cycles, the next two bytes of arena."""

    def __init__(self, slot_bytes: int = SLOT, die_after: int = 10**9) -> None:
        self.slot = bytearray(b"\xff" * slot_bytes)
        self.die_after = die_after
        self.calls: list[str] = []
        self.model = b""
        self.input = b""
        self.closed = False
        self.board = SimpleNamespace(
            board=BOARD, engine="native", firmware="0123456789abcdef", ticks_ok=True, tick_source="dwt"
        )

    def write_slot(self, offset: int, data: bytes, progress: object = None) -> int:
        self.calls.append(f"write {len(data)}")
        self.slot[offset : offset + len(data)] = data
        return len(data)

    def open_model(self, offset: int, count: int, *, keep_inputs: bool = False) -> Any:
        assert offset % ALIGNMENT == 0
        self.model = bytes(self.slot[offset : offset + count])
        self.calls.append("open")
        if self.model.startswith(b"bad"):
            raise Refused("not a program", status=Status(1), value=0, limit=0)
        return SimpleNamespace(arena_bytes=int.from_bytes(self.model[2:4], "little"))

    def fill_input(self, seed: int) -> None:
        self.calls.append(f"fill {seed}")

    def set_input(self, data: bytes, index: int = 0) -> None:
        self.input = data

    def run(
        self, warmup: int = 1, repetitions: int = 1, *, operators: bool = False, timed: bool = True
    ) -> RunResult:
        if self.calls.count("open") > self.die_after:
            raise DeviceError("the board stopped answering")
        ticks = tuple(int.from_bytes(self.model[:2], "little") + i for i in range(repetitions))
        return RunResult(ticks, 300, 0, zlib.crc32(self.model), 7)

    def output(self, index: int = 0) -> bytes:
        return bytes(255 - b for b in self.input[:3])

    def close(self) -> None:
        self.closed = True


def opened(link: FakeLink, url: str = f"virtual:{BOARD}", slot_bytes: int = SLOT) -> BoardSession:
    return BoardSession(parse_url(url), firmware(slot_bytes), link, ExitStack())  # type: ignore[arg-type]


def job(key: str, cycles: int, size: int = 100, arena: int = 64) -> Job:
    return Job(key, (cycles.to_bytes(2, "little") + arena.to_bytes(2, "little")).ljust(size, b"m"))


# --- URLs ---------------------------------------------------------------------------------------------------------


def test_urls() -> None:
    virtual = parse_url(f"virtual:{BOARD}?compiler=zig")
    assert (virtual.board.name, virtual.port, virtual.compiler) == (BOARD, "", "zig")
    assert virtual.virtual
    serial = parse_url(f"serial:/dev/ttyACM0?board={BOARD}")
    assert (serial.port, serial.virtual, serial.target) == ("/dev/ttyACM0", False, BOARD)
    assert parse_url(f"socket://127.0.0.1:5000?board={BOARD}").port == "socket://127.0.0.1:5000"
    assert parse_url(f"rfc2217://pi:4000?board={BOARD}").port == "rfc2217://pi:4000"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("virtual:nucleo-l4r5zj", "did you mean 'nucleo-l4r5zi'"),
        ("virtual:", "no board ''"),
        (f"virtual:{BOARD}?clock=80", r"no option 'clock=80'.*compiler=auto\|gcc\|zig"),
        (f"virtual:{BOARD}?runtime=onnx", "no option 'runtime=onnx'"),
        (f"virtual:{BOARD}?compiler=tcc", "no option 'compiler=tcc'"),
        (f"virtual:{BOARD}?tflm_library=x", "no option 'tflm_library=x'"),
        ("serial:/dev/ttyACM0", r"does not say which board it is.*serial:/dev/ttyACM0\?board="),
        (f"serial:?board={BOARD}", "does not say which port it is on"),
    ],
)
def test_urls_that_are_wrong(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        parse_url(url)


def test_the_form_of_models_follows_core_and_runtime() -> None:
    assert model_format(f"virtual:{BOARD}") == "native-dsp"
    assert model_format("virtual:nucleo-g071rb") == "native-plain"
    assert model_format(f"serial:COM3?board={BOARD}&runtime=tflm") == "tflite"


def test_every_board_is_listed() -> None:
    known = [target.url for target in list_targets()]
    assert f"virtual:{BOARD}" in known
    for target in find():
        assert target.url in known
        assert target.notes
        cycles = load_board(target.url).cycles
        if target.available and cycles.kind == "cycles_estimated":
            assert cycles.model in target.notes
            assert f"±{100 * cycles.band:g} %" in target.notes


# --- packing ------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 900), max_size=30), st.integers(900, 3000))
def test_packing_loses_nothing_and_overlaps_nowhere(sizes: list[int], slot: int) -> None:
    jobs = [Job(str(i), bytes([i % 251 + 1]) * size) for i, size in enumerate(sizes)]
    images = list(pack(jobs, slot))
    assert [p.job for _, placed in images for p in placed] == jobs
    for image, placed in images:
        assert len(image) <= slot
        for p in placed:
            assert p.offset % ALIGNMENT == 0
            assert image[p.offset : p.offset + len(p.job.model)] == p.job.model
    for (image, _), (_, after) in itertools.pairwise(images):
        start = -(-len(image) // ALIGNMENT) * ALIGNMENT
        assert start + len(after[0].job.model) > slot  # a new image only where the old one was full


# --- measuring ----------------------------------------------------------------------------------------------------


def test_measurements() -> None:
    link = FakeLink()
    seen: list[tuple[int, int]] = []
    with opened(link) as session:
        jobs = [job("a", 500), job("b", 700, size=130, arena=96)]
        results = list(session.measure(jobs, progress=lambda *at: seen.append(at)))
    assert link.closed
    assert [r.key for r in results] == ["a", "b"]
    found = results[1].measurement
    assert found is not None
    assert (found.metric, found.value, found.evidence) == ("cycles", 700.0, Evidence.CYCLES_ESTIMATED)
    assert found.details["flash_bytes"] == str(1000 + 130)
    assert found.details["ram_bytes"] == str(5000 + 96)
    assert (found.details["stack_bytes"], found.details["stack_reserved_bytes"]) == ("300", "4096")
    assert found.details["constant_lines"] == "7"
    assert seen == [(1, 2), (2, 2)]
    assert [call for call in link.calls if call.startswith("write")] == [f"write {112 + 130}"]


def test_a_board_on_a_wire_is_warmed_up_and_repeated() -> None:
    with opened(FakeLink(), f"serial:COM3?board={BOARD}") as session:
        (result,) = session.measure([job("a", 500)])
        found = result.measurement
    assert found is not None
    assert found.evidence is Evidence.CYCLES_MEASURED
    assert found.samples == (500.0, 501.0, 502.0, 503.0, 504.0)
    assert (found.value, found.details["min"], found.details["max"]) == (502.0, "500", "504")
    assert session.device is not None
    assert session.device.note == ""


def test_what_does_not_fit_or_is_refused_is_a_failure_and_the_others_go_on() -> None:
    jobs = [job("a", 1), Job("large", b"x" * 5000), Job("bad", b"bad model"), job("b", 2)]
    with opened(FakeLink()) as session:
        results = {r.key: r for r in session.measure(jobs)}
    assert results.keys() == {"a", "large", "bad", "b"}
    assert results["large"].measurement is None
    assert "5,000 bytes of flash, the board has 4,096 left" in results["large"].failure
    assert results["bad"].measurement is None
    assert results["bad"].failure
    assert results["b"].measurement is not None


def test_a_board_that_dies_keeps_what_was_measured() -> None:
    with opened(FakeLink(die_after=2)) as session:
        results = session.measure([job(str(i), i + 1) for i in range(5)])
        assert [next(results).key, next(results).key] == ["0", "1"]
        with pytest.raises(DeviceError, match="stopped answering"):
            next(results)


def test_two_jobs_of_one_name_are_refused() -> None:
    with opened(FakeLink()) as session, pytest.raises(ConfigurationError, match="same key"):
        session.measure([job("a", 1), job("a", 2)])


# --- running and deploying ----------------------------------------------------------------------------------------


def test_a_batch_writes_the_model_once() -> None:
    link = FakeLink()
    with opened(link) as session:
        x = np.arange(12, dtype=np.int8).reshape(4, 3)
        for _ in range(2):
            answers = session.run(b"model", x)
        assert answers.dtype == np.int8
        np.testing.assert_array_equal(answers, ~x)
        list(session.measure([job("a", 1)]))
        session.run(b"model", x)  # the slot was used for something else in between
    assert link.calls.count("write 5") == 2


def test_a_model_too_large_is_refused_with_both_sizes() -> None:
    with opened(FakeLink()) as session, pytest.raises(ModelFileError, match=r"5,000 bytes.*4,096 left"):
        session.run(b"x" * 5000, np.zeros((1, 3), np.int8))


def test_deploy_leaves_something_to_look_at(tmp_path: Path) -> None:
    elf = tmp_path / "firmware.elf"
    elf.write_bytes(b"ELF")
    link = FakeLink()
    session = BoardSession(parse_url(f"virtual:{BOARD}"), replace(firmware(), elf=elf), link, ExitStack())  # type: ignore[arg-type]
    place = Path(session.deploy(b"model", tmp_path / "place", files={"labels.txt": b"0"}))
    assert sorted(p.name for p in place.iterdir()) == [
        "README.txt", "firmware.bin", "firmware.elf", "labels.txt", "model.bfp",
    ]  # fmt: skip
    assert bytes(link.slot[:5]) == (place / "model.bfp").read_bytes() == b"model"
    text = (place / "README.txt").read_text()
    assert f"{zlib.crc32(b'model'):08x}" in text
    assert "no hardware was used" in text
    with pytest.raises(ConfigurationError, match=r"firmware\.bin"):
        session.deploy(b"model", tmp_path / "place", files={"firmware.bin": b""})


# --- opening ------------------------------------------------------------------------------------------------------


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeLink]:
    """What `open_session` finds at the other end of the line."""

    def connect(**hello: Any) -> FakeLink:
        link = FakeLink()
        for name, value in hello.items():
            setattr(link.board, name, value)
        monkeypatch.setattr(module, "open_port", lambda url: url)
        monkeypatch.setattr(module, "BoardLink", lambda port: _Closing(link))
        monkeypatch.setattr(module, "firmware_of", lambda url, cache=None: firmware())
        return link

    return connect


class _Closing:
    """A link in a with statement."""

    def __init__(self, link: FakeLink) -> None:
        self.link = link

    def __enter__(self) -> FakeLink:
        return self.link

    def __exit__(self, *_: object) -> None:
        self.link.close()


SERIAL = f"serial:/dev/ttyACM0?board={BOARD}"


@pytest.mark.parametrize(
    ("hello", "message"),
    [
        ({"board": "nucleo-f446re"}, "is a 'nucleo-f446re', not a 'nucleo-l4r5zi'.*boardfit flash"),
        ({"engine": "tflm"}, "another build.*boardfit flash"),
        ({"firmware": "ffff"}, "another build.*boardfit flash"),
        ({"ticks_ok": False}, "stands still"),
    ],
)
def test_what_answers_must_be_the_right_thing(
    line: Callable[..., FakeLink], tmp_path: Path, hello: dict[str, Any], message: str
) -> None:
    link = line(**hello)
    with pytest.raises(DeviceError, match=message):
        open_session(SERIAL, cache=tmp_path)
    assert link.closed
    line()
    open_session(SERIAL, cache=tmp_path).close()  # the port is free again


def test_one_process_has_the_port(line: Callable[..., FakeLink], tmp_path: Path) -> None:
    line()
    with open_session(SERIAL, cache=tmp_path):
        with pytest.raises(DeviceError, match="process"):
            open_session(SERIAL, cache=tmp_path)
        open_session("serial:/dev/ttyACM1?board=" + BOARD, cache=tmp_path).close()
    open_session(SERIAL, cache=tmp_path).close()


def test_the_stack_tells_boards_and_builds_apart(line: Callable[..., FakeLink], tmp_path: Path) -> None:
    line()
    stacks = {}
    for url in (SERIAL, f"virtual:{BOARD}", "serial:/dev/ttyACM7?board=" + BOARD):
        with open_session(url, cache=tmp_path) as session:
            stacks[url] = session.stack
            assert session.stack == module.describe(url).stack
    assert stacks[SERIAL] == stacks["serial:/dev/ttyACM7?board=" + BOARD]  # the port is no part of it
    assert stacks[SERIAL] != stacks[f"virtual:{BOARD}"]
    fields = stacks[f"virtual:{BOARD}"].as_dict()
    assert fields["target"] == f"virtual:{BOARD}"
    known = {"cycle_model": "m4-flash/2", "k": "1.22", "a": "4", "band": "0.15", "wait_states": "5"}
    assert known.items() <= fields.items()
    assert not known.keys() - {"wait_states"} & stacks[SERIAL].as_dict().keys()
