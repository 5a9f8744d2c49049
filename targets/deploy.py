"""A model in a folder, with what it takes to run it there: the product of `deploy` on a Linux machine."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Final

from targets.session import ModelFormat
from toolchain.errors import BoardfitError, ConfigurationError

# Per engine: how the script loads the model and runs a batch. Only the standard library, numpy and the engine.
_SCRIPT: Final = '''\
"""Runs {model} on a batch: python run_model.py inputs.npy outputs.npy

inputs.npy: batch first, {layout}, in the dtype of the model's input.
"""

import pathlib
import sys

import numpy as np
{imports}
MODEL = pathlib.Path(__file__).resolve().parent / "{model}"


def load():
    """A function from a batch to outputs."""
{load}

def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    batch = np.load(sys.argv[1], allow_pickle=False)
    np.save(sys.argv[2], load()(batch), allow_pickle=False)


if __name__ == "__main__":
    main()
'''

_LITERT: Final = """\
    interpreter = Interpreter(model_path=str(MODEL), num_threads={threads}{resolver})
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    result = interpreter.get_output_details()[0]["index"]

    def one(sample):
        interpreter.set_tensor(source, sample)
        interpreter.invoke()
        return interpreter.get_tensor(result)

    return lambda batch: np.concatenate([one(batch[i : i + 1]) for i in range(len(batch))])
"""

_ONNX: Final = """\
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = {threads}
    session = onnxruntime.InferenceSession(str(MODEL), options, providers={providers})
    source = session.get_inputs()[0]
    step = source.shape[0] if isinstance(source.shape[0], int) else None

    def run(batch):
        size = step or len(batch)
        parts = [batch[i : i + size] for i in range(0, len(batch), size)]
        return np.concatenate([session.run(None, {{source.name: part}})[0] for part in parts])

    return run
"""

_TORCH: Final = """\
    torch.set_num_threads({threads})
    program = torch.export.load(MODEL){move}
    network = program.module()

    def run(batch):
        with torch.inference_mode():
            parts = [network(torch.from_numpy(batch[i : i + 1]).to("{device}")) for i in range(len(batch))]
        return torch.cat([part[0] if isinstance(part, tuple) else part for part in parts]).cpu().numpy()

    return run
"""

_INTERPRETERS: Final[Mapping[str, tuple[str, str]]] = {
    "litert": ("ai_edge_litert", "ai-edge-litert"),
    "tflite-runtime": ("tflite_runtime", "tflite-runtime"),
}
_LAYOUT: Final[Mapping[ModelFormat, str]] = {"tflite": "NHWC", "onnx": "NCHW", "pt2": "NCHW"}


def runner_files(
    model: bytes, *, runtime: str, runtime_version: str, threads: int = 1, kernels: str = ""
) -> dict[str, bytes]:
    """A model with a script that runs it, its requirements and a note for people: file name -> contents.

    Args:
        model: the model file.
        runtime: "litert", "tflite-runtime", "onnxruntime" or "torch".
        runtime_version: the version that the model was checked with; the requirements pin it.
        threads: of one inference.
        kernels: of the runtime, as in the stack ("reference" is LiteRT's other choice; "aten-cuda" and
            "CUDAExecutionProvider" are on a GPU).

    Raises:
        ConfigurationError: another runtime; there is nothing to deploy for it.
    """
    if runtime in _INTERPRETERS:
        module, package = _INTERPRETERS[runtime]
        name, layout = "model.tflite", _LAYOUT["tflite"]
        reference = kernels == "reference"
        imports = (
            f"from {module}.interpreter import Interpreter" + (", OpResolverType" if reference else "") + "\n"
        )
        resolver = ", experimental_op_resolver_type=OpResolverType.BUILTIN_REF" if reference else ""
        load = _LITERT.format(threads=threads, resolver=resolver)
    elif runtime == "onnxruntime":
        gpu = kernels == "CUDAExecutionProvider"
        name, layout = "model.onnx", _LAYOUT["onnx"]
        package = "onnxruntime-gpu" if gpu else "onnxruntime"
        providers = '["CUDAExecutionProvider", "CPUExecutionProvider"]' if gpu else '["CPUExecutionProvider"]'
        imports, load = "import onnxruntime\n", _ONNX.format(threads=threads, providers=providers)
    elif runtime == "torch":
        name, package, layout = "model.pt2", "torch", _LAYOUT["pt2"]
        gpu = kernels == "aten-cuda"
        imports = "import torch\n" + ("from torch.export.passes import move_to_device_pass\n" if gpu else "")
        move = '\n    program = move_to_device_pass(program, "cuda")' if gpu else ""
        load = _TORCH.format(threads=threads, move=move, device="cuda" if gpu else "cpu")
    else:
        raise ConfigurationError(
            f"there is nothing to deploy for the runtime {runtime!r}",
            remedy="deploy to cpu:litert, cpu:onnxruntime or cpu:torch",
        )
    script = _SCRIPT.format(model=name, layout=layout, imports=imports, load=load)
    readme = (
        f"{name}: the model ({len(model)} bytes).\n"
        f"run_model.py: runs it. inputs.npy is a batch, {layout}, in the dtype of the model's input.\n\n"
        "    python -m pip install -r requirements.txt\n"
        "    python run_model.py inputs.npy outputs.npy\n"
    )
    return {
        name: model,
        "run_model.py": script.encode(),
        "requirements.txt": f"{package}=={runtime_version.partition('+')[0]}\nnumpy\n".encode(),
        "README.txt": readme.encode(),
    }


def deploy_folder(files: Mapping[str, bytes], folder: Path) -> Path:
    """Put files into a new folder in place of `folder`, which is kept as `<folder>.previous`.

    Everything is written and synchronised beside it first; the change itself is two renames, and when the second one
    fails the first is taken back.

    Args:
        files: plain file names -> contents.
        folder: where they go; need not exist. Whatever it held before is in `<folder>.previous` afterwards.

    Raises:
        ConfigurationError: a name with a folder in it, or `folder` is a file.
        BoardfitError: it cannot be written (disk full, no permission); what stood there still stands.
    """
    for name in files:
        if not name or name in {".", ".."} or PurePath(name).name != name or "\\" in name:
            raise ConfigurationError(f"{name!r} is not a plain file name")
    if folder.exists() and not folder.is_dir():
        raise ConfigurationError(f"{folder} is a file", remedy="name a folder")
    previous = folder.with_name(folder.name + ".previous")
    fresh: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        for name, content in files.items():
            with (fresh / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        fresh.chmod(0o755)  # mkdtemp makes it private; a product is for others too
        if folder.exists():
            if previous.exists():
                shutil.rmtree(previous)
            folder.rename(previous)
            try:
                fresh.rename(folder)
            except OSError:
                previous.rename(folder)
                raise
        else:
            fresh.rename(folder)
    except OSError as error:
        if fresh is not None:
            shutil.rmtree(fresh, ignore_errors=True)
        raise BoardfitError(
            f"cannot deploy to {folder}: {error.strerror or error}",
            remedy="free disk space, or choose a folder that you can write",
        ) from error
    return folder


def undo_folder(folder: Path) -> Path:
    """Put back what stood in `folder` before the last deployment; what stands there now becomes the previous one.

    Twice in a row therefore changes nothing.

    Raises:
        ConfigurationError: nothing was there before.
        BoardfitError: the folders cannot be renamed; what stood there still stands.
    """
    previous = folder.with_name(folder.name + ".previous")
    if not previous.is_dir():
        raise ConfigurationError(
            f"there is nothing to go back to: {previous} does not exist",
            remedy="it was deployed once at most",
        )
    try:
        if not folder.exists():  # a deployment was cut off between its two renames
            previous.rename(folder)
            return folder
        aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        folder.rename(aside / "now")
        try:
            previous.rename(folder)
        except OSError:
            (aside / "now").rename(folder)
            raise
        (aside / "now").rename(previous)
        aside.rmdir()
    except OSError as error:
        raise BoardfitError(
            f"cannot put back {folder}: {error.strerror or error}", remedy="check the folder's permissions"
        ) from error
    return folder
