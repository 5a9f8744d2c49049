"""Make a 64-bit ARM board out of files: an aarch64 user land, an emulator, Python and the engines' aarch64 wheels.

    python tools/arm64_rootfs.py [FOLDER]

Neither root nor a chroot is needed: packages of the machine's own Debian sources are unpacked, not installed, and
qemu-user starts the Python in them. FOLDER/python is that Python, as a program; an sshd that starts it is an aarch64
board (tests/targets/ssh/test_arm64.py). What is there already is kept. It shows that packages, agent and numbers are
right on aarch64; an emulator's times say nothing.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROOT = Path(__file__).resolve().parent.parent
PACKAGES: Final = ("python3", "libstdc++6")
EMULATORS: Final = ("qemu-aarch64-static", "qemu-aarch64")
# QEMU 7.2 (Debian 12) dies in newer ones: ai-edge-litert 2.2 when it loads a model, onnxruntime 1.28 when imported.
WHEELS: Final = ("ai-edge-litert==2.1.6", "onnxruntime==1.26.0")
# The emulator's default core ("max") computes wrong int8 convolutions in XNNPACK; those of a Raspberry Pi 3, 4 and 5
# (cortex-a53, -a72, -a76) agree with x86 to 1 LSB. QEMU_CPU chooses another.
CORE: Final = "cortex-a72"
OLDEST_GLIBC, NEWEST_GLIBC = 17, 36  # minor numbers: the oldest that manylinux names, Debian 12's


class CannotMakeError(Exception):
    """A step failed; the text says which and why."""


def main() -> int:
    if len(sys.argv) > 2 or sys.argv[1:2] == ["--help"]:
        print(__doc__)
        return 2
    folder = Path(sys.argv[1]) if len(sys.argv) == 2 else default_folder()
    if missing := [name for name in ("apt-get", "dpkg") if shutil.which(name) is None]:
        print(
            f"Cannot make an aarch64 user land: {' and '.join(missing)} not found; this takes a Debian system."
        )
        return 1
    try:
        made = make(folder.expanduser().resolve())
    except CannotMakeError as error:
        print(f"Cannot make an aarch64 user land: {error}")
        return 1
    print(made)
    return 0


def default_folder() -> Path:
    """boardfit's part of the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "boardfit" / "arm64"


def make(folder: Path) -> str:
    """Make what is missing or of another recipe; gives a line about what is there."""
    recipe = {"packages": [*PACKAGES], "wheels": [*WHEELS, numpy_pin()], "core": [CORE]}
    note = folder / "recipe.json"
    if note.is_file() and json.loads(note.read_text()) == recipe:
        return f"{folder}: ready, {megabytes(folder):.0f} MB"
    begin = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rootfs = folder / "rootfs"
    with tempfile.TemporaryDirectory(prefix="arm64-", dir=folder) as work:
        archives = user_land(Path(work), rootfs)
        user_land_s = time.monotonic() - begin
        emulator = emulator_in(Path(work), folder)
    python = next(iter(sorted(rootfs.glob("usr/bin/python3.[0-9]*"))), None)
    if python is None:
        raise CannotMakeError("the package python3 brought no usr/bin/python3.N")
    wheels(python.name.removeprefix("python"), recipe["wheels"], folder / "wheels")
    launcher = folder / "python"
    launcher.write_text(start_script(emulator, rootfs, python, folder / "wheels"))
    launcher.chmod(0o755)
    said = run([str(launcher), "-c", "import platform; print(platform.machine(), platform.python_version())"])
    if said.split()[:1] != ["aarch64"]:
        raise CannotMakeError(f"{launcher} answers {said!r} instead of aarch64")
    note.write_text(json.dumps(recipe))
    seconds = time.monotonic() - begin
    return (
        f"{folder}: {said.strip()}; {archives} packages in {user_land_s:.0f} s, all in {seconds:.0f} s; "
        f"{megabytes(rootfs):.0f} MB user land, {megabytes(folder / 'wheels'):.0f} MB wheels, "
        f"{megabytes(folder):.0f} MB in all"
    )


def numpy_pin() -> str:
    """The numpy that the project itself is tested with."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    return next(line for line in lines if line.startswith("numpy=="))


def user_land(work: Path, rootfs: Path) -> int:
    """Unpack Python and what it needs, as aarch64, into `rootfs`; gives the number of packages."""
    options = apt_state(work / "aarch64", "arm64")
    run(["apt-get", *options, "--quiet", "update"])
    run(
        [
            "apt-get",
            *options,
            "--quiet",
            "--yes",
            "--no-install-recommends",
            "--download-only",
            "install",
            *PACKAGES,
        ]
    )
    archives = sorted((work / "aarch64/cache/archives").glob("*.deb"))
    rootfs.mkdir()
    for archive in archives:
        run(["dpkg", "-x", str(archive), str(rootfs)])
    return len(archives)


def emulator_in(work: Path, folder: Path) -> Path:
    """The emulator that is installed, or the one binary of its package, put into `folder`."""
    for name in EMULATORS:
        if found := shutil.which(name):
            return Path(found)
    native = run(["dpkg", "--print-architecture"]).strip()
    options = apt_state(work / "native", native)
    run(["apt-get", *options, "--quiet", "update"])
    for package in ("qemu-user-static", "qemu-user"):  # Debian 13 has the static binaries in the second
        run(["apt-get", *options, "--quiet", "download", package], work)
        for archive in work.glob(f"{package}_*.deb"):
            run(["dpkg", "-x", str(archive), str(work / package)])
        for name in EMULATORS:
            binary = work / package / "usr/bin" / name
            if binary.is_file() and not binary.is_symlink():
                return Path(shutil.copy2(binary, folder / EMULATORS[0]))
    raise CannotMakeError("no qemu-aarch64 in the packages qemu-user-static and qemu-user")


def apt_state(folder: Path, architecture: str) -> list[str]:
    """Options of apt-get for any architecture, with a state of its own and the machine's sources."""
    for name in ("state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "state/status").write_text("")  # nothing is installed, so that every dependency comes along
    values = {
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "Dir::State": str(folder / "state"),
        "Dir::State::status": str(folder / "state/status"),
        "Dir::Cache": str(folder / "cache"),
        "Acquire::Languages": "none",
    }
    if os.geteuid() == 0:  # apt's own user cannot write into root's cache folder
        values["APT::Sandbox::User"] = "root"
    return [part for key, value in values.items() for part in ("-o", f"{key}={value}")]


def wheels(version: str, requirements: Sequence[str], target: Path) -> None:
    """Unpack aarch64 wheels for a Python of this version, with what they need."""
    platforms = [f"manylinux_2_{n}_aarch64" for n in range(OLDEST_GLIBC, NEWEST_GLIBC + 1)]
    run([
        sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-compile",
        "--target", str(target), "--only-binary=:all:", "--implementation", "cp", "--python-version", version,
        *(part for name in ("manylinux2014_aarch64", *platforms) for part in ("--platform", name)), *requirements,
    ])  # fmt: skip


def start_script(emulator: Path, rootfs: Path, python: Path, packages: Path) -> str:
    """A program that is Python on the board."""
    words = shlex.join((str(emulator), "-L", str(rootfs), str(python)))
    return (
        f'#!/bin/sh\nexport QEMU_CPU="${{QEMU_CPU:-{CORE}}}" PYTHONPATH={shlex.quote(str(packages))}\n'
        f'exec {words} "$@"\n'
    )


def run(words: Sequence[str], folder: Path | None = None) -> str:
    """Run a program to its end; gives what it printed."""
    done = subprocess.run(
        words,
        cwd=folder,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise CannotMakeError(
            f"{' '.join(words[:1])} failed: {lines[-1] if lines else f'status {done.returncode}'}"
        )
    return done.stdout


def megabytes(folder: Path) -> float:
    """Size of all files below a folder, links not followed."""
    sizes = (path.lstat() for path in folder.rglob("*"))
    return sum(entry.st_size for entry in sizes if stat.S_ISREG(entry.st_mode)) / 1e6


if __name__ == "__main__":
    raise SystemExit(main())
