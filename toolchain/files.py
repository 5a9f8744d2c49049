"""Files that are either whole or absent, also when the power fails or the disk is full; and where the cache is."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from toolchain.errors import BoardfitError


def cache_folder() -> Path:
    """Where boardfit keeps what it can find out again: $XDG_CACHE_HOME/boardfit, by default ~/.cache/boardfit."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "boardfit"


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path` through a temporary file, fsync and rename: readers see old or new, never half.

    Raises:
        BoardfitError: the disk is full or the folder cannot be written; the old file is untouched.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise BoardfitError(
            f"cannot write {path}: {error.strerror}", remedy="check the folder and its permissions"
        ) from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # mkstemp makes it private; results are for sharing
        os.replace(name, path)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise BoardfitError(
            f"cannot write {path} ({len(data)} bytes): {error.strerror}",
            remedy="free disk space or choose another folder",
        ) from error


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys and a final newline, atomically."""
    write_atomic(path, (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode())
