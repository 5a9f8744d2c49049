"""Firmware from sources: compiled and linked for one board, read out of the ELF file, kept in the user's cache."""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from targets.mcu.board import Board, load_board
from targets.mcu.compilers import Compiler, find_compiler, run_tool
from targets.mcu.tflm import ENGINE, TflmLibrary, check_board, compile_engine
from toolchain.errors import BoardfitError, ConfigurationError
from toolchain.files import cache_folder, write_atomic

SOURCES: Final = Path(__file__).resolve().parents[2] / "firmware"  # also where the wheel is installed
_WARNINGS: Final = ("-Wall", "-Wextra", "-Werror")
_FORMAT: Final = 2  # of what is kept in the cache
_FAMILY_FILES: Final[Mapping[str, str]] = {
    "f4": "stm32f4.c", "l4": "stm32l4.c", "g4": "stm32l4.c", "g0": "stm32l4.c", "h5": "stm32h5.c",
}  # fmt: skip


class CompilationError(ConfigurationError):
    """The compiler or linker refuses the sources; the message is its first error."""


class DoesNotFitError(ConfigurationError):
    """The linked image is larger than a memory of the board.

    Attributes:
        region: `flash` or `ram`.
        over_bytes: by how much it is too large.
    """

    def __init__(self, message: str, *, region: str, over_bytes: int, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.region = region
        self.over_bytes = over_bytes


@dataclass(frozen=True, slots=True)
class Firmware:
    """A firmware that is ready to be flashed or emulated.

    Attributes:
        board: the board's name.
        elf: the ELF file, in the cache.
        image: what lies in flash from `address` on.
        address: first byte of flash.
        entry: reset vector (with the Thumb bit).
        slot_address: first byte of the model slot, behind the image at a page boundary.
        slot_bytes: from there to the end of the flash.
        page_bytes: erase unit of the slot.
        flash_bytes: of the image.
        ram_bytes: static data and the reserved stack, without the arena.
        arena_bytes: RAM that is left for a model.
        stack_bytes: the reserved stack, at the lowest addresses of the RAM.
        compiler: name and version.
        flags: the options that matter for speed: core, optimisation, extras.
        fingerprint: 16 hex digits over sources, options, compiler and board.
    """

    board: str
    elf: Path
    image: bytes
    address: int
    entry: int
    slot_address: int
    slot_bytes: int
    page_bytes: int
    flash_bytes: int
    ram_bytes: int
    arena_bytes: int
    stack_bytes: int
    compiler: str
    flags: str
    fingerprint: str


def firmware_sources(board: Board) -> list[Path]:
    """The files of a board's firmware with the native runtime."""
    return [
        *board_sources(board),
        SOURCES / "main.c",
        *sorted((SOURCES / "kernels").glob("*.c")),
        *sorted((SOURCES / "runtime").glob("*.c")),
        *sorted((SOURCES / "protocol").glob("*.c")),
    ]


def tflm_sources(board: Board) -> list[Path]:
    """The C files of a board's firmware with the runtime tflm; the engine is ENGINE. newlib comes with the library, and
    its memcpy is what TensorFlow Lite Micro is measured with elsewhere."""
    board_files = [file for file in board_sources(board) if file.name != "memory.c"]
    return [*board_files, SOURCES / "main.c", *sorted((SOURCES / "protocol").glob("*.c"))]


def board_sources(board: Board) -> list[Path]:
    """The files of boards/ that a program for this board is linked with; they call its `main`."""
    names = ("startup.c", "board.c", "ticks.c", "uart.c", "memory.c", _FAMILY_FILES[board.family])
    return [SOURCES / "boards" / name for name in names]


def build_firmware(
    board: Board | str,
    *,
    runtime: str = "native",
    library: TflmLibrary | None = None,
    compiler: str = "auto",
    optimisation: str = "-O2",
    extra: Sequence[str] = (),
    stack_bytes: int | None = None,
    cache: Path | None = None,
) -> Firmware:
    """The firmware of a board: protocol, and a runtime: the native one with all kernels, or TensorFlow Lite Micro.

    Args:
        board: a board or its name.
        runtime: `native` or `tflm`.
        library: the user's, for the runtime tflm: `targets.mcu.tflm.require_library(options)`.
        compiler: `auto`, `gcc` or `zig`.
        optimisation: -O2, -O3, -Os ...
        extra: more compiler options, e.g. `-DNAME=1`.
        stack_bytes: instead of the board's.
        cache: folder to keep it in; by default the user's cache folder.

    Raises:
        ConfigurationError: unknown board, no compiler, an unknown runtime.
        CompilationError: the sources do not compile.
        DoesNotFitError: it does not fit the board.
    """
    board = load_board(board) if isinstance(board, str) else board
    if runtime not in ("native", "tflm") or (runtime == "tflm") != (library is not None):
        raise ConfigurationError(
            f"the runtime {runtime!r} {'with' if library else 'without'} a library cannot be built",
            remedy="use native alone, or tflm with a TensorFlow Lite Micro library",
        )
    sources = firmware_sources(board) if library is None else tflm_sources(board)
    return build_program(
        board, sources, library=library, compiler=compiler, optimisation=optimisation, extra=extra,
        stack_bytes=stack_bytes, cache=cache,
    )  # fmt: skip


def build_program(
    board: Board,
    sources: Sequence[Path],
    *,
    includes: Sequence[Path] = (),
    library: TflmLibrary | None = None,
    compiler: str = "auto",
    optimisation: str = "-O2",
    extra: Sequence[str] = (),
    stack_bytes: int | None = None,
    cache: Path | None = None,
) -> Firmware:
    """Compile and link C files for a board, e.g. an exported model with `board_sources(board)`.

    Args:
        board: what it is for; its facts become `BF_...` macros and the linker script's memories.
        sources: C files, in the order of linking; one of them has `main`.
        library: link firmware/tflm/engine.cc with it, and with newlib; needs GCC.
        includes: folders of headers, besides firmware/ and its folders. All files in them count for the cache.
        compiler, optimisation, extra, stack_bytes, cache: as in `build_firmware`.

    Raises:
        ConfigurationError: no compiler, a file that does not exist.
        CompilationError: the first error of compiler or linker.
        DoesNotFitError: the image does not fit flash or RAM, with the exact number of bytes.
    """
    tool = find_compiler("gcc" if library and compiler == "auto" else compiler)
    if library is not None:
        check_board(library, board, tool)
    if stack_bytes is not None:
        board = replace(board, ram=replace(board.ram, stack_bytes=stack_bytes))
    script = _linker_script(board)
    options = (
        *tool.flags(board), "-std=c11", optimisation, *_WARNINGS,
        "-ffunction-sections", "-fdata-sections", "-fno-common",
        *(f"-D{name}={value}" for name, value in board.macros().items()), *extra,
    )  # fmt: skip
    folders = [SOURCES, *(SOURCES / name for name in ("kernels", "runtime", "protocol", "boards")), *includes]
    headers = sorted({file for folder in folders for file in folder.glob("*.h")})
    engine, link_flags = ((), tool.link_flags()) if library is None else ((ENGINE,), library.link_flags())
    also = () if library is None else (library.digest, *library.compile_flags())
    fingerprint = _fingerprint(tool, (*options, *link_flags, *also), script, [*sources, *engine, *headers])
    kept = (cache or cache_folder()) / "firmware" / f"{board.name}-{fingerprint}.elf"
    elf = _read_kept(kept)
    if elf is None:
        named = (*options, f'-DBF_FINGERPRINT="{fingerprint}"')  # the firmware says who it is
        elf = _compile(tool, board, named, script, sources, folders, library)
        # The digest stands in the same file, behind the ELF: one rename, so two processes cannot mix theirs.
        write_atomic(kept, elf + hashlib.sha256(elf).digest())
    shown = " ".join((*tool.flags(board), optimisation, *extra))
    return _describe(board, kept, elf, tool.version, shown, fingerprint)


def _linker_script(board: Board) -> str:
    """link.ld with the board's numbers in place of the names."""
    values = {name: value.rstrip("u") for name, value in board.macros().items()}
    values["BF_STACK_BYTES"] = str(board.ram.stack_bytes)
    text = (SOURCES / "boards" / "link.ld").read_text("utf-8")
    return re.sub(r"\bBF_[A-Z0-9_]*[A-Z0-9]\b", lambda name: values[name[0]], text)


def _fingerprint(tool: Compiler, options: Sequence[str], script: str, files: Iterable[Path]) -> str:
    digest = hashlib.sha256(f"{_FORMAT}\0{tool.version}\0{script}\0".encode())
    for option in options:
        digest.update(f"{option}\0".encode())
    for file in files:
        try:
            data = file.read_bytes()
        except OSError as error:
            raise ConfigurationError(f"cannot read {file}: {error.strerror}") from error
        digest.update(f"{file.name}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()[:16]


def _read_kept(path: Path) -> bytes | None:
    """The ELF file of an earlier build, or None where there is none or it is damaged."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    elf, digest = data[:-32], data[-32:]
    return elf if hashlib.sha256(elf).digest() == digest else None


def _outside_of_measurements(source: Path) -> bool:
    """Code that no measured inference runs through: it is compiled for size, which saves a fifth of the firmware."""
    return source.parent == SOURCES / "protocol" or source == SOURCES / "runtime" / "check.c"


def _compile(
    tool: Compiler,
    board: Board,
    options: Sequence[str],
    script: str,
    sources: Sequence[Path],
    folders: Sequence[Path],
    library: TflmLibrary | None,
) -> bytes:
    folder = Path(tempfile.mkdtemp(prefix="boardfit-build-"))
    try:
        (folder / "link.ld").write_text(script, "utf-8")
        output = folder / "firmware.elf"
        link_flags = tool.link_flags()
        if library is not None:
            done = compile_engine(library, tool, board, folder / "engine.o")
            if done.returncode:
                raise _refusal(board, done.stderr)
            sources, link_flags = [*sources, folder / "engine.o"], library.link_flags()
        # No path of this machine in the image: __FILE__ becomes a name relative to the sources.
        maps = sorted(f"-ffile-prefix-map={root}/=" for root in {SOURCES, *(file.parent for file in sources)})
        common = (*tool.command, *options, *maps, *(f"-I{item}" for item in folders))
        inputs = [str(file) for file in sources]
        for i, file in enumerate(sources):
            if _outside_of_measurements(file):
                inputs[i] = str(folder / f"{file.stem}.o")
                done = run_tool((*common, "-Os", "-c", str(file), "-o", inputs[i]))
                if done.returncode:
                    raise _refusal(board, done.stderr)
        done = run_tool((
            *common, *inputs, "-o", str(output), f"-Wl,-T,{folder / 'link.ld'}",
            "-Wl,--gc-sections", "-Wl,--build-id=none", *link_flags,
        ))  # fmt: skip
        if done.returncode:
            raise _refusal(board, done.stderr)
        return output.read_bytes()
    except OSError as error:
        raise BoardfitError(f"cannot build in {folder}: {error}", remedy="free disk space") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# GNU ld: region `RAM' overflowed by 58920 bytes
# lld: section '.bss' will not fit in region 'RAM': overflowed by 58920 bytes
_OVERFLOW: Final = re.compile(r"region [`']?(\w+)'?:? overflowed by (\d+) bytes")

_ERROR: Final = re.compile(r"\berror: |undefined reference|undefined symbol")


def _refusal(board: Board, stderr: str) -> ConfigurationError:
    """The typed error for what compiler or linker wrote."""
    over: dict[str, int] = {}
    for region, count in _OVERFLOW.findall(stderr):
        over[region.lower()] = max(over.get(region.lower(), 0), int(count))
    for region in ("flash", "ram"):
        if region in over:
            size = board.flash.bytes if region == "flash" else board.ram.bytes
            return DoesNotFitError(
                f"{board.name}: the program exceeds the {region} of {size} bytes by {over[region]} bytes",
                region=region,
                over_bytes=over[region],
                remedy="choose a smaller model or a board with more memory",
            )
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    first = next((line for line in lines if _ERROR.search(line)), "")
    return CompilationError(f"{board.name}: {first or (lines or ['the compiler says nothing'])[-1]}")


def _describe(board: Board, path: Path, elf: bytes, compiler: str, flags: str, fingerprint: str) -> Firmware:
    """Sizes and addresses, from the ELF's segments and symbols."""
    try:
        from elftools.elf.elffile import ELFFile
    except ImportError as error:
        raise ConfigurationError(
            "reading firmware needs the package pyelftools", remedy="pip install 'boardfit[boards]'"
        ) from error
    file = ELFFile(io.BytesIO(elf))
    image = bytearray()
    for segment in file.iter_segments("PT_LOAD"):
        data = segment.data()
        start = segment["p_paddr"] - board.flash.address
        if data and 0 <= start < board.flash.bytes:
            image.extend(b"\xff" * (start + len(data) - len(image)))
            image[start : start + len(data)] = data
    table: Any = file.get_section_by_name(".symtab")
    symbols = {symbol.name: symbol["st_value"] for symbol in table.iter_symbols()}
    stack = symbols["bf_stack_top"] - symbols["bf_stack_limit"]
    return Firmware(
        board=board.name,
        elf=path,
        image=bytes(image),
        address=board.flash.address,
        entry=int.from_bytes(image[4:8], "little"),
        slot_address=symbols["bf_slot_start"],
        slot_bytes=symbols["bf_slot_end"] - symbols["bf_slot_start"],
        page_bytes=board.flash.page_bytes,
        flash_bytes=len(image),
        ram_bytes=symbols["bf_arena_start"] - board.ram.address,
        arena_bytes=symbols["bf_arena_end"] - symbols["bf_arena_start"],
        stack_bytes=stack,
        compiler=compiler,
        flags=flags,
        fingerprint=fingerprint,
    )
