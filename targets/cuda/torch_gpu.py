"""The part of `cuda:torch` that needs a GPU: streams, events, memory figures. Kept thin, since machines without one
cannot run it; everything that decides something is elsewhere.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from toolchain.errors import DeviceError


def require_cuda(torch: Any, index: int) -> None:
    """Say why torch cannot use a GPU.

    Raises:
        DeviceError: torch is a build without CUDA, sees no GPU, or not so many.
    """
    if getattr(torch.version, "cuda", None) is None:
        raise DeviceError(
            f"this torch {torch.__version__} is built without CUDA",
            remedy="install a CUDA build of torch into an environment on a machine with an NVIDIA GPU (docs/gpu.md)",
        )
    count = int(torch.cuda.device_count()) if torch.cuda.is_available() else 0
    if count == 0:
        raise DeviceError(
            "torch sees no NVIDIA GPU", remedy="check nvidia-smi, the driver, and CUDA_VISIBLE_DEVICES"
        )
    if index >= count:
        raise DeviceError(f"there is no GPU {index}: torch sees {count}", remedy=f"use device=0..{count - 1}")


class TorchGpu:
    """See `targets.cuda.events.Gpu`, with torch.

    Args:
        torch: the module, a CUDA build.
        index: the GPU's number as torch counts.
    """

    def __init__(self, torch: Any, index: int) -> None:
        self._torch = torch
        self._device = torch.device("cuda", index)
        found = torch.cuda.get_device_properties(self._device)
        self.name = str(found.name)
        uuid = str(getattr(found, "uuid", ""))
        self.smi_id = (uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}") if uuid else str(index)
        self.memory_bytes = int(found.total_memory)
        self.l2_bytes = int(getattr(found, "L2_cache_size", 0))
        # Twice the cache; 256 MB where torch does not tell its size, which is more than any L2 up to 2026 holds.
        size = 2 * self.l2_bytes or 256 << 20
        self._waste = torch.empty(size, dtype=torch.int8, device=self._device)
        self._stream = torch.cuda.Stream(self._device)

    def queue(self) -> AbstractContextManager[Any]:
        self.wait()  # what was queued elsewhere must be done before
        context: AbstractContextManager[Any] = self._torch.cuda.stream(self._stream)
        return context

    def flush(self) -> None:
        self._waste.zero_()

    def mark(self) -> Any:
        event = self._torch.cuda.Event(enable_timing=True)
        event.record(self._torch.cuda.current_stream(self._device))
        return event

    def wait(self) -> None:
        self._torch.cuda.synchronize(self._device)

    def elapsed_us(self, start: Any, end: Any) -> float:
        return float(start.elapsed_time(end)) * 1e3  # it gives milliseconds

    def memory_begin(self) -> int:
        """Bytes in use now; the peak counts from here."""
        self._torch.cuda.reset_peak_memory_stats(self._device)
        return int(self._torch.cuda.memory_allocated(self._device))

    def memory_peak(self) -> int:
        """The most bytes in use since `memory_begin`."""
        self.wait()
        return int(self._torch.cuda.max_memory_allocated(self._device))

    def versions(self) -> dict[str, str]:
        """What the numbers depend on beside torch's version."""
        backends = self._torch.backends
        return {
            "cuda": str(self._torch.version.cuda),
            "cudnn": str(backends.cudnn.version()),
            "tf32": f"matmul {backends.cuda.matmul.allow_tf32}, cudnn {backends.cudnn.allow_tf32}",
            "cudnn_benchmark": str(backends.cudnn.benchmark),
        }
