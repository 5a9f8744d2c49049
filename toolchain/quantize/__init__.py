"""Float graphs to int8 graphs: after training (`ptq`, numpy only) or in training (`qat`, needs torch)."""

from toolchain.quantize.ptq import (
    activation_ranges,
    choose_quantization,
    quantize,
    quantize_with_ranges,
    separate_fixed_scales,
)

__all__ = [
    "activation_ranges",
    "choose_quantization",
    "quantize",
    "quantize_with_ranges",
    "separate_fixed_scales",
]
