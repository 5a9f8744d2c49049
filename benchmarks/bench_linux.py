"""A Linux board over SSH beside this machine itself: how well sums of operators predict networks, by both ways.

    python benchmarks/bench_linux.py [--target ssh://pi@raspberrypi.local] [--networks 24]

Without --target an sshd of its own is started on loopback, so that the board is this machine's CPU: the figures of the
two ways then differ by what the connection and the agent's process add, and by the machine's phase, which each line
tells by its share of unstable measurements. Host wall time.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.bench_prediction import SPACES, measure
from profilers.profile import anchor_model, operator_writer
from targets.session import Job, open_target
from targets.timing import Settings
from tests.targets.ssh.sshd import WHY_NOT, sshd
from toolchain.graph import Operator


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", help="a board; default: an sshd on loopback")
    parser.add_argument("--networks", type=int, default=24)
    parser.add_argument("--space", choices=[*SPACES, "all"], default="all")
    arguments = parser.parse_args()
    if not arguments.target and WHY_NOT:
        sys.exit(WHY_NOT)
    with ExitStack() as stack:
        board = arguments.target
        if not board:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            board = f"{stack.enter_context(sshd(Path(folder))).url}&python={sys.executable}"
        connection_costs(board)
        for space in list(SPACES) if arguments.space == "all" else [arguments.space]:
            for target in ("cpu:litert", board):
                measure(space, target, arguments.networks)


def connection_costs(url: str) -> None:
    """What the way over SSH costs: opening, and moving models."""
    write = operator_writer("tflite")
    jobs = [
        Job(op.signature, write(op))
        for op in (Operator.parse(f"conv2d 1x64x{c}->1x64x16 k1x3 s1x1 same relu int8") for c in range(1, 65))
    ]
    begin = time.perf_counter()
    with open_target(url, anchor=anchor_model("tflite")) as board:
        opened = time.perf_counter() - begin
        begin = time.perf_counter()
        quick = Settings(samples=2, fewest=1, inner_us=10, retries=0, settle=1)
        answered = sum(result.measurement is not None for result in board.measure(jobs, settings=quick))
        seconds = time.perf_counter() - begin
        print(f"{board.stack.label}: opened in {opened:.2f} s (agent copied if it was not there), "
              f"{answered} of {len(jobs)} models ({sum(len(j.model) for j in jobs) / 1e3:.0f} kB) sent, loaded and "
              f"answered in {seconds:.2f} s [host_wall]")  # fmt: skip


if __name__ == "__main__":
    main()
