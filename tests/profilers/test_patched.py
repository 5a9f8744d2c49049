"""Blocks in patches: rows, work and bytes of a small chain, counted by hand."""

from __future__ import annotations

import pytest

from profilers.cost import ArcMetric
from profilers.patched import Prefix, banded, prefixes
from toolchain.graph import Arc, Chain, Operator
from toolchain.graph.liveness import Live


def conv(size: int, stride: int = 1) -> Operator:
    return Operator(
        "conv2d", ((1, size, size, 4),), (1, size // stride, size // stride, 4),
        kernel=(3, 3), stride=(stride, stride), padding="same", dtype="int8",
    )  # fmt: skip


def chain() -> Chain:
    """16x16 to 8x8 by two convolutions or one, 8x8 to 8x8 by one or by a block that cannot be cut."""
    big, half, small = conv(16), conv(16, 2), conv(8)
    flat = Operator("reshape", ((1, 8, 8, 4),), (1, 256), dtype="int8")
    back = Operator("reshape", ((1, 256),), (1, 8, 8, 4), dtype="int8")
    image, map_ = (1, 16, 16, 4), (1, 8, 8, 4)
    large = (Live(1024, (1024,), False), Live(256, (1024,), True))
    first = (Arc(0, 0, 0, (big, half), 2048, 0, large), Arc(1, 0, 0, (half,), 1280, 0, large[1:]))
    lived = Live(256, (256,), False)
    second = (Arc(0, 0, 0, (small,), 512, 0, (lived,)), Arc(1, 0, 0, (flat, back), 512, 0, (lived, lived)))
    return Chain(((image,), (map_,), (map_,)), (first, second), (0, 1))


def test_rows_and_work() -> None:
    """Two patches of 4 of 8 rows: 4 rows by a 3x3 need 6, those by a 3x3 with stride 2 need 13, and those 15 of 16."""
    space = chain()
    found = banded(space, Prefix(2, 0, 2), lambda arc: arc)
    (long, short), (small, uncut) = (tuple(found[id(arc)] for arc in arcs) for arcs in space.arcs)
    assert uncut is None
    assert small is not None
    assert [(b.operator.output[1], b.operator.inputs[0][1], b.share, b.runs) for b in small.bands] == [
        (4, 6, 1.0, 2)
    ]
    assert long is not None
    assert [(b.operator.output[1], b.operator.inputs[0][1]) for b in long.bands] == [(13, 15), (6, 13)]
    assert [b.share for b in long.bands] == [26 / 16, 12 / 8]
    # 15 of 16 rows are the widest; the image and the last map live through all patches.
    part = 15 / 16
    assert long.live[0] == Live(int(1024 * part), (int(1024 * part), 1024, 256), False)
    assert short is not None
    assert [b.operator.output[1] for b in short.bands] == [6]
    # Inside one block nothing behind it widens it.
    alone = banded(space, Prefix(1, 0, 2), lambda arc: arc)
    assert id(space.arcs[1][0]) not in alone
    again = alone[id(space.arcs[0][1])]
    assert again is not None
    assert [(b.operator.output[1], b.share) for b in again.bands] == [(4, 1.0)]


@pytest.mark.parametrize(
    ("bound", "expected"),
    [
        (3000, []),
        (
            2000,
            [Prefix(p, 0, c) for c in (2, 3, 4, 6, 8) for p in (1, 2)],
        ),  # one block is over it: itself, and one more
        (1279, []),  # the image and the map alone are more
    ],
)
def test_where_patches_are_looked_at(bound: int, expected: list[Prefix]) -> None:
    assert list(prefixes(chain(), ArcMetric("max", lambda arc: arc.ram_bytes), bound)) == expected
