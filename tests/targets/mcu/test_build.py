"""Building firmware: every board, both compilers, the same bytes each time, nothing of this machine, typed errors."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from targets.mcu import compilers
from targets.mcu.board import list_boards, load_board
from targets.mcu.build import (
    CompilationError,
    DoesNotFitError,
    Firmware,
    board_sources,
    build_firmware,
    build_program,
    firmware_sources,
)
from targets.mcu.compilers import find_compiler
from toolchain.errors import ConfigurationError

ECHO = Path(__file__).parent / "programs" / "echo.c"
ROOT = Path(__file__).parents[3]
NO_BOARD = ("host.c", "library.c")  # board files of a PC
FLASH_LIMIT = {"gcc": 42 * 1024, "zig": 45 * 1024}
STATIC_LIMIT = 4 * 1024


def need(compiler: str) -> str:
    try:
        find_compiler(compiler)
    except ConfigurationError as error:
        pytest.skip(str(error))
    return compiler


def echo(cache: Path, board: str = "nucleo-l4r5zi", compiler: str = "auto", **options: object) -> Firmware:
    facts = load_board(board)
    return build_program(
        facts, [*board_sources(facts), ECHO], compiler=compiler, cache=cache, **options  # type: ignore[arg-type]
    )  # fmt: skip


def parts(firmware: Firmware) -> tuple[dict[str, tuple[int, int]], dict[str, int]]:
    """Sections (address, size) and symbols."""
    file = ELFFile(io.BytesIO(firmware.elf.read_bytes()))
    sections = {s.name: (s["sh_addr"], s["sh_size"]) for s in file.iter_sections()}
    table = file.get_section_by_name(".symtab")
    assert table is not None
    return sections, {s.name: s["st_value"] for s in table.iter_symbols()}


FAST = [("nucleo-l4r5zi", "gcc"), ("nucleo-l4r5zi", "zig")]
SLOW = [(b, c) for b in list_boards() for c in ("gcc", "zig") if (b, c) not in FAST]
EVERY = [*FAST, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)]


@pytest.mark.parametrize(("name", "compiler"), EVERY)
def test_the_firmware_builds_small_and_clean(name: str, compiler: str, tmp_path: Path) -> None:
    board = load_board(name)
    firmware = build_firmware(board, compiler=need(compiler), cache=tmp_path)  # -Wall -Wextra -Werror
    # The whole firmware with all kernels, and its static data without the stack.
    assert firmware.flash_bytes == len(firmware.image) <= FLASH_LIMIT[compiler]
    assert firmware.ram_bytes - firmware.stack_bytes <= STATIC_LIMIT
    assert firmware.stack_bytes == board.ram.stack_bytes
    assert firmware.ram_bytes + firmware.arena_bytes == board.ram.bytes
    # Where things lie.
    sections, symbols = parts(firmware)
    assert sections[".vectors"] == (board.flash.address, 64)
    assert sections[".stack"] == (board.ram.address, board.ram.stack_bytes)
    assert symbols["bf_arena_start"] % 16 == 0
    assert firmware.slot_address % firmware.page_bytes == 0
    assert 0 <= firmware.slot_address - firmware.address - firmware.flash_bytes < firmware.page_bytes
    assert firmware.slot_address + firmware.slot_bytes == board.flash.address + board.flash.bytes
    # The vector table: the stack's top, and the entry inside of the image, in Thumb state.
    assert int.from_bytes(firmware.image[:4], "little") == board.ram.address + board.ram.stack_bytes
    assert firmware.entry & 1
    assert firmware.entry & ~1 == symbols["reset_handler"] & ~1
    # No heap, no libc's I/O, no soft floats.
    assert not {"malloc", "_sbrk", "printf", "__aeabi_fadd", "__aeabi_dadd"} & set(symbols)
    # Nothing of this machine.
    for path in (ROOT, Path.home(), tmp_path):
        assert str(path).encode() not in firmware.image
    assert b"/tmp" not in firmware.image


@pytest.mark.parametrize("compiler", ["gcc", "zig"])
def test_two_builds_are_equal_byte_for_byte(compiler: str, tmp_path: Path) -> None:
    first = echo(tmp_path / "a", compiler=need(compiler))
    second = echo(tmp_path / "b", compiler=compiler)
    assert first.image == second.image
    assert first.elf.read_bytes() == second.elf.read_bytes()
    assert first.fingerprint == second.fingerprint


@pytest.mark.parametrize("compiler", ["gcc", "zig"])
def test_the_folder_one_stands_in_does_not_matter(compiler: str, tmp_path: Path) -> None:
    here = echo(tmp_path / "a", compiler=need(compiler))
    code = (
        "import sys, pathlib, targets.mcu.build as b; f = b.load_board('nucleo-l4r5zi');"
        f"print(b.build_program(f, [*b.board_sources(f), pathlib.Path({str(ECHO)!r})],"
        f"compiler={compiler!r}, cache=pathlib.Path({str(tmp_path / 'b')!r})).elf)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert Path(done.stdout.strip()).read_bytes() == here.elf.read_bytes()


def test_the_fingerprint_follows_what_matters(tmp_path: Path) -> None:
    plain = echo(tmp_path)
    assert echo(tmp_path).fingerprint == plain.fingerprint
    others = [
        echo(tmp_path, optimisation="-Os"),
        echo(tmp_path, extra=("-DSOMETHING=1",)),
        echo(tmp_path, stack_bytes=8192),
        echo(tmp_path, board="nucleo-g491re"),
    ]
    assert len({plain.fingerprint, *(other.fingerprint for other in others)}) == 5
    assert others[2].stack_bytes == 8192
    assert others[2].arena_bytes == plain.arena_bytes - 4096
    assert "-Os" in others[0].flags
    assert plain.compiler.startswith(("arm-none-eabi-gcc ", "zig cc "))


def test_an_earlier_build_is_used_and_a_damaged_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = echo(tmp_path)
    whole = first.elf.read_bytes()
    compiled: list[str] = []
    real = compilers.run_tool
    monkeypatch.setattr("targets.mcu.build.run_tool", lambda c: compiled.append(c[0]) or real(c))
    assert echo(tmp_path) == first
    assert not compiled
    for damaged in (b"", whole[:1000], whole[:500] + bytes([whole[500] ^ 1]) + whole[501:]):
        first.elf.write_bytes(damaged)
        compiled.clear()
        assert echo(tmp_path) == first
        assert len(compiled) == 1
        assert first.elf.read_bytes() == whole


def _build_and_tell(cache: str, start: object, answers: object) -> None:
    start.wait()  # type: ignore[attr-defined]
    firmware = echo(Path(cache))
    answers.put((firmware.fingerprint, firmware.flash_bytes))  # type: ignore[attr-defined]


def test_two_processes_at_once_do_no_harm(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start, answers = context.Event(), context.Queue()
    both = [
        context.Process(target=_build_and_tell, args=(str(tmp_path), start, answers), daemon=True)
        for _ in range(2)
    ]
    for process in both:
        process.start()
    start.set()
    told = [answers.get(timeout=120) for _ in both]
    for process in both:
        process.join(30)
    assert told[0] == told[1] == (echo(tmp_path).fingerprint, echo(tmp_path).flash_bytes)
    assert [file.suffix for file in (tmp_path / "firmware").iterdir()] == [".elf"]


@pytest.mark.parametrize("compiler", ["gcc", "zig"])
class TestRefusals:
    def build(self, tmp_path: Path, compiler: str, text: str, board: str = "nucleo-f446re") -> Firmware:
        source = tmp_path / "program.c"
        source.write_text(text)
        facts = load_board(board)
        sources = [*board_sources(facts), source]
        return build_program(facts, sources, compiler=need(compiler), cache=tmp_path / "cache")

    def test_a_syntax_error_is_the_first_error(self, tmp_path: Path, compiler: str) -> None:
        with pytest.raises(CompilationError, match=r"nucleo-f446re: .*program\.c:1:\d+: error:"):
            self.build(tmp_path, compiler, "int main(void) { return nothing; }")
        assert not (tmp_path / "cache").exists()

    def test_a_warning_is_an_error(self, tmp_path: Path, compiler: str) -> None:
        with pytest.raises(CompilationError, match="unused"):
            self.build(tmp_path, compiler, "int main(void) { int idle; return 0; }")

    def test_an_undefined_function_is_named(self, tmp_path: Path, compiler: str) -> None:
        text = "void elsewhere(void); int main(void) { elsewhere(); return 0; }"
        with pytest.raises(CompilationError, match=r"undefined .*elsewhere"):
            self.build(tmp_path, compiler, text)

    def test_ram_that_is_too_small_tells_the_bytes(self, tmp_path: Path, compiler: str) -> None:
        text = "static char data[%d]; int main(void) { for (;;) ((volatile char *)data)[0]++; }"
        base = self.build(tmp_path, compiler, text % 100_000)
        fits = base.arena_bytes + 100_000
        self.build(tmp_path, compiler, text % (fits // 16 * 16))
        with pytest.raises(DoesNotFitError, match="exceeds the ram of 131072 bytes by 4096 bytes") as caught:
            self.build(tmp_path, compiler, text % (fits // 16 * 16 + 4096))
        assert (caught.value.region, caught.value.over_bytes) == ("ram", 4096)

    def test_flash_that_is_too_small_tells_the_bytes(self, tmp_path: Path, compiler: str) -> None:
        text = (
            "const char model[%d] = {1}; extern const char model[];"
            "int main(void) { for (;;) (void)((const volatile char *)model)[0]; }"
        )
        image = self.build(tmp_path, compiler, text % 400_000).flash_bytes
        over = image + 200_000 - 512 * 1024
        with pytest.raises(DoesNotFitError) as caught:
            self.build(tmp_path, compiler, text % 600_000)
        assert caught.value.region == "flash"
        assert (
            abs(caught.value.over_bytes - over) <= 64
        )  # the code that reads it may differ by an instruction
        assert f"exceeds the flash of 524288 bytes by {caught.value.over_bytes} bytes" in str(caught.value)


def test_no_compiler_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("targets.mcu.compilers.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match="no C compiler for ARM boards") as caught:
        find_compiler()
    assert "pip install 'boardfit[virtual]'" in caught.value.remedy
    with pytest.raises(ConfigurationError, match="arm-none-eabi-gcc is not on the PATH"):
        find_compiler("gcc")
    with pytest.raises(ConfigurationError, match="the package ziglang is not installed"):
        find_compiler("zig")
    with pytest.raises(ConfigurationError, match="no compiler 'clang'"):
        find_compiler("clang")


def test_zig_takes_over_where_gcc_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    need("zig")
    monkeypatch.setenv("PATH", "")
    assert find_compiler().kind == "zig"


def test_a_missing_file_and_an_unknown_runtime(tmp_path: Path) -> None:
    facts = load_board("nucleo-l4r5zi")
    with pytest.raises(ConfigurationError, match=r"cannot read .*nowhere\.c"):
        build_program(facts, [tmp_path / "nowhere.c"], cache=tmp_path)
    with pytest.raises(ConfigurationError, match="the runtime 'other'"):
        build_firmware("nucleo-l4r5zi", runtime="other", cache=tmp_path)


def test_every_c_file_belongs_to_some_firmware() -> None:
    used = {file for name in list_boards() for file in firmware_sources(load_board(name))}
    assert all(file.exists() for file in used)
    there = {file for file in (ROOT / "firmware").rglob("*.c") if file.name not in NO_BOARD}
    assert json.dumps(sorted(str(f.relative_to(ROOT)) for f in there - used)) == "[]"
