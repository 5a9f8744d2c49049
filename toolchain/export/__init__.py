"""Graphs and modules to files, and the proof that all files mean the same network.

The ONNX functions are imported when first used: TFLite files are written without the onnx package.
"""

from typing import TYPE_CHECKING, Any

from toolchain.export.tflite_writer import write_tflite
from toolchain.export.verify import Comparison, Limits, ModelFiles, Verification, verify

if TYPE_CHECKING:
    from toolchain.export.onnx_writer import (
        check_fused,
        fused_operator_count,
        graph_to_onnx,
        quantize_onnx,
        write_onnx,
    )

__all__ = [
    "Comparison",
    "Limits",
    "ModelFiles",
    "Verification",
    "check_fused",
    "fused_operator_count",
    "graph_to_onnx",
    "quantize_onnx",
    "verify",
    "write_onnx",
    "write_tflite",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from toolchain.export import onnx_writer

    return getattr(onnx_writer, name)
