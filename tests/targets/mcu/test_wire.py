"""Frames and payloads as pure bytes: whatever comes is a frame that somebody sent, or nothing."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from targets.mcu import wire
from targets.mcu.wire import Frame, FrameReader, Status
from tests.targets.mcu.host_device import FIRMWARE

frames = st.builds(
    Frame,
    command=st.integers(0, 255),
    session=st.integers(0, 0xFFFF),
    request=st.integers(0, 0xFFFF),
    payload=st.binary(max_size=600) | st.integers(0, 600).map(bytes),
    status=st.integers(0, 255),
    version=st.integers(0, 255),
)


@given(st.binary(max_size=1200) | st.integers(0, 600).map(bytes))
def test_stuffed_bytes_have_no_zero_and_come_back(data: bytes) -> None:
    stuffed = wire.cobs_encode(data)
    assert 0 not in stuffed
    assert len(stuffed) <= len(data) + len(data) // 254 + 1
    assert wire.cobs_decode(stuffed) == data


@pytest.mark.parametrize("count", [253, 254, 255, 508, 509])
def test_blocks_of_254_bytes_without_a_zero(count: int) -> None:
    data = b"\x01" * count
    assert wire.cobs_decode(wire.cobs_encode(data)) == data


@pytest.mark.parametrize(
    ("data", "stuffed"),
    [
        (b"", b"\x01"),
        (b"\0", b"\x01\x01"),
        (b"\x11\0\0", b"\x02\x11\x01\x01"),
        (b"\x11\x22", b"\x03\x11\x22"),
    ],
)
def test_stuffing_by_hand(data: bytes, stuffed: bytes) -> None:
    """The examples of the COBS paper's kind."""
    assert wire.cobs_encode(data) == stuffed


@given(st.binary(max_size=700))
def test_any_bytes_are_decoded_without_an_exception(data: bytes) -> None:
    wire.cobs_decode(data)
    wire.decode(data)


@given(frames)
def test_a_frame_comes_back(frame: Frame) -> None:
    data = wire.encode(frame)
    assert (data[0], data[-1]) == (0, 0)
    assert 0 not in data[1:-1]
    assert wire.decode(data[1:-1]) == frame


@given(st.lists(frames, max_size=4), st.randoms(use_true_random=False))
def test_a_stream_gives_its_frames_however_it_is_cut(sent: list[Frame], chance: random.Random) -> None:
    stream = b"m-ready\r\n" + b"".join(map(wire.encode, sent))
    reader, found = FrameReader(), []
    while stream:
        cut = chance.randint(1, len(stream))
        found += reader.feed(stream[:cut])
        stream = stream[cut:]
    assert found == sent


@settings(max_examples=300)
@given(st.lists(frames, min_size=1, max_size=3), st.integers(0, 2**32), st.integers(1, 6))
def test_damage_never_makes_another_frame(sent: list[Frame], seed: int, changes: int) -> None:
    chance = random.Random(seed)
    stream = bytearray(b"".join(map(wire.encode, sent)))
    for _ in range(changes):
        at = chance.randrange(len(stream))
        match chance.randrange(4):
            case 0:
                stream[at] ^= 1 << chance.randrange(8)
            case 1:
                del stream[at]
            case 2:
                stream.insert(at, stream[at])
            case 3:
                stream.insert(at, chance.randrange(256))
        if not stream:
            break
    for frame in FrameReader().feed(bytes(stream)):
        assert frame in sent


def test_every_single_flipped_bit_is_seen() -> None:
    data = wire.encode(Frame(8, 1, 2, wire.words(1, 5, 1)))
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        # A flip of the first or last 0 leaves the frame's own bytes whole; what they then give is the frame or nothing.
        found = FrameReader().feed(bytes(damaged) + b"\0")
        assert found in ([], [Frame(8, 1, 2, wire.words(1, 5, 1))])


def test_a_reader_does_not_grow_without_end() -> None:
    reader = FrameReader()
    for _ in range(100):
        assert reader.feed(b"\x55" * 1000) == []
    assert len(reader._rest) < 5000
    assert reader.bytes_seen == 100_000
    frame = Frame(1, 2, 3)
    assert reader.feed(wire.encode(frame)) == [frame]


def test_words_that_are_not_there() -> None:
    assert wire.read_words(wire.words(1, 0xFFFFFFFF)) == (1, 0xFFFFFFFF)
    with pytest.raises(ValueError, match="3 bytes"):
        wire.read_words(b"123")
    with pytest.raises(ValueError, match="2 words"):
        wire.fields("refusal", b"1234567")


def test_statuses_of_the_engine_stay_below_the_protocols() -> None:
    assert [status for status in Status if 8 <= status < 16] == []


def test_noise_is_the_same_for_ever_and_differs_by_input_and_seed() -> None:
    first, second = wire.noise(1, [1000, 1000])
    again = wire.noise(1, [1000])[0]
    other = wire.noise(2, [1000])[0]
    assert first.dtype == np.int8
    assert (first == again).all()
    assert (first != second).mean() > 0.9
    assert (first != other).mean() > 0.9
    assert [len(part) for part in wire.noise(7, [0, 1, 5])] == [0, 1, 5]
    assert set(wire.noise(3, [20000])[0].tolist()) == set(range(-128, 128))
    assert wire.noise(0xFFFFFFFF, [4, 4])[1].shape == (4,)


def test_the_devices_frames_are_these(tmp_path: Path) -> None:
    """frame.c against zlib and this file, over many payloads, both ways."""
    source = tmp_path / "both.c"
    source.write_text(
        """
#include "frame.h"
#include "board.h"
#include <stdio.h>
void board_write(const uint8_t *data, uint32_t bytes) { fwrite(data, 1, bytes, stdout); }
/* Lines of (length, bytes) come in; each is decoded and, when it is a frame, sent again. */
int main(void)
{
    static uint8_t data[4096];
    uint8_t head[2];
    while (fread(head, 1, 2, stdin) == 2) {
        uint32_t bytes = head[0] | head[1] << 8;
        if (fread(data, 1, bytes, stdin) != bytes)
            return 1;
        bytes = frame_decode(data, bytes);
        if (bytes)
            frame_send(data, bytes);
        else
            putchar('x');
    }
    return 0;
}
"""
    )
    program = tmp_path / "both"
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler on this machine")
    subprocess.run(
        [compiler, "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-Wall", "-Wextra", "-Werror",
         f"-I{FIRMWARE / 'protocol'}", f"-I{FIRMWARE / 'boards'}", "-o", str(program), str(source),
         str(FIRMWARE / "protocol" / "frame.c")],
        check=True,
    )  # fmt: skip
    chance = random.Random(1)
    given, wanted = b"", b""
    for i in range(600):
        payload = chance.randbytes(i) if i % 3 else bytes(chance.choices([0, 1, 255], k=i))
        data = wire.encode(Frame(i % 256, i, 3, payload))
        good = i % 5
        body = data[1:-1] if good else data[2:-1]
        given += len(body).to_bytes(2, "little") + body
        wanted += data if good else b"x"
    for _ in range(300):
        body = bytes(chance.choices(range(1, 256), k=chance.randrange(300)))
        given += len(body).to_bytes(2, "little") + body
        wanted += b"x"
    done = subprocess.run([str(program)], input=given, capture_output=True, check=True)
    assert done.stdout == wanted
    assert done.stderr == b""
