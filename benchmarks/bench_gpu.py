"""A GPU as a target: does it compute what the CPU does, do its times repeat, do sums of operators predict networks.

    python benchmarks/bench_gpu.py [--targets cuda:torch,cuda:onnxruntime] [--batches 1,8,64] [--networks resnet8,dscnn]

Prints for each engine and batch: the stack, the largest difference of a network's outputs from the CPU's, latency and
memory of operators and networks (host wall time by the GPU's events, the L2 cache flushed; ONNX Runtime by this
machine's clock), by how much two measurements of each differ, and sums of operators beside networks. An engine without
a GPU is skipped with the reason. `--targets cpu:torch --batches 1` runs the same on this machine, to try the script.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from profilers.profile import anchor_model, baseline_model, graph_writer, operator_writer
from targets.session import Job, Result, Session, model_format, open_target
from tests.nets import NETS
from toolchain.errors import DeviceError
from toolchain.graph import Graph
from toolchain.graph.lower import lower

NETWORKS = ("resnet8", "mbnet", "dscnn")
_SHOWN = 12  # operators


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--targets", default="cuda:torch,cuda:onnxruntime")
    parser.add_argument("--batches", default="1,8,64")
    parser.add_argument("--networks", default=",".join(NETWORKS), help="of tests/nets.py")
    arguments = parser.parse_args()
    graphs = {name: random_network(name) for name in arguments.networks.split(",")}
    for target in arguments.targets.split(","):
        for batch in (int(text) for text in arguments.batches.split(",")):
            url = target if target.startswith("cpu:") else f"{target}?batch={batch}"
            form = model_format(url)
            try:
                session = open_target(
                    url, anchor=anchor_model(form, "float32"), baseline=baseline_model(form, "float32")
                )
            except DeviceError as error:
                print(f"{url}: skipped: {error}")
                break
            with session:
                print(f"\n{url}: {dict(session.stack.fields)}")
                compare_outputs(session, graphs, batch)
                measure(session, graphs)


def random_network(name: str) -> Graph:
    """A network of the tests with random weights, in its float form."""
    torch.manual_seed(0)
    net = NETS[name]
    return lower(net.build().eval(), net.input_shape)


def compare_outputs(session: Session, graphs: Mapping[str, Graph], batch: int) -> None:
    """The same files on the CPU's engine of the same format."""
    write = graph_writer(session.model_format)
    with open_target("cpu:torch" if session.model_format == "pt2" else "cpu:onnxruntime") as cpu:
        for name, graph in graphs.items():
            _, height, width, channels = graph.tensors[graph.inputs[0]].shape
            x = np.random.default_rng(0).normal(size=(batch + 1, channels, height, width)).astype(np.float32)
            model = write(graph)
            expected = cpu.run(model, x)
            error = float(np.abs(session.run(model, x) - expected).max())
            print(
                f"  {name}: outputs differ from the CPU's by {error:.2g} of {np.abs(expected).max():.2g} at most"
            )


def measure(session: Session, graphs: Mapping[str, Graph]) -> None:
    """Latency and memory twice, and sums beside networks."""
    write_operator, write = operator_writer(session.model_format), graph_writer(session.model_format)
    operators = list(dict.fromkeys(op for graph in graphs.values() for op in graph.operators))
    jobs = [Job(op.signature, write_operator(op)) for op in operators]
    jobs += [Job(name, write(graph)) for name, graph in graphs.items()]
    first, second = ({result.key: result for result in session.measure(jobs)} for _ in range(2))
    for key in [*(op.signature for op in operators[:_SHOWN]), *graphs]:
        print(f"  {key}: {said(first[key])}")
    both = [key for key in first if first[key].measurement and second[key].measurement]
    changes = [abs(value(second[key]) / value(first[key]) - 1) for key in both]
    unstable = sum(bool(found.measurement and found.measurement.unstable) for found in first.values())
    print(
        f"  {len(operators)} operators, {len(graphs)} networks: {len(first) - len(both)} failed, {unstable} unstable; "
        f"measured twice: {100 * statistics.median(changes):.1f} % apart (median), {100 * max(changes):.1f} % (most)"
    )
    for name, graph in graphs.items():
        parts = [op.signature for op in graph.operators]
        if all(key in both for key in (*parts, name)):
            total, overhead = sum(value(first[key]) for key in parts), overhead_us(first[name])
            print(
                f"  {name}: sum of {len(parts)} operators {total:.1f} us, less the overhead of each call "
                f"{total - overhead * len(parts):.1f} us, measured {value(first[name]):.1f} us"
            )


def value(result: Result) -> float:
    assert result.measurement is not None
    return result.measurement.value


def overhead_us(result: Result) -> float:
    assert result.measurement is not None
    return float(result.measurement.details["overhead_us"])


def said(result: Result) -> str:
    """One result in words."""
    found = result.measurement
    if found is None:
        return result.failure
    memory = "".join(f", {other.value / 1e6:.2f} MB {other.metric}" for other in result.others)
    state = ", ".join(
        f"{key} {found.details[key]}"
        for key in ("clock_mhz", "power_state", "throttling")
        if key in found.details
    )
    mark = " unstable" if found.unstable else ""
    return f"{found.value:.2f} us{memory}{mark} ({state or 'state unknown'}) [{found.evidence.value}]"


if __name__ == "__main__":
    main()
