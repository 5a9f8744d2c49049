"""Signatures are read back exactly; impossible operators are refused."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolchain.errors import GraphError
from toolchain.graph import Operator, same_padding, window_pads
from toolchain.graph.operator import DType, Kind, Padding, window_output

sizes = st.integers(1, 40)
images = st.tuples(st.just(1), sizes, sizes, sizes)
shapes = st.one_of(images, st.tuples(st.just(1), sizes))
dtypes: st.SearchStrategy[DType] = st.sampled_from(["float32", "int8"])
fusable = st.sampled_from(["none", "relu", "relu6"])


@st.composite
def windowed(draw: st.DrawFn) -> Operator:
    kind: Kind = draw(st.sampled_from(["conv2d", "depthwise_conv2d", "average_pool", "max_pool"]))
    shape = draw(images)
    kernel = (draw(st.integers(1, shape[1])), draw(st.integers(1, shape[2])))
    stride = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    padding: Padding = draw(st.sampled_from(["same", "valid"]))
    channels = {"conv2d": draw(sizes), "depthwise_conv2d": shape[3] * draw(st.integers(1, 3))}.get(
        kind, shape[3]
    )
    dtype = draw(dtypes)
    weighted = kind in ("conv2d", "depthwise_conv2d") and dtype == "float32"
    activation = draw(st.one_of(fusable, st.just("hard_sigmoid")) if weighted else fusable)
    output = (1, *window_output(shape, kernel, stride, padding), channels)
    return Operator(
        kind,
        (shape,),
        output,
        kernel=kernel,
        stride=stride,
        padding=padding,
        activation=activation,
        dtype=dtype,
    )


@st.composite
def others(draw: st.DrawFn) -> Operator:
    kind: Kind = draw(
        st.sampled_from(
            ["fully_connected", "add", "mul", "pad", "reshape", "softmax", "hard_swish", "concatenation"]
        )
    )
    shape, dtype, activation = draw(shapes), draw(dtypes), draw(fusable)
    if kind == "fully_connected":
        return Operator(kind, (shape,), (1, draw(sizes)), activation=activation, dtype=dtype)
    if kind in ("add", "mul"):
        other = tuple(n if draw(st.booleans()) else 1 for n in shape)
        return Operator(kind, (shape, other), shape, activation=activation, dtype=dtype)
    if kind == "pad":
        pads = ((0, 0), *((draw(st.integers(0, 3)), draw(st.integers(0, 3))) for _ in shape[1:]))
        output = tuple(n + sum(p) for n, p in zip(shape, pads, strict=True))
        return Operator(kind, (shape,), output, pads=pads, dtype=dtype)
    if kind == "reshape":
        size = 1
        for n in shape:
            size *= n
        return Operator(kind, (shape,), (1, size), dtype=dtype)
    if kind == "concatenation":
        axis = draw(st.integers(1, len(shape) - 1))
        parts = tuple(
            (*shape[:axis], draw(sizes), *shape[axis + 1 :]) for _ in range(draw(st.integers(1, 3)))
        )
        output = (*shape[:axis], sum(p[axis] for p in parts), *shape[axis + 1 :])
        return Operator(kind, parts, output, axis=axis, dtype=dtype)
    return Operator(kind, (shape,), shape, dtype=dtype)


@given(st.one_of(windowed(), others()))
def test_signature_is_read_back(op: Operator) -> None:
    again = Operator.parse(op.signature)
    assert again == op
    assert hash(again) == hash(op)


def test_signature_is_readable() -> None:
    op = Operator(
        "conv2d", ((1, 1, 32, 16),), (1, 1, 16, 32), kernel=(1, 3), stride=(1, 2), padding="same",
        activation="relu", dtype="int8",
    )  # fmt: skip
    assert op.signature == "conv2d 1x32x16->1x16x32 k1x3 s1x2 same relu int8"
    assert (op.macs, op.params, op.weight_shape) == (16 * 32 * 3 * 16, 32 * 3 * 16 + 32, (32, 1, 3, 16))
    assert op.activation_bytes == (512, 512)


def test_a_border_of_its_own_is_part_of_the_signature() -> None:
    """A patch at the top of an image: a row above and a column at either side are outside it."""
    op = Operator.parse("conv2d 7x8x1->6x8x8 k3x3 s1x1 p1:0,1:1 none int8")
    assert (op.padding, op.pads) == ("explicit", ((1, 0), (1, 1)))
    assert window_pads(op) == op.pads
    with pytest.raises(GraphError, match="does not follow"):
        replace(op, pads=((1, 1), (1, 1)))
    with pytest.raises(GraphError, match="are not"):
        replace(op, pads=((1, 0),))


def test_an_algorithm_is_part_of_the_signature() -> None:
    """Only what differs from the usual is written, so that rows of older tables keep their keys."""
    text = "conv2d 8x8x16->8x8x16 k3x3 s1x1 same relu int8"
    op = Operator.parse(f"{text} winograd")
    assert (op.algorithm, op.signature) == ("winograd", f"{text} winograd")
    assert replace(op, algorithm="direct") == Operator.parse(text) != op


@pytest.mark.parametrize(
    "signature",
    [
        "",
        "conv3d 4x4x4->4x4x4 float32",
        "add 4x4x4,4x4x4->4x4x4 none float64",
        "add 4x4x4,4x4x4->4x4x4 none  float32",
        "add 4x4x4,4x4x4->4x4x4 none extra float32",
        "softmax 010->010 float32",
        "conv2d 8x8x3->8x8x4 k3x3 s1x1 full none int8",
        "conv2d 8x8x4->8x8x4 k3x3 s1x1 same none int8 direct",
    ],
)
def test_other_text_is_no_signature(signature: str) -> None:
    with pytest.raises(GraphError, match="signature"):
        Operator.parse(signature)


IMAGE = (1, 8, 8, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "softmax", "inputs": (IMAGE,), "output": (1, 8, 8, 4)}, "does not follow"),
        ({"kind": "softmax", "inputs": (IMAGE,), "output": IMAGE, "algorithm": "winograd"}, "3x3 with stride 1"),
        ({"kind": "max_pool", "inputs": (IMAGE,), "output": IMAGE, "kernel": (9, 9)}, "larger than the input"),
        ({"kind": "add", "inputs": (IMAGE,), "output": IMAGE}, "two inputs"),
        ({"kind": "add", "inputs": (IMAGE, (1, 3)), "output": IMAGE}, "same rank"),
        ({"kind": "add", "inputs": (IMAGE, (1, 8, 8, 2)), "output": IMAGE}, "broadcast"),
        ({"kind": "reshape", "inputs": (IMAGE,), "output": (1, 5)}, "elements"),
        ({"kind": "softmax", "inputs": ((2, 5),), "output": (2, 5)}, "batch of 1"),
        ({"kind": "concatenation", "inputs": (IMAGE,), "output": IMAGE, "axis": 4}, "out of range"),
        ({"kind": "concatenation", "inputs": (IMAGE, (1, 8, 7, 3)), "output": IMAGE, "axis": 3}, "differ"),
        ({"kind": "pad", "inputs": (IMAGE,), "output": IMAGE, "pads": ((0, 0),)}, "do not fit"),
        ({"kind": "softmax", "inputs": (IMAGE,), "output": IMAGE, "activation": "relu"}, "cannot be fused"),
        ({"kind": "depthwise_conv2d", "inputs": (IMAGE,), "output": (1, 8, 8, 4)}, "multiple"),
        ({"kind": "conv2d", "inputs": ((1, 3),), "output": (1, 3)}, "NHWC"),
        ({"kind": "add", "inputs": (IMAGE, IMAGE), "output": IMAGE, "activation": "hard_sigmoid"}, "weighted"),
        (
            {
                "kind": "conv2d", "inputs": (IMAGE,), "output": IMAGE,
                "activation": "hard_sigmoid", "dtype": "int8",
            },
            "float graph",
        ),
    ],
)  # fmt: skip
def test_impossible_operators(arguments: dict, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        Operator(**arguments)


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 4))
def test_same_padding_gives_the_size_of_same(size: int, kernel: int, stride: int) -> None:
    before, after = same_padding(size, kernel, stride)
    assert 0 <= after - before <= 1
    if size + before + after >= kernel:
        assert (size + before + after - kernel) // stride + 1 == -(-size // stride)
