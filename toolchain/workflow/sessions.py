"""Opening targets with the two reference models that the measuring protocol wants."""

from __future__ import annotations

from profilers.profile import anchor_model, baseline_model
from targets.session import Session, open_target
from toolchain.graph.operator import DType
from toolchain.measurement import Stack

LATENCY = "latency_us"


def open_session(url: str, precision: DType = "float32") -> Session:
    """Open a target for measuring and running, with the anchor and baseline of a precision.

    Raises:
        ConfigurationError: no such target, or a package that writes its model files is missing.
        DeviceError: its engine is not installed, or the device does not answer.
    """
    with open_target(url) as probe:
        form = probe.model_format
    if form == "pt2":
        precision = "float32"
    return open_target(url, anchor=anchor_model(form, precision), baseline=baseline_model(form, precision))


def target_stack(url: str) -> Stack:
    """The stack of a target's numbers, without measuring anything."""
    with open_target(url) as session:
        return session.stack
