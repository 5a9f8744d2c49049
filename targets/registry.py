"""Which module knows which URL scheme: boardfit's own, and plug-ins that other packages bring.

A plug-in is an entry point of the group "boardfit.targets": its name is the scheme, its value a module with the
functions named below (docs/own-target.md). A module is imported when one of its URLs is used, or when all
targets are listed: what talks to boards is heavy, and may not be installed.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Final

from toolchain.errors import ConfigurationError

GROUP: Final = "boardfit.targets"
OWN: Final[Mapping[str, str]] = {
    "cpu": "targets.host",
    "cuda": "targets.cuda.session",
    "host": "targets.host",
    "virtual": "targets.mcu.session",
    "serial": "targets.mcu.session",
    "socket": "targets.mcu.session",
    "rfc2217": "targets.mcu.session",
    "ssh": "targets.ssh.session",
}
# What every target module offers; `targets.session` calls them, and documents what they mean.
NEEDED: Final = ("open_session", "model_format", "find")
# What it may offer, each with what is taken where it does not.
OPTIONAL: Final = ("describe", "is_board", "device_of")
PAGE: Final = "docs/own-target.md"


@dataclass(frozen=True, slots=True)
class Source:
    """A module of targets.

    Attributes:
        scheme: what a plug-in's URLs begin with; the module's name for boardfit's own, which have several.
        plugin: distribution and version of the package that brings it; empty for boardfit's own.
        load: imports it; raises what `module_of` raises.
    """

    scheme: str
    plugin: str
    load: Callable[[], ModuleType]


def module_of(scheme: str) -> ModuleType | None:
    """The module that knows a scheme; None where nobody does.

    Raises:
        ConfigurationError: two claim the scheme; or a plug-in cannot be imported, or lacks a function.
    """
    claims = entry_points(group=GROUP, name=scheme)
    if claims:
        return _load(*claims)
    return importlib.import_module(OWN[scheme]) if scheme in OWN else None


def sources() -> list[Source]:
    """All that there is, boardfit's own first; imports nothing."""
    found = [
        Source(module, "", partial(importlib.import_module, module)) for module in dict.fromkeys(OWN.values())
    ]
    plugins = sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, _package(entry)))
    rivals = {entry.name: entry_points(group=GROUP, name=entry.name) for entry in plugins}
    return found + [Source(e.name, _package(e), partial(_load, *rivals[e.name])) for e in plugins]


def _load(entry: EntryPoint, *rivals: EntryPoint) -> ModuleType:
    """The module of the one plug-in that claims a scheme."""
    package = _package(entry)
    if rivals or entry.name in OWN:
        packages = [package, *map(_package, rivals)]
        owner = "boardfit itself has" if entry.name in OWN else f"{packages.pop(0)} brings, too"
        raise ConfigurationError(
            f"the plug-in {' and '.join(packages)} claims targets {entry.name}:..., which {owner}",
            remedy=f"pip uninstall {_name(packages[-1])}, or give it another scheme ({PAGE})",
        )
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*", entry.name):
        raise ConfigurationError(
            f"the plug-in {package} claims targets {entry.name!r}, which is no scheme of a URL",
            remedy=f"name its entry point with small letters and digits ({PAGE})",
        )
    try:
        module: ModuleType = entry.load()
    except Exception as error:  # a plug-in may fail in any way; the user must hear which one it was
        why = str(error).strip().splitlines()
        raise ConfigurationError(
            f"the plug-in {package} for targets {entry.name}:... cannot be imported: {type(error).__name__}"
            + (f": {why[0]}" if why else ""),
            remedy=f"install what it needs, or pip uninstall {_name(package)}",
        ) from error
    offered = [*NEEDED, *(name for name in OPTIONAL if hasattr(module, name))]
    missing = [name for name in offered if not callable(getattr(module, name, None))]
    if missing:
        raise ConfigurationError(
            f"the plug-in {package} for targets {entry.name}:... has no function {', '.join(missing)} in {entry.value}",
            remedy=f"{PAGE} says what a target module offers",
        )
    return module


def _package(entry: EntryPoint) -> str:
    return "a package without metadata" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"


def _name(package: str) -> str:
    return package.partition(" ")[0]
