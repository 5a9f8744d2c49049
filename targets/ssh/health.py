"""How a Linux board is: temperature, clock limits, throttling, memory. Read from /sys and /proc, nothing is run.

Standard library only: the agent carries this file. Every reader takes the root of the file system, for tests.
Sources: Linux kernel documentation, admin-guide/pm/cpufreq.rst (scaling_max_freq, cpuinfo_max_freq) and
driver-api/thermal/sysfs-api.rst (thermal_zone*/temp in thousandths of a degree); Raspberry Pi documentation,
vcgencmd get_throttled (meaning of the bits).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

_ROOT: Final = Path("/")
# Where the Pi's firmware driver shows the flags of `vcgencmd get_throttled`, without that program.
_THROTTLED: Final = "sys/devices/platform/soc/soc:firmware/get_throttled"
_FLAGS: Final[Mapping[int, str]] = {
    0: "under-voltage",
    1: "clock capped",
    2: "throttled",
    3: "soft temperature limit",
}


def temperature_c(root: Path = _ROOT) -> float | None:
    """The hottest thermal zone in degrees Celsius; None where the kernel shows none."""
    zones = []
    for path in sorted((root / "sys/class/thermal").glob("thermal_zone*/temp")):
        text = _text(path)
        if text.lstrip("-").isdecimal():
            zones.append(int(text) / 1000)
    return max(zones) if zones else None


def throttling(root: Path = _ROOT) -> tuple[str, ...]:
    """What holds the processor back at this moment: flags of a Raspberry Pi; a clock limit below the part's own."""
    found = []
    text = _text(root / _THROTTLED)
    try:
        flags = int(text, 16) if text else 0
    except ValueError:
        flags = 0
    found += [name for bit, name in _FLAGS.items() if flags >> bit & 1]
    for folder in sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq")):
        limit, most = _text(folder / "scaling_max_freq"), _text(folder / "cpuinfo_max_freq")
        if limit.isdecimal() and most.isdecimal() and int(limit) < int(most):
            found.append(f"clock limited to {int(limit) // 1000} of {int(most) // 1000} MHz")
            break
    return tuple(found)


def clock_mhz(root: Path = _ROOT) -> float | None:
    """Core 0's present clock; None where the kernel does not say."""
    text = _text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
    return int(text) / 1000 if text.isdecimal() else None


def memory_bytes(root: Path = _ROOT) -> tuple[int, int] | None:
    """(all, available) RAM in bytes; None without /proc/meminfo."""
    values = {}
    for line in _text(root / "proc/meminfo").splitlines():
        name, _, rest = line.partition(":")
        number = rest.split()[0] if rest.split() else ""
        if number.isdecimal():
            values[name] = int(number) * 1024
    if "MemTotal" not in values:
        return None
    return values["MemTotal"], values.get("MemAvailable", 0)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip("\0 \n\t")
    except OSError:
        return ""
