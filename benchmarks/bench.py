"""All figures of the README and the manual, one after the other: `make bench` (about five minutes).

Each benchmark runs alone with `python benchmarks/bench_NAME.py`; `--help` says what it measures.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ORDER = ("lower", "export", "lut", "cost", "space", "memory", "timing", "prediction")


def main() -> int:
    folder = Path(__file__).resolve().parent
    failed = []
    for name in ORDER:
        print(f"== bench_{name}.py", flush=True)
        if subprocess.run([sys.executable, str(folder / f"bench_{name}.py")], check=False).returncode:
            failed.append(name)
        print(flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
