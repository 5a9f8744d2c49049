"""The C sources that run on microcontrollers, as a package so that they come along with the wheel."""

from __future__ import annotations

from pathlib import Path


def source_folder() -> Path:
    """Folder of the C sources: kernels/, runtime/, protocol/, boards/, tflm/."""
    return Path(__file__).resolve().parent
