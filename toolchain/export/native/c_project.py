"""A network as a C project of its own: model, the kernels it uses, a Makefile and an example.

`model_run` calls the kernels one after the other on the descriptors of the network's program (writer.py); there is no
interpreter in it, no heap, and no need for a C library. The example runs a sample whose outputs the integer reference
gave, so the project proves itself on any machine with a C compiler.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from firmware import source_folder
from toolchain.export.native import layout
from toolchain.export.native.layout import Isa
from toolchain.export.native.plan import DIRECT, Plan
from toolchain.export.native.reader import ProgramInfo, ProgramOperator, read_program
from toolchain.export.native.writer import write_program
from toolchain.files import write_atomic
from toolchain.graph.graph import Graph
from toolchain.graph.integer_reference import run_int8_all

_SOURCES: Final = source_folder()
_SEED: Final = 1  # of the sample

# kind -> struct of its descriptor, function, and its arguments behind the descriptor
_CALLS: Final = {
    "conv2d": ("window", "conv2d", "program, {input}, {output}, {scratch}"),
    "depthwise_conv2d": ("window", "depthwise_conv2d", "program, {input}, {output}, {scratch}"),
    "fully_connected": ("window", "fully_connected", "program, {input}, {output}, {scratch}"),
    "add": ("binary", "add", "{input}, {second}, {output}"),
    "mul": ("binary", "mul", "{input}, {second}, {output}"),
    "average_pool": ("window", "average_pool", "{input}, {output}"),
    "max_pool": ("window", "max_pool", "{input}, {output}"),
    "pad": ("pad", "pad", "{input}, {output}"),
    "copy": ("copy", "copy", "{input}, {output}"),
    "softmax": ("softmax", "softmax", "program, {input}, {output}"),
    "table": ("table", "table", "program, {input}, {output}"),
}
# Forms of the weighted kinds (enum bf_kernel of firmware/kernels/kernels.h): a project calls the form itself, so it
# holds no other. Form 0 is the kind's own function, which is plain C.
_FORMS: Final = {
    ("conv2d", 1): "conv2d_columns",
    ("conv2d", 2): "pixel",
    ("conv2d", 5): "conv2d_winograd",
    ("depthwise_conv2d", 3): "depthwise_planes",
    ("depthwise_conv2d", 4): "depthwise_3x3",
    ("depthwise_conv2d", 6): "depthwise_line",
    ("fully_connected", 2): "pixel",
}


def write_c_project(
    graph: Graph, folder: Path, isa: Isa = "dsp", *, name: str = "model", plan: Plan = DIRECT
) -> tuple[str, ...]:
    """Write the C project of an int8 graph into a folder, which need not exist.

    Args:
        isa: "dsp" for Cortex-M4, M7 and M33, "plain" for Cortex-M0+ and M3.
        name: what the README calls the network.
        plan: the algorithms of its convolutions.

    Returns:
        Names of the files, relative to the folder.

    Raises:
        UnsupportedError, GraphError: as `write_program`.
        BoardfitError: a file cannot be written.
    """
    files = c_project(graph, isa, name=name, plan=plan)
    for file, text in files.items():
        write_atomic(folder / file, text.encode())
    return tuple(files)


def c_project(graph: Graph, isa: Isa = "dsp", *, name: str = "model", plan: Plan = DIRECT) -> dict[str, str]:
    """The files of `write_c_project`: name -> contents. The same graph gives the same files."""
    program = write_program(graph, isa, plan=plan)
    info = read_program(program)
    kernels = _kernel_files({f"bf_{_function(op)}" for op in info.operators} | {"bf_copy_bytes"})
    files = {
        "README.txt": _readme(graph, info, isa, name, kernels),
        "Makefile": _makefile(isa, kernels),
        "model.h": _header(graph, info),
        "model.c": _model(program, info, isa),
        "sample.h": _sample(graph),
        "main.c": _main(graph),
        "runtime/program.h": (_SOURCES / "runtime" / "program.h").read_text(encoding="utf-8"),
    }
    for file in (*kernels, *(path.name for path in sorted((_SOURCES / "kernels").glob("*.h")))):
        files[f"kernels/{file}"] = (_SOURCES / "kernels" / file).read_text(encoding="utf-8")
    return files


def _kernel_files(wanted: Iterable[str]) -> list[str]:
    """The C files that define these functions and all that they call, but for forms that nobody asks for."""
    wanted = set(wanted)
    unused = {f"bf_{form}" for form in _FORMS.values()} - wanted
    texts = {path.name: path.read_text(encoding="utf-8") for path in (_SOURCES / "kernels").glob("*.c")}
    home = {
        function: file
        for file, text in texts.items()
        for function in re.findall(r"^(?!static)\w[\w ]*?[ *](bf_\w+)\(", text, re.M)
    }
    found: set[str] = set()
    waiting = {home[function] for function in wanted}
    while waiting:
        file = waiting.pop()
        found.add(file)
        waiting |= {
            home[word] for word in re.findall(r"\bbf_\w+", texts[file]) if word in home.keys() - unused
        } - found
    return sorted(found)


def _parameters(graph: Graph) -> tuple[list[str], list[str]]:
    """Names of the arguments of model_run: inputs, outputs."""

    def names(word: str, count: int) -> list[str]:
        return [word] if count == 1 else [f"{word}_{index}" for index in range(count)]

    return names("input", len(graph.inputs)), names("output", len(graph.outputs))


def _signature(graph: Graph) -> str:
    inputs, outputs = _parameters(graph)
    return ", ".join(
        [*(f"const int8_t *{name}" for name in inputs), *(f"int8_t *{name}" for name in outputs)]
    )


def _header(graph: Graph, info: ProgramInfo) -> str:
    lines = []
    for word, tensors in zip(_parameters(graph), (graph.inputs, graph.outputs), strict=True):
        for argument, tensor_name in zip(word, tensors, strict=True):
            tensor, prefix = graph.tensors[tensor_name], f"MODEL_{argument.upper()}"
            assert tensor.quantization is not None  # write_program has seen to it
            shape = " x ".join(str(size) for size in tensor.shape[1:]) or "1"
            lines += [
                f"/* {shape}, the last dimension (channels) varies fastest; real = scale * (value - zero point) */",
                f"#define {prefix}_BYTES {math.prod(tensor.shape)}",
                f"#define {prefix}_SCALE {_float(tensor.quantization.scale[0])}",
                f"#define {prefix}_ZERO_POINT {tensor.quantization.zero_point[0]}",
                "",
            ]
    numbers = "\n".join(lines)
    return f"""#ifndef MODEL_H
#define MODEL_H
#include <stdint.h>

{numbers}
#define MODEL_PROGRAM_BYTES {info.bytes} /* constants in flash: weights, biases, tables */
#define MODEL_ARENA_BYTES {info.arena_bytes} /* static RAM: activations and scratch memory */

/* One inference. It takes no other memory than the arena and a little stack; not for two threads at a time. */
void model_run({_signature(graph)});

#endif
"""


def _float(value: float) -> str:
    text = repr(float(np.float32(value)))
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


def _model(program: bytes, info: ProgramInfo, isa: Isa) -> str:
    inputs = ["input"] if len(info.inputs) == 1 else [f"input_{i}" for i in range(len(info.inputs))]
    outputs = ["output"] if len(info.outputs) == 1 else [f"output_{i}" for i in range(len(info.outputs))]
    parameters = ", ".join([*(f"const int8_t *{n}" for n in inputs), *(f"int8_t *{n}" for n in outputs)])
    body = [
        f"    bf_copy_bytes(arena + {place.offset}, {name}, {place.bytes});"
        for name, place in zip(inputs, info.inputs, strict=True)
    ]
    at = int.from_bytes(program[20:24], "little")
    if not info.operators:
        body.append("    (void)program;")
    for op in info.operators:
        body.append("    " + _call(program, at, op))
        at += op.bytes
    body += [
        f"    bf_copy_bytes({name}, arena + {place.offset}, {place.bytes});"
        for name, place in zip(outputs, info.outputs, strict=True)
    ]
    form = "DSP" if isa == "dsp" else "PLAIN"
    cores = "the DSP extension (Cortex-M4, M7, M33)" if isa == "dsp" else "plain C (Cortex-M0+, M3)"
    return f"""/* Made by boardfit. Descriptors and constants of the network, and one call for each operator. */
#include "model.h"

#include "kernels/kernels.h"

#if !BF_WITH_{form}
#error "This model is laid out for kernels in {cores}; export it again for this core."
#endif

static const uint8_t program[MODEL_PROGRAM_BYTES] __attribute__((aligned(16))) = {{
{_numbers(np.frombuffer(program, np.uint8))}
}};

static int8_t arena[MODEL_ARENA_BYTES] __attribute__((aligned(16)));

void model_run({parameters})
{{
{chr(10).join(body)}
}}
"""


def _function(op: ProgramOperator) -> str:
    """The function that runs an operator, without its prefix."""
    return _FORMS.get((op.kind, op.kernel), _CALLS[op.kind][1])


def _call(program: bytes, at: int, op: ProgramOperator) -> str:
    struct, _, arguments = _CALLS[op.kind]
    function = _function(op)

    def place(where: int) -> str:
        if where & layout.IN_PROGRAM:
            return f"(const int8_t *)program + {where & ~layout.IN_PROGRAM}"
        return f"arena + {where}"

    _, _, _, source, output, scratch, _ = layout.OPERATOR.unpack_from(program, at)
    second = int.from_bytes(program[at + layout.OPERATOR.size :][:4], "little")
    text = arguments.format(
        input=place(source), output=place(output), scratch=place(scratch), second=place(second)
    )
    return f"bf_{function}((const struct bf_{struct} *)(const void *)(program + {at}), {text});"


def _numbers(values: NDArray[np.generic]) -> str:
    texts = [str(value) for value in values.tolist()]
    return "\n".join("    " + ", ".join(texts[i : i + 20]) + "," for i in range(0, len(texts), 20))


def _sample(graph: Graph) -> str:
    rng = np.random.default_rng(_SEED)
    inputs = [rng.integers(-128, 128, graph.tensors[name].shape).astype(np.int8) for name in graph.inputs]
    expected = run_int8_all(graph, *inputs)
    arrays: list[tuple[str, NDArray[np.int8]]] = []
    names = _parameters(graph)
    arrays += [(f"sample_{name}", values) for name, values in zip(names[0], inputs, strict=True)]
    arrays += [
        (f"expected_{name}", expected[tensor]) for name, tensor in zip(names[1], graph.outputs, strict=True)
    ]
    parts = [
        f"static const int8_t {name}[{values.size}] = {{\n{_numbers(values.ravel())}\n}};\n"
        for name, values in arrays
    ]
    return "/* A random input, and the outputs that TensorFlow Lite Micro gives for it. */\n" + "\n".join(
        parts
    )


def _main(graph: Graph) -> str:
    inputs, outputs = _parameters(graph)
    arguments = ", ".join([*(f"sample_{name}" for name in inputs), *outputs])
    buffers = "\n".join(f"    static int8_t {name}[MODEL_{name.upper()}_BYTES];" for name in outputs)
    compare = "\n".join(
        f"    for (i = 0; i < MODEL_{name.upper()}_BYTES; i++) {{\n"
        f'        printf("{name}[%lu] = %d\\n", (unsigned long)i, {name}[i]);\n'
        f"        wrong += {name}[i] != expected_{name}[i];\n"
        f"    }}"
        for name in outputs
    )
    return f"""/* Runs the sample and compares its outputs; on a board, call model_run in the same way. */
#include <stdio.h>

#include "model.h"
#include "sample.h"

int main(void)
{{
{buffers}
    uint32_t i, wrong = 0;

    model_run({arguments});
{compare}
    printf(wrong ? "%lu outputs are wrong\\n" : "all outputs are right\\n", (unsigned long)wrong);
    return wrong != 0;
}}
"""


def _makefile(isa: Isa, kernels: Sequence[str]) -> str:
    sources = " ".join(["model.c", *(f"kernels/{file}" for file in kernels)])
    cpu = "cortex-m4" if isa == "dsp" else "cortex-m0plus"
    only = "" if isa == "dsp" else " -DBF_PLAIN_ONLY"
    return f"""# make run                         compile for this machine, run the sample, compare its outputs
# make CROSS=arm-none-eabi-        compile for {cpu}: build/{cpu}/libmodel.a
# make CROSS=arm-none-eabi- CPU=cortex-m33
CFLAGS = -std=c11 -O2 -Wall -Wextra
FORMS ={only}
SOURCES = {sources}
HEADERS = $(wildcard *.h kernels/*.h runtime/*.h)

# Each core has a folder of its own: objects of one are never linked for another.
BUILD = build/host
ifdef CROSS
CPU = {cpu}
BUILD = build/$(CPU)
CC = $(CROSS)gcc
AR = $(CROSS)ar
CORE = -mcpu=$(CPU) -mthumb -ffreestanding -ffunction-sections -fdata-sections $(FLOAT_$(CPU))
FLOAT_cortex-m4 = -mfloat-abi=hard -mfpu=fpv4-sp-d16
FLOAT_cortex-m7 = -mfloat-abi=hard -mfpu=fpv5-sp-d16
FLOAT_cortex-m33 = -mfloat-abi=hard -mfpu=fpv5-sp-d16
endif

OBJECTS = $(SOURCES:%.c=$(BUILD)/%.o)

$(BUILD)/libmodel.a: $(OBJECTS)
	$(AR) rcs $@ $(OBJECTS)

$(BUILD)/%.o: %.c $(HEADERS)
	@mkdir -p $(dir $@)
	$(CC) $(CFLAGS) $(CORE) $(FORMS) -c $< -o $@

$(BUILD)/example: main.c $(BUILD)/libmodel.a
	$(CC) $(CFLAGS) $(CORE) $(FORMS) main.c $(BUILD)/libmodel.a -o $@

run: $(BUILD)/example
	./$(BUILD)/example

clean:
	rm -rf build

.PHONY: run clean
"""


def _readme(graph: Graph, info: ProgramInfo, isa: Isa, name: str, kernels: Sequence[str]) -> str:
    cores = "Cortex-M4, M7 and M33 (DSP extension)" if isa == "dsp" else "Cortex-M0+ and M3 (plain C)"
    return f"""{name}: an int8 network in C, made by boardfit

Operators             {len(graph.nodes)}
Multiply-accumulates  {graph.macs}
Constants (flash)     {info.bytes} bytes
Arena (static RAM)    {info.arena_bytes} bytes
Kernels for           {cores}

make run                     compile for this machine and run the sample of sample.h; its outputs are
                             those of TensorFlow Lite Micro, bit for bit
make CROSS=arm-none-eabi-    compile build/CORE/libmodel.a for the board; CPU=CORE chooses another core

On the board: link that libmodel.a, include model.h, call model_run(). Inputs and outputs are int8; their scales and
zero points stand in model.h. The code needs no C library, no heap and no start-up.

model.c model.h    the network: descriptors, weights, one call for each operator
main.c sample.h    the example
kernels/           of boardfit's firmware (MIT licence), only what this network uses: {", ".join(kernels)}
runtime/program.h  the structs of the descriptors
"""
