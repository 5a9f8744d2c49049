"""The house keeps its own rules: a light core, silent libraries, a whole wheel, documents that are true."""

from __future__ import annotations

import ast
import builtins
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("targets", "profilers", "toolchain")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
HEAVY = {
    "torch", "safetensors", "onnx", "onnxscript", "onnxruntime", "ai_edge_litert", "tflite_runtime", "tflite_micro",
    "typer", "rich", "pydantic", "pyarrow", "PIL", "sklearn",
}  # fmt: skip


# --- a light core --------------------------------------------------------------------------------------------------

CORE = [
    "profilers.calibrate", "profilers.cost", "profilers.counts", "profilers.lut", "profilers.lut_io",
    "profilers.profile", "profilers.single", "profilers.steady",
    "targets.deploy", "targets.host", "targets.runners", "targets.session", "targets.timing",
    "toolchain.cli", "toolchain.errors", "toolchain.files", "toolchain.measurement", "toolchain.units",
    "toolchain.graph", "toolchain.graph.float_reference", "toolchain.graph.integer_reference",
    "toolchain.graph.tflite_reader", "toolchain.export.tflite_writer", "toolchain.export.verify",
    "toolchain.quantize.ptq",
]  # fmt: skip


def test_the_core_needs_no_extra() -> None:
    """`pip install boardfit` alone is enough to import all of this, and it imports nothing heavy on the way."""
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1].split(): importlib.import_module(name)\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    command = [sys.executable, "-c", code, " ".join(CORE)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert set(done.stdout.split()) & HEAVY == set()
    assert {"numpy", "toolchain"} <= set(done.stdout.split())  # the list above is one of modules


def test_the_floors_are_kept() -> None:
    """The import contracts of pyproject.toml, as `make check` runs them."""
    code = "import sys\nfrom importlinter import cli\nsys.exit(cli.lint_imports(no_cache=True, no_logo=True))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout
    assert "3 kept, 0 broken" in done.stdout


# --- silent libraries ----------------------------------------------------------------------------------------------


def spoken(tree: ast.AST) -> Iterator[str]:
    """Whatever prints or ends the process."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(
                ctx=ast.Load(), id="print" | "input" | "exit" | "quit" | "SystemExit" | "breakpoint"
            ):
                yield f"line {node.lineno}: {node.id}"
            case ast.Attribute(value=ast.Name(id="sys"), attr="exit" | "stdout"):
                yield f"line {node.lineno}: sys.{node.attr}"
            case ast.Attribute(value=ast.Name(id="os"), attr="_exit" | "abort"):
                yield f"line {node.lineno}: os.{node.attr}"
            case ast.Attribute(attr="print_exc"):
                yield f"line {node.lineno}: {node.attr}"


def test_what_speaks_is_found() -> None:
    text = "print()\nsys.exit(1)\nos._exit(1)\nsys.stdout.write('')\nraise SystemExit\ntraceback.print_exc()"
    assert len([*spoken(ast.parse(text))]) == 6


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_libraries_never_print_and_never_exit(path: Path) -> None:
    if path.is_relative_to(ROOT / "toolchain" / "cli"):
        return  # the floor that may
    assert [*spoken(ast.parse(path.read_text(encoding="utf-8")))] == []


# --- a whole wheel -------------------------------------------------------------------------------------------------


def test_a_wheel_has_all_that_is_needed(tmp_path: Path) -> None:
    """Built from a copy, because setuptools writes beside its sources."""
    source, built, installed = tmp_path / "source", tmp_path / "built", tmp_path / "installed"
    for package in (*PACKAGES, "firmware"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    built.mkdir()
    code = "import sys\nfrom setuptools import build_meta\nbuild_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(built)], cwd=source, check=True, capture_output=True)
    (wheel,) = built.glob("boardfit-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(installed)
        points = next(archive.read(name) for name in names if name.endswith("entry_points.txt")).decode()
    expected = {str(path.relative_to(ROOT)) for path in SOURCES}
    expected |= {f"{package}/py.typed" for package in PACKAGES}
    expected |= {"toolchain/cli/templates/boardfit.toml", "toolchain/search/exact/core.c"}
    expected |= {f"toolchain/report/{name}" for name in ("page.css", "page.js", "report.schema.json")}
    data = [*(ROOT / "targets" / "boards").glob("*.toml"), *(ROOT / "targets" / "mcu").rglob("*.c")]
    data += [file for kind in ("c", "h", "S", "cc", "ld") for file in (ROOT / "firmware").rglob(f"*.{kind}")]
    expected |= {str(path.relative_to(ROOT)) for path in data} | {
        "firmware/README.md",
        "firmware/__init__.py",
    }
    assert expected == {name for name in names if ".dist-info/" not in name}
    assert "boardfit = toolchain.cli:main" in points
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    # It runs from there: the folder stands before the editable installation, and `init` needs the template.
    start = (
        "import sys\nsys.path.insert(0, sys.argv.pop(1))\nimport toolchain.cli\n"
        "assert toolchain.cli.__file__.startswith(sys.path[0]), toolchain.cli.__file__\n"
        "raise SystemExit(toolchain.cli.main(['init', sys.argv[1]]))"
    )
    command = [sys.executable, "-I", "-c", start, str(installed), str(tmp_path / "project")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "project" / "boardfit.toml").is_file()


# --- true documents ------------------------------------------------------------------------------------------------


def distribution(requirement: str) -> str:
    return re.split(r"[\s<>=!~;\[]", requirement, maxsplit=1)[0]


def test_every_dependency_is_documented_with_a_reason_and_no_other() -> None:
    page = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    documented: set[tuple[str, str]] = set()
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if len(cells) in (2, 3) and cells[-1] != "why" and not set(cells[0]) <= {"-"}:
            extra = cells[0] if len(cells) == 3 else ""
            documented |= {(extra, name.strip()) for name in cells[-2].split(",")}
            assert len(cells[-1]) > 10, line
    real = {("", distribution(name)) for name in PROJECT["dependencies"]}
    for extra, names in PROJECT["optional-dependencies"].items():
        real |= {(extra, distribution(name)) for name in names if distribution(name) != "boardfit"}
    assert documented == real


def test_all_brings_every_extra_of_users() -> None:
    extras = PROJECT["optional-dependencies"]
    (everything,) = extras["all"]
    named = set(re.findall(r"[a-z]+", everything.partition("[")[2]))
    assert named == set(extras) - {"all", "dev", "docs"}


def test_every_dependency_is_pinned() -> None:
    """What pyproject.toml asks for, constraints.txt fixes, unless pyproject.toml does."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.partition("==")[0].lower() for line in lines if "==" in line}
    optional = [name for names in PROJECT["optional-dependencies"].values() for name in names]
    asked = [name for name in [*PROJECT["dependencies"], *optional] if "==" not in name]
    assert {distribution(name).lower() for name in asked} - {"boardfit"} - pinned == set()


@cache
def definitions() -> dict[str, set[str]]:
    """Every name that the code defines -> the parameters of all functions and fields of all classes of that name."""
    found: dict[str, set[str]] = {}
    for path in SOURCES:
        found.setdefault(path.stem if path.stem != "__init__" else path.parent.name, set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.FunctionDef(name=name, args=a):
                    arguments = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
                    found.setdefault(name, set()).update(argument.arg for argument in arguments)
                case ast.ClassDef(name=name, body=body):
                    fields = found.setdefault(name, set())
                    for part in body:
                        match part:
                            case ast.AnnAssign(target=ast.Name(id=field)):
                                fields.add(field)
                            case ast.FunctionDef(name="__init__", args=a):
                                fields.update(argument.arg for argument in [*a.args, *a.kwonlyargs])
                case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                    found.setdefault(name, set())
    return found


def code_of(page: str) -> list[str]:
    """What stands between single backticks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", page, flags=re.M | re.S))


def untrue(text: str) -> str:
    """What is wrong with one piece of code in a document; empty when it names what exists."""
    if re.search(r"://|^(make|pip|boardfit) |^(cpu|host|virtual|ssh):|^results/|^_|^[A-Z_]+$", text):
        return ""  # URLs, commands, a project's own files, endings of names, messages, variables of make
    if re.fullmatch(r"[\w./-]+", text) and ("/" in text or text.endswith((".py", ".toml", ".txt", ".md"))):
        places = [ROOT, ROOT / "toolchain", *(ROOT / package for package in PACKAGES)]
        return "" if any((place / text).exists() for place in places) else "no such file"
    known = definitions()
    call = re.match(r"([\w.]+)\(([^()]*)\)", text)
    head = re.match(r"[A-Za-z_][\w.]*", text)
    if head is None:
        return ""
    parts = head.group().rstrip(".").split(".")
    if parts[0] in ("torch", "numpy", "Callable", "Mapping", *vars(builtins)):
        return ""
    for part in parts:
        if part not in known and not any(part in fields for fields in known.values()):
            return f"nothing is called {part!r}"
    if call is not None:
        for argument in re.findall(r"(?:^|,)\s*\*?([a-z_]\w*)", call.group(2)):
            if argument not in known.get(parts[-1], set()):
                return f"{parts[-1]} takes no {argument!r}"
    return ""


@pytest.mark.parametrize("name", ["architecture.md", "dependencies.md"])
def test_what_a_document_names_exists(name: str) -> None:
    pieces = code_of((ROOT / "docs" / name).read_text(encoding="utf-8"))
    assert len(pieces) > 3
    assert {text: why for text in pieces if (why := untrue(text))} == {}


@pytest.mark.parametrize(
    "text",
    [
        "toolchain/nowhere",
        "no_such.py",
        "graph.lower.raise_it",
        "quantize(graph, calibrations)",
        "NoSuchClass",
    ],
)
def test_what_does_not_exist_is_found(text: str) -> None:
    assert untrue(text)


def test_sections_that_the_code_refers_to_exist() -> None:
    named = []
    for path in SOURCES:
        text = re.sub(r"\s+", " ", path.read_text(encoding="utf-8"))
        named += re.findall(r'(docs/\w+\.md), "([^"]+)"', text)
    assert named
    for page, heading in named:
        assert f"\n## {heading}\n" in (ROOT / page).read_text(encoding="utf-8"), (page, heading)


def test_files_that_the_makefile_runs_exist() -> None:
    named = re.findall(
        r"\b((?:benchmarks|examples|tools)/\S+\.py)", (ROOT / "Makefile").read_text(encoding="utf-8")
    )
    assert len(named) >= 2
    assert [name for name in named if not (ROOT / name).is_file()] == []
