"""Packs the agent: one Python file (a zip that Python runs), the same bytes for the same sources."""

from __future__ import annotations

import ast
import hashlib
import io
import zipfile
from functools import cache
from importlib.resources import files
from typing import Final

_ENTRY: Final = "targets.ssh.agent"
_PACKAGES: Final = (
    "firmware",
    "targets",
    "toolchain",
)  # what is packed; the rest is Python's own, numpy and engines
# Old Pythons parse this before anything else, so that they can say that they are old.
_MAIN: Final = """\
import os
import sys

if sys.version_info < (3, 11):
    sys.stderr.write("boardfit-agent: needs Python 3.11, this is %s\\n" % sys.version.split()[0])
    sys.exit(65)
try:
    import numpy
except ImportError:
    sys.stderr.write("boardfit-agent: needs numpy and an engine; %s has no numpy\\n" % sys.executable)
    sys.exit(66)
from targets.ssh.agent import main

sys.exit(main(os._exit))
"""
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)


@cache
def agent_file() -> bytes:
    """The agent as one file, to be started with `python3 FILE`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, data in sorted({"__main__.py": _MAIN.encode(), **modules(_ENTRY)}.items()):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    return buffer.getvalue()


def modules(entry: str) -> dict[str, bytes]:
    """A module and all of ours that it imports when it is imported: path in the archive -> source.

    Imports inside functions are not followed: they are of what may be missing on a device.
    """
    found: dict[str, bytes] = {}
    open_ = [entry]
    while open_:
        name = open_.pop()
        parts = name.split(".")
        open_ += [".".join(parts[:end]) for end in range(1, len(parts))]  # the packages that it is in
        place = files(parts[0]).joinpath(*parts[1:])
        package = place.is_dir()
        source = place / "__init__.py" if package else place.parent / f"{parts[-1]}.py"  # type: ignore[attr-defined]
        path = "/".join(parts) + ("/__init__.py" if package else ".py")
        if path in found or not source.is_file():
            continue
        found[path] = source.read_bytes()
        open_ += [each for each in _imports(found[path]) if each.split(".")[0] in _PACKAGES]
    return found


def _imports(source: bytes) -> list[str]:
    """Modules that a module imports at its top level; `from a import b` gives a and a.b, of which one may not exist."""
    found: list[str] = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def agent_name() -> str:
    """Its file name on a device: holds the version, which is a hash of the file."""
    return f"agent-{hashlib.sha256(agent_file()).hexdigest()[:16]}.pyz"
