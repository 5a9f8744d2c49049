"""Fitting a board's own factor, and keeping it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from targets.mcu.board import load_board
from targets.mcu.virtual import calibration
from targets.mcu.virtual.calibration import Layer, apply, calibrated, fit, load, save
from targets.mcu.virtual.part import timing
from toolchain.errors import ConfigurationError

BOARD = load_board("nucleo-l4r5zi")
STACK = {"compiler": "gcc 12.2.1", "flags": "-O2"}


def layers(k: float, count: int = 7, noise: float = 0.0, seed: int = 0) -> list[Layer]:
    """Layers of a board whose factor is k, with what the virtual board says of them by its own constants."""
    rng = np.random.default_rng(seed)
    found = []
    for index in range(count):
        core, lines = float(rng.integers(20_000, 5_000_000)), int(rng.integers(10, 2_000))
        measured = (k * core + BOARD.cycles.a * lines) * (1 + noise * rng.uniform(-1, 1))
        estimated = BOARD.cycles.k * core + BOARD.cycles.a * lines
        found.append(Layer(f"layer {index}", measured, estimated, lines))
    return found


def fitted(pairs: list[Layer]) -> calibration.Calibration:
    return fit(BOARD, pairs, taken_on="2026-11-22", stack=STACK)


@pytest.mark.parametrize("k", [0.9, 1.0, 1.22, 1.5, 2.4])
def test_the_factor_is_found_again(k: float) -> None:
    found = fitted(layers(k))
    assert found.k == pytest.approx(k, rel=1e-12)
    assert found.worst_error == pytest.approx(0, abs=1e-12)
    assert (found.layers, found.a, found.model, found.band) == (7, 4.0, "m4-flash/2", 0.10)


def test_one_odd_layer_does_not_move_it() -> None:
    pairs = layers(1.3, 9)
    pairs[4] = replace(pairs[4], measured_cycles=pairs[4].measured_cycles * 1.2)
    found = fitted(pairs)
    assert found.k == pytest.approx(1.3)
    assert found.worst_error == pytest.approx(1 - 1 / 1.2, rel=0.02)
    assert found.median_error < 0.01
    assert found.band == 0.17


def test_five_noisy_layers() -> None:
    for seed in range(20):
        found = fitted(layers(1.22, 5, noise=0.04, seed=seed))
        assert found.k == pytest.approx(1.22, rel=0.04)
        assert found.worst_error <= 0.085


def test_the_factor_of_a_calibrated_board_is_not_applied_twice() -> None:
    own = apply(BOARD, fitted(layers(1.4)))
    pairs = [
        replace(
            layer,
            estimated_cycles=1.4 / 1.22 * (layer.estimated_cycles - 4 * layer.constant_lines)
            + 4 * layer.constant_lines,
        )
        for layer in layers(1.4)
    ]
    assert fit(own, pairs, taken_on="2026-11-23", stack={}).k == pytest.approx(1.4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda pairs: pairs[:4], "4 layers are too few to calibrate with; 5 are needed"),
        (lambda pairs: [*pairs[:-1], pairs[0]], "layer 0 is there twice"),
        (lambda pairs: [replace(pairs[0], measured_cycles=0.0), *pairs[1:]], "layer 0: 0.0 measured"),
        (lambda pairs: [replace(pairs[0], estimated_cycles=float("nan")), *pairs[1:]], "layer 0"),
        (lambda pairs: [replace(pairs[0], measured_cycles=float("inf")), *pairs[1:]], "layer 0"),
        (lambda pairs: [replace(pairs[0], constant_lines=10**9), *pairs[1:]], "lines of constants take"),
        (lambda pairs: [replace(pairs[0], constant_lines=-1), *pairs[1:]], "-1 lines"),
        (
            lambda pairs: [
                replace(pairs[3], measured_cycles=2 * pairs[3].measured_cycles),
                *pairs[:3],
                *pairs[4:],
            ],
            "layer 3 is 5\\d% off what the others say; the limit is 25%|layer 3 is 50% off",
        ),
        (
            lambda pairs: [replace(layer, measured_cycles=9 * layer.measured_cycles) for layer in pairs],
            "the factor comes out as 11",
        ),
    ],
)
def test_nonsense_is_refused(change: object, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        fitted(change(layers(1.22)))  # type: ignore[operator]


def test_a_core_without_a_model() -> None:
    with pytest.raises(ConfigurationError, match="no cycle model"):
        fit(load_board("nucleo-g071rb"), layers(1.2), taken_on="2026-11-22", stack={})


def test_a_calibrated_board_says_so() -> None:
    own = apply(BOARD, fitted(layers(1.3)))
    assert own.cycles.k == pytest.approx(1.3)
    assert own.cycles.source == (
        "calibrated on 2026-11-22 to 7 layers of this board, leave-one-out error median 0.0%, worst 0.0%; "
        "compiler gcc 12.2.1, flags -O2"
    )
    _, fields = timing(own)
    assert (fields["k"], fields["band"]) == ("1.3", "0.1")
    assert "7 layers" in fields["calibration"]
    assert replace(own, cycles=BOARD.cycles) == BOARD


@pytest.mark.parametrize(
    "other",
    [
        load_board("nucleo-f446re"),
        replace(BOARD, clock=replace(BOARD.clock, hz=80_000_000)),
        replace(BOARD, flash=replace(BOARD.flash, wait_states=4)),
        replace(BOARD, cycles=replace(BOARD.cycles, model="m4-flash/3")),
    ],
)
def test_not_for_another_board_clock_or_model(other: object) -> None:
    with pytest.raises(ConfigurationError, match="calibrate again"):
        apply(other, fitted(layers(1.3)))  # type: ignore[arg-type]


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "user"))
    assert load(BOARD.name) is None
    assert calibrated(BOARD) is BOARD
    users, projects = fitted(layers(1.3)), fitted(layers(1.4))
    assert save(users) == tmp_path / "user" / "boardfit" / "calibration" / "nucleo-l4r5zi.json"
    assert load(BOARD.name) == users
    assert calibrated(BOARD) == apply(BOARD, users)
    save(projects, tmp_path / "project")
    assert load(BOARD.name, [tmp_path / "project", calibration.user_folder()]) == projects
    assert load(BOARD.name, [tmp_path / "empty", calibration.user_folder()]) == users


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2}, {"k": 99.0}, {"k": "x"}, {"k": float("nan")}, {"layers": 2}, {"stack": "x"}, {"more": 1},
        {"layers": "many"},
    ],
)  # fmt: skip
def test_damaged_files(tmp_path: Path, change: dict[str, object]) -> None:
    path = save(fitted(layers(1.3)), tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ConfigurationError, match="is no calibration"):
        load(BOARD.name, [tmp_path])
    for text in ("", "[]", "{", "{}"):
        path.write_text(text)
        with pytest.raises(ConfigurationError, match="is no calibration"):
            load(BOARD.name, [tmp_path])
