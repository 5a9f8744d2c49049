"""torch module -> Graph, with torch.fx: batch norms folded, activations fused, NHWC, 1-D as H = 1.

The module is traced symbolically (nothing runs, nothing is copied), so lowering a block takes milliseconds.
`lower_names` knows the operations, `lower_windows`, `lower_elementwise` and `lower_views` say what each becomes; this
file traces, finds what can be fused, and says where an unsupported operation stands.
"""

from __future__ import annotations

import inspect
import operator
import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from torch import fx, nn

from toolchain.errors import GraphError, UnsupportedError
from toolchain.graph import lower_elementwise as elementwise
from toolchain.graph.graph import Graph, GraphBuilder
from toolchain.graph.lower_names import HANDLERS, IN_PLACE, VIEWS, call_of
from toolchain.graph.lower_values import Context, Norm, Value, canonical, new_value, settle, stored
from toolchain.graph.operator import Activation

_REMEDY: Final = (
    "replace it by convolution, linear, pooling, ReLU, ReLU6, hard-swish, hard-sigmoid, add, mul or cat"
)


def lower(module: nn.Module, input_shape: tuple[int, ...]) -> Graph:
    """The float graph of a module in eval mode. The module is not changed.

    Args:
        module: takes one tensor; its other arguments need defaults. May be nested, share submodules, and use
            modules, functions and methods of torch.
        input_shape: torch's, without a batch: (C, H, W), (C, L) (a series: H = 1, W = L) or (F,).

    Returns:
        A float32 graph with NHWC activations; `Node.source` is the path of the module that made the node.

    Raises:
        UnsupportedError: an operation outside the operator list, or control flow that depends on data; the message
            names the operation, the module's path and the line of the source.
        GraphError: shapes that do not fit, with the same particulars.
    """
    with _eval_mode(module), torch.no_grad():
        return _Lowering(module).graph((1, *input_shape))


class _Lowering:
    """One lowering: the traced module, and what is known of each of its fx nodes."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.traced, self.constants = _trace(module)
        self.env: dict[fx.Node, Any] = {}
        self.node: fx.Node = next(iter(self.traced.nodes))
        self.absorbed: list[fx.Node] = []
        self.context = Context(GraphBuilder(), self._epilogue)

    def graph(self, shape: tuple[int, ...]) -> Graph:
        inputs = [n for n in self.traced.nodes if n.op == "placeholder"]
        if not inputs:
            raise UnsupportedError(
                f"{type(self.module).__name__} takes no tensor", remedy="give it one input"
            )
        name = self.context.builder.input(stored(canonical(shape)))
        self.env[inputs[0]] = new_value(name, shape)
        for node in self.traced.nodes:
            if node.op == "get_attr":
                self.env[node] = self._attribute(str(node.target))
        self._drop_identities()
        try:
            self._rewire_in_place()
            _drop_unused(self.traced)
            for node in self.traced.nodes:
                self.node = node
                if node not in self.env and node.op != "output":
                    self._step()
            outputs = self._outputs()  # of the last node
        except (UnsupportedError, GraphError) as error:
            message = f"{_describe(self.module, self.node)}: {error.message}"
            raise type(error)(message, remedy=error.remedy) from error
        return self.context.builder.build(*outputs)

    def _outputs(self) -> list[str]:
        result = fx.node.map_arg(self.node.args[0], self.env.get)
        results = result if isinstance(result, tuple | list) else (result,)
        if not results or not all(isinstance(r, Value) for r in results):
            raise UnsupportedError("returns something else than tensors", remedy="return a tensor or a tuple")
        return [settle(self.context, r).name for r in results]

    def _attribute(self, path: str) -> Any:
        return self.constants[path] if path in self.constants else operator.attrgetter(path)(self.module)

    def _step(self) -> None:
        """Evaluate one fx node, and whatever is fused into it."""
        node, call = self.node, call_of(self.module, self.node)
        if node.op == "placeholder":
            if not node.args:
                raise UnsupportedError("a second input", remedy="give every argument but the first a default")
            self.env[node] = node.args[0]
            return
        args, kwargs = fx.node.map_arg((node.args, dict(node.kwargs)), self.env.__getitem__)
        if not _has_value((args, kwargs)):
            self.env[node] = self._evaluate(args, kwargs)
            return
        if call is None:
            raise UnsupportedError("is not supported", remedy=_REMEDY)
        args, kwargs = _to_numpy(fx.node.map_arg((call.args, call.kwargs), self.env.__getitem__))
        handler = HANDLERS[call.name]
        try:
            inspect.signature(handler).bind(self.context, *args, **kwargs)
        except TypeError as error:
            raise UnsupportedError(f"these arguments are not supported ({error})", remedy=_REMEDY) from error
        self.context.source = _path(node)
        self.absorbed = []
        result = handler(self.context, *args, **kwargs)
        for done in (node, *self.absorbed):
            self.env[done] = result

    def _evaluate(self, args: Any, kwargs: Any) -> Any:
        """What does not depend on the input is computed by torch: shapes, slices of weights."""
        node = self.node
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        if (
            node.op == "call_module"
            or (name.endswith("_") and not name.endswith("__"))
            or node.target in IN_PLACE
        ):
            raise UnsupportedError("changes or computes a constant", remedy="compute constants in __init__")
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        assert callable(node.target)
        return node.target(*args, **kwargs)

    def _epilogue(self, weighted: bool) -> tuple[list[Norm], Activation]:
        """Take batch norms and an activation that alone use the current node's result."""
        norms: list[Norm] = []
        activation: Activation = "none"
        node = self.node
        while activation == "none" and len(node.users) == 1:
            user = next(iter(node.users))
            call = call_of(self.module, user)
            if call is None or not call.args or call.args[0] is not node:
                break
            if call.name == "batch_norm" and weighted:
                rest = (call.args[1:], call.kwargs)
                if any(n not in self.env for n in _nodes(rest)):
                    break
                args, kwargs = _to_numpy(fx.node.map_arg(rest, self.env.__getitem__))
                norms.append(elementwise.norm_of(*args, **kwargs))
            elif call.name in ("relu", "relu6") or (call.name == "hard_sigmoid" and weighted):
                activation = call.name  # type: ignore[assignment]
            else:
                break
            self.absorbed.append(user)
            node = user
        return norms, activation

    def _drop_identities(self) -> None:
        """Take dropouts and the like out of the way, so that what stands behind them can be fused."""
        for node in list(self.traced.nodes):
            call = call_of(self.module, node)
            if call is not None and call.name == "identity":
                node.replace_all_uses_with(call.args[0])

    def _rewire_in_place(self) -> None:
        """Let what runs after an in-place operation use its result, as in torch; fx itself does not see it."""
        order = {n: i for i, n in enumerate(self.traced.nodes)}
        owners: dict[fx.Node, fx.Node] = {}  # a view -> the node whose memory it shares
        for node in order:
            call = call_of(self.module, node)
            if call is None or not call.args or not isinstance(call.args[0], fx.Node):
                continue
            source = call.args[0]
            if call.name in VIEWS:
                owners[node] = owners.get(source, source)
            if not call.in_place or source.op == "get_attr":
                continue
            owner = owners.get(source, source)
            later = [u for u in source.users if order[u] > order[node]]
            sharing = [n for n in (owner, *owners) if n is not source and owners.get(n, n) is owner]
            if any(order[u] > order[node] for n in sharing for u in n.users):
                self.node = node
                raise UnsupportedError(
                    "changes a tensor in place that is used under two shapes", remedy="use inplace=False"
                )
            for user in later:
                user.replace_input_with(source, node)


# --- tracing -------------------------------------------------------------------------------------------------


class _Proxy(fx.Proxy):
    """fx turns `x += y` into `x = x + y`; this keeps the difference."""


def _in_place(function: Callable[[Any, Any], Any]) -> Callable[[_Proxy, Any], fx.Proxy]:
    def method(self: _Proxy, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return method


for _function in IN_PLACE:
    setattr(_Proxy, f"__{_function.__name__}__", _in_place(_function))


class _Tracer(fx.Tracer):
    """Traces through the user's modules, never into torch's, and leaves no attributes behind on the module."""

    def __init__(self, record_stack_traces: bool) -> None:
        super().__init__()
        self.record_stack_traces = record_stack_traces
        self.constants: dict[str, torch.Tensor] = {}

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, torch.Tensor) and not isinstance(a, nn.Parameter) and a not in self.tensor_attrs:
            name = f"_constant{len(self.constants)}"
            self.constants[name] = a
            return self.create_node("get_attr", name, (), {})
        return super().create_arg(a)


def _trace(module: nn.Module, record: bool = False) -> tuple[fx.Graph, dict[str, torch.Tensor]]:
    """The fx graph of `module` and the tensors that its forward computed without the input."""
    parameters = list(inspect.signature(module.forward).parameters.values())[1:]
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    tracer = _Tracer(record)
    try:
        return tracer.trace(module, concrete_args=defaults or None), tracer.constants
    except Exception as error:  # whatever the user's forward raises when it meets a proxy
        frames = traceback.extract_tb(error.__traceback__)
        line = _users_line([(frame.filename, frame.lineno or 0) for frame in frames])
        raise UnsupportedError(
            f"{type(module).__name__} cannot be traced{f' at {line}' if line else ''}: {error}",
            remedy="its forward must not branch, loop or index on values or shapes of tensors; decide in __init__",
        ) from error


@contextmanager
def _eval_mode(module: nn.Module) -> Iterator[None]:
    """What a forward that asks `self.training` must see; restored afterwards."""
    training = [m for m in module.modules() if m.training]
    for m in training:
        m.training = False
    try:
        yield
    finally:
        for m in training:
            m.training = True


def _drop_unused(graph: fx.Graph) -> None:
    """Take out what the output does not need: it would count as a user, and keep things from being fused."""
    for node in reversed(graph.nodes):
        if not node.users and node.op not in ("placeholder", "output"):
            graph.erase_node(node)


def _nodes(arguments: Any) -> list[fx.Node]:
    found: list[fx.Node] = []
    fx.node.map_arg(arguments, found.append)
    return found


def _has_value(arguments: Any) -> bool:
    if isinstance(arguments, dict):
        return any(_has_value(a) for a in arguments.values())
    if isinstance(arguments, tuple | list):
        return any(_has_value(a) for a in arguments)
    return isinstance(arguments, Value)


def _to_numpy(arguments: Any) -> Any:
    """Tensors as float32 arrays, anywhere in nested arguments; the rest as it is."""
    if isinstance(arguments, torch.Tensor):
        return arguments.detach().to("cpu", torch.float32).numpy()
    if isinstance(arguments, dict):
        return {k: _to_numpy(a) for k, a in arguments.items()}
    if isinstance(arguments, tuple | list) and not isinstance(arguments, torch.Size):
        return type(arguments)(_to_numpy(a) for a in arguments)
    return arguments


# --- where an operation stands -------------------------------------------------------------------------------


def _path(node: fx.Node) -> str:
    """Path of the module that a node runs in (for a module of torch, its own)."""
    stack = node.meta.get("nn_module_stack")
    return str(next(reversed(stack.values()))[0]) if stack else ""


def _describe(module: nn.Module, node: fx.Node) -> str:
    """An operation, its module path and its source line, for messages."""
    if node.op == "call_module":
        operation = type(module.get_submodule(str(node.target))).__name__
    elif node.op == "call_method":
        operation = f".{node.target}()"
    else:
        operation = getattr(node.target, "__name__", str(node.target))
    place = f"module {_path(node)!r}" if _path(node) else type(module).__name__
    # Recording lines is slow, so only the trace of an error does it.
    again = next((n for n in _trace(module, record=True)[0].nodes if n.name == node.name), node)
    frames = re.findall(r'File "(.+?)", line (\d+)', again.stack_trace or "")
    line = _users_line([(file, int(number)) for file, number in frames])
    return f"{operation} in {place}{f' at {line}' if line else ''}"


def _users_line(frames: list[tuple[str, int]]) -> str:
    """file:line of the innermost frame that is neither torch's nor ours."""
    torchs = str(Path(torch.__file__).parent)
    users = [f"{file}:{line}" for file, line in frames if not file.startswith(torchs) and file != __file__]
    return users[-1] if users else ""
