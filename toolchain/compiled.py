"""C sources as a shared library for this machine: compiled once, kept in the user's cache folder.

The file's name holds the hash of sources, flags and platform; it is written beside and renamed, so processes that start
together do not see half a file. Without a compiler callers have something else to offer, or say so.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from toolchain.files import cache_folder
from toolchain.process import run_captured

FLAGS: Final = ("-std=c11", "-O2", "-shared", "-fPIC", "-fvisibility=hidden")
_SECONDS: Final = 120


def compilers() -> Iterator[list[str]]:
    """Commands of C compilers for this machine, the user's choice ($CC) first, the `ziglang` wheel last."""
    chosen = os.environ.get("CC")
    if chosen:
        yield shlex.split(chosen)
    for name in ("cc", "gcc", "clang"):
        found = shutil.which(name)
        if found:
            yield [found]
    if importlib.util.find_spec("ziglang") is not None:
        yield [sys.executable, "-m", "ziglang", "cc"]


def shared_library(
    name: str, sources: Sequence[Path], headers: Iterable[Path] = (), flags: Sequence[str] = FLAGS
) -> Path | None:
    """The library of these sources, compiled at first use.

    Args:
        name: begin of the file's name.
        sources: what is compiled.
        headers: what they include, for the hash only.

    Returns:
        Its file; None where no compiler is found, none compiles it, or others may write to the cache folder.

    Raises:
        OSError: the cache folder or a source cannot be read or written.
    """
    contents = hashlib.sha256(repr((tuple(flags), platform.machine(), sys.platform)).encode())
    for file in (*sources, *headers):
        data = file.read_bytes()
        contents.update(f"{file.name} {len(data)} ".encode() + data)
    folder = cache_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _trusted(folder):
        return None
    suffix = ".dll" if os.name == "nt" else ".so"
    target = folder / f"{name}-{contents.hexdigest()[:16]}{suffix}"
    if target.exists():
        return target if _trusted(target) else None
    for compiler in compilers():
        handle, built = tempfile.mkstemp(suffix=suffix, dir=folder)
        os.close(handle)
        try:
            done = run_captured([*compiler, *flags, *map(str, sources), "-o", built], timeout_s=_SECONDS)
            if done.returncode == 0:
                os.replace(built, target)
                return target
        except (OSError, subprocess.TimeoutExpired):
            pass
        finally:
            if os.path.exists(built):
                os.unlink(built)
    return None


def _trusted(path: Path) -> bool:
    """Code is loaded only from files that nobody else can write."""
    if os.name != "posix":
        return True
    found = path.stat()
    return found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
