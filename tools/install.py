"""Set up the virtual environment: pinned packages, a CPU build of torch, this project in editable mode.

Usage: python tools/install.py VENV [options for pip when it installs torch]

torch goes in first and alone. Before anything is downloaded, pip's own resolution is read: if it would bring
CUDA packages, the set-up stops and says what to pass instead (docs/dependencies.md, torch).
"""

import json
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MINIMUM = (3, 11)


def pip(python: Path, *arguments: str) -> None:
    subprocess.run([str(python), "-m", "pip", "--disable-pip-version-check", *arguments], check=True)


def torch_would_bring_cuda(python: Path, requirement: str, options: list[str], report: Path) -> list[str]:
    """Names of CUDA packages that pip would install with `requirement`; empty for a CPU build."""
    pip(
        python, "install", "--quiet", "--dry-run", "--ignore-installed", "--report", str(report),
        *options, requirement,
    )  # fmt: skip
    names = [item["metadata"]["name"].lower() for item in json.loads(report.read_text())["install"]]
    report.unlink()
    return [name for name in names if name.startswith(("nvidia-", "cuda-", "triton"))]


def main() -> int:
    if sys.version_info < MINIMUM:
        print(f"boardfit needs Python {MINIMUM[0]}.{MINIMUM[1]} or newer; this is {sys.version.split()[0]}.")
        print("Remedy: make PYTHON=python3.11 ...")
        return 1
    folder, options = Path(sys.argv[1]), sys.argv[2:]
    constraints = ROOT / "constraints.txt"
    requirement = next(line for line in constraints.read_text().split() if line.startswith("torch=="))
    print(f"Setting up {folder} (once): pinned packages and a CPU build of torch.", flush=True)
    print("About 2 GB on disk; minutes, most of them without a word from pip ...", flush=True)
    venv.EnvBuilder(with_pip=True, clear=False).create(folder)
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    cuda = torch_would_bring_cuda(python, requirement, options, folder / "torch-report.json")
    if cuda:
        print(f"Stopped: {requirement} would bring a CUDA build ({len(cuda)} packages such as {cuda[0]}).")
        print("Remedy: take the pip options for 'CPU' from the install page of pytorch.org, for example")
        print('  make setup TORCH_ARGS="--index-url <the CPU index named there>"')
        return 1
    pip(python, "install", "--quiet", *options, requirement)
    pip(python, "install", "--quiet", "-c", str(constraints), "-e", f"{ROOT}[dev]")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
