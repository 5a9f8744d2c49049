"""The vocabulary of operators, and graphs made of them. Numpy only, but for `toolchain.graph.lower`."""

from toolchain.graph.chain import Arc, Chain
from toolchain.graph.graph import (
    Graph,
    GraphBuilder,
    Node,
    Quantization,
    Tensor,
    dequantize_array,
    quantize_array,
)
from toolchain.graph.operator import Operator, Shape, same_padding, window_pads

__all__ = [
    "Arc",
    "Chain",
    "Graph",
    "GraphBuilder",
    "Node",
    "Operator",
    "Quantization",
    "Shape",
    "Tensor",
    "dequantize_array",
    "quantize_array",
    "same_padding",
    "window_pads",
]
