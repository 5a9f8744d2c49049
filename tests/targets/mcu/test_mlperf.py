"""The MLPerf Tiny subset: what the usual runners say, and the traps of the reference firmware (no writing past buffers:
the process runs under the address sanitizer)."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from targets.mcu import wire
from targets.mcu.port import SerialPort, open_port
from targets.mcu.wire import Command, Frame, FrameReader
from tests.targets.mcu.host_device import CHANGES, FAILS, TWO_INPUTS, Device, model, outputs

IC01, KWS01, VWW01 = 32 * 32 * 3, 49 * 10, 96 * 96 * 3


class Runner:
    """As a runner does: send a command, wait for `m-ready`."""

    def __init__(self, port: SerialPort) -> None:
        self._port = port

    def say(self, text: str | bytes) -> list[str]:
        """The lines of the answer, without the last, `m-ready`."""
        self._port.write(text.encode() if isinstance(text, str) else text)
        return self.answer()

    def answer(self) -> list[str]:
        got, quiet = b"", 0
        while not got.endswith(b"m-ready\r\n"):
            data = self._port.read()
            got += data
            quiet = 0 if data else quiet + 1
            assert quiet < 500, got
        *lines, ready, rest = got.decode("ascii").split("\r\n")
        assert (ready, rest) == ("m-ready", "")
        return lines

    def load(self, data: bytes, at_once: int = 31) -> list[str]:
        """As a runner does; the lines after the last bytes."""
        assert self.say(f"db load {len(data)}%") == [f"m-[Expecting {len(data)} bytes]"]
        lines: list[str] = []
        for at in range(0, len(data), at_once):
            assert lines == []
            lines = self.say(f"db {data[at : at + at_once].hex()}%")
        return lines


@contextmanager
def board(data: bytes | None, **options: int) -> Iterator[Runner]:
    """A board with a model at the start of its slot."""
    with Device(**options) as device:
        if data is not None:
            with device.link() as link:
                link.write_slot(0, data)
        with open_port(device.url) as port:
            yield Runner(port)


def results(output: bytes) -> str:
    return "m-results-[" + ",".join(f"0.{((byte ^ 0x80) * 1000 + 128) // 256:03d}" for byte in output) + "]"


def test_a_whole_session_of_a_runner() -> None:
    pixels = random.Random(1).randbytes(IC01)
    signed = bytes(byte ^ 0x80 for byte in pixels)
    with board(model(IC01, 10)) as runner:
        assert runner.say("name%") == ["m-name-dut-[host]"]
        assert runner.say("profile%") == ["m-profile-[ULPMark for tinyML Firmware V0.0.1]", "m-model-[ic01]"]
        assert re.fullmatch(r"m-lap-us-\d+", *runner.say("timestamp%"))
        assert runner.load(pixels) == ["m-load-done"]
        *lines, first, second, done, result = runner.say("infer 100 3%")
        assert lines == ["m-warmup-start-3", "m-warmup-done", "m-infer-start-100"]
        assert done == "m-infer-done"
        assert result == results(outputs([signed], 10))
        start, end = (int(line.removeprefix("m-lap-us-")) for line in (first, second))
        assert (
            10 <= (end - start) / 100 < 50
        )  # host.c counts 1000 to 1100 cycles of 10 ns around an inference
        assert runner.say("results%") == [result]
        assert runner.say("infer 1%")[0] == "m-warmup-start-10"
        assert runner.say("infer 1 0%")[-1] == result  # the input lasts


@pytest.mark.parametrize(
    ("count", "name", "signed"),
    [(KWS01, "kws01", 0), (VWW01, "vww01", 0x80), (640, "ad01", 0), (100, "unknown", 0)],
)
def test_models_by_their_input(count: int, name: str, signed: int) -> None:
    data = random.Random(2).randbytes(count)
    with board(model(count, 5)) as runner:
        assert runner.say("profile%")[1] == f"m-model-[{name}]"
        assert runner.load(data, at_once=38) == ["m-load-done"]
        assert runner.say("infer 1 0%")[-1] == results(outputs([bytes(byte ^ signed for byte in data)], 5))


def test_what_was_loaded_is_printed_as_it_came() -> None:
    data = bytes(range(256)) * 12
    with board(model(IC01, 10)) as runner:
        assert runner.say("db print%") == []
        runner.load(data)
        lines = runner.say("db print%")
        assert lines[0] == "m-buffer-00-01-02-03-04-05-06-07"
        assert (
            bytes.fromhex("".join(line.removeprefix("m-buffer").replace("-", "") for line in lines)) == data
        )
    with board(model(100, 10)) as runner:
        runner.say("db load 100%")
        runner.say("db 0102030405060708090a%")
        assert runner.say("db print%") == ["m-buffer-01-02-03-04-05-06-07-08", "m-buffer-09-0a"]


def test_help_has_no_prefix_and_names_all_commands() -> None:
    with board(None) as runner:
        lines = runner.say("help%")
        assert not [line for line in lines if line.startswith(("m-", "e-"))]
        for command in ("name", "profile", "timestamp", "db load", "db print", "infer", "results"):
            assert any(line.startswith(command) for line in lines)


# --- traps ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("%", "Empty command"),
        ("   %", "Empty command"),
        ("\r\n%", "Empty command"),
        ("nonsense%", "Unknown command: nonsense"),
        ("Name%", "Unknown command: Name"),
        ("names%", "Unknown command: names"),
        ("x" * 80 + "%", "Unknown command: " + "x" * 80),
        ("x" * 81 + "%", "Command is longer than 80 characters"),
        ("name" + " " * 77 + "%", "Command is longer than 80 characters"),
        ("db " + "00" * 5000 + "%", "Command is longer than 80 characters"),
        ("db%", "Command 'db' requires a subcommand"),
        ("db %", "Command 'db' requires a subcommand"),
        ("db load%", "Command 'db load' requires a number of bytes"),
        ("db load x%", "Command 'db load' requires a number of bytes"),
        ("db load 0%", "Command 'db load' requires a number of bytes"),
        ("db load -8%", "Command 'db load' requires a number of bytes"),
        ("db load 4294967304%", "Command 'db load' requires a number of bytes"),
        ("db load 7%", "The model's input has 8 bytes"),
        ("db load 9%", "The model's input has 8 bytes"),
        ("db load 4294967295%", "The model's input has 8 bytes"),
        ("db 0%", "Insufficent number of hex digits"),
        ("db 012%", "Insufficent number of hex digits"),
        ("db 0g%", "Invalid hex digit 'g'"),
        ("db 00%", "No 'db load' is under way"),
        ("db " + "00" * 38 + "%", "No 'db load' is under way"),
        ("infer%", "Inference iterations must be >0"),
        ("infer 0%", "Inference iterations must be >0"),
        ("infer -1%", "Inference iterations must be >0"),
        ("infer 99999999999%", "Inference iterations must be >0"),
        ("infer 1 x%", "Warm-up iterations must be a number"),
        ("infer 1%", "No input: use 'db load' first"),
        ("results%", "No results: run 'infer' first"),
    ],
)
def test_wrong_commands(command: str, error: str) -> None:
    with board(model()) as runner:
        assert runner.say(command) == [f"e-[{error}]"]
        assert runner.say("name%") == ["m-name-dut-[host]"]


def test_bytes_beyond_what_was_announced() -> None:
    with board(model(8, 8)) as runner:
        runner.say("db load 8%")
        assert runner.say("db 000102030405060708%") == ["e-[More bytes than 'db load' said]"]
        assert runner.say("db 0001020304%") == []
        assert runner.say("db 05060708%") == ["e-[More bytes than 'db load' said]"]
        assert runner.say("infer 1%") == ["e-[No input: use 'db load' first]"]
        assert runner.say("db 050607%") == ["m-load-done"]
        for _ in range(20):
            assert runner.say("db " + "ff" * 38 + "%") == ["e-[No 'db load' is under way]"]
        assert runner.say("db print%") == ["m-buffer-00-01-02-03-04-05-06-07"]
        assert runner.say("infer 1 0%")[-1] == results(outputs([bytes(range(8))], 8))
        assert runner.say("db load 8%") == ["m-[Expecting 8 bytes]"]  # begins anew, and the result is gone
        assert runner.say("results%") == ["e-[No results: run 'infer' first]"]


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (None, "No model at the start of the slot"),
        (b"JUNK" * 8, "No model at the start of the slot"),
        (model(flags=TWO_INPUTS), "The model has an operator or inputs that this firmware cannot run"),
        (model(arena_bytes=1 << 20), "The model and its input do not fit into the RAM"),
        (model(60000, 10, arena_bytes=60010), "The model and its input do not fit into the RAM"),
    ],
)
def test_models_that_cannot_run(data: bytes | None, error: str) -> None:
    with board(data) as runner:
        for command in ("profile%", "db load 8%", "infer 1%"):
            assert runner.say(command) == [f"e-[{error}]"]


@pytest.mark.parametrize(
    ("flags", "options", "error"),
    [
        (FAILS, {}, "The inference failed"),
        (CHANGES, {}, "Outputs differ between inferences"),
        (0, {"stuck": 1}, "The cycle counter stands still"),
    ],
)
def test_inferences_that_fail_have_no_time_and_no_result(
    flags: int, options: dict[str, int], error: str
) -> None:
    with board(model(flags=flags), **options) as runner:
        runner.load(bytes(8))
        lines = runner.say("infer 5 1%")
        assert lines[-1] == f"e-[{error}]"
        assert not [line for line in lines if line.startswith(("m-lap", "m-results"))]
        assert runner.say("results%") == ["e-[No results: run 'infer' first]"]


def test_noise_is_no_command() -> None:
    chance = random.Random(3)
    with board(model()) as runner:
        for _ in range(50):
            noise = bytes(chance.choices(range(128, 256), k=chance.randrange(1, 200)))
            (line,) = runner.say(noise + b"name%")
            assert line.startswith("e-[")
        for _ in range(30):
            text = bytes(chance.choices(b"db loadinfer 0123456789abcdef", k=chance.randrange(1, 90)))
            assert runner.say(text + b"%")[0][:2] in ("e-", "m-")
        assert runner.say("name%") == ["m-name-dut-[host]"]


# --- beside frames -------------------------------------------------------------------------------------------------


def test_text_after_a_frame_that_was_cut_off() -> None:
    """A host that died within a frame does not make the board deaf: after a second of silence it hears text again."""
    with board(model()) as runner:
        runner._port.write(wire.encode(Frame(Command.HELLO, 1, 1))[:9])
        for _ in range(80):
            assert runner._port.read() == b""
        assert runner.say("name%") == ["m-name-dut-[host]"]


def test_a_command_that_a_frame_cuts_in_two_is_forgotten() -> None:
    with board(model()) as runner:
        runner._port.write(b"na" + wire.encode(Frame(Command.HELLO, 1, 1)))
        reader = FrameReader()
        while not reader.feed(runner._port.read()):
            pass
        assert runner.say("me%") == ["e-[Unknown command: me]"]


def test_the_two_protocols_never_run_each_others_model() -> None:
    first, second = model(8, 8), model(4, 9)
    with Device() as device, device.link() as link:
        link.write_slot(0, first + second)
        link.open_model(32, 32)
        link.fill_input(1)
        link.run()
        runner = Runner(link._port)
        runner.load(bytes(8))
        line = link._line
        for command, payload in [
            (Command.RUN, wire.words(0, 1, 0)), (Command.FILL, wire.words(1)),
            (Command.OUTPUT, wire.words(0, 0, 1)), (Command.OPERATOR_TICKS, wire.words(0, 1)),
        ]:  # fmt: skip
            with pytest.raises(Exception, match="no model is open"):
                line.ask(command, payload)
        assert runner.say("infer 2 1%")[-1] == results(outputs([bytes(8)], 8))
        link.open_model(32, 32)
        link.fill_input(1)
        link.run()
        assert link.output() == outputs([wire.noise(1, [4])[0].tobytes()], 9)
        assert runner.say("results%") == ["e-[No results: run 'infer' first]"]
        assert runner.say("db 00%") == ["e-[No 'db load' is under way]"]
        assert runner.say("infer 1%") == ["e-[No input: use 'db load' first]"]
