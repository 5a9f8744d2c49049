from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from targets.ssh.frames import Frame, FrameError, encode, read

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.lists(
        st.tuples(st.dictionaries(st.text(max_size=5), VALUES, max_size=4), st.binary(max_size=200)),
        max_size=4,
    )
)
def test_what_is_written_is_read(messages: list[tuple[dict[str, object], bytes]]) -> None:
    stream = io.BytesIO(b"".join(encode(Frame(head, body)) for head, body in messages))
    assert [read(stream.read) for _ in messages] == [Frame(head, body) for head, body in messages]
    with pytest.raises(EOFError):
        read(stream.read)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_an_error(data: bytes) -> None:
    with pytest.raises((EOFError, FrameError)):
        _read_all(io.BytesIO(data))


@given(st.data())
def test_a_flipped_bit_is_noticed(data: st.DataObject) -> None:
    whole = bytearray(encode(Frame({"ask": "run", "n": 3}, b"weights and more")))
    bit = data.draw(st.integers(0, len(whole) * 8 - 1))
    whole[bit // 8] ^= 1 << bit % 8
    with pytest.raises(FrameError):
        read(io.BytesIO(bytes(whole)).read)


@given(st.integers(0, 60))
def test_a_stream_that_ends_early_is_noticed(cut: int) -> None:
    whole = encode(Frame({"ask": "measure"}, b"x" * 40))
    with pytest.raises((EOFError, FrameError)):
        read(io.BytesIO(whole[: min(cut, len(whole) - 1)]).read)


def test_what_a_login_script_prints_is_shown() -> None:
    with pytest.raises(FrameError) as caught:
        read(io.BytesIO(b"Welcome to this fine machine!\n").read)
    assert caught.value.seen.startswith(b"Welcome")


def _read_all(stream: io.BytesIO) -> None:
    while True:
        read(stream.read)
