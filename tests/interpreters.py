"""The interpreters that our files are held against: TFLite Micro and LiteRT, one sample at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def run_tflm(model: bytes, *inputs: Array) -> Array:
    """First output of TFLite Micro for a batch of inputs (N x ...); its reference kernels, batch 1 each.

    Raises:
        RuntimeError: TFLite Micro refuses the model. On some models it aborts the process instead.
    """
    return run_tflm_outputs(model, 1, *inputs)[0]


def run_tflm_outputs(model: bytes, count: int, *inputs: Array) -> list[Array]:
    """The first `count` outputs of TFLite Micro, as `run_tflm`."""
    from tflite_micro import runtime

    interpreter = runtime.Interpreter.from_bytes(model, arena_size=8 << 20)
    results: list[list[Array]] = [[] for _ in range(count)]
    for sample in zip(*inputs, strict=True):
        for index, x in enumerate(sample):
            interpreter.set_input(x[None], index)
        interpreter.invoke()
        for index, result in enumerate(results):
            result.append(interpreter.get_output(index).copy())
    return [np.concatenate(result) for result in results]


def run_litert(model: bytes, *inputs: Array, reference: bool = False) -> Array:
    """First output of LiteRT for a batch of inputs; XNNPACK, or the reference kernels where `reference`."""
    from ai_edge_litert import interpreter as litert

    resolver = litert.OpResolverType.BUILTIN_REF if reference else litert.OpResolverType.AUTO
    interpreter = litert.Interpreter(
        model_content=model, experimental_op_resolver_type=resolver, num_threads=1
    )
    interpreter.allocate_tensors()
    details, output = interpreter.get_input_details(), interpreter.get_output_details()[0]["index"]
    results = []
    for sample in zip(*inputs, strict=True):
        for detail, x in zip(details, sample, strict=True):
            interpreter.set_tensor(detail["index"], x[None])
        interpreter.invoke()
        results.append(interpreter.get_tensor(output).copy())
    return np.concatenate(results)
