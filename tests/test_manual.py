"""The manual says what is: links and anchors, commands, make targets, extras, keys, evidence, files that it names."""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
import typer

from targets import registry, session
from toolchain.cli.app import app
from toolchain.measurement import Evidence
from toolchain.workflow.config import Config, parse_config

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
MANUAL = sorted(DOCS.glob("*.md"))
PAGES = [
    *MANUAL,
    ROOT / "README.md",
    ROOT / "firmware" / "README.md",
    *sorted(ROOT.glob("examples/*/README.md")),
]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGES = (
    "benchmarks",
    "docs",
    "examples",
    "firmware",
    "profilers",
    "targets",
    "tests",
    "tools",
    "toolchain",
)

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@cache
def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def table(page: str, heading: str) -> list[list[str]]:
    """Cells of the first table below a heading, without its head."""
    section = re.split(r"\n#+ ", text(DOCS / page).partition(f" {heading}\n")[2])[0]
    rows = [line.strip().strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    assert len(rows) > 2, f"no table below {heading!r} of {page}"
    return [[cell.strip() for cell in row] for row in rows[2:]]


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


# --- links ---------------------------------------------------------------------------------------------------------


@cache
def anchors(page: Path) -> set[str]:
    """Headings as GitHub and the site name them: small letters, spaces as hyphens, without other signs."""
    plain = re.sub(r"^```.*?^```", "", text(page), flags=re.M | re.S)
    headings = re.findall(r"^#+ +(.+?) *$", plain, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def wrong_links(page: Path, content: str) -> list[str]:
    plain = re.sub(r"^```.*?^```|`[^`\n]*`", "", content, flags=re.M | re.S)
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", plain):
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        if re.match(r"https?:", target):
            continue
        if not there.exists() or (anchor and anchor not in anchors(there)):
            wrong.append(target)
    return wrong


@each_page
def test_links_and_anchors_lead_somewhere(page: Path) -> None:
    assert wrong_links(page, text(page)) == []


def test_a_wrong_link_is_found() -> None:
    content = (
        "[a](cli.md) [b](cli.md#exit-codes) [c](nowhere.md) [d](cli.md#nowhere) `[e](no)` [f](#boardfittoml)"
    )
    assert wrong_links(DOCS / "cli.md", content) == ["nowhere.md", "cli.md#nowhere"]


def site_settings() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "conf.py"))


def test_every_page_stands_in_the_contents_once() -> None:
    listed = [
        page for pages in site_settings()["contents"](text(DOCS / "index.md")).values() for page in pages
    ]
    assert sorted(listed) == sorted(page.stem for page in MANUAL if page.stem != "index")


@each_page
def test_pages_have_nothing_that_only_the_site_understands(page: Path) -> None:
    """Directives stand on GitHub as code."""
    assert re.findall(r"^(?:`{3,}|:{3,})\{.*", text(page), flags=re.M) == []


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_leads_to_every_page(tmp_path: Path) -> None:
    """As `make docs` builds it."""
    pytest.importorskip("sphinx", reason="`make docs` installs it")
    pytest.importorskip("myst_parser", reason="`make docs` installs it")
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--nitpicky", DOCS, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    index = (tmp_path / "index.html").read_text(encoding="utf-8")
    sidebar = index.partition("sidebar-tree")[2].partition('class="main"')[0]
    assert re.findall(r'class="caption-text">([^<]*)', sidebar) == [
        *site_settings()["contents"](text(DOCS / "index.md"))
    ]
    linked = re.findall(r'class="reference internal" href="([\w-]+)\.html"', sidebar)
    assert sorted(linked) == sorted(page.stem for page in MANUAL if page.stem != "index")


@each_page
def test_files_that_a_page_names_exist(page: Path) -> None:
    named = [
        piece.partition(":")[0] for piece in code(text(page)) if re.fullmatch(r"[a-z_\d./-]+(:\w+)?", piece)
    ]
    paths = [
        name for name in named if name.partition("/")[0] in PACKAGES and "/" in name and "NAME" not in name
    ]
    assert [path for path in paths if not any((base / path).exists() for base in (ROOT, page.parent))] == []


# --- commands ------------------------------------------------------------------------------------------------------


def command_lines(content: str) -> Iterator[str]:
    """`boardfit ...` in blocks and between backticks; usages, which stand in tables with capitals, are not meant."""
    blocks = re.findall(r"^(?: {4}|\t)+(?:\$ )?(.*\bboardfit .*)$", content, flags=re.M)
    for fenced in re.findall(r"^```\w*\n(.*?)^```", content, flags=re.M | re.S):
        blocks += re.findall(r"^(boardfit .*)$", fenced, flags=re.M)
    inline = re.findall(r"`(boardfit [^`]+)`", re.sub(r"^```.*?^```", "", content, flags=re.M | re.S))
    for line in [*blocks, *inline]:
        for part in re.split(r"&&|\|", line.partition(" #")[0]):
            words = part.strip()
            if words.startswith("boardfit ") and not re.search(r"\.\.\.|\[|\b[A-Z]{4,}\b", words):
                yield words


def refused(line: str) -> str:
    """Why the command line does not take a command; empty when it does."""
    words = shlex.split(line)[1:]
    command: Any = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    # Options with a callback (--version, --install-completion) act while they are read: their name is enough.
    acting = {name for parameter in command.params if parameter.callback for name in parameter.opts}
    if set(words) & acting:
        return ""
    try:
        with command.make_context("boardfit", words):
            return "" if not hasattr(command, "commands") else "a group, or an unknown command"
    except Exception as error:  # typer may carry its own copy of click, so its classes are not named here
        # A command by its name alone, in a sentence, need not have its arguments.
        mentioned = not words and type(error).__name__ == "MissingParameter"
        return "" if mentioned else f"{type(error).__name__}: {error}"


@each_page
def test_commands_that_a_page_shows_are_taken(page: Path) -> None:
    assert {line: why for line in command_lines(text(page)) if (why := refused(line))} == {}


def test_commands_are_found_and_wrong_ones_refused() -> None:
    content = "    boardfit serch -b x=1   # y\n`boardfit run --fast` and `boardfit run`\n"
    content += "    cd a && boardfit boards | head\n"
    lines = list(command_lines(content))
    assert lines == ["boardfit serch -b x=1", "boardfit boards", "boardfit run --fast", "boardfit run"]
    assert [bool(refused(line)) for line in lines] == [True, False, True, False]
    assert sum(len(list(command_lines(text(page)))) for page in PAGES) > 80


def make_targets() -> set[str]:
    found = re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M)
    return set(found)


def test_make_targets() -> None:
    """What pages run exists; what exists is in `make help`; what has no file of its name is phony."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for page in PAGES:
        shown = re.findall(r"(?:^ {4}|`)make ([a-z][\w-]*)", text(page), flags=re.M)
        assert set(shown) <= make_targets(), page
    helped = set(re.findall(r"make ([a-z][\w-]*)", re.search(r"\nhelp:\n(.*?)\n\n", makefile, flags=re.S)[1]))
    own = {"help", "setup", "format", "clean"}
    assert helped | own == make_targets()
    assert set(re.search(r"\.PHONY: (.*)", makefile)[1].split()) == make_targets()


@each_page
def test_extras_that_a_page_installs_exist(page: Path) -> None:
    for names in re.findall(r"boardfit\[([a-z,]+)\]", text(page)):
        assert set(names.split(",")) <= set(PROJECT["optional-dependencies"])


# --- keys, values, tables -------------------------------------------------------------------------------------------


@each_page
def test_toml_that_a_page_shows_is_a_projects(page: Path) -> None:
    """Each block, with the needed keys that it leaves out."""
    for block in re.findall(r"^ *```toml\n(.*?)^ *```", text(page), flags=re.M | re.S):
        values = tomllib.loads(block)
        if not set(values) & set(Config.model_fields) or "entry-points" in values.get("project", {}):
            continue
        needed = {"project": {"name": "x"}, "data": {"kind": "digits"}, "space": {"name": "image2d"}}
        whole = {**values, **{key: {**value, **values.get(key, {})} for key, value in needed.items()}}
        whole.setdefault("target", {})
        parse_config(whole, str(page))


@each_page
def test_python_that_a_page_shows_compiles(page: Path) -> None:
    for block in re.findall(r"^```python\n(.*?)^```", text(page), flags=re.M | re.S):
        compile(block, str(page), "exec")


def test_every_evidence_has_its_row() -> None:
    assert [code(row[0])[0] for row in table("numbers.md", "Evidence")] == [
        kind.value for kind in EVIDENCE_ORDER
    ]
    assert set(EVIDENCE_ORDER) == set(Evidence)


EVIDENCE_ORDER = (
    Evidence.CYCLES_MEASURED, Evidence.CYCLES_ESTIMATED, Evidence.INSTRUCTIONS, Evidence.HOST_WALL,
    Evidence.COUNTED, Evidence.COMPUTED, Evidence.PREDICTED,
)  # fmt: skip


def test_what_a_target_module_offers() -> None:
    rows = table("own-target.md", "What the module offers")
    named = {code(row[0])[0].partition("(")[0]: row[1] for row in rows}
    assert named == {**dict.fromkeys(registry.NEEDED, "yes"), **dict.fromkeys(registry.OPTIONAL, "no")}
    formats = set(get_args(session.ModelFormat))
    (row,) = [row for row in rows if row[0].startswith("`model_format")]
    assert set(code(row[2])) == formats


def test_what_a_session_is() -> None:
    parts = {
        name.partition("(")[0] for row in table("own-target.md", "What a session is") for name in code(row[0])
    }
    real = {
        name
        for kind in (session.Session, session.Described)
        for name in vars(kind)
        if not name.startswith("_")
    }
    assert parts == real


def test_options_of_urls() -> None:
    from targets.cuda.session import _OPTIONS
    from targets.ssh.connect import OPTIONS

    def named(page: str, heading: str) -> set[str]:
        return {name for row in table(page, heading) for name in code(row[0])}

    assert named("linux-targets.md", "The URL") == {*OPTIONS, "runtime", "threads", "kernels"}
    assert named("gpu.md", "What is needed") == set(_OPTIONS)


def test_every_variable_of_the_environment() -> None:
    named = {name for row in table("cli.md", "Environment") for name in code(row[0])}
    sources = "".join(
        path.read_text(encoding="utf-8") for package in ("targets", "toolchain", "profilers") for path in
        (ROOT / package).rglob("*.py")
    )  # fmt: skip
    used = set(re.findall(r"\bBOARDFIT_[A-Z_]+\b", sources))
    used |= set(re.findall(r"""(?:environ\.get\(|environ\[|variables\.get\()["'](\w+)["']""", sources))
    assert used == named
