"""Looks at one target: is it there, can it run a model, and would its times be worth something."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from targets.session import describe, open_target
from targets.ssh.install import install
from targets.ssh.session import look
from toolchain.errors import BoardfitError
from toolchain.workflow.doctor import Check

_STEADY: Final = (
    "performance",
    "schedutil",
    "unknown",
)  # unknown: the kernel does not say, e.g. in a container
_HOT_C: Final = (
    75.0  # a Raspberry Pi slows down at 80 (documentation, "Frequency management and thermal control")
)
_NEEDED_BYTES: Final = 100_000_000


def examine_target(
    url: str, *, install_engine: bool = False, say: Callable[[str], object] = lambda line: None
) -> list[Check]:
    """Check a target, and with `install_engine` give a Linux board the engine that it lacks.

    Args:
        url: any target.
        install_engine: for `ssh://`: make boardfit's own environment there first.
        say: told what the installation prints.
    """
    found: list[Check] = []
    if url.startswith("ssh:"):
        if install_engine:
            try:
                found.append(Check("installation", "ok", install(url, say=say)))
            except BoardfitError as error:
                return [_failed("installation", error)]
        try:
            report = look(url)
        except BoardfitError as error:
            return [*found, _failed("connection", error)]
        found += _board(url, report)
    try:
        target = describe(url)
    except BoardfitError as error:
        return [*found, _failed("engine", error)]
    found.append(Check("engine", "ok", f"{target.stack.label}, takes .{target.model_format} files"))
    if target.device is not None and not url.startswith("virtual:"):
        # A board's description follows from its facts; only the board itself can say that it is there.
        try:
            with open_target(url) as session:
                found.append(Check("board", "ok", f"answers as {session.stack.label}"))
        except BoardfitError as error:
            found.append(_failed("board", error))
    return found


def _board(url: str, report: Mapping[str, Any]) -> Iterator[Check]:
    machine = report["machine"]
    yield Check("connection", "ok", f"{machine['cpu']}, {machine['cores']} cores, {machine['architecture']}")
    yield Check("Python", "ok", f"{report['python']} ({report['executable']})")
    runtimes = {name: version for name, version in report["runtimes"].items() if name != "numpy"}
    if runtimes:
        yield Check("engines", "ok", ", ".join(f"{name} {version}" for name, version in runtimes.items()))
    else:
        yield Check("engines", "error", "none", f"boardfit doctor --target '{url}' --install")
    if machine["governor"] in _STEADY:
        yield Check("CPU governor", "ok", machine["governor"])
    else:
        yield Check(
            "CPU governor", "warning", f"{machine['governor']}: the clock changes while it is measured",
            "on the board: echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
        )  # fmt: skip
    if report["throttling"]:
        yield Check(
            "throttling", "warning", ", ".join(report["throttling"]),
            "a stronger power supply, a cooler, or the clock limit lifted; what is measured now is marked unstable",
        )  # fmt: skip
    temperature = report["temperature_c"]
    if temperature is not None:
        hot = temperature >= _HOT_C
        yield Check(
            "temperature", "warning" if hot else "ok", f"{temperature:.0f} degrees C",
            "let it cool down, or give it a fan" if hot else "",
        )  # fmt: skip
    for name, key in (("memory", "ram_available_bytes"), ("disk", "disk_free_bytes")):
        value = report[key]
        if value is not None:
            tight = value < _NEEDED_BYTES
            yield Check(
                name, "warning" if tight else "ok", f"{value / 1e6:,.0f} MB free",
                f"free {_NEEDED_BYTES / 1e6:.0f} MB on the board" if tight else "",
            )  # fmt: skip


def _failed(name: str, error: BoardfitError) -> Check:
    return Check(name, "error", error.message, error.remedy)
