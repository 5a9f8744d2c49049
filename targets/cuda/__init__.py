"""NVIDIA GPUs as targets: `cuda:torch`, `cuda:onnxruntime` (docs/gpu.md)."""
