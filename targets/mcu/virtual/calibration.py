"""The cycle model's factor k from layers measured on a user's own board.

k stands for what the instruction table does not know: instruction fetch, write buffers, how a flash accelerator
behaves. Five layers of one board fix it to 1.5 to 2 % (median error; docs/virtual-board.md). The constants keep company
with the number of layers, the date and the software: another compiler or another -O level is another factor.
"""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from targets.mcu.board import Board
from toolchain.errors import ConfigurationError
from toolchain.files import write_json

FEWEST: Final = 5
"""Layers; with fewer one odd layer decides."""

WORST: Final = 0.25
"""Leave-one-out error above which the layers do not follow the model at all."""

NARROWEST: Final = 0.10
"""Band of the board whose factor comes from 700 layers (its worst layer was 9 % off); fewer layers cannot beat it."""

_PLAUSIBLE: Final = (0.5, 4.0)
_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer on both boards.

    Attributes:
        name: what it is, each once.
        measured_cycles: on the real board.
        estimated_cycles: on the virtual board, by the constants of `Board.cycles`.
        constant_lines: 16-byte lines of constants that one run reads from flash.
    """

    name: str
    measured_cycles: float
    estimated_cycles: float
    constant_lines: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """A board's own factor.

    Attributes:
        board: its name.
        model: of the cycles, e.g. `m4-flash/2`.
        k, a: the constants; a is the board file's.
        layers: how many it was fitted to.
        median_error, worst_error: leave-one-out, fractions of the measured cycles.
        clock_hz, wait_states: that the board ran at.
        taken_on: ISO 8601 date.
        stack: the software that was measured: compiler, flags, firmware.
    """

    board: str
    model: str
    k: float
    a: float
    layers: int
    median_error: float
    worst_error: float
    clock_hz: int
    wait_states: int
    taken_on: str
    stack: Mapping[str, str]

    @property
    def band(self) -> float:
        """The band to print with estimates, a fraction."""
        return max(NARROWEST, math.ceil(100 * self.worst_error) / 100)


def fit(board: Board, layers: Sequence[Layer], *, taken_on: str, stack: Mapping[str, str]) -> Calibration:
    """k as the median ratio of measured to core cycles, both without the flash's share `a * lines`.

    Args:
        board: with the constants that the estimates were made with.
        layers: five to ten, of different kinds and sizes.
        taken_on: ISO 8601 date.
        stack: the software that was measured.

    Raises:
        ConfigurationError: the board has no cycle model; too few layers, one twice, a value that is no number of
            cycles, a factor that no board has, or layers that contradict each other.
    """
    model = board.cycles
    if model.kind != "cycles_estimated":
        raise ConfigurationError(
            f"{board.name} has no cycle model that a factor could be fitted to: {model.source}",
            remedy="measure on the board itself",
        )
    _check(layers)
    shares = [model.a * layer.constant_lines for layer in layers]
    core = [(layer.estimated_cycles - share) / model.k for layer, share in zip(layers, shares, strict=True)]
    for layer, cycles, share in zip(layers, core, shares, strict=True):
        if cycles <= 0 or layer.measured_cycles <= share:
            raise ConfigurationError(
                f"layer {layer.name}: {layer.constant_lines} lines of constants take {share:g} cycles by the model, "
                f"of {layer.estimated_cycles:g} estimated and {layer.measured_cycles:g} measured",
                remedy="the layer was measured on another board or with another program",
            )
    ratios = [(layer.measured_cycles - s) / c for layer, s, c in zip(layers, shares, core, strict=True)]
    errors = [
        abs(statistics.median(ratios[:i] + ratios[i + 1 :]) * core[i] + shares[i] - layer.measured_cycles)
        / layer.measured_cycles
        for i, layer in enumerate(layers)
    ]
    worst = max(range(len(layers)), key=errors.__getitem__)
    if errors[worst] > WORST:
        raise ConfigurationError(
            f"layer {layers[worst].name} is {errors[worst]:.0%} off what the others say; the limit is {WORST:.0%}",
            remedy="measure again; compare the same program, compiler and flags on both boards",
        )
    k = statistics.median(ratios)
    if not _PLAUSIBLE[0] <= k <= _PLAUSIBLE[1]:
        raise ConfigurationError(
            f"the factor comes out as {k:.3g}; no board has one outside of {_PLAUSIBLE[0]:g} to {_PLAUSIBLE[1]:g}",
            remedy="check the board's clock, wait states and caches, and that both sides are cycles",
        )
    return Calibration(
        board=board.name,
        model=model.model,
        k=k,
        a=model.a,
        layers=len(layers),
        median_error=statistics.median(errors),
        worst_error=errors[worst],
        clock_hz=board.clock.hz,
        wait_states=board.flash.wait_states,
        taken_on=taken_on,
        stack=dict(stack),
    )


def apply(board: Board, calibration: Calibration) -> Board:
    """The board with its own factor: what it estimates, and what it says about its estimates.

    Raises:
        ConfigurationError: the calibration is of another board, model, clock or wait states.
    """
    facts = {
        "board": board.name,
        "model": board.cycles.model,
        "clock_hz": board.clock.hz,
        "wait_states": board.flash.wait_states,
    }
    for key, value in facts.items():
        was = getattr(calibration, key)
        if was != value:
            raise ConfigurationError(
                f"the calibration of {calibration.board} is for {key} {was}, {board.name} has {value}",
                remedy="calibrate again with `boardfit calibrate`",
            )
    said = ", ".join(f"{key} {value}" for key, value in sorted(calibration.stack.items()))
    cycles = replace(
        board.cycles,
        k=calibration.k,
        a=calibration.a,
        band=calibration.band,
        source=f"calibrated on {calibration.taken_on} to {calibration.layers} layers of this board, "
        f"leave-one-out error median {calibration.median_error:.1%}, worst {calibration.worst_error:.1%}"
        + (f"; {said}" if said else ""),
    )
    return replace(board, cycles=cycles)


def user_folder() -> Path:
    """Where a user's calibrations are kept: $XDG_CONFIG_HOME/boardfit/calibration, by default under ~/.config."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    return (Path(base) if base else Path.home() / ".config") / "boardfit" / "calibration"


def save(calibration: Calibration, folder: Path | None = None) -> Path:
    """Write `BOARD.json` into a folder, by default the user's; gives its path. Raises as `write_json` does."""
    path = (folder or user_folder()) / f"{calibration.board}.json"
    write_json(path, {"format": _FORMAT, **asdict(calibration)})
    return path


def load(board: str, folders: Sequence[Path] | None = None) -> Calibration | None:
    """The calibration of a board from the first folder that has one (by default the user's); None where none has.

    Raises:
        ConfigurationError: the file is damaged or of another format.
    """
    for folder in (user_folder(),) if folders is None else folders:
        path = folder / f"{board}.json"
        try:
            data = path.read_bytes()
        except OSError:
            continue
        return _parse(data, path)
    return None


def calibrated(board: Board, folders: Sequence[Path] | None = None) -> Board:
    """The board with the user's factor where there is one, else as it is. Raises as `load` and `apply` do."""
    found = load(board.name, folders)
    return board if found is None else apply(board, found)


def _parse(data: bytes, path: Path) -> Calibration:
    try:
        table = json.loads(data)
        if table.pop("format") != _FORMAT:
            raise ValueError("another format")
        found = Calibration(**table)
        numbers = (found.k, found.a, found.median_error, found.worst_error)
        if (
            not all(math.isfinite(float(value)) for value in numbers)
            or not _PLAUSIBLE[0] <= found.k <= _PLAUSIBLE[1]
        ):
            raise ValueError(f"k is {found.k}")
        if found.layers < FEWEST or not isinstance(found.stack, dict):
            raise ValueError(f"{found.layers} layers")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigurationError(
            f"{path} is no calibration: {error}",
            remedy="delete it, or calibrate again with `boardfit calibrate`",
        ) from error
    return found


def _check(layers: Sequence[Layer]) -> None:
    if len(layers) < FEWEST:
        raise ConfigurationError(
            f"{len(layers)} layers are too few to calibrate with; {FEWEST} are needed",
            remedy="measure more layers, of different kinds and sizes",
        )
    names = [layer.name for layer in layers]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigurationError(f"layer {twice} is there twice", remedy="measure different layers")
    for layer in layers:
        values = (layer.measured_cycles, layer.estimated_cycles)
        if not all(math.isfinite(value) and value > 0 for value in values) or layer.constant_lines < 0:
            raise ConfigurationError(
                f"layer {layer.name}: {layer.measured_cycles} measured, {layer.estimated_cycles} estimated cycles, "
                f"{layer.constant_lines} lines",
                remedy="a layer takes a positive number of cycles",
            )
