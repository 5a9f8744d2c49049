from __future__ import annotations

from pathlib import Path

import pytest

from targets.ssh.health import clock_mhz, memory_bytes, temperature_c, throttling


def put(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def test_nothing_known_is_none(tmp_path: Path) -> None:
    assert temperature_c(tmp_path) is None
    assert clock_mhz(tmp_path) is None
    assert memory_bytes(tmp_path) is None
    assert throttling(tmp_path) == ()


def test_the_hottest_zone_counts(tmp_path: Path) -> None:
    put(tmp_path, "sys/class/thermal/thermal_zone0/temp", "48312\n")
    put(tmp_path, "sys/class/thermal/thermal_zone1/temp", "61000\n")
    put(tmp_path, "sys/class/thermal/thermal_zone2/temp", "broken\n")
    assert temperature_c(tmp_path) == 61.0


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        ("0", ()),
        ("50000", ()),  # it happened since the board was switched on, not now
        ("1", ("under-voltage",)),
        ("e", ("clock capped", "throttled", "soft temperature limit")),
        ("nonsense", ()),
    ],
)
def test_flags_of_a_raspberry_pi(tmp_path: Path, flags: str, names: tuple[str, ...]) -> None:
    put(tmp_path, "sys/devices/platform/soc/soc:firmware/get_throttled", flags)
    assert throttling(tmp_path) == names


def test_a_clock_limit_below_the_parts_own_is_named_once(tmp_path: Path) -> None:
    for core in range(4):
        folder = f"sys/devices/system/cpu/cpu{core}/cpufreq/"
        put(tmp_path, folder + "scaling_max_freq", "1200000")
        put(tmp_path, folder + "cpuinfo_max_freq", "1800000")
        put(tmp_path, folder + "scaling_cur_freq", "600000")
    assert throttling(tmp_path) == ("clock limited to 1200 of 1800 MHz",)
    assert clock_mhz(tmp_path) == 600


def test_memory(tmp_path: Path) -> None:
    put(tmp_path, "proc/meminfo", "MemTotal:  4000 kB\nMemFree: 1 kB\nMemAvailable: 3000 kB\n")
    assert memory_bytes(tmp_path) == (4_096_000, 3_072_000)
