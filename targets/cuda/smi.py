"""How an NVIDIA GPU is: clocks, power state, temperature and what holds it back, as nvidia-smi says.

Sources: nvidia-smi(1) and `nvidia-smi --help-query-gpu` (fields; driver 535 renamed clocks_throttle_reasons to
clocks_event_reasons); NVML API reference, "NvmlClocksThrottleReasons" (the bits).
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

Run = Callable[[Sequence[str]], tuple[int, str]]  # a command -> exit status, what it printed
State = Mapping[str, str]  # field -> value; fields that the GPU does not tell are absent

REASONS: Final = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")
FIELDS: Final = (
    "name", "uuid", "driver_version", "persistence_mode", "pstate", "clocks.sm", "clocks.mem", "clocks.max.sm",
    "temperature.gpu", "power.draw", "power.limit", *REASONS,
)  # fmt: skip
# Bits of the reasons that mean: slower than the GPU could be. Idle, a chosen clock and synchronised boards are none.
_HELD_BACK: Final[Mapping[int, str]] = {
    0x04: "power limit",
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
_SECONDS: Final = 10.0
_INVALID: Final = re.compile(r'Field "([^"]+)" is not a valid field')


def query(gpu: str, run: Run | None = None) -> State:
    """What nvidia-smi tells about a GPU; {"unknown": why} when it tells nothing.

    A driver that does not know a field refuses the whole question, so it is asked again without that field.

    Args:
        gpu: index or UUID.
        run: starts a program; for tests.
    """
    start = run or _run
    fields = list(FIELDS)
    while fields:
        words = [
            "nvidia-smi",
            f"--id={gpu}",
            f"--query-gpu={','.join(fields)}",
            "--format=csv,noheader,nounits",
        ]
        status, said = start(words)
        invalid = [name for name in _INVALID.findall(said) if name in fields]
        if invalid:
            fields = [name for name in fields if name not in invalid]
            continue
        if status != 0:
            lines = said.strip().splitlines()
            return {"unknown": lines[0] if lines else f"nvidia-smi ends with status {status}"}
        return parse(fields, said)
    return {"unknown": "nvidia-smi knows none of the fields"}


def parse(fields: Sequence[str], said: str) -> State:
    """The fields of one GPU's line of CSV without units.

    Values in brackets ("[N/A]", "[Not Supported]", "[Unknown Error]") mean that the GPU does not tell.
    """
    lines = [line for line in said.splitlines() if line.strip()]
    if len(lines) != 1:
        return {"unknown": f"nvidia-smi answers for {len(lines)} GPUs instead of one"}
    values = [value.strip() for value in lines[0].split(",")]
    if len(values) != len(fields):
        return {"unknown": f"nvidia-smi answers {len(values)} fields instead of {len(fields)}"}
    pairs = zip(fields, values, strict=True)
    return {name: value for name, value in pairs if value and value != "N/A" and not value.startswith("[")}


def held_back(state: State) -> tuple[str, ...]:
    """What makes the GPU slower than it could be at that moment."""
    bits = 0
    for name in REASONS:
        try:
            bits |= int(state.get(name, "0"), 16)
        except ValueError:
            continue
    return tuple(text for bit, text in _HELD_BACK.items() if bits & bit)


def details(state: State) -> dict[str, str]:
    """What is stored beside a measurement; units in the names."""
    names = {
        "pstate": "power_state",
        "clocks.sm": "clock_mhz",
        "clocks.mem": "memory_clock_mhz",
        "temperature.gpu": "temperature_c",
        "power.draw": "power_w",
    }
    found = {label: state[name] for name, label in names.items() if name in state}
    return {**found, "gpu_state": f"unknown: {state['unknown']}"} if "unknown" in state else found


class Watch:
    """The state of a GPU, asked at most once a second: nvidia-smi takes a tenth of one.

    Args:
        gpu: index or UUID.
        run, clock: for tests.
    """

    def __init__(self, gpu: str, run: Run | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._gpu = gpu
        self._run = run
        self._clock = clock
        self._asked = -1e9
        self._state: State = {}

    def state(self) -> State:
        """The state now, or as it was less than a second ago."""
        now = self._clock()
        if now - self._asked >= 1.0:
            self._asked, self._state = now, query(self._gpu, self._run)
        return self._state


def _run(words: Sequence[str]) -> tuple[int, str]:
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, errors="replace", timeout=_SECONDS, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except FileNotFoundError:
        return 127, "nvidia-smi is not installed"
    except (OSError, subprocess.TimeoutExpired) as error:
        return 126, f"nvidia-smi: {error}"
    return done.returncode, done.stdout + done.stderr
