"""A user's TensorFlow Lite Micro library: where it lies, whether it fits a board, how the firmware is linked with it.

boardfit ships no TensorFlow Lite Micro (TFLM). The user builds `libtensorflow-microlite.a` by TFLM's own instructions
and names it (docs/tflm-runtime.md); the firmware with the runtime `tflm` is firmware/tflm/engine.cc linked with it.
"""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from targets.mcu.board import Board, Core
from targets.mcu.compilers import Compiler, run_tool
from toolchain.errors import ConfigurationError

ENGINE: Final = Path(__file__).resolve().parents[2] / "firmware" / "tflm" / "engine.cc"
FloatAbi = Literal["hard", "soft"]
LIBRARY_OPTION: Final = "tflm_library"
INCLUDE_OPTION: Final = "tflm_include"
LIBRARY_VARIABLE: Final = "BOARDFIT_TFLM_LIBRARY"
INCLUDE_VARIABLE: Final = "BOARDFIT_TFLM_INCLUDE"

_BUILD_IT: Final = "docs/tflm-runtime.md says how to build it"
# Where TFLM's own tools leave the headers of what it depends on, seen from the folder that holds tensorflow/: its
# makefile's downloads, and the tree that create_tflm_tree.py writes.
_DOWNLOADS: Final = "tensorflow/lite/micro/tools/make/downloads"
_BESIDE: Final = (
    f"{_DOWNLOADS}/flatbuffers/include",
    f"{_DOWNLOADS}/gemmlowp",
    f"{_DOWNLOADS}/ruy",
    "third_party/flatbuffers/include",
    "third_party/gemmlowp",
    "third_party/ruy",
)
_HEADERS: Final = ("tensorflow/lite/micro/micro_interpreter.h", "flatbuffers/flatbuffers.h")
_INVOKE: Final = "_ZN6tflite16MicroInterpreter6InvokeEv"  # tflite::MicroInterpreter::Invoke()
_CMSIS_NN: Final = "arm_convolve_s8"
# Values of Tag_CPU_arch (Addenda to the ABI for the Arm Architecture, section 3.3.5.2) that Cortex-M cores run.
_ARCHITECTURES: Final[Mapping[int, str]] = {
    10: "v7-M", 11: "v6-M", 12: "v6-M", 13: "v7E-M", 16: "v8-M base", 17: "v8-M main", 21: "v8.1-M main",
}  # fmt: skip
# What a core runs of them. M33: v8-M main has v7-M's instructions and, with its DSP option, v7E-M's.
_RUNS: Final[Mapping[Core, tuple[str, ...]]] = {
    "cortex-m0plus": ("v6-M",),
    "cortex-m3": ("v6-M", "v7-M"),
    "cortex-m4": ("v6-M", "v7-M", "v7E-M"),
    "cortex-m33": ("v6-M", "v7-M", "v7E-M", "v8-M base", "v8-M main"),
}


@dataclass(frozen=True, slots=True)
class TflmLibrary:
    """A checked libtensorflow-microlite.a with its headers.

    Attributes:
        archive: the library.
        include: folders for the compiler, in order.
        architecture: that its code needs, e.g. "v7E-M".
        float_abi: how it passes floats; the firmware must do the same.
        kernels: "cmsis-nn" or "reference".
        digest: the first 12 hex digits of the archive's SHA-256.
    """

    archive: Path
    include: tuple[Path, ...]
    architecture: str
    float_abi: FloatAbi
    kernels: str
    digest: str

    @property
    def version(self) -> str:
        """For the stack, and what the device answers: an archive carries no version number, so its digest stands."""
        return f"{self.kernels} {self.digest}"

    def compile_flags(self) -> tuple[str, ...]:
        """For firmware/tflm/engine.cc, beside the flags of the core.

        TF_LITE_STATIC_MEMORY changes the layout of structures: TFLM's makefile sets it for every build but one that it
        warns of. The headers are the user's, so their warnings are not ours.
        """
        folders = (flag for folder in self.include for flag in ("-isystem", str(folder)))
        return (
            "-std=c++17", "-fno-exceptions", "-fno-rtti", "-fno-threadsafe-statics", "-DTF_LITE_STATIC_MEMORY",
            f'-DBF_TFLM_VERSION="{self.version}"', *folders,
        )  # fmt: skip

    def link_flags(self) -> tuple[str, ...]:
        """After the objects: the archive, and newlib for the little that it takes (memcpy, strcmp, exp, setjmp).

        Not newlib-nano: its memcpy moves single bytes, and CMSIS-NN's convolutions copy every input patch with it.
        """
        return (
            "-nostdlib", str(self.archive), "-Wl,--start-group", "-lm", "-lc", "-lgcc", "-Wl,--end-group",
        )  # fmt: skip


def find_library(
    options: Mapping[str, str], *, environment: Mapping[str, str] | None = None
) -> TflmLibrary | None:
    """The library that the user named, or None when none is named.

    Args:
        options: of a target's URL. `tflm_library` is the archive, `tflm_include` the folders of its headers, with the
            system's path separator between them; a folder that holds `tensorflow/` brings TFLM's own downloads along.
        environment: BOARDFIT_TFLM_LIBRARY and BOARDFIT_TFLM_INCLUDE stand in for what `options` leaves out; by default
            the process's.

    Raises:
        ConfigurationError: only one of the two is named, or see `open_library`.
    """
    known = os.environ if environment is None else environment
    archive = options.get(LIBRARY_OPTION) or known.get(LIBRARY_VARIABLE) or ""
    include = options.get(INCLUDE_OPTION) or known.get(INCLUDE_VARIABLE) or ""
    if not archive and not include:
        return None
    if not archive or not include:
        raise ConfigurationError(
            f"the {'library' if archive else 'headers'} of TensorFlow Lite Micro must be named together with its "
            f"{'headers' if archive else 'library'}",
            remedy=f"name both: options {LIBRARY_OPTION} and {INCLUDE_OPTION} of the target's URL, or the environment "
            f"variables {LIBRARY_VARIABLE} and {INCLUDE_VARIABLE}",
        )
    return open_library(Path(archive), tuple(Path(part) for part in include.split(os.pathsep) if part))


def require_library(
    options: Mapping[str, str], *, environment: Mapping[str, str] | None = None
) -> TflmLibrary:
    """As `find_library`, for a caller that cannot go on without.

    Raises:
        ConfigurationError: none is named.
    """
    library = find_library(options, environment=environment)
    if library is None:
        raise ConfigurationError(
            "the runtime tflm needs a TensorFlow Lite Micro library, and none is named",
            remedy=f"set {LIBRARY_VARIABLE} and {INCLUDE_VARIABLE}, or give {LIBRARY_OPTION} and {INCLUDE_OPTION} in "
            f"the target's URL; {_BUILD_IT}",
        )
    return library


def open_library(archive: Path, include: tuple[Path, ...]) -> TflmLibrary:
    """Check an archive and its headers.

    Args:
        archive: libtensorflow-microlite.a, built for a Cortex-M.
        include: folders of headers; see `find_library`.

    Raises:
        ConfigurationError: a file is missing, or the archive is not one of ARM objects with TFLM in it.
    """
    try:
        data = archive.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"cannot read the TensorFlow Lite Micro library {archive}: {error.strerror}", remedy=_BUILD_IT
        ) from error
    members = tuple(_members(archive, data))
    names = _symbols(archive, members)
    if _INVOKE not in names:
        raise ConfigurationError(
            f"{archive} does not define tflite::MicroInterpreter::Invoke", remedy=_BUILD_IT
        )
    architecture, float_abi = _attributes(archive, _first_object(archive, members))
    return TflmLibrary(
        archive=archive.absolute(),
        include=_folders(include),
        architecture=architecture,
        float_abi=float_abi,
        kernels="cmsis-nn" if _CMSIS_NN in names else "reference",
        digest=hashlib.sha256(data).hexdigest()[:12],
    )


def check_board(library: TflmLibrary, board: Board, compiler: Compiler) -> None:
    """Refuse what the linker would refuse in its own words, or what would fault on the board.

    Raises:
        ConfigurationError: the library passes floats otherwise than the board's firmware, holds code that the core does
            not run, or the compiler is not GCC.
    """
    if compiler.kind != "gcc":
        raise ConfigurationError(
            f"the runtime tflm cannot be built with {compiler.version}: it brings no C++ library",
            remedy="use gcc (Debian: gcc-arm-none-eabi, libstdc++-arm-none-eabi-newlib)",
        )
    float_abi = "soft" if board.fpu == "none" else "hard"
    if library.float_abi != float_abi:
        raise ConfigurationError(
            f"{library.archive} passes floats by the {library.float_abi} convention, the firmware of {board.name} by "
            f"the {float_abi} one",
            remedy=f"build the library for a {board.core}, e.g. TARGET_ARCH=cortex-m4+fp for a Cortex-M4 with an FPU",
        )
    if library.architecture not in _RUNS[board.core]:
        raise ConfigurationError(
            f"{library.archive} holds {library.architecture} code, which the {board.core} of {board.name} does not run",
            remedy=f"build the library for it: TARGET_ARCH={board.core}",
        )


def compile_engine(
    library: TflmLibrary, compiler: Compiler, board: Board, output: Path
) -> subprocess.CompletedProcess[str]:
    """Compile firmware/tflm/engine.cc; the caller judges the result.

    Raises:
        ConfigurationError: the compiler cannot be run, or has no C++ headers.
    """
    # Hosted, since a freestanding C++ has no <algorithm>; small, since no model spends its time here.
    core = tuple(flag for flag in compiler.flags(board) if flag != "-ffreestanding")
    roots = (ENGINE.parents[1], *library.include)
    done = run_tool((
        *compiler.command, *core, "-Os", "-Wall", "-Wextra", "-Werror", "-ffunction-sections", "-fdata-sections",
        "-fno-unwind-tables", "-fno-asynchronous-unwind-tables", *library.compile_flags(),
        *(f"-ffile-prefix-map={root}/=" for root in roots), "-c", str(ENGINE), "-o", str(output),
    ))  # fmt: skip
    if done.returncode and "No such file or directory" in done.stderr and "include <" in done.stderr:
        raise ConfigurationError(
            "the C++ compiler for ARM has no headers of its library",
            remedy="Debian: apt install libstdc++-arm-none-eabi-newlib",
        )
    return done


def _folders(include: tuple[Path, ...]) -> tuple[Path, ...]:
    """The folders, and those that TFLM's tools put beside them.

    Raises:
        ConfigurationError: a folder does not exist, or a header is in none of them.
    """
    for folder in include:
        if not folder.is_dir():
            raise ConfigurationError(f"no such folder of TensorFlow Lite Micro's headers: {folder}")
    roots = tuple(folder.absolute() for folder in include)
    beside = (root / place for root in roots for place in _BESIDE)
    folders = (*roots, *(folder for folder in beside if folder.is_dir()))
    for header in _HEADERS:
        if not any((folder / header).is_file() for folder in folders):
            raise ConfigurationError(
                f"{header} is in none of {', '.join(map(str, folders))}",
                remedy=f"name the folder that holds {header.split('/')[0]}/ too, separated by {os.pathsep!r}",
            )
    return folders


def _members(archive: Path, data: bytes) -> Iterator[tuple[str, bytes]]:
    """(name, contents) of each member of an `ar` archive, GNU flavour: headers of 60 bytes at even offsets.

    Raises:
        ConfigurationError: not an archive, a thin one, or cut short.
    """
    if data.startswith(b"!<thin>\n"):
        raise ConfigurationError(f"{archive} is a thin archive: it holds names of objects, not the objects")
    if not data.startswith(b"!<arch>\n"):
        raise ConfigurationError(f"{archive} is not a static library (ar archive)", remedy=_BUILD_IT)
    at = 8
    while at < len(data):
        header = data[at : at + 60]
        size_text = header[48:58].strip()
        if len(header) < 60 or header[58:] != b"`\n" or not size_text.isdigit():
            raise ConfigurationError(f"{archive} is damaged at byte {at}")
        size = int(size_text)
        contents = data[at + 60 : at + 60 + size]
        if len(contents) != size:
            raise ConfigurationError(f"{archive} is cut short: a member at byte {at} takes {size} bytes")
        yield header[:16].decode("latin-1").rstrip(), contents
        at += 60 + size + size % 2


def _symbols(archive: Path, members: tuple[tuple[str, bytes], ...]) -> frozenset[str]:
    """The names that an archive defines, from its index (member "/": a big-endian count, offsets, then the names)."""
    for name, contents in members:
        if name == "/":
            count = int.from_bytes(contents[:4], "big")
            text = contents[4 + 4 * count :].decode("latin-1")
            return frozenset(text.split("\0")[:count])
    raise ConfigurationError(f"{archive} has no index of symbols", remedy="make one: arm-none-eabi-ranlib")


def _first_object(archive: Path, members: tuple[tuple[str, bytes], ...]) -> bytes:
    for _name, contents in members:
        if contents.startswith(b"\x7fELF"):
            return contents
    raise ConfigurationError(f"{archive} holds no ELF objects", remedy=_BUILD_IT)


def _attributes(archive: Path, member: bytes) -> tuple[str, FloatAbi]:
    """Architecture and convention for floats, from an object's build attributes.

    Raises:
        ConfigurationError: not code for a Cortex-M.
    """
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import ARMAttributesSection

    try:
        elf = ELFFile(io.BytesIO(member))
        machine = elf.get_machine_arch()
        section = elf.get_section_by_name(".ARM.attributes")
        tags = {
            attribute.tag: attribute.value
            for part in (section.iter_subsections() if isinstance(section, ARMAttributesSection) else ())
            for file in part.iter_subsubsections()
            for attribute in file.iter_attributes()
        }
    except ELFError as error:
        raise ConfigurationError(f"{archive} holds a damaged object: {error}") from error
    architecture = _ARCHITECTURES.get(tags.get("TAG_CPU_ARCH", -1))
    if machine != "ARM" or architecture is None:
        raise ConfigurationError(
            f"{archive} holds {machine} objects that are not for a Cortex-M",
            remedy=f"build it with TARGET=cortex_m_generic; {_BUILD_IT}",
        )
    return architecture, "hard" if tags.get("TAG_ABI_VFP_ARGS") == 1 else "soft"
