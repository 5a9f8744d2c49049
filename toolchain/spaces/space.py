"""A search space: ordered choices, and how each candidate becomes a torch module for the shape that reaches it.

A user writes `stem`, `block` and `head` as plain torch modules. All the rest follows from running them on shapes:
the space counts itself exactly, samples uniformly, encodes and decodes, and gives the `Chain` that a cost model
prices. Shapes in this room are torch's, without the batch: (C, H, W), (C, L) or (F,).
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import nn

from toolchain.errors import BoardfitError, ConfigurationError
from toolchain.graph.chain import Arc, Chain
from toolchain.graph.graph import Graph
from toolchain.graph.liveness import Live, live_peak_bytes, live_steps
from toolchain.graph.lower import lower
from toolchain.graph.operator import DType, Operator, Shape
from toolchain.spaces.shapes import output_shape

Architecture = tuple[int, ...]

_ITEM_BYTES: Final[dict[DType, int]] = {"float32": 4, "int8": 1}


@dataclass(frozen=True)
class Candidate:
    """One way to fill a choice. A space that needs more facts (kernel, expansion) subclasses it.

    Attributes:
        name: what people read and type, e.g. `conv16`; unique within its choice, no white space.
        family: candidates of one family differ in their channels alone; they share weights in a supernet.
        channels: channels that it gives; None keeps the incoming number.
    """

    name: str
    family: str
    channels: int | None = None


@dataclass(frozen=True)
class Choice:
    """One decision of the space.

    Attributes:
        name: unique within the space; names the block in the module's state dict, so no dot in it.
        candidates: what can stand there, in the order of the architecture's indices.
    """

    name: str
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class State:
    """What stands between two blocks: all that decides which candidates can follow.

    Attributes:
        shape: shape of the activation, torch's without the batch.
        memory: what else later choices must know (see `Space.memory_after`); mostly "".
    """

    shape: Shape
    memory: str = ""


class Step(NamedTuple):
    """A candidate that is available in one state: index of the candidate, of the state before, of the one after."""

    candidate: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Row:
    """One line of `Space.describe`: a block of an architecture. Shapes are torch's; `params` counts the deployed
    block (batch norm folded, biases included), `macs` one inference."""

    name: str
    candidate: str
    input: Shape
    output: Shape
    params: int
    macs: int


class _Lowered(NamedTuple):
    """What a block costs, at float32."""

    operators: tuple[Operator, ...]
    live_elements: int
    weight_elements: int
    bias_elements: int
    output: Shape
    live: tuple[Live, ...] = ()  # per operator, elements of what lives


class Space(ABC):
    """A search space. Subclasses set three attributes and write three methods.

    Attributes:
        input_shape: shape of one sample, torch's without the batch: (C, H, W), (C, L) or (F,).
        classes: number of outputs of the head.
        choices: the decisions, in the order of the data's way.

    Every module must accept a batch; two calls with the same arguments must build modules of the same structure.
    """

    input_shape: Shape
    classes: int
    choices: tuple[Choice, ...]

    # --- what a user writes -----------------------------------------------------------------------------------

    @abstractmethod
    def stem(self) -> nn.Module:
        """The module before the first choice; `nn.Identity()` for none."""

    @abstractmethod
    def block(self, position: int, candidate: Candidate, in_shape: Shape) -> nn.Module | None:
        """The module of `candidate` at choice `position` for that input, or None where it is not available.

        Args:
            position: index into `choices`.
            candidate: one of `choices[position].candidates`.
            in_shape: what reaches the block; torch's, without the batch.
        """

    @abstractmethod
    def head(self, in_shape: Shape) -> nn.Module:
        """The module after the last choice; gives (batch, classes) logits."""

    # --- what a user may refine -------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Name in messages and checkpoints; the class's unless overridden."""
        return type(self).__name__

    def block_key(self, position: int, candidate: Candidate, in_shape: Shape) -> Hashable:
        """Blocks with equal keys are equal but for their weights: each key is built and lowered once.

        The default keeps every position apart; a space whose positions repeat can save work here.
        """
        return position, candidate, in_shape

    def memory_after(self, position: int, candidate: Candidate, memory: str) -> str | None:
        """What later choices must know besides the shape; None forbids the candidate after that memory.

        Example: a stage of variable depth remembers "ended" after its first skipped block and forbids all but
        skips until the next stage. The default remembers nothing.

        Args:
            position: index into `choices`.
            candidate: one of `choices[position].candidates`.
            memory: what the choice before gave; "" at the first.
        """
        return ""

    # --- structure --------------------------------------------------------------------------------------------

    @property
    def states(self) -> tuple[tuple[State, ...], ...]:
        """Per choice (and once more before the head), the states that can stand there on a way to the head."""
        return self._structure[0]

    @property
    def steps(self) -> tuple[tuple[Step, ...], ...]:
        """Per choice, every candidate in every state in which it is available and leads to the head."""
        return self._structure[1]

    def template(self, position: int, candidate: int, in_shape: Shape) -> nn.Module | None:
        """The block's structure without weights (torch's meta device); None where it is not available. Cached."""
        chosen = self.choices[position].candidates[candidate]
        key = self.block_key(position, chosen, in_shape)
        if key not in self._templates:
            with torch.device("meta"):
                self._templates[key] = self.block(position, chosen, in_shape)
        return self._templates[key]

    def module(self, architecture: Sequence[int]) -> nn.Sequential:
        """The architecture as a fresh torch module (random weights): stem, one child per choice, head.

        Raises:
            ConfigurationError: the architecture is not valid in this space.
        """
        states = self.path(architecture)
        parts: OrderedDict[str, nn.Module] = OrderedDict(stem=self.stem())
        for position, (choice, index) in enumerate(zip(self.choices, architecture, strict=True)):
            block = self.block(position, choice.candidates[index], states[position].shape)
            assert block is not None  # path() has looked
            parts[choice.name] = block
        parts["head"] = self.head(states[-1].shape)
        return nn.Sequential(parts)

    def path(self, architecture: Sequence[int]) -> tuple[State, ...]:
        """The states that an architecture passes: before each choice, and before the head.

        Raises:
            ConfigurationError: wrong length, an index out of range, or a candidate that is not available where
                it stands; the message names the choice.
        """
        if len(architecture) != len(self.choices):
            raise ConfigurationError(
                f"{self.name}: an architecture has {len(self.choices)} choices, got {len(architecture)}"
            )
        state, passed = 0, [self.states[0][0]]
        for position, index in enumerate(architecture):
            choice = self.choices[position]
            if not 0 <= index < len(choice.candidates):
                raise ConfigurationError(
                    f"{self.name}: choice {choice.name} has {len(choice.candidates)} candidates, got index {index}"
                )
            end = self._next[position].get((state, index))
            if end is None:
                raise ConfigurationError(
                    f"{self.name}: {choice.candidates[index].name} is not available at {choice.name} "
                    f"on {passed[-1].shape}",
                    remedy="choose one of " + ", ".join(self._available(position, state)),
                )
            state = end
            passed.append(self.states[position + 1][state])
        return tuple(passed)

    def valid(self, architecture: Sequence[int]) -> bool:
        """True when `module(architecture)` can be built."""
        try:
            self.path(architecture)
        except ConfigurationError:
            return False
        return True

    # --- counting and sampling --------------------------------------------------------------------------------

    def count(self) -> int:
        """Number of valid architectures, exact."""
        return self._completions[0][0]

    def architecture_at(self, rank: int) -> Architecture:
        """The architecture of that rank, 0 <= rank < count(), in lexicographic order of the indices.

        Raises:
            ConfigurationError: rank out of range.
        """
        if not 0 <= rank < self.count():
            raise ConfigurationError(f"{self.name}: rank {rank} is not below {self.count()}")
        state, architecture = 0, []
        for position in range(len(self.choices)):
            for step in self._leaving[position][state]:
                completions = self._completions[position + 1][step.end]
                if rank < completions:
                    break
                rank -= completions
            architecture.append(step.candidate)
            state = step.end
        return tuple(architecture)

    def sample(self, rng: np.random.Generator) -> Architecture:
        """One valid architecture, uniform over all of them (each choice weighted by its path counts)."""
        total = self.count()
        size = (total.bit_length() + 7) // 8 + 8  # 64 more bits than needed: the modulo's bias is below 2^-64
        return self.architecture_at(int.from_bytes(rng.bytes(size), "little") % total)

    def __iter__(self) -> Iterator[Architecture]:
        """All architectures in order of their rank. For small spaces."""
        return (self.architecture_at(rank) for rank in range(self.count()))

    # --- text -------------------------------------------------------------------------------------------------

    def encode(self, architecture: Sequence[int]) -> str:
        """Readable text, the candidates' names in order: `conv16 id ds32 ...`. `decode` reads it back.

        Raises:
            ConfigurationError: the architecture is not valid in this space.
        """
        self.path(architecture)
        return " ".join(
            choice.candidates[index].name for choice, index in zip(self.choices, architecture, strict=True)
        )

    def decode(self, text: str) -> Architecture:
        """The architecture that a text names: `encode`'s words, or the JSON of `to_json` (or its list of names).

        Raises:
            ConfigurationError: unknown candidate, wrong length, or not available where it stands.
        """
        if text.lstrip().startswith(("{", "[")):
            try:
                return self.from_json(json.loads(text))
            except json.JSONDecodeError as error:
                raise ConfigurationError(f"architecture is not JSON: {error}") from error
        return self._from_names(text.split())

    def to_json(self, architecture: Sequence[int]) -> dict[str, object]:
        """A JSON object that names the space and the candidates; `from_json` reads it back.

        Raises:
            ConfigurationError: the architecture is not valid in this space.
        """
        return {"space": self.name, "architecture": self.encode(architecture).split()}

    def from_json(self, value: object) -> Architecture:
        """The architecture in a value of `to_json`, or in a bare list of names.

        Raises:
            ConfigurationError: another space, another form, or not valid.
        """
        names = value
        if isinstance(value, Mapping):
            if value.get("space", self.name) != self.name:
                raise ConfigurationError(
                    f"architecture of space {value['space']!r}, this space is {self.name!r}"
                )
            names = value.get("architecture")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ConfigurationError(
                f"architecture {value!r} is not a list of candidate names",
                remedy='write {"space": ..., "architecture": ["name", ...]}',
            )
        return self._from_names(names)

    def describe(self, architecture: Sequence[int]) -> list[Row]:
        """One row per block, stem and head included: shapes, parameters as deployed, multiply-accumulates.

        Raises:
            ConfigurationError: the architecture is not valid, or a block cannot be lowered.
        """
        states = self.path(architecture)
        lowered = [("stem", "-", self.input_shape, self._lower_stem())]
        for position, (choice, index) in enumerate(zip(self.choices, architecture, strict=True)):
            shape = states[position].shape
            lowered.append(
                (choice.name, choice.candidates[index].name, shape, self._lower_block(position, index, shape))
            )
        lowered.append(("head", "-", states[-1].shape, self._lower_head(states[-1].shape)))
        return [
            Row(
                name, candidate, shape, block.output,
                block.weight_elements + block.bias_elements, sum(op.macs for op in block.operators),
            )
            for name, candidate, shape, block in lowered
        ]  # fmt: skip

    # --- costs ------------------------------------------------------------------------------------------------

    def chain(self, dtype: DType = "float32") -> Chain:
        """The space as a layered graph of operators: stem, choices, head. Cached per dtype.

        Each distinct block is lowered once. States are NHWC shapes with a batch of 1; where `memory_after` keeps
        states apart, a shape occurs more than once. At "int8", operators, bytes of RAM and of constants are those
        of the quantised blocks: weights and other constants 1 byte, biases 4, hard-sigmoids folded away.

        Raises:
            ConfigurationError: a block uses an operation outside the operator list (UnsupportedError).
        """
        if dtype not in self._chains:
            self._chains[dtype] = self._build_chain(dtype)
        return self._chains[dtype]

    def _build_chain(self, dtype: DType) -> Chain:
        def arc(candidate: int, start: int, end: int, block: _Lowered) -> Arc:
            size = _ITEM_BYTES[dtype]
            return Arc(
                candidate, start, end, tuple(_at_dtype(op, dtype) for op in block.operators),
                ram_bytes=block.live_elements * size,
                constant_bytes=block.weight_elements * size + block.bias_elements * 4,
                live=tuple(live.scaled(size) for live in block.live),
            )  # fmt: skip

        before, after = ((graph_shape(self.input_shape),),), ((graph_shape((self.classes,)),),)
        inside = tuple(tuple(graph_shape(s.shape) for s in states) for states in self.states)
        arcs: list[tuple[Arc, ...]] = [(arc(0, 0, 0, self._lower_stem()),)]
        for position, steps in enumerate(self.steps):
            states = self.states[position]
            arcs.append(
                tuple(arc(*s, self._lower_block(position, s.candidate, states[s.start].shape)) for s in steps)
            )
        heads = [self._lower_head(state.shape) for state in self.states[-1]]
        arcs.append(tuple(arc(0, start, 0, head) for start, head in enumerate(heads)))
        choices = tuple(range(1, len(self.choices) + 1))
        return Chain((*before, *inside, *after), tuple(arcs), choices)

    def _lower_stem(self) -> _Lowered:
        return self._lowered_once("stem", self.stem, self.input_shape, self.states[0][0].shape, "stem")

    def _lower_head(self, shape: Shape) -> _Lowered:
        return self._lowered_once(("head", shape), lambda: self.head(shape), shape, (self.classes,), "head")

    def _lower_block(self, position: int, candidate: int, shape: Shape) -> _Lowered:
        choice = self.choices[position]
        chosen = choice.candidates[candidate]

        def build() -> nn.Module:
            module = self.block(position, chosen, shape)
            assert module is not None  # callers ask for available candidates only
            return module

        return self._lowered_once(
            self.block_key(position, chosen, shape), build, shape, self._output(position, candidate, shape),
            f"{choice.name}, candidate {chosen.name}",
        )  # fmt: skip

    def _lowered_once(
        self, key: Hashable, build: Callable[[], nn.Module], shape: Shape, output: Shape | None, where: str
    ) -> _Lowered:
        if key not in self._lowered:
            # Building draws random weights; the caller's seed must not notice.
            with torch.random.fork_rng(devices=[]):
                module = build()
            block = _lower_module(module.eval(), shape, f"{self.name}, {where}, input {shape}")
            if block.output != output:
                raise ConfigurationError(
                    f"{self.name}, {where}: lowered output is {block.output}, torch gives {output}"
                )
            self._lowered[key] = block
        return self._lowered[key]

    # --- caches (cached properties, so that a user's __init__ need not call ours) -------------------------------

    @cached_property
    def _chains(self) -> dict[DType, Chain]:
        return {}

    @cached_property
    def _lowered(self) -> dict[Hashable, _Lowered]:
        return {}

    @cached_property
    def _templates(self) -> dict[Hashable, nn.Module | None]:
        return {}

    @cached_property
    def _outputs(self) -> dict[Hashable, Shape | None]:
        return {}

    @cached_property
    def _structure(self) -> tuple[tuple[tuple[State, ...], ...], tuple[tuple[Step, ...], ...]]:
        _check_choices(self)
        where = f"{self.name}: stem on input {self.input_shape}"
        with torch.device("meta"):
            stem = self.stem()
        layers: list[list[State]] = [[State(output_shape(stem, self.input_shape, where))]]
        found: list[list[Step]] = []
        for position, choice in enumerate(self.choices):
            ends: dict[State, int] = {}
            steps = []
            for start, state in enumerate(layers[-1]):
                for index, candidate in enumerate(choice.candidates):
                    memory = self.memory_after(position, candidate, state.memory)
                    if memory is None:
                        continue
                    shape = self._output(position, index, state.shape)
                    if shape is None:
                        continue
                    end = ends.setdefault(State(shape, memory), len(ends))
                    steps.append(Step(index, start, end))
            if not steps:
                shapes = ", ".join(str(s.shape) for s in layers[-1])
                raise ConfigurationError(
                    f"{self.name}: no candidate of choice {choice.name} is available on {shapes}",
                    remedy="add one that is, or change the choices before it",
                )
            layers.append(list(ends))
            found.append(steps)
        for state in layers[-1]:
            self._check_head(state.shape)
        return _without_dead_ends(layers, found)

    def _check_head(self, shape: Shape) -> None:
        # Heads are few and small: with real weights they run sooner than torch loads its meta kernels for pooling.
        with torch.random.fork_rng(devices=[]):
            head = self.head(shape)
        output = output_shape(head, shape, f"{self.name}: head on {shape}", device="cpu")
        if output != (self.classes,):
            raise ConfigurationError(
                f"{self.name}: head gives {output} on {shape}, expected ({self.classes},)"
            )

    def _output(self, position: int, candidate: int, shape: Shape) -> Shape | None:
        choice = self.choices[position]
        chosen = choice.candidates[candidate]
        key = self.block_key(position, chosen, shape)
        if key not in self._outputs:
            where = f"{self.name}: {chosen.name} at {choice.name} on {shape}"
            module = self.template(position, candidate, shape)
            self._outputs[key] = None if module is None else output_shape(module, shape, where)
        output = self._outputs[key]
        expected = shape[0] if chosen.channels is None else chosen.channels
        if output is not None and output[0] != expected:
            raise ConfigurationError(
                f"{self.name}: {chosen.name} at {choice.name} gives {output[0]} channels on {shape}, "
                f"its candidate says {expected}",
                remedy="make Candidate.channels equal to what block() builds",
            )
        return output

    @cached_property
    def _next(self) -> tuple[dict[tuple[int, int], int], ...]:
        return tuple({(s.start, s.candidate): s.end for s in steps} for steps in self.steps)

    @cached_property
    def _leaving(self) -> tuple[tuple[tuple[Step, ...], ...], ...]:
        return tuple(
            tuple(
                tuple(sorted(s for s in steps if s.start == start))
                for start in range(len(self.states[position]))
            )
            for position, steps in enumerate(self.steps)
        )

    @cached_property
    def _completions(self) -> list[list[int]]:
        """Per position and state, the number of ways to the head: Python integers, so exact at any size."""
        ways = [[1] * len(self.states[-1])]
        for position in range(len(self.choices) - 1, -1, -1):
            counts = [0] * len(self.states[position])
            for step in self.steps[position]:
                counts[step.start] += ways[0][step.end]
            ways.insert(0, counts)
        return ways

    def _available(self, position: int, state: int) -> list[str]:
        return [self.choices[position].candidates[s.candidate].name for s in self._leaving[position][state]]

    def _from_names(self, names: Sequence[str]) -> Architecture:
        if len(names) != len(self.choices):
            raise ConfigurationError(
                f"{self.name}: an architecture has {len(self.choices)} choices, got {len(names)} names"
            )
        architecture = []
        for choice, name in zip(self.choices, names, strict=True):
            known = [candidate.name for candidate in choice.candidates]
            if name not in known:
                raise ConfigurationError(
                    f"{self.name}: choice {choice.name} has no candidate {name!r}",
                    remedy="use one of " + ", ".join(known),
                )
            architecture.append(known.index(name))
        self.path(architecture)
        return tuple(architecture)


def graph_shape(shape: Shape) -> Shape:
    """torch's shape without the batch -> the graph's, NHWC with a batch of 1: (C, L) -> (1, 1, L, C).

    Raises:
        ConfigurationError: not of rank 1, 2 or 3.
    """
    if len(shape) == 1:
        return (1, shape[0])
    if len(shape) == 2:
        return (1, 1, shape[1], shape[0])
    if len(shape) == 3:
        return (1, shape[1], shape[2], shape[0])
    raise ConfigurationError(
        f"shape {shape} has rank {len(shape)}; a space carries (C, H, W), (C, L) or (F,)"
    )


def torch_shape(shape: Shape, rank: int) -> Shape:
    """The graph's shape -> torch's of that rank, without the batch; the inverse of `graph_shape`.

    Raises:
        ConfigurationError: the shape is not one of that rank.
    """
    if len(shape) == 2 and rank == 1:
        return (shape[1],)
    if len(shape) == 4 and rank == 2 and shape[1] == 1:
        return (shape[3], shape[2])
    if len(shape) == 4 and rank == 3:
        return (shape[3], shape[1], shape[2])
    raise ConfigurationError(f"graph shape {shape} is not a torch shape of rank {rank}")


def _check_choices(space: Space) -> None:
    missing = [name for name in ("input_shape", "classes", "choices") if not hasattr(space, name)]
    if missing:
        raise ConfigurationError(
            f"space {space.name} does not set {', '.join(missing)}",
            remedy="set them in __init__ (docs/spaces.md)",
        )
    if not space.choices:
        raise ConfigurationError(f"space {space.name} has no choices")
    names = [choice.name for choice in space.choices]
    for name in names:
        if names.count(name) > 1 or not name or "." in name or name in ("stem", "head"):
            raise ConfigurationError(
                f"{space.name}: choice name {name!r} is used twice or not allowed",
                remedy="use unique names without a dot, not stem or head",
            )
    for choice in space.choices:
        known = [candidate.name for candidate in choice.candidates]
        if not known:
            raise ConfigurationError(f"{space.name}: choice {choice.name} has no candidates")
        for name in known:
            if known.count(name) > 1 or name.split() != [name]:
                raise ConfigurationError(
                    f"{space.name}: candidate name {name!r} at {choice.name} is used twice or has white space"
                )


def _without_dead_ends(
    layers: list[list[State]], found: list[list[Step]]
) -> tuple[tuple[tuple[State, ...], ...], tuple[tuple[Step, ...], ...]]:
    """Keep only states from which the head can be reached, with their steps, renumbered."""
    alive = set(range(len(layers[-1])))
    states = [tuple(layers[-1])]
    steps: list[tuple[Step, ...]] = []
    numbers = {old: old for old in alive}
    for position in range(len(found) - 1, -1, -1):
        kept = [step for step in found[position] if step.end in alive]
        alive = {step.start for step in kept}
        before = {old: new for new, old in enumerate(sorted(alive))}
        steps.insert(0, tuple(Step(s.candidate, before[s.start], numbers[s.end]) for s in kept))
        states.insert(0, tuple(layers[position][old] for old in sorted(alive)))
        numbers = before
    # A kept state is reachable still: the state before it can reach the head through it, so it is kept too.
    return tuple(states), tuple(steps)


def _lower_module(module: nn.Module, shape: Shape, where: str) -> _Lowered:
    if isinstance(module, nn.Identity):
        return _Lowered((), math.prod(shape), 0, 0, shape)
    try:
        graph = lower(module, shape)
    except BoardfitError as error:
        error.message = f"{where}: {error.message}"
        raise
    weights, biases = _constant_elements(graph)
    output = graph.tensors[graph.outputs[0]].shape
    rank = 1 if len(output) == 2 else len(shape)
    return _Lowered(
        graph.operators, live_peak_bytes(graph) // 4, weights, biases, torch_shape(output, rank),
        tuple(live.scaled(1 / 4) for live in live_steps(graph)),
    )  # fmt: skip


def _constant_elements(graph: Graph) -> tuple[int, int]:
    """Elements of the constants in use: weights and constant operands, and biases."""
    used = {name for node in graph.nodes for name in node.inputs} & set(graph.constants)
    biases = {node.inputs[-1] for node in graph.nodes if node.operator.weight_shape is not None}
    sizes = {name: math.prod(graph.tensors[name].shape) for name in used}
    return (
        sum(size for name, size in sizes.items() if name not in biases),
        sum(size for name, size in sizes.items() if name in biases),
    )


def _at_dtype(operator: Operator, dtype: DType) -> Operator:
    if dtype == "float32":
        return operator
    # Quantisation folds a hard-sigmoid into weights, bias and output scale (docs/architecture.md).
    activation = "none" if operator.activation == "hard_sigmoid" else operator.activation
    return replace(operator, dtype=dtype, activation=activation)
