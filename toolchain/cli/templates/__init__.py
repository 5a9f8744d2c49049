"""What `boardfit init` writes."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from toolchain.errors import UsageError
from toolchain.files import write_atomic
from toolchain.workflow.config import PROJECT_FILE


def write_project(folder: Path) -> Path:
    """Make `folder` with a commented project file and a .gitignore; gives the project file's path.

    Raises:
        UsageError: there is a project file already.
    """
    path = folder / PROJECT_FILE
    if path.exists():
        raise UsageError(f"{path} exists already", remedy="choose another folder or edit that file")
    name = folder.resolve().name or "project"
    template = resources.files(__package__).joinpath("boardfit.toml").read_text(encoding="utf-8")
    # TOML basic strings take no bare quotes, backslashes or control characters.
    safe = "".join(c for c in name if c.isprintable() and c not in '"\\')
    write_atomic(path, template.replace("@NAME@", safe or "project").encode())
    if not (folder / ".gitignore").exists():
        write_atomic(folder / ".gitignore", b"results/\n")
    return path
