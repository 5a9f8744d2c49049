"""torch as an engine, on the CPU or a GPU, from .pt2 files; never through their pickles, which would run code."""

from __future__ import annotations

import io
import json
import logging
import zipfile
from collections.abc import Callable, Sequence
from typing import Any, Final

from numpy.typing import NDArray

from targets.runners.common import TensorSpec, missing, preset, refused, run_batched, version, with_batch
from targets.session import Array, ModelFormat
from toolchain.errors import ModelFileError

# ATen calls that are given a whole shape.
_SHAPED: Final = (["aten", "reshape"], ["aten", "view"], ["aten", "expand"])


class TorchRunner:
    """torch, from .pt2 files (`torch.export.save`): the exported graph's ATen calls, in inference mode.

    The graph runs without the guards and the argument flattening that `ExportedProgram.module()` adds: they cost
    four times a small convolution. The number of threads is the process's until `close`.

    Args:
        threads: of one inference on the CPU.
        device: where the model runs, as torch names it: "cpu", "cuda:0".
        batch: samples of one inference; files are of one sample.

    Raises:
        DeviceError: torch is not installed.
    """

    model_format: ModelFormat = "pt2"

    def __init__(self, *, threads: int = 1, device: str = "cpu", batch: int = 1) -> None:
        try:
            import torch
        except ImportError as error:
            raise missing("torch", "torch", "train", error) from error
        self._torch = torch
        self._device = device
        self._batch = batch
        self._before: int | None = torch.get_num_threads()
        torch.set_num_threads(threads)
        self.stack = {
            "runtime": "torch",
            "runtime_version": version("torch"),
            "kernels": "aten" if device == "cpu" else "aten-cuda",
            "threads": str(threads),
        }

    def load(self, model: bytes) -> TorchModel:
        clean = _without_pickles(bytes(model))
        log = logging.getLogger("torch.export")
        level = log.level
        log.setLevel(logging.CRITICAL)  # it logs a whole traceback before it raises
        try:
            program = self._torch.export.load(io.BytesIO(clean))
            if self._device != "cpu":
                from torch.export.passes import move_to_device_pass

                program = move_to_device_pass(program, self._device)
            return TorchModel(self._torch, program, self._device, self._batch)
        except ModelFileError:
            raise
        except Exception as error:  # damaged files end in whatever the parser stumbles over
            raise refused("torch", str(error) or type(error).__name__) from error
        finally:
            log.setLevel(level)

    def close(self) -> None:
        """Give the process its number of threads back."""
        if self._before is not None:
            self._torch.set_num_threads(self._before)
            self._before = None


class TorchModel:
    """An exported program with one output."""

    def __init__(self, torch: Any, program: Any, device: str = "cpu", batch: int = 1) -> None:
        self._torch = torch
        self._device = device
        wanted = set(program.graph_signature.user_inputs)
        found = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in wanted]
        self.inputs = tuple(with_batch(_torch_spec(torch, node), batch) for node in found)
        module = program.module(check_guards=False)
        if batch > 1:
            _open_batch(module.graph)
        module.graph.set_codegen(torch.fx.graph.CodeGen())
        module.recompile()
        self._forward = module.forward
        values = tuple(torch.from_numpy(value).to(device) for value in preset(self.inputs))
        forward, mode = self._forward, torch.inference_mode

        def invoke() -> Any:
            with mode():
                return forward(*values)

        self.invoke: Callable[[], object] = invoke
        result = invoke()  # a graph that cannot run is refused now, not in the middle of a window
        first = result[0] if isinstance(result, (tuple, list)) else result
        if batch > 1 and len(first) != batch:
            raise ModelFileError(f"the model gives {len(first)} outputs for a batch of {batch}")

    def run(self, *inputs: Array) -> Array:
        def once(parts: Sequence[Array]) -> Array:
            with self._torch.inference_mode():
                result = self._forward(*(self._torch.from_numpy(part).to(self._device) for part in parts))
            first = result[0] if isinstance(result, (tuple, list)) else result
            out: Array = first.cpu().numpy().copy()
            return out

        return run_batched("torch", self.inputs, inputs, once)


def _open_batch(graph: Any) -> None:
    """Let a graph that was exported for one sample take more: the batch stands as a 1 in shapes to reshape to.

    -1 means "what is left" to reshape and view, "as it is" to expand. What else depends on the batch fails when run.
    """
    for node in graph.nodes:
        name = str(node.target)
        if node.op == "call_function" and name.split(".")[:2] in _SHAPED:
            shape = node.args[1]
            if shape and shape[0] == 1 and -1 not in shape:
                node.args = (node.args[0], [-1, *shape[1:]], *node.args[2:])


def _without_pickles(data: bytes) -> bytes:
    """A .pt2 archive written anew without its sample inputs; refuses those whose weights or constants are pickled.

    `torch.export.load` reads sample inputs, and weights or constants so marked, through pickle, which runs code.

    Raises:
        ModelFileError: not such an archive, or one with pickles that cannot be left out.
    """
    out = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(out, "w") as target:
            names = source.namelist()
            if not any(name.endswith("models/model.json") for name in names):
                raise ModelFileError("not a .pt2 file of torch.export.save: it has no models/model.json")
            for name in dict.fromkeys(names):
                content = source.read(name)
                if "/data/sample_inputs/" in name:
                    content = b""
                elif "/data/" in name and name.endswith("_config.json"):
                    _refuse_pickled(name, content)
                elif name.endswith((".pt", ".pkl")):
                    raise ModelFileError(f"the .pt2 file holds a pickle, {name}; it could run any code")
                target.writestr(name, content)
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, OSError) as error:
        raise ModelFileError(f"not a .pt2 file of torch.export.save: {error}") from error
    return out.getvalue()


def _refuse_pickled(name: str, content: bytes) -> None:
    try:
        entries = dict(json.loads(content)["config"]).items()
    except (KeyError, TypeError) as error:
        raise ModelFileError(f"{name} of the .pt2 file is not as torch.export.save writes it") from error
    for key, entry in entries:
        if (
            not isinstance(entry, dict)
            or entry.get("use_pickle")
            or not str(entry.get("path_name", "")).startswith(("weight_", "tensor_"))
        ):
            raise ModelFileError(f"{key!r} in {name} of the .pt2 file is a pickle; it could run any code")


def _torch_spec(torch: Any, node: Any) -> TensorSpec:
    value = node.meta["val"]
    shape = tuple(size if isinstance(size, int) else 1 for size in value.shape)
    open_batch = bool(value.shape) and not isinstance(value.shape[0], int)
    dtype: NDArray[Any] = torch.empty(0, dtype=value.dtype).numpy()
    return TensorSpec(str(node.name), shape, dtype.dtype, open_batch)
