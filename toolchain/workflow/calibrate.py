"""Fit the timing model of a virtual board to the user's own board: a few layers, measured on both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from profilers.profile import operator_writer
from targets.mcu.session import parse_url
from targets.mcu.virtual.calibration import Calibration, Layer, fit, save
from targets.session import Job, Session, is_board, open_target
from toolchain.errors import ConfigurationError, DeviceError
from toolchain.graph.operator import Operator
from toolchain.measurement import Measurement
from toolchain.workflow.project import Progress, silent

# Of every kernel that takes time, from small to large, with weights that do and do not fit a flash cache.
LAYERS: Final = (
    "conv2d 16x16x8->16x16x16 k3x3 s1x1 same relu int8",
    "conv2d 8x8x32->8x8x32 k3x3 s1x1 same relu int8",
    "conv2d 16x16x16->8x8x24 k3x3 s2x2 same relu int8",
    "conv2d 16x16x16->16x16x32 k1x1 s1x1 same relu int8",
    "conv2d 8x8x64->8x8x32 k1x1 s1x1 same none int8",
    "depthwise_conv2d 16x16x16->16x16x16 k3x3 s1x1 same relu int8",
    "depthwise_conv2d 16x16x16->8x8x16 k5x5 s2x2 same relu int8",
    "fully_connected 256->64 relu int8",
)


@dataclass(frozen=True)
class CalibrateOutcome:
    """What was fitted.

    Attributes:
        calibration: the factor, its error on layers that were left out, and the software that it holds for.
        layers: each with its cycles on both boards; estimates are those of the model as it was before.
        path: the file that virtual boards of this name read from now on.
    """

    calibration: Calibration
    layers: tuple[Layer, ...]
    path: Path


def calibrate(url: str, *, progress: Progress = silent, folder: Path | None = None) -> CalibrateOutcome:
    """Measure layers on a board and on its virtual twin, with the same firmware, and keep the factor between them.

    Args:
        url: a real board's, e.g. `serial:/dev/ttyACM0?board=nucleo-l4r5zi`.
        folder: where the factor is kept; by default the user's configuration.

    Raises:
        ConfigurationError: a virtual board, a board without a timing model, or layers that contradict it.
        DeviceError: a board cannot be opened, or refuses a layer.
    """
    if not is_board(url):
        raise ConfigurationError(
            f"{url} is no microcontroller: it has no timing model to fit",
            remedy="name a real board: serial:/dev/ttyACM0?board=nucleo-l4r5zi",
        )
    board = parse_url(url)
    if board.virtual:
        raise ConfigurationError(
            f"{url} is a virtual board: its cycles are the model's own",
            remedy=f"name a real one: serial:/dev/ttyACM0?board={board.board.name}",
        )
    with open_target(url) as session:
        measured, stack = _measured(session, progress, 0), session.stack.as_dict()
    twin = f"virtual:{board.board.name}?runtime={board.runtime}&compiler={board.compiler}"
    with open_target(twin) as session:
        estimated = _measured(session, progress, len(LAYERS))
    layers = tuple(
        Layer(
            name, measured[name].value, estimated[name].value, int(estimated[name].details["constant_lines"])
        )
        for name in LAYERS
    )
    found = fit(
        parse_url(twin).board,  # with the constants that the estimates were made with
        layers,
        taken_on=datetime.now(UTC).date().isoformat(),
        stack={key: stack[key] for key in ("runtime", "kernels", "compiler", "flags", "firmware")},
    )
    return CalibrateOutcome(found, layers, save(found, folder))


def _measured(session: Session, progress: Progress, before: int) -> Mapping[str, Measurement]:
    write = operator_writer(session.model_format)
    jobs = [Job(name, write(Operator.parse(name))) for name in LAYERS]
    found = {}
    for number, result in enumerate(session.measure(jobs), 1):
        if result.measurement is None:
            raise DeviceError(
                f"{session.stack.label} refuses {result.key}: {result.failure}",
                remedy="a board with more memory, or `boardfit flash` where its firmware is old",
            )
        found[result.key] = result.measurement
        progress("calibrate", before + number, 2 * len(LAYERS), session.stack.label)
    return found
