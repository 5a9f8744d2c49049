"""What a user sees: exit codes, errors with remedies, JSON, plain output off a terminal."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profilers.lut import Lut
from profilers.single import operator_model
from targets.lock import exclusive
from tests.cli.conftest import PROGRAM, Command, Outcome
from tests.workflow.projects import edit
from toolchain import errors
from toolchain.cli import app as commands
from toolchain.export.tflite_writer import write_tflite
from toolchain.files import cache_folder
from toolchain.graph.operator import Operator
from toolchain.workflow.config import load_config

HOLD = """
import sys
from targets.lock import exclusive
from toolchain.files import cache_folder
with exclusive(cache_folder()):
    print("held", flush=True)
    sys.stdin.read()
"""
# Stops after the first row, so that a test can interrupt there.
STALL = """
import time
from targets import host
from targets.timing import Settings
real = host.measure
host.Settings = lambda: Settings(samples=3, fewest=1, inner_us=20, retries=0, settle=1)
def stalling(*arguments, **options):
    for result in real(*arguments, **options):
        yield result
        print("one row", flush=True)
        time.sleep(100)
host.measure = stalling
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "one operator.tflite"
    path.write_bytes(write_tflite(operator_model(Operator.parse("fully_connected 4->2 none int8"))))
    return path


@pytest.fixture
def busy() -> Iterator[int]:
    """Another process measures; gives its id."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield holder.pid
        holder.kill()


def failed(outcome: Outcome, code: int, *parts: str) -> None:
    """The command ended with this code, an error that has these parts, and nothing else that looks like one."""
    assert outcome.code == code, outcome
    lines = outcome.err.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("error: "))
    assert len(lines) - first <= 2
    assert all(line.startswith("remedy: ") for line in lines[first + 1 :])
    for part in parts:
        assert part in "\n".join(lines[first:]), outcome.err
    assert "Traceback" not in outcome.err


# The command line itself


def test_version_and_help(boardfit: Command) -> None:
    assert boardfit("--version") == (0, "boardfit 0.1.0\n", "")
    shown = boardfit("--help")
    assert shown.code == 0
    assert all(f"  {name} " in shown.out for name in ("init", "search", "doctor", "lut"))
    assert shown.err == ""
    assert boardfit("lut", "show", "--help").code == 0


IMPORTS = """
import sys
from toolchain.cli import main
def imported(*names):
    return [name for name in names if name in sys.modules]
assert main(["--help"]) == main(["search", "--help"]) == main(["lut", "show", "--help"]) == 0
assert not imported("numpy", "torch"), imported("numpy", "torch")
folder = sys.argv[1]
report = folder + "/report.json"
for words in (
    ["boards"],
    ["init", folder + "/new"],
    ["doctor", "-C", folder],
    ["lut", "show", folder + "/lut.sqlite"],
    ["lut", "diff", folder + "/lut.sqlite", folder + "/lut.sqlite"],
    ["compare", report, report],
    ["bench", folder + "/one operator.tflite"],
    ["search", "-C", folder + "/new", "-b", "ram=-1"],
):
    code = main(words)
    assert code == (2 if words[0] == "search" else 0), (words, code)
    assert not imported("torch", "sklearn", "onnx"), words
"""


def test_what_needs_no_torch_does_not_wait_for_it(
    boardfit: Command, model: Path, tiny: Path, tmp_path: Path
) -> None:
    fill(tmp_path / "lut.sqlite")
    boardfit("search", "-C", tiny)
    (tmp_path / "report.json").write_text(boardfit("report", "-C", tiny, "--json").out)
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def test_no_command_shows_the_help(boardfit: Command) -> None:
    outcome = boardfit()
    assert outcome.code == 2
    assert "Commands:" in outcome.err
    assert "error:" not in outcome.err


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("search", "--bugdet", "x"), ["--bugdet", "--budget", "`boardfit search --help`"]),
        (("serach",), ["serach", "`boardfit --help`"]),
        (("bench",), ["'model'", "`boardfit bench --help`"]),
        (("lut", "show", "x", "--limit", "-1"), ["--limit", "0", "`boardfit lut show --help`"]),
        (("init",), ["'folder'"]),
    ],
)
def test_usage(boardfit: Command, arguments: tuple[str, ...], parts: list[str]) -> None:
    outcome = boardfit(*arguments)
    failed(outcome, 2, *parts)
    assert outcome.out == ""


def test_a_missing_package_of_the_command_line(process: Command) -> None:
    outcome = process(
        "boards", before="import sys\nsys.modules['rich'] = None\nsys.modules['typer'] = None\n"
    )
    failed(outcome, 2, "remedy: pip install 'boardfit[cli]'")


def test_a_missing_package_of_a_stage(process: Command, tiny: Path) -> None:
    outcome = process("search", "-C", tiny, before="import sys\nsys.modules['torch'] = None\n")
    failed(outcome, 3, "torch", "remedy: pip install 'boardfit[train]'")


def test_an_internal_error(boardfit: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("odd [thing]")

    monkeypatch.setattr(commands.show, "boards", broken)
    failed(boardfit("boards"), 1, "error: internal: RuntimeError: odd [thing]", "boardfit --debug")
    debugged = boardfit("--debug", "boards")
    assert debugged.code == 1
    assert "Traceback" in debugged.err


def test_debug_keeps_the_exit_code(boardfit: Command, tmp_path: Path) -> None:
    outcome = boardfit("--debug", "search", "-C", tmp_path)
    assert outcome.code == 3
    assert "Traceback" in outcome.err
    assert outcome.err.splitlines()[-1] == "remedy: make one with: boardfit init NAME"


@pytest.mark.parametrize(
    "error", [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.BoardfitError)]
)
def test_every_error_ends_with_its_code(
    boardfit: Command, monkeypatch: pytest.MonkeyPatch, error: type[errors.BoardfitError]
) -> None:
    def broken(*_: object) -> None:
        raise error("a [list] of 1: 2", remedy="do [that]")

    monkeypatch.setattr(commands.show, "boards", broken)
    assert boardfit("boards") == (error.exit_code, "", "error: a [list] of 1: 2\nremedy: do [that]\n")


@pytest.mark.parametrize(("command", "kept"), [("profile", True), ("boards", False)])
def test_interrupted(
    boardfit: Command, monkeypatch: pytest.MonkeyPatch, tiny: Path, command: str, kept: bool
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("toolchain.workflow.profile.profile", interrupt)
    monkeypatch.setattr(commands.show, "boards", interrupt)
    outcome = boardfit(*(("profile", "-C", tiny) if kept else (command,)))
    more = (
        f"what was finished is kept, go on with: boardfit profile -C {tiny}"
        if kept
        else "again: boardfit boards"
    )
    assert outcome == (130, "", f"interrupted; {more}\n")


# Projects


@pytest.mark.parametrize(
    "name", ["motor", "two words", "naïve", 'quo"te', "back\\slash", "[red]", "new\nline", "-x"]
)
def test_init(boardfit: Command, tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    outcome = boardfit("init", folder)
    assert outcome.code == 0
    assert f"made {folder}" in outcome.out
    config = load_config(folder)
    assert config.project.name == "".join(c for c in name if c not in '"\\\n')
    (folder / "boardfit.toml").write_text("mine")
    failed(boardfit("init", folder), 2, "exists already")
    assert (folder / "boardfit.toml").read_text() == "mine"


@pytest.mark.parametrize(
    ("url", "metric", "flash"),
    [
        ("virtual:nucleo-l4r5zi", "latency", "56 kB"),
        ("virtual:nucleo-g071rb", "instructions", "56 kB"),
        ("serial:/dev/ttyACM0?board=nucleo-l4r5zi", "latency", "56 kB"),
        ("cpu:onnxruntime", "latency", "16 kB"),
    ],
)
def test_init_for_a_target(boardfit: Command, tmp_path: Path, url: str, metric: str, flash: str) -> None:
    """The project works as it is there, too: a board's budgets hold the firmware, a core without a time has none."""
    assert boardfit("init", tmp_path / "it", "--target", url).code == 0
    text = (tmp_path / "it" / "boardfit.toml").read_text()
    target = tomllib.loads(text)["target"]
    assert target["url"] == url
    assert f"on {url}." in text
    assert set(target["budgets"]) == {metric, "flash", "ram"}
    assert target["budgets"]["flash"] == flash
    assert load_config(tmp_path / "it").target[0].url == url


def test_init_for_no_target(boardfit: Command, tmp_path: Path) -> None:
    failed(
        boardfit("init", tmp_path / "it", "-t", "nucleo-l4r5zi"),
        3,
        "no target",
        "write virtual:nucleo-l4r5zi",
    )
    failed(boardfit("init", tmp_path / "it", "-t", "virtual:nucleo"), 3, "no board 'nucleo'")
    assert not (tmp_path / "it").exists()


def test_init_here_and_where_it_cannot(
    boardfit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    failed(boardfit("init", tmp_path / "file"), 1, "file")
    monkeypatch.chdir(tmp_path)
    assert "next: boardfit run\n" in boardfit("init", ".").out
    assert load_config(tmp_path).project.name == tmp_path.name


@pytest.mark.parametrize("command", ["profile", "search", "export", "deploy", "run"])
def test_no_project(boardfit: Command, tmp_path: Path, command: str) -> None:
    failed(boardfit(command, "-C", tmp_path / "no such"), 3, "no project file", "boardfit init")


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (('url = "cpu:litert"', 'ulr = "cpu:litert"'), ["unknown key 'target.ulr'", "'target.url'"]),
        (('"cpu:litert"', '"cpu:tpu"'), ["cpu:tpu", "cpu:litert"]),
        (('"data.npz"', '"none.npz"'), ["none.npz", "does not exist"]),
        (("my_space.py:MySpace", "my_space.py:Yours"), ["Yours"]),
        (('ram = "4 kB"', 'energy = "4 uJ"'), ["energy_uj", "latency_us"]),
        (('ram = "4 kB"', 'ram = "4"'), ["ram", "kB"]),
        (('ram = "4 kB"', 'latency = "1 ms"'), ["no rows", "boardfit profile"]),
    ],
)
def test_what_is_wrong_with_a_project(
    boardfit: Command, tiny: Path, change: tuple[str, str], parts: list[str]
) -> None:
    edit(tiny, *change)
    failed(boardfit("search", "-C", tiny), 3, *parts)


def test_a_corrupt_table(boardfit: Command, tiny: Path) -> None:
    (tiny / "lut.sqlite").write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 16)
    for arguments in (("search", "-C", tiny), ("profile", "-C", tiny), ("lut", "show", tiny / "lut.sqlite")):
        failed(boardfit(*arguments), 3, "lut.sqlite")


@pytest.mark.parametrize("text", ["ram", "ram=", "ram=many", "rom=4 kB", "=4", "ram=-4 kB", "ram=0 %"])
def test_a_malformed_budget(boardfit: Command, tiny: Path, text: str) -> None:
    failed(
        boardfit("search", "-C", tiny, "--budget", text),
        2,
        repr(text),
        "remedy: " if text != "ram=0 %" else "",
    )


def test_an_unknown_method(boardfit: Command, tiny: Path) -> None:
    failed(boardfit("search", "-C", tiny, "--method", "luck"), 2, "luck", "evolution")


@pytest.mark.parametrize("method", ["connas", "evolution", "random"])
def test_infeasible(boardfit: Command, tiny: Path, method: str) -> None:
    arguments = ("search", "-C", tiny, "--method", method, "--budget", "params=1", "--budget", "ram=1 MB")
    outcome = boardfit(*arguments)
    failed(outcome, 4, "params cannot be below", "the nearest design needs params")
    lines = {line.split()[0]: line for line in outcome.out.splitlines() if line.strip()}
    assert lines["params"].endswith("binds")
    assert not lines["ram_bytes"].endswith("binds")
    assert "nearest design: c4 id" in outcome.out

    found = boardfit(*arguments, "--json")
    assert found.code == 4
    document = found.document
    assert document["kind"] == "infeasible"
    assert document["binding"] == ["params"]
    assert document["nearest"]["text"] == "c4 id"
    assert document["nearest"]["costs"]["params"] == document["least"]["params"]


def test_budgets_that_cannot_be_kept_together_and_relative_ones(boardfit: Command, tiny: Path) -> None:
    outcome = boardfit(
        "search", "-C", tiny, "-b", "ram=1 %", "-b", "flash=1 %", "--method", "random", "--json"
    )
    assert outcome.code == 0  # the least of both is one network here
    assert outcome.document["text"] == "c4 id"


# JSON on stdout, progress on stderr


def test_search_json_and_table(boardfit: Command, tiny: Path) -> None:
    first = boardfit("search", "-C", tiny, "--json")
    assert first.code == 0
    document = first.document
    assert document["kind"] == "search"
    assert not document["reused"]
    assert {"ram_bytes", "flash_bytes"} <= {*document["exact"]}
    assert any(line.startswith("search: ") for line in first.err.splitlines())
    again = boardfit("search", "-C", tiny)
    assert "(nothing changed: the earlier result)" in again.out
    assert document["rows"][0]["name"] in again.out
    assert "1 networks" not in again.out


def test_profile_and_the_table_that_it_makes(boardfit: Command, tiny: Path) -> None:
    outcome = boardfit("profile", "-C", tiny, "--json")
    assert outcome.code == 0
    assert outcome.document["kind"] == "profile"
    measured = outcome.document["targets"][0]["operators"]["measured"]
    assert measured
    assert f"profile: {measured}/{measured} operators\n" in outcome.err
    assert "profile: 1/" not in outcome.err
    again = boardfit("profile", "-C", tiny)
    assert f"0 measured, {measured} there already" in again.out
    shown = boardfit("lut", "show", tiny / "lut.sqlite")
    assert shown.code == 0
    assert "calibration of 20" in shown.out
    assert [line for line in shown.out.splitlines() if len(line) > 100 and str(tiny) not in line] == []


def test_boards(boardfit: Command) -> None:
    found = boardfit("boards", "--json").document
    assert found["kind"] == "boards"
    assert "cpu:litert" in [target["url"] for target in found["targets"]]
    assert "cpu:litert" in boardfit("boards").out


def test_bench(boardfit: Command, model: Path) -> None:
    outcome = boardfit("bench", model, "--json")
    assert outcome.code == 0
    assert outcome.document["kind"] == "bench"
    assert outcome.document["computed"]["flash_bytes"] == model.stat().st_size
    assert "bench: " in outcome.err
    shown = boardfit("bench", model)
    assert "fully_connected 4->2 none int8" in shown.out
    assert "whole network, latency [host_wall]" in shown.out
    assert max(map(len, shown.out.splitlines())) <= 100


def test_bench_refuses(boardfit: Command, model: Path, tmp_path: Path) -> None:
    failed(boardfit("bench", tmp_path / "none.tflite"), 3, "none.tflite", "No such file")
    (tmp_path / "bad.tflite").write_bytes(model.read_bytes()[:50])
    failed(boardfit("bench", tmp_path / "bad.tflite"), 3)
    failed(boardfit("bench", model, "-t", "cpu:onnxruntime"), 3, "cpu:onnxruntime", "--target cpu:litert")
    failed(boardfit("bench", model, "-t", "usb:1"), 3, "usb:1", "cpu:litert")


def test_a_busy_device(boardfit: Command, model: Path, tiny: Path, busy: int) -> None:
    failed(boardfit("bench", model), 5, f"process {busy} is measuring", "wait")
    failed(boardfit("profile", "-C", tiny), 5, f"process {busy} is measuring")


# A process of its own


def test_ctrl_c_while_profiling(tiny: Path) -> None:
    arguments = [sys.executable, "-c", STALL + PROGRAM, "profile", "-C", str(tiny)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "one row\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)  # the stall lasts longer
    assert process.returncode == 130
    assert err.splitlines()[-1].endswith(f"is kept, go on with: boardfit profile -C {tiny}")
    assert "Traceback" not in err
    with exclusive(cache_folder()), Lut.open(tiny / "lut.sqlite", read_only=True) as lut:
        assert len(lut) == 1


def test_output_that_nobody_reads_to_its_end(tmp_path: Path, tiny: Path) -> None:
    """`boardfit ... | head -1`, for tables, JSON and help."""
    shutil.copy(fill(tmp_path / "many.sqlite"), tiny)
    for arguments in (
        ["lut", "show", "many.sqlite", "--limit", "0"],
        ["lut", "show", "many.sqlite", "--limit", "0", "--json"],
        ["--help"],
    ):
        with subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tiny,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            process.stdout.close()
            assert process.stderr is not None
            assert process.stderr.read() == ""
        assert process.returncode in (0, 1)


def fill(path: Path) -> Path:
    from tests.cli.test_lut import make_table

    return make_table(path, 200)


# Off a terminal and on one


@pytest.mark.parametrize("columns", ["40", "200"])
def test_off_a_terminal_nothing_is_cut_and_nothing_is_coloured(
    boardfit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    failed(boardfit("lut", "show", tmp_path / ("n" * 200)), 3, "n" * 200)
    for arguments in (("lut", "show", fill(tmp_path / ("m" * 100))), ("boards",), ("doctor", "-C", tmp_path)):
        outcome = boardfit(*arguments)
        assert "\x1b" not in outcome.out + outcome.err
        assert all(line == line.rstrip() for line in outcome.out.splitlines())
        assert "m" * 100 in outcome.out or arguments[0] != "lut"


def test_tables(capsys: pytest.CaptureFixture[str]) -> None:
    from toolchain.cli.console import print_error, print_table

    long = "[int8]:smile:" + "x" * 500
    print_table("A title [bold] longer than it", ("a", "empty", "b|"), [(long, "", "1"), ("y", "", "22")])
    print_error(long)
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == "A title [bold] longer than it"
    assert lines[1].split() == ["a", "b"]
    assert lines[3].startswith(long)
    assert lines[3].endswith(" 1")
    assert lines[4].endswith("22")
    assert err == f"error: {long}\n"
    assert "\x1b" not in out + err


WORDS = ("conv2d", "49x10x1->25x5x64", "k10x4", "same", "relu", "int8", "a/path/without/a/space.tflite")


@settings(max_examples=60, deadline=None)
@given(
    signatures=st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=9), min_size=1, max_size=4),
    figures=st.lists(st.integers(0, 10**9), min_size=1, max_size=8),
    width=st.sampled_from([None, 40, 80, 100, 160]),
)
def test_tables_fold_words_and_keep_figures(
    signatures: list[list[str]], figures: list[int], width: int | None
) -> None:
    from rich.console import Console

    from toolchain.cli import console as shown

    # Each row has figures of its own, so that every one can be looked for.
    rows = [
        (" ".join(words), *(f"{figure + number:,} us" for figure in figures), "cycles_estimated (unstable)")
        for number, words in enumerate(signatures)
    ]
    names = ("operator", *(f"MACs of {number}|" for number in range(len(figures))), "evidence")
    file = io.StringIO()
    console = Console(file=file, force_terminal=width is not None, width=width or 100_000, color_system=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shown, "stdout", lambda: console)
        shown.print_table("A title", names, rows)
    lines = file.getvalue().splitlines()
    body = lines[next(number for number, line in enumerate(lines) if "──" in line) + 1 :]
    for row in rows:
        (first,) = [line for line in body if row[1] in line and all(figure in line for figure in row[2:-1])]
        assert [word for word in row[0].split() if word not in " ".join(body)] == []
        assert first.startswith(row[0].split()[0])
    words = max(len(word) for signature in signatures for word in signature) + 2
    figure = max(len(cell) for row in rows for cell in row[1:-1])
    if words + (2 + figure) * len(figures) + 2 + len("cycles_estimated") <= (width or 100):
        assert max(map(len, lines)) <= (width or 100)


def test_json_has_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np

    from toolchain.cli.console import print_json

    value = {"a": float("nan"), "b": np.float64("inf"), "c": np.arange(2), "d": Path("x"), "e": (True, None)}
    print_json("k", value)
    found = json.loads(capsys.readouterr().out)
    assert found == {
        "schema": 1, "kind": "k", "a": None, "b": None, "c": [0, 1], "d": "x", "e": [True, None],
    }  # fmt: skip


@pytest.mark.skipif(shutil.which("script") is None, reason="needs util-linux' script for a terminal")
def test_a_terminal_of_80_columns(process: Command, tmp_path: Path) -> None:
    fill(tmp_path / "lut.sqlite")
    inner = f"stty cols 80; {sys.executable} -c '{PROGRAM}' lut show; {sys.executable} -c '{PROGRAM}' boards"
    done = subprocess.run(
        ["script", "-qec", inner, "/dev/null"], capture_output=True, text=True, cwd=tmp_path, timeout=60,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in done.stdout.splitlines()]
    rows = [line for line in lines if " us" in line]
    assert len(rows) == 50  # one line each
    assert max(map(len, lines)) <= 80
    assert "\x1b[1m" in done.stdout  # bold titles


WATCH_TORCH = """
import sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            sys.stderr.write("IMPORTS TORCH")
            sys.stderr.flush()
sys.meta_path.insert(0, Watch())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo terminal")
def test_a_terminal_shows_at_once_that_something_goes_on(tiny: Path) -> None:
    """Importing torch takes seconds."""
    import pty

    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", WATCH_TORCH + PROGRAM, "search", "-C", str(tiny)],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=theirs,
    ) as process:  # fmt: skip
        os.close(theirs)
        shown = ""
        with contextlib.suppress(OSError):  # Linux: the other end is closed
            while data := os.read(ours, 65536):
                shown += data.decode()
        os.close(ours)
    assert process.returncode == 0
    assert "starting" in shown.partition("IMPORTS TORCH")[0]
    assert "IMPORTS TORCH" in shown


def test_below_the_bars_stands_that_something_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    from toolchain.cli import progress as shown

    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    monkeypatch.setattr(shown, "stderr", lambda: console)
    display = shown.ProgressDisplay()

    def rows() -> list[str]:
        assert display._bars is not None
        plain = Console(width=100)
        with plain.capture() as captured:
            plain.print(display._bars.make_tasks_table(display._bars.tasks))
        return [line.split()[0] for line in captured.get().splitlines() if line.strip()]

    with display as progress:
        assert rows() == ["starting"]
        progress("open", 0, 1, "virtual:x")
        assert rows() == ["open"]
        progress("open", 1, 1, "virtual:x")
        assert rows() == ["open", "working"]
        progress("profile", 0, 9, "")
        progress("open", 0, 1, "virtual:x")
        assert rows() == ["profile", "open"]  # where it happens
        progress("open", 1, 1, "virtual:x")
        progress("profile", 9, 9, "")
        assert rows() == ["profile", "open", "working"]
    assert rows() == ["profile", "open"]


def test_a_stage_that_begins_again_has_a_time_of_its_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolchain.cli import progress as shown

    now = [0.0]
    monkeypatch.setattr(shown.time, "monotonic", lambda: now[0])
    with shown.ProgressDisplay() as progress:
        for seconds in (100.0, 20.0):
            progress("search", 0, 4, "")
            now[0] += seconds
            progress("search", 4, 4, "")
            now[0] += 1000
    assert capsys.readouterr().err.splitlines() == ["search: 4/4, in 1 min 40 s", "search: 4/4, in 20 s"]


def test_progress_off_a_terminal_is_sparse(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolchain.cli import progress as shown

    now = [0.0]
    monkeypatch.setattr(shown.time, "monotonic", lambda: now[0])
    with shown.ProgressDisplay() as progress:
        progress("space", 0, 1, "lowering")
        progress("space", 1, 1, "117 operators [int8]")
        for done in range(26):
            now[0] = float(done)
            progress("search", done, 25, "loss 1.5")
        for done in range(30, 3601, 30):  # an hour, that was resumed
            now[0] = float(done)
            progress("train", done, 3600, "")
    lines = capsys.readouterr().err.splitlines()
    assert lines[:4] == [
        "space: 117 operators [int8]",
        "search: 10/25 loss 1.5, 1.0 s each, 15 s left",
        "search: 20/25 loss 1.5, 1.0 s each, 5.0 s left",
        "search: 25/25 loss 1.5, in 25 s",
    ]
    assert lines[4] == "train: 60/3600, 1.0 s each, 59 min 00 s left"
    assert lines[-1] == "train: 3600/3600, in 59 min 30 s"
    assert len(lines) < 40


def test_time_left_counts_down_and_does_not_jump() -> None:
    from toolchain.cli.progress import Pace

    pace = Pace(20, 0.0)  # resumed: twenty were there
    assert pace.left_s(40, 5.0) is None
    pace.update(21, 2.0)
    assert pace.left_s(40, 2.0) == 38
    assert pace.left_s(40, 3.0) == 37
    assert pace.left_s(40, 300.0) == 0
    pace.update(22, 3.0)  # twice as fast: believed a little
    assert pace.step_s is not None
    assert 1.8 < pace.step_s < 2.0
    pace.update(22, 50.0)
    pace.update(23, 63.0)  # a long one: believed
    assert pace.step_s == 60
    assert pace.rate() == "1 min 00 s each"


def test_the_whole_loop(boardfit: Command, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolchain.workflow.exported.ONNX_PACKAGES", ("a_package_that_is_not_there",))
    edit(tiny, "[training]\nepochs = 1\n", "[training]\nepochs = 12\n")
    outcome = boardfit("run", "-C", tiny, "--json")
    assert outcome.code == 0, outcome.err
    document = outcome.document
    assert document["kind"] == "run"
    assert {"profile", "search", "export", "deploy"} <= {*document}
    assert document["export"]["verified"]
    assert all(row["ok"] is not False for row in document["deploy"]["rows"])
    stages = [line.partition(":")[0] for line in outcome.err.splitlines()]
    assert len(stages) < 20
    assert {"profile", "calibrate", "search"} <= {*stages}
    for stage in ("search", "export", "deploy"):
        found = boardfit(stage, "-C", tiny, "--json")
        assert (found.code, found.document["kind"]) == (0, stage)
    text = boardfit("run", "-C", tiny).out
    for part in ("Network found by connas", "Verification on the test split", "Predicted and measured"):
        assert part in text
    assert [line for line in text.splitlines() if len(line) > 100 and str(tiny) not in line] == []
    edit(tiny, 'name = "tiny"', 'name = "renamed"')
    assert boardfit("doctor", "-C", tiny).code == 0
