"""All networks of a space in one set of weights.

Per choice and family there is one module, as large as the largest that the space can ask for. A smaller block
uses the leading corner of each of its tensors: the first output channels, the first input channels. That is the
channel masking of FBNetV2 (Wan et al., 2020, section 3.1), written so that it works for users' own modules too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from toolchain.errors import ConfigurationError
from toolchain.graph.operator import Shape
from toolchain.spaces import Residual, Space, Step
from toolchain.spaces.shapes import output_shape
from toolchain.supernet.shared import SharedWeights

_TINY = 1e-12
_NEST_REMEDY = (
    "within a family all tensors must have the same names and grow with the channels; give blocks that differ "
    "otherwise families of their own"
)
_MIXING = (nn.Conv1d, nn.Conv2d, nn.Linear)


class Supernet(SharedWeights):
    """Shared weights for all architectures of a space.

    Args:
        space: any `Space`.

    Raises:
        ConfigurationError: the blocks of a family do not nest (tensors of other names, or smaller where they
            should be larger).
    """

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.space: Space = space
        self.stem = space.stem()
        widest = [_largest(state.shape for state in states) for states in space.states]
        self.blocks = nn.ModuleDict()
        self._layers: list[tuple[str, ...]] = []
        for position, choice in enumerate(space.choices):
            families = tuple(dict.fromkeys(candidate.family for candidate in choice.candidates))
            present = []
            for family in families:
                steps = [s for s in space.steps[position] if choice.candidates[s.candidate].family == family]
                if steps:
                    key = f"{choice.name}/{family}"
                    self.blocks[key] = _Family(
                        space, position, steps, widest[position], widest[position + 1][0]
                    )
                    present.append(key)
            self._layers.append(tuple(present))
        self.head = space.head(widest[-1])
        for state in space.states[-1]:
            with torch.device("meta"):
                small = space.head(state.shape)
            _check_nesting(_shapes(small), _shapes(self.head), f"{space.name}: head on {state.shape}")
        for position, layer in enumerate(space.steps):
            table = torch.tensor([(s.start, s.candidate, s.end) for s in layer]).T
            self.register_buffer(f"_steps{position}", table, persistent=False)

    def forward_relaxed(self, x: Tensor, probabilities: Sequence[Tensor]) -> Tensor:
        """Logits of the mixture of all architectures, differentiable in the weights and the probabilities.

        A choice's output is sum over families f and channels c of p(f, c) * mask_c * f(x); each family is
        evaluated once. What reaches a choice is a mixture too, so each state (shape) has a probability, which
        follows from the probabilities before. An identity passes the mixture on; any other block that keeps its
        channels masks its output with the incoming mixture of masks, and so do hidden layers whose width follows
        the input's. Where a candidate is not available in a state, the others share its probability there.
        With one-hot probabilities the result is that of `forward_architecture` (batch norm in eval mode).

        Args:
            x: (batch, *space.input_shape).
            probabilities: per choice a tensor of as many non-negative numbers as candidates, summing to 1.

        Returns:
            (batch, classes).

        Raises:
            ConfigurationError: wrong number or length of probabilities, or a choice whose candidates give
                different heights, widths or lengths, which no sum can mix.
        """
        self._check_relaxed(probabilities)
        x = self.stem(x)
        reach = x.new_ones(1)
        for position, keys in enumerate(self._layers):
            start, pick, end = cast(Tensor, getattr(self, f"_steps{position}"))
            joint = self._joint(position, reach, probabilities[position], start, pick)
            parts = []
            for key in keys:
                family = cast(_Family, self.blocks[key])
                weights = joint[family.steps]
                # Families that have no part in it, not even in the gradient, are not worth a convolution.
                if weights.requires_grad or bool(weights.any()):
                    parts.append(family.relaxed(x, weights, reach))
            x = torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]
            reach = reach.new_zeros(len(self.space.states[position + 1])).index_add(0, end, joint)
        logits: Tensor = self.head(x)
        return logits

    def forward_architecture(self, x: Tensor, architecture: Sequence[int]) -> Tensor:
        """Logits of one architecture with the shared weights: exactly the extracted network, differentiable.

        Only the corners of the weights that it needs are used, so a small network is quick. In training mode the
        corners of the running statistics are updated.

        Args:
            x: (batch, *space.input_shape).
            architecture: a valid one.

        Returns:
            (batch, classes).

        Raises:
            ConfigurationError: the architecture is not valid.
        """
        states = self.space.path(architecture)
        x = self.stem(x)
        for position, index in enumerate(architecture):
            template = self.space.template(position, index, states[position].shape)
            assert template is not None  # path() has looked
            x = _call_with_corner(template, self._shared(position, index), x, self.training)
        head = self._head_template(states[-1].shape)
        return _call_with_corner(head, self.head, x, self.training)

    def extract(self, architecture: Sequence[int]) -> nn.Sequential:
        """The architecture as a module of its own (`Space.module`) with a copy of its shared weights.

        Raises:
            ConfigurationError: the architecture is not valid.
        """
        with torch.random.fork_rng(
            devices=[]
        ):  # its random weights are overwritten; nobody's seed shall notice
            module = self.space.module(architecture)
        children = list(module.children())
        shared = [self.stem, *(self._shared(p, index) for p, index in enumerate(architecture)), self.head]
        with torch.no_grad():
            for small, large in zip(children, shared, strict=True):
                for name, corner in _corner(small, large).items():
                    _tensors(small)[name].copy_(corner)
        device = next((tensor.device for tensor in self.parameters()), torch.device("cpu"))
        return module.to(device).train(self.training)

    def one_hot(self, architecture: Sequence[int]) -> list[Tensor]:
        """Probabilities that are 1 at the architecture's candidates and 0 elsewhere."""
        return [
            functional.one_hot(torch.tensor(index), len(choice.candidates)).float()
            for choice, index in zip(self.space.choices, architecture, strict=True)
        ]

    def _shared(self, position: int, candidate: int) -> nn.Module:
        choice = self.space.choices[position]
        family = cast(_Family, self.blocks[f"{choice.name}/{choice.candidates[candidate].family}"])
        return family.module

    def _head_template(self, shape: Shape) -> nn.Module:
        # A plain dictionary in __dict__: templates have no weights and must not become children.
        cache: dict[Shape, nn.Module] = self.__dict__.setdefault("_heads", {})
        if shape not in cache:
            with torch.device("meta"):
                cache[shape] = self.space.head(shape)
        return cache[shape]

    def _joint(self, position: int, reach: Tensor, chosen: Tensor, start: Tensor, pick: Tensor) -> Tensor:
        """Probability of each step: of standing in its state, times its share among what is available there."""
        share = chosen[pick]
        if len(start) < len(reach) * len(chosen):  # something is not available somewhere
            total = share.new_zeros(len(reach)).index_add(0, start, share)
            number = torch.bincount(start, minlength=len(reach))
            # A state whose available candidates all have probability 0 takes them as equal.
            empty = (total < _TINY)[start]
            share = torch.where(empty, 1.0 / number[start], share / total.clamp_min(_TINY)[start])
        return reach[start] * share

    def _check_relaxed(self, probabilities: Sequence[Tensor]) -> None:
        sizes = [len(choice.candidates) for choice in self.space.choices]
        given = [p.numel() for p in probabilities]
        if given != sizes:
            raise ConfigurationError(f"probabilities of lengths {given}, the choices have {sizes} candidates")
        for position, states in enumerate(self.space.states):
            if len({state.shape[1:] for state in states}) > 1:
                before = self.space.choices[position - 1].name
                raise ConfigurationError(
                    f"{self.space.name}: candidates of {before} give different sizes "
                    f"{sorted({state.shape[1:] for state in states})}, which a relaxed supernet cannot mix",
                    remedy="give all candidates of a choice the same stride, or train single paths",
                )


class _Family(nn.Module):
    """The candidates of one family at one choice: one module, and which corner each step of the space needs."""

    def __init__(
        self, space: Space, position: int, steps: list[Step], widest: Shape, width_after: int
    ) -> None:
        super().__init__()
        choice, states = space.choices[position], space.states[position]
        family = choice.candidates[steps[0].candidate].family
        where = f"{space.name}: family {family} at {choice.name}"
        templates = [_template(space, position, s) for s in steps]
        shapes = [_shapes(template) for template in templates]
        build_at = _largest_block(space, position, steps, shapes, widest, where)
        module = space.block(position, choice.candidates[build_at[0]], build_at[1])
        assert module is not None  # _largest_block has looked
        self.module = module
        self.passes = isinstance(module, nn.Identity)
        if any(isinstance(template, nn.Identity) != self.passes for template in templates):
            raise ConfigurationError(f"{where} is an identity for some shapes only", remedy=_NEST_REMEDY)
        self.in_width, self.width_after = build_at[1][0], width_after

        index = {step: i for i, step in enumerate(space.steps[position])}
        self.register_buffer("steps", torch.tensor([index[s] for s in steps]), persistent=False)
        ends = space.states[position + 1]
        starts = [states[s.start].shape[0] for s in steps]
        self.after = _Mask([ends[s.end].shape[0] for s in steps], width_after)
        adds = [self.passes or (isinstance(t, Residual) and t.skip) for t in templates]
        self.adds = any(adds)
        # How much of each incoming channel is added to the output: of the steps that add, and of all that reach.
        self.added = _Mask([n if add else 0 for n, add in zip(starts, adds, strict=True)], widest[0])
        self.reaching = _Mask([state.shape[0] for state in states], widest[0])
        self._mask_hidden_layers(templates)

    steps: Tensor

    def _mask_hidden_layers(self, templates: list[nn.Module]) -> None:
        """Give each layer that mixes channels, and whose input width depends on the step, a mask on its input.

        What normalisation and depthwise layers make of dead channels then never reaches a living one.
        """
        self._hidden: list[tuple[nn.Module, str]] = []
        small = [dict(template.named_modules()) for template in templates]
        for name, layer in self.module.named_modules():
            if not isinstance(layer, _MIXING) or layer.weight.shape[1] == 1:
                continue
            widths = [_in_width(modules[name]) for modules in small]
            if set(widths) == {_in_width(layer)}:
                continue
            mask = f"hidden{len(self._hidden)}"
            self.add_module(mask, _Mask(widths, _in_width(layer)))
            layer.register_forward_pre_hook(_mask_input)
            self._hidden.append((layer, mask))

    def relaxed(self, x: Tensor, weights: Tensor, reach: Tensor) -> Tensor:
        """This family's part of the choice's output: (batch, C, ...) -> (batch, width_after, ...).

        Args:
            weights: probability of each of this family's steps.
            reach: probability of each incoming state.
        """
        y: Tensor | None = None
        if not self.passes:
            body = self.module.body if isinstance(self.module, Residual) else self.module
            conditional = weights / weights.sum().clamp_min(_TINY)
            inside = _fit(x, self.in_width)
            try:
                for layer, mask in self._hidden:
                    layer.__dict__["boardfit_mask"] = (inside, cast(_Mask, getattr(self, mask))(conditional))
                y = _fit(body(inside), self.width_after)
            finally:
                for layer, _ in self._hidden:
                    layer.__dict__.pop("boardfit_mask", None)
            y = y * _on_channels(self.after(weights), y)
        if self.adds:
            share = self.added(weights) / self.reaching(reach).clamp_min(_TINY)
            passed = _fit(x * _on_channels(share, x), self.width_after)
            y = passed if y is None else y + passed
        assert y is not None  # a family computes or passes
        return y


class _Mask(nn.Module):
    """Mixture of leading-channel masks: probabilities (n,) -> (width,), the sum of p_i * [channel < counts_i]."""

    def __init__(self, counts: list[int], width: int) -> None:
        super().__init__()
        values = sorted(set(counts))
        table = torch.arange(width)[None, :] < torch.tensor(values)[:, None]
        self.register_buffer("table", table.float(), persistent=False)
        self.register_buffer("row", torch.tensor([values.index(c) for c in counts]), persistent=False)

    table: Tensor
    row: Tensor

    def forward(self, probabilities: Tensor) -> Tensor:
        mass = probabilities.new_zeros(len(self.table)).index_add(0, self.row, probabilities)
        return mass @ self.table.to(probabilities.dtype)


def recalibrate_bn(module: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace the running statistics of all batch norms by the plain average over these batches, in place.

    Weights inherited from a supernet need it: its statistics belong to the mixture. Only batch norms run in
    training mode meanwhile; the module's modes and momenta are as before afterwards.

    Args:
        batches: inputs (batch, *shape) with at least two samples each, as for training.

    Raises:
        ConfigurationError: there are no batches.
    """
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    modes = [(m, m.training) for m in module.modules()]
    momenta = [norm.momentum for norm in norms]
    module.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's word for a cumulative average
        norm.train()
    seen = 0
    try:
        with torch.no_grad():
            for batch in batches:
                module(batch)
                seen += 1
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for part, training in modes:
            part.training = training
    if not seen:
        raise ConfigurationError(
            "no batches to recalibrate batch norm with", remedy="give at least one batch"
        )


# --- corners ------------------------------------------------------------------------------------------------------


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _shapes(module: nn.Module) -> dict[str, Shape]:
    return {name: tuple(tensor.shape) for name, tensor in _tensors(module).items()}


def _corner(small: nn.Module, large: nn.Module) -> dict[str, Tensor]:
    """Views into `large`'s tensors, of the shapes that `small` needs."""
    tensors = _tensors(large)
    return {name: tensors[name][tuple(slice(n) for n in shape)] for name, shape in _shapes(small).items()}


def _call_with_corner(template: nn.Module, large: nn.Module, x: Tensor, training: bool) -> Tensor:
    template.train(training)
    result: Tensor = functional_call(template, _corner(template, large), (x,))
    return result


def _check_nesting(small: Mapping[str, Shape], large: Mapping[str, Shape], where: str) -> None:
    problem = _nesting_problem(small, large)
    if problem:
        raise ConfigurationError(f"{where}: {problem}", remedy=_NEST_REMEDY)


def _nesting_problem(small: Mapping[str, Shape], large: Mapping[str, Shape]) -> str:
    if small.keys() != large.keys():
        return f"tensors {sorted(small.keys() ^ large.keys())} are not in both the small and the large block"
    for name, shape in small.items():
        if len(shape) != len(large[name]) or any(a > b for a, b in zip(shape, large[name], strict=True)):
            return f"tensor {name} of shape {shape} is no corner of {large[name]}"
    return ""


def _largest(shapes: Iterable[Shape]) -> Shape:
    return tuple(max(sizes) for sizes in zip(*shapes, strict=True))


def _largest_block(
    space: Space, position: int, steps: list[Step], shapes: list[dict[str, Shape]], widest: Shape, where: str
) -> tuple[int, Shape]:
    """(candidate, input shape) of a block whose tensors hold those of all steps of the family."""
    candidates = space.choices[position].candidates
    most = max((s.candidate for s in steps), key=lambda i: candidates[i].channels or 0)
    own = _largest(space.states[position][s.start].shape for s in steps)
    # The widest input first; a block that is not available there (it may need equal channels) may be elsewhere.
    trials = [
        (most, widest),
        (most, own),
        *((s.candidate, space.states[position][s.start].shape) for s in steps),
    ]
    problem = ""
    for candidate, shape in dict.fromkeys(trials):
        template = space.template(position, candidate, shape)
        if template is None:
            continue
        large = _shapes(template)
        found = next(filter(None, (_nesting_problem(small, large) for small in shapes)), "")
        if not found:
            output_shape(template, shape, where)
            return candidate, shape
        problem = problem or found
    raise ConfigurationError(f"{where}: {problem}", remedy=_NEST_REMEDY)


def _template(space: Space, position: int, step: Step) -> nn.Module:
    template = space.template(position, step.candidate, space.states[position][step.start].shape)
    assert template is not None  # it is a step
    return template


# --- masks --------------------------------------------------------------------------------------------------------


def _mask_input(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    """Forward pre-hook: mask a hidden layer's input, except the block's own input, which is masked already."""
    found = layer.__dict__.get("boardfit_mask")
    if found is None:
        return None
    outer, mask = found
    x = inputs[0]
    if x is outer:
        return None
    return (x * (mask if isinstance(layer, nn.Linear) else _on_channels(mask, x)), *inputs[1:])


def _in_width(layer: nn.Module) -> int:
    if isinstance(layer, nn.Linear):
        return layer.in_features
    assert isinstance(layer, nn.Conv1d | nn.Conv2d)
    return layer.in_channels


def _on_channels(mask: Tensor, x: Tensor) -> Tensor:
    return mask.view(1, -1, *(1 for _ in x.shape[2:]))


def _fit(x: Tensor, width: int) -> Tensor:
    """The first `width` channels, filled up with zeros where there are fewer."""
    extra = width - x.shape[1]
    if extra == 0:
        return x
    if extra < 0:
        return x[:, :width]
    return functional.pad(x, (*(0 for _ in range(2 * (x.ndim - 2))), 0, extra))
