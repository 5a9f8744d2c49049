"""Engines that run model files in this process: LiteRT, ONNX Runtime, torch, TensorFlow Lite Micro, and the firmware's
own runtime compiled for this machine.

A runner loads a model file; what it loads gives outputs (`run`) and one bare inference on preset inputs (`invoke`, for
timing). An engine is imported when its runner is made, so that none of them is needed to use another.
"""

from targets.runners.common import Loaded, Runner, TensorSpec, check_tflite, preset, version
from targets.runners.litert import LiteRtModel, LiteRtRunner
from targets.runners.native import NativeModel, NativeRunner
from targets.runners.onnx_runtime import OnnxModel, OnnxRunner
from targets.runners.tflm import TflmModel, TflmRunner, arena_bytes
from targets.runners.torch_aten import TorchModel, TorchRunner

__all__ = [
    "LiteRtModel", "LiteRtRunner", "Loaded", "NativeModel", "NativeRunner", "OnnxModel", "OnnxRunner", "Runner",
    "TensorSpec", "TflmModel", "TflmRunner", "TorchModel", "TorchRunner", "arena_bytes", "check_tflite", "preset",
    "version",
]  # fmt: skip
