"""docs/wire-protocol.md, firmware/protocol/wire.h and targets/mcu/wire.py say the same."""

from __future__ import annotations

import re
from enum import IntEnum

import pytest

from targets.mcu import replies, wire
from targets.mcu.wire import Command, Frame, Status
from tests.targets.mcu.host_device import FIRMWARE

HEADER = re.sub(r"/\*.*?\*/", "", (FIRMWARE / "protocol" / "wire.h").read_text(encoding="utf-8"), flags=re.S)
ENGINE = re.sub(r"/\*.*?\*/", "", (FIRMWARE / "runtime" / "engine.h").read_text(encoding="utf-8"), flags=re.S)
PAGE = (FIRMWARE.parent / "docs" / "wire-protocol.md").read_text(encoding="utf-8")


def defines() -> dict[str, int]:
    return {name: int(value, 0) for name, value in re.findall(r"#define (BF_\w+) (\w+?)u\b", HEADER)}


def enumerators(text: str, name: str) -> dict[str, int]:
    body = re.search(rf"enum {name} {{(.*?)}}", text, re.S)
    assert body is not None
    return {key: int(value) for key, value in re.findall(r"BF_(\w+) = (\d+)", body[1])}


def structs() -> dict[str, tuple[str, ...]]:
    """Those that hold words only, without the bf_ of their names."""
    found = {}
    for name, body in re.findall(r"struct bf_(\w+) {(.*?)};", HEADER, re.S):
        types = re.findall(r"(\w+) [\w, ]+;", body)
        if set(types) == {"uint32_t"}:
            found[name] = tuple(re.findall(r"uint32_t (\w+);", body))
    return found


def table(heading: str) -> list[list[str]]:
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows[2:]]


def names(enum: type[IntEnum]) -> dict[str, int]:
    return {member.name: int(member) for member in enum}


def test_commands() -> None:
    assert enumerators(HEADER, "bf_command") == names(Command)
    assert {row[1]: int(row[0]) for row in table("Commands")} == names(Command)


def test_statuses() -> None:
    own = {key.removeprefix("WIRE_"): value for key, value in enumerators(HEADER, "bf_wire_status").items()}
    assert enumerators(ENGINE, "bf_status") | own == names(Status)
    assert {row[1]: int(row[0]) for row in table("Statuses")} == names(Status)


def test_words_of_each_payload() -> None:
    assert structs() == dict(wire.WORDS)
    others = {"INPUT": "input_data", "OUTPUT": "output_data"}
    for _, command, request, reply, _ in table("Commands"):
        struct = others.get(command, command.lower())
        assert words(request) == wire.WORDS.get(struct, ()), command
        assert words(reply) == wire.WORDS.get(f"{command.lower()}_reply", ()), command


def words(cell: str) -> tuple[str, ...]:
    """The words before the data: `offset, bytes; data`."""
    first = cell.partition(";")[0]
    return tuple(name for name in first.split(", ") if name and name not in ("data", "ticks"))


def test_numbers() -> None:
    known = defines()
    assert known["BF_WIRE_VERSION"] == wire.VERSION
    assert f"\nVersion {wire.VERSION}. " in PAGE
    assert known["BF_REPLY"] == wire.REPLY == 1 << 7
    assert "with bit 7 set" in PAGE
    assert known["BF_NO_SESSION"] == wire.NO_SESSION
    assert f"limit is that of the present one, or {wire.NO_SESSION:X}" in PAGE
    assert (known["BF_RUN_TIMED"], known["BF_RUN_OPERATORS"]) == (wire.RUN_TIMED, wire.RUN_OPERATORS)
    assert "Flag 1: ticks of each repetition; flag 2: of each operator" in PAGE
    assert f"at most {known['BF_CHUNK_BYTES']} bytes" in PAGE
    assert (
        f"At most {known['BF_MAX_REPETITIONS']} warm-ups and {known['BF_MAX_REPETITIONS']} repetitions"
        in PAGE
    )
    assert known["BF_QUIET_MS"] == 1000
    assert "A frame that stops for 1 s is given up" in PAGE


def test_the_header() -> None:
    body = re.search(r"struct bf_header {(.*?)};", HEADER, re.S)
    assert body is not None
    fields = []
    for kind, listed in re.findall(r"uint(\d+)_t ([\w, ]+);", body[1]):
        fields += [(name, int(kind) // 8) for name in listed.split(", ")]
    assert [name for name, _ in fields] == ["version", "command", "session", "request", "status", "reserved"]
    offsets = [sum(size for _, size in fields[:i]) for i in range(len(fields) + 1)]
    cells = table("Frame")
    shown = re.search(r"\| header byte \| (.*) \|", PAGE)
    assert shown is not None
    first_bytes = [int(cell.split(",")[0]) for cell in shown[1].split(" | ")]
    assert first_bytes == offsets[:-1]
    assert [cell.split(" ")[0] for cell in cells[0][1:-1]] == [name for name, _ in fields[:-1]]
    raw = wire.cobs_decode(wire.encode(Frame(0x11, 0x2233, 0x4455, b"", 0x66, 0x77))[1:-1])
    assert raw is not None
    assert raw[: offsets[-1]] == bytes.fromhex("77113322554466 00")


@pytest.mark.parametrize("status", [status for status in Status if status])
def test_every_refusal_is_a_typed_error_with_a_remedy(status: Status) -> None:
    error = replies.refusal(status, 11, 22, Command.RUN, "a-board")
    assert error.remedy
    assert "a-board" in error.message
    assert error.exit_code in (3, 5, 6)
    unknown = replies.refusal(200, 1, 2, Command.RUN, "a-board")
    assert type(error) is not type(unknown) or error.message != unknown.message


def test_the_tables_are_read_at_all() -> None:
    """So that a change of the page's form cannot make the tests above empty."""
    assert len(table("Commands")) == 11
    assert len(table("Statuses")) == 19
    assert len(structs()) == 14
