"""The timing model fitted to a board: here the virtual board itself, made slower, stands in for a real one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from targets.mcu.session import BoardSession, describe
from targets.session import Job, Result, open_target
from toolchain.cli import main
from toolchain.errors import ConfigurationError
from toolchain.workflow import calibrate as stage
from toolchain.workflow.calibrate import LAYERS, calibrate

for name in ("unicorn", "capstone", "serial", "elftools"):
    pytest.importorskip(name, reason=f"a virtual board needs {name}")

URL = "serial:/dev/ttyACM9?board=nucleo-l4r5zi"
VIRTUAL = "virtual:nucleo-l4r5zi"


class Slower:
    """The virtual board with other cycles: what a real one would measure."""

    def __init__(self, session: BoardSession, change: Callable[[float, int], float]) -> None:
        self._session, self._change = session, change
        self.stack, self.model_format = session.stack, session.model_format

    def __enter__(self) -> Slower:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def measure(self, jobs: list[Job]) -> Iterator[Result]:
        for result in self._session.measure(jobs):
            found = result.measurement
            assert found is not None
            value = self._change(found.value, int(found.details["constant_lines"]))
            yield Result(result.key, replace(found, value=value))


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Callable[[float, int], float]], None]:
    """Let a board answer at the serial URL, with cycles changed from the virtual one's."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))

    def attach(change: Callable[[float, int], float]) -> None:
        def opened(url: str) -> Any:
            return Slower(open_target(VIRTUAL), change) if url == URL else open_target(url)  # type: ignore[arg-type]

        monkeypatch.setattr(stage, "open_target", opened)

    return attach


def test_the_factor_is_found_and_used(
    real: Callable[[Callable[[float, int], float]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    real(lambda cycles, lines: 1.5 * (cycles - 4 * lines) + 4 * lines)
    before = describe(VIRTUAL).stack.as_dict()
    outcome = calibrate(URL)
    assert outcome.calibration.k == pytest.approx(1.22 * 1.5, rel=1e-3)
    assert outcome.calibration.worst_error < 0.001
    assert [layer.name for layer in outcome.layers] == list(LAYERS)
    after = describe(VIRTUAL).stack.as_dict()
    assert float(after["k"]) == pytest.approx(1.83, rel=1e-3)
    assert {key for key in after if after[key] != before[key]} == {"k", "band", "calibration"}
    assert main(["calibrate", URL]) == 0  # again: the fit starts from the calibrated model
    shown = " ".join(capsys.readouterr().out.split())  # sentences are folded
    assert "kept in " in shown
    assert "cycles_measured" in shown


def test_a_board_that_contradicts_the_model_is_refused(
    real: Callable[[Callable[[float, int], float]], None], tmp_path: Path
) -> None:
    def odd(cycles: float, lines: int) -> float:
        return cycles * (3 if cycles > 400_000 else 1)

    real(odd)
    with pytest.raises(ConfigurationError, match="off what the others say"):
        calibrate(URL)
    assert not (tmp_path / "config").exists()


def test_a_virtual_board_is_no_reference() -> None:
    with pytest.raises(ConfigurationError, match=r"its cycles are the model's own.*serial:"):
        calibrate(VIRTUAL)


@pytest.mark.parametrize("url", ["cpu:litert", "ssh://pi@board"])
def test_what_is_no_microcontroller_is_said(url: str) -> None:
    with pytest.raises(ConfigurationError, match="no microcontroller"):
        calibrate(url)
