"""A run's document, to be compared with another: from its project, or from the file that it was written to."""

from __future__ import annotations

import json
from pathlib import Path

from toolchain.errors import ConfigurationError
from toolchain.report.runs import Document, check_document
from toolchain.workflow.config import PROJECT_FILE
from toolchain.workflow.project import open_project


def load_report(path: Path) -> Document:
    """A run's document: gathered from a project folder, or read from a file that `report --json` wrote.

    Raises:
        ConfigurationError: neither; or a report of another schema.
    """
    if path.is_dir() or path.name == PROJECT_FILE:
        from toolchain.workflow.report import gather  # imports torch, which files do not need

        return gather(open_project(path)).as_json()
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"cannot read {path}: {error.strerror}",
            remedy="name a project folder, or a file of `boardfit report --json`",
        ) from error
    except ValueError as error:
        raise ConfigurationError(
            f"{path} is not JSON: {error}", remedy="write it with `boardfit report --json`"
        ) from error
    return check_document(document, str(path))
