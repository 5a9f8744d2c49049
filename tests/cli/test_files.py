"""docs/files.md and what a run writes say the same, in both directions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Command
from tests.workflow.projects import make_project
from toolchain.export.native import layout

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "files.md").read_text(encoding="utf-8")


def fields(heading: str) -> set[str]:
    """What stands in the first column of the first table below a heading."""
    section = re.split(r"\n#+ ", PAGE.partition(f" {heading}\n")[2])[0]
    rows = [line.strip("|").split("|")[0] for line in section.splitlines() if line.startswith("|")][2:]
    assert rows, heading
    return {name for cell in rows for name in re.findall(r"`([^`]+)`", cell)}


def paths(value: Any, documented: set[str], path: str = "") -> Iterator[str]:
    """The fields of a JSON document, as deep as the page goes into them."""
    if isinstance(value, dict) and (not path or any(name.startswith(f"{path}.") for name in documented)):
        for key, inner in value.items():
            yield from paths(inner, documented, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and any(name.startswith(f"{path}[]") for name in documented):
        for inner in value:
            yield from paths(inner, documented, f"{path}[]")
    else:
        yield path


def differences(found: Any, documented: set[str]) -> dict[str, set[str]]:
    real = set(paths(found, documented))
    return {"only written": real - documented, "only on the page": documented - real}


SAME: dict[str, set[str]] = {"only written": set(), "only on the page": set()}


def uncovered(folder: Path) -> set[str]:
    """Files of a project that the page does not name, the user's own aside."""
    named = fields("A project folder") | {f"results/model/{name}" for name in fields("The model's files")}
    named |= {"my_space.py", "data.npz"}
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {
        path
        for path in there
        if not any(path == name or (name.endswith("/") and path.startswith(name)) for name in named)
    }


@pytest.mark.slow
def test_every_field_of_every_file(boardfit: Command, tmp_path: Path) -> None:
    """On a project that has gone through the whole loop."""
    budgets = 'flash = "20 kB"\nram = "4 kB"\nlatency = "1 s"'
    folder = make_project(tmp_path / "tiny", budgets=budgets, search_epochs=2, epochs=12)
    ran = boardfit("run", "-C", folder, "--json").document
    assert uncovered(folder) == set()
    results = folder / "results"
    common = fields("Records of the stages")
    records = {path.name for path in results.glob("*.json")}
    headings = set(re.findall(r"^### results/(\w+\.json)$", PAGE, flags=re.M))
    assert records == headings | {"pace.json"}
    wrong: dict[str, Any] = {}

    def compare(name: str, found: Any, documented: set[str]) -> None:
        if (different := differences(found, documented)) != SAME:
            wrong[name] = different

    for name in sorted(headings):
        compare(name, json.loads((results / name).read_text()), fields(f"results/{name}") | common)
    compare("model.json", json.loads((results / "model" / "model.json").read_text()), fields("model.json"))

    refused = boardfit("search", "-C", folder, "--budget", "flash=1 kB", "--json").document
    compare(
        "infeasible.json",
        json.loads((results / "infeasible.json").read_text()),
        {"message", "remedy"} | common,
    )
    boardfit("search", "-C", folder)  # the network is there again, for the documents of the other stages

    table, model = folder / "lut.sqlite", results / "model" / "model_int8.tflite"
    documents = [
        ran,
        *(
            boardfit(stage, "-C", folder, "--json").document
            for stage in ("profile", "search", "export", "deploy")
        ),
        boardfit("run", "-C", folder, "--dry-run", "--json").document,
        refused,
        boardfit("boards", "--json").document,
        boardfit("doctor", "-C", folder, "--json").document,
        boardfit("bench", model, "--json").document,
        boardfit("lut", "show", table, "--json").document,
        boardfit("lut", "merge", tmp_path / "both.sqlite", table, "--json").document,
        boardfit("lut", "diff", table, table, "--json").document,
    ]
    shown = {row[0].strip("` "): set(re.findall(r"`(\w+)`", row[1])) for row in _kinds()}
    for document in documents:
        kind = document["kind"]
        compare(f"--json {kind}", dict.fromkeys(document.keys() - {"schema", "kind"}, 0), shown[kind])
    assert wrong == {}


def _kinds() -> list[list[str]]:
    section = re.split(r"\n#+ ", PAGE.partition("## Documents of --json\n")[2])[0]
    return [line.strip("|").split("|")[:2] for line in section.splitlines() if line.startswith("|")][2:]


def test_the_header_of_a_program() -> None:
    """The page's table, the exporter's layout and the C struct."""
    section = re.split(r"\n#+ ", PAGE.partition("## Programs\n")[2])[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")][2:]
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row[0])]
    sizes = sum(int(size) for row in rows for size in re.findall(r"\d+", row[1]))
    assert sizes == layout.HEADER.size
    source = (ROOT / "firmware" / "runtime" / "program.h").read_text()
    struct = re.search(r"struct bf_program \{(.*?)\};", source, flags=re.S)
    assert struct is not None
    body = re.sub(r"/\*.*?\*/", "", struct[1], flags=re.S)
    declared = re.findall(r"uint(?:8|16|32)_t ([\w, ]+);", body)
    assert named == [name.strip() for line in declared for name in line.split(",")]
