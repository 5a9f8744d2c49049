"""What `boardfit init` writes."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

from targets.session import describe, is_board, model_format
from toolchain.errors import UsageError
from toolchain.files import write_atomic
from toolchain.measurement import Evidence
from toolchain.workflow.config import PROJECT_FILE

_TARGET = "cpu:litert"
# On a board flash and RAM hold the firmware, too, so the budgets of a CPU are below what any network needs there.
_BUDGETS = {
    'flash = "16 kB"                 # kB = 1000 bytes': (
        'flash = "56 kB"                 # all that the part holds, firmware included; kB = 1000 bytes'
    ),
    'ram = "1.5 kB"': 'ram = "12 kB"                   # the firmware\'s data and stack, and the arena',
}
_WITHOUT_TIME = {
    'latency = "40 %"                # as fast as the fastest': 'instructions = "40 %"           # as few as the least',
    'or absolute: "20 us", "2 ms"': 'or absolute: "200 k"',
}


def write_project(folder: Path, target: str = "") -> Path:
    """Make `folder` with a commented project file and a .gitignore; gives the project file's path.

    Args:
        folder: the project's; its last part names the project.
        target: URL of what the project is for; by default this machine's CPU. On a board the budgets are a board's.

    Raises:
        ConfigurationError: there is no such target.
        UsageError: there is a project file already.
    """
    path = folder / PROJECT_FILE
    if path.exists():
        raise UsageError(f"{path} exists already", remedy="choose another folder or edit that file")
    name = folder.resolve().name or "project"
    template = resources.files(__package__).joinpath("boardfit.toml").read_text(encoding="utf-8")
    if target and target != _TARGET:
        model_format(target)  # refuses a URL that names no target
        changes = {
            "on this machine's CPU.": f"on {target}.",
            f'url = "{_TARGET}" ': f"url = {json.dumps(target)} ",
        }
        if is_board(target):
            changes |= _BUDGETS
            if describe(target).evidence is Evidence.INSTRUCTIONS:
                changes |= _WITHOUT_TIME
        for old, new in changes.items():
            template = template.replace(old, new)
    # TOML basic strings take no bare quotes, backslashes or control characters.
    safe = "".join(c for c in name if c.isprintable() and c not in '"\\')
    write_atomic(path, template.replace("@NAME@", safe or "project").encode())
    if not (folder / ".gitignore").exists():
        write_atomic(folder / ".gitignore", b"results/\n")
    return path
