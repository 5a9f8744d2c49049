"""A user's TensorFlow Lite Micro library is checked before anything is compiled: small archives made by hand."""

from __future__ import annotations

import os
import struct
from contextlib import nullcontext
from pathlib import Path

import pytest

from targets.mcu import tflm
from targets.mcu.board import load_board
from targets.mcu.build import build_firmware
from targets.mcu.compilers import Compiler
from targets.mcu.replies import refusal
from targets.mcu.wire import Command, Status
from toolchain.errors import ConfigurationError

INVOKE = "_ZN6tflite16MicroInterpreter6InvokeEv"
V7EM, V6M, V8MAIN = 13, 12, 17


def elf(*, architecture: int = V7EM, hard: bool = True, machine: int = 40) -> bytes:
    """An ELF object of 32 bits with nothing but build attributes (machine 40 is ARM)."""
    tags = bytes([6, architecture]) + (bytes([28, 1]) if hard else b"")
    file = b"\x01" + struct.pack("<I", 5 + len(tags)) + tags
    vendor = b"aeabi\0" + file
    attributes = b"A" + struct.pack("<I", 4 + len(vendor)) + vendor
    names = b"\0.ARM.attributes\0.shstrtab\0"
    start = 52
    table = start + len(attributes) + len(names)
    header = b"\x7fELF\x01\x01\x01" + bytes(9)
    header += struct.pack("<HHIIIIIHHHHHH", 1, machine, 1, 0, 0, table, 0x05000000, 52, 0, 0, 40, 3, 2)
    sections = bytes(40)
    sections += struct.pack("<10I", 1, 0x70000003, 0, 0, start, len(attributes), 0, 0, 1, 0)
    sections += struct.pack("<10I", 17, 3, 0, 0, start + len(attributes), len(names), 0, 0, 1, 0)
    return header + attributes + names + sections


def member(name: str, contents: bytes) -> bytes:
    header = f"{name:<16}{0:<12}{0:<6}{0:<6}{0o644:<8}{len(contents):<10}`\n".encode()
    return header + contents + b"\n" * (len(contents) % 2)


def archive(*symbols: str, objects: tuple[bytes, ...] = (elf(),)) -> bytes:
    index = struct.pack(">I", len(symbols)) + bytes(4 * len(symbols))
    index += b"".join(symbol.encode() + b"\0" for symbol in symbols)
    return b"!<arch>\n" + member("/", index) + b"".join(member("a.o/", data) for data in objects)


@pytest.fixture
def headers(tmp_path: Path) -> Path:
    """A source tree as TFLM's makefile leaves it."""
    root = tmp_path / "tflite-micro"
    downloads = root / "tensorflow/lite/micro/tools/make/downloads"
    (downloads / "flatbuffers/include/flatbuffers").mkdir(parents=True)
    (downloads / "gemmlowp").mkdir()
    (downloads / "flatbuffers/include/flatbuffers/flatbuffers.h").touch()
    (root / "tensorflow/lite/micro/micro_interpreter.h").touch()
    return root


def write(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "libtensorflow-microlite.a"
    path.write_bytes(data)
    return path


def test_a_library_is_described(tmp_path: Path, headers: Path) -> None:
    path = write(tmp_path, archive("arm_convolve_s8", INVOKE))
    library = tflm.open_library(path, (headers,))
    assert (library.architecture, library.float_abi, library.kernels) == ("v7E-M", "hard", "cmsis-nn")
    assert library.version == f"cmsis-nn {library.digest}"
    assert len(library.digest) == 12
    downloads = headers / "tensorflow/lite/micro/tools/make/downloads"
    assert library.include == (headers, downloads / "flatbuffers/include", downloads / "gemmlowp")
    flags = library.compile_flags()
    assert flags[flags.index(str(headers)) - 1] == "-isystem"
    assert f'-DBF_TFLM_VERSION="{library.version}"' in flags
    assert str(path) in library.link_flags()


def test_another_archive_has_another_version(tmp_path: Path, headers: Path) -> None:
    one = tflm.open_library(write(tmp_path, archive(INVOKE)), (headers,))
    two = tflm.open_library(write(tmp_path, archive(INVOKE, objects=(elf(), elf()))), (headers,))
    assert one.kernels == two.kernels == "reference"
    assert one.version != two.version


def test_options_come_before_the_environment(tmp_path: Path, headers: Path) -> None:
    path = write(tmp_path, archive(INVOKE))
    both = {tflm.LIBRARY_VARIABLE: str(path), tflm.INCLUDE_VARIABLE: str(headers)}
    assert tflm.find_library({}, environment={}) is None
    named = tflm.find_library({}, environment=both)
    assert named is not None
    assert named.archive == path
    wrong = {**both, tflm.LIBRARY_VARIABLE: "/elsewhere/lib.a"}
    assert tflm.find_library({tflm.LIBRARY_OPTION: str(path)}, environment=wrong) == named
    assert tflm.require_library({}, environment=both) == named


def test_several_folders_of_headers(tmp_path: Path, headers: Path) -> None:
    apart = tmp_path / "flatbuffers"
    source = headers / "tensorflow/lite/micro/tools/make/downloads/flatbuffers/include"
    source.rename(apart)
    path = write(tmp_path, archive(INVOKE))
    with pytest.raises(ConfigurationError, match=r"flatbuffers/flatbuffers\.h is in none of"):
        tflm.open_library(path, (headers,))
    options = {tflm.LIBRARY_OPTION: str(path), tflm.INCLUDE_OPTION: f"{headers}{os.pathsep}{apart}"}
    library = tflm.find_library(options, environment={})
    assert library is not None
    assert apart in library.include


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "none is named"),
        (
            {tflm.LIBRARY_OPTION: "lib.a"},
            "library of TensorFlow Lite Micro must be named together with its headers",
        ),
        (
            {tflm.INCLUDE_OPTION: "here"},
            "headers of TensorFlow Lite Micro must be named together with its library",
        ),
        (
            {tflm.LIBRARY_OPTION: "/no/lib.a", tflm.INCLUDE_OPTION: "."},
            "cannot read .*/no/lib.a: No such file",
        ),
    ],
)
def test_what_is_not_named_is_asked_for(options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        tflm.require_library(options, environment={})
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a static library"),
        (b"\x7fELF" + bytes(60), "not a static library"),
        (b"!<thin>\n", "thin archive"),
        (b"!<arch>\n" + member("a.o/", elf()), "no index of symbols"),
        (archive("main"), "does not define tflite::MicroInterpreter::Invoke"),
        (archive(INVOKE, objects=(b"text",)), "holds no ELF objects"),
        (archive(INVOKE, objects=(elf(machine=62),)), "not for a Cortex-M"),
        (archive(INVOKE, objects=(elf(architecture=14),)), "not for a Cortex-M"),  # v8-A
        (archive(INVOKE, objects=(elf()[:40],)), "damaged object"),
        (archive(INVOKE)[:-20], "cut short"),
        (archive(INVOKE) + b"rubbish", "damaged at byte"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_library_is_refused(tmp_path: Path, headers: Path, data: bytes, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        tflm.open_library(write(tmp_path, data), (headers,))


GCC, ZIG = Compiler("gcc", ("gcc",), "gcc 12"), Compiler("zig", ("zig",), "zig 0.17")


@pytest.mark.parametrize(
    ("board", "data", "compiler", "message"),
    [
        ("nucleo-l4r5zi", elf(), GCC, ""),
        ("nucleo-h563zi", elf(), GCC, ""),
        ("nucleo-g071rb", elf(architecture=V6M, hard=False), GCC, ""),
        ("nucleo-l4r5zi", elf(hard=False), GCC, "by the soft convention, the firmware of nucleo-l4r5zi by"),
        ("nucleo-g071rb", elf(), GCC, "floats by the hard convention"),
        ("nucleo-g071rb", elf(hard=False), GCC, "v7E-M code, which the cortex-m0plus"),
        ("nucleo-l4r5zi", elf(architecture=V8MAIN), GCC, "v8-M main code, which the cortex-m4"),
        ("nucleo-l4r5zi", elf(), ZIG, "cannot be built with zig"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_library_must_fit_the_board(
    tmp_path: Path, headers: Path, board: str, data: bytes, compiler: Compiler, message: str
) -> None:
    library = tflm.open_library(write(tmp_path, archive(INVOKE, objects=(data,))), (headers,))
    with pytest.raises(ConfigurationError, match=message) if message else nullcontext() as caught:
        tflm.check_board(library, load_board(board), compiler)
    assert caught is None or caught.value.remedy


def test_a_runtime_and_its_library_go_together(tmp_path: Path, headers: Path) -> None:
    library = tflm.open_library(write(tmp_path, archive(INVOKE)), (headers,))
    with pytest.raises(ConfigurationError, match="'tflm' without a library"):
        build_firmware("nucleo-l4r5zi", runtime="tflm")
    with pytest.raises(ConfigurationError, match="'native' with a library"):
        build_firmware("nucleo-l4r5zi", library=library)


def test_a_library_without_profiler_hooks_is_named() -> None:
    """The firmware refuses to time operators that nobody times; a model with an unknown one is another matter."""
    assert "does not time single operators" in str(refusal(Status.UNSUPPORTED, 0, 0, Command.RUN, "board"))
    assert "an operator that the firmware lacks" in str(
        refusal(Status.UNSUPPORTED, 0, 0, Command.OPEN, "board")
    )


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such folder"):
        tflm.open_library(write(tmp_path, archive(INVOKE)), (tmp_path / "absent",))
