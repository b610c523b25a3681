"""Read a torch network into a `ReluGraph` by symbolic tracing, or name the first layer that cannot be read."""

import operator
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from margincons.certificates.layers import ARITHMETIC, FUNCTIONS, IN_PLACE, MODULES
from margincons.certificates.relu_graph import Add, Affine, Node, Relu, ReluGraph, Reshape, Scale
from margincons.errors import UnsupportedLayerError

AGREEMENT = 1e-4  # of the largest logit: float32 differs by less, a layer read wrongly by more
COMPARED = 8  # images of either kind on which graph and network must agree


def relu_graph(model: nn.Module, inputs: Tensor) -> ReluGraph:
    """Read a network, in double precision.

    Args:
        model: Maps images (n, c, h, w) to logits (n, k), in evaluation mode, made of linear, convolution, average
            pooling, batch normalisation, flattening, ReLU and residual layers, and arithmetic with constants.
        inputs: Images (n, c, h, w); the first gives the shapes. Graph and network must agree on the first few of them,
            and on random images of every brightness and contrast: on a black one, say, no factor shows.

    Raises:
        UnsupportedLayerError: At the first layer that is none of these, or where graph and network disagree.
    """
    name = type(model).__name__
    try:
        traced = fx.GraphModule(model, _Tracer().trace(model))
    except (fx.proxy.TraceError, TypeError, AttributeError, NameError, ValueError) as error:
        raise UnsupportedLayerError(name, f"it cannot be traced ({error})") from error
    reader = _Reader(deepcopy(traced).double().requires_grad_(False))
    inputs = inputs.detach()
    with torch.no_grad():
        output = reader.run(inputs[:1].double())
        if not isinstance(output, _Value) or output.example.dim() != 2:
            raise UnsupportedLayerError(f"the output of {name}", "it is not logits (n, k) computed from the images")
        graph = ReluGraph(tuple(reader.nodes[: output.index + 1]))
        for images in (inputs[:COMPARED], _random_images(inputs)):  # two calls: a network may also remember the first
            _check_agreement(graph, model, images)
    return graph


def _random_images(like: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    brightness, contrast = torch.rand(2, COMPARED, 1, 1, 1, generator=generator)
    noise = torch.rand(COMPARED, *like.shape[1:], generator=generator)
    return torch.lerp(brightness, noise, contrast).to(like)


def _check_agreement(graph: ReluGraph, model: nn.Module, images: Tensor) -> None:
    expected = model(images.clone()).double()  # of a copy, should it write on what it is given
    logits = graph(images)
    if logits.shape != expected.shape:
        reason = f"its logits for {len(images)} images have shape {(*expected.shape,)}, expected {(*logits.shape,)}"
        raise UnsupportedLayerError(type(model).__name__, reason)
    error = (logits - expected).abs().max().item()
    if not error <= AGREEMENT * expected.abs().max():
        reason = f"its logits differ from those of its traced layers by {error:.3g}"
        raise UnsupportedLayerError(type(model).__name__, reason)


class _Tracer(fx.Tracer):
    """Torch's own writes ``h += x`` down as ``h = h + x``, and who else holds ``h`` would never know."""

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Stand in for what a node returns."""
        return _Proxy(node, self)


class _Proxy(fx.Proxy):
    def __iadd__(self, other: Any) -> fx.Proxy:
        return self._in_place(operator.iadd, other)

    def __isub__(self, other: Any) -> fx.Proxy:
        return self._in_place(operator.isub, other)

    def __imul__(self, other: Any) -> fx.Proxy:
        return self._in_place(operator.imul, other)

    def __itruediv__(self, other: Any) -> fx.Proxy:
        return self._in_place(operator.itruediv, other)

    def _in_place(self, operation: Callable, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operation, (self, other), {})


@dataclass
class _Memory:
    """Where a value lies. Views lie in the same place, and a layer in place puts its result there."""

    writes: int = 0
    lent: bool = False  # by whoever calls the network


@dataclass(frozen=True)
class _Value:
    """Something computed from the images: its node, what it is for the example, and whether it is still there."""

    index: int
    example: Tensor  # (1, ...)
    memory: _Memory = field(default_factory=_Memory)
    writes: int = 0  # to its memory when it was put there

    @property
    def overwritten(self) -> bool:
        """Whether a layer in place has put something else there since."""
        return self.writes != self.memory.writes


class _Reader(fx.Interpreter):
    """Run a traced network on `_Value`s, writing a node for each layer that touches them."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.extra_traceback = False  # it would bury our message
        self.nodes: list[Node] = []

    def placeholder(self, target: str, args: tuple, kwargs: dict) -> Any:
        """Open the list of nodes with the images; any other argument has its default."""
        argument = super().placeholder(target, args, kwargs)
        return argument if self.nodes else replace(self._append(None, (), argument), memory=_Memory(lent=True))

    def call_module(self, target: str, args: tuple, kwargs: dict) -> _Value:
        """Read one of torch's own modules."""
        module = self.fetch_attr(target)
        name = f"{target} ({type(module).__name__})"
        if module.training and isinstance(module, nn.Dropout | nn.BatchNorm1d | nn.BatchNorm2d):
            raise UnsupportedLayerError(name, "it is in training mode, call model.eval() first")
        result = self._read(name, MODULES.get(type(module)), (*args[:1], module, *args[1:]), kwargs)
        return _put(name, args[0], result) if isinstance(module, nn.ReLU) and module.inplace else result

    def call_function(self, target: Callable, args: tuple, kwargs: dict) -> Any:
        """Read a function of the images; evaluate one of constants."""
        if not _touches_images(args, kwargs):
            return super().call_function(target, args, kwargs)
        if target is getattr and args[1] == "shape":
            return args[0].example.shape
        return self._read_function(target.__name__, args, kwargs)

    def call_method(self, target: str, args: tuple, kwargs: dict) -> Any:
        """Read a method of the images; evaluate one of constants."""
        if not _touches_images(args, kwargs):
            return super().call_method(target, args, kwargs)
        if target == "size":
            return args[0].example.size(*args[1:])
        return self._read_function(target, args, kwargs)

    def _read_function(self, name: str, args: tuple, kwargs: dict) -> _Value:
        key = name.strip("_")
        in_place = kwargs.get("inplace") or name.endswith("_") or name in IN_PLACE
        kwargs = {option: value for option, value in kwargs.items() if option != "inplace"}
        if key in ARITHMETIC and len(args) == 2 and not kwargs:
            result = self._combine(name, ARITHMETIC[key], *args)
        else:
            result = self._read(name, FUNCTIONS.get(key), args, kwargs)
        return _put(name, args[0], result) if in_place else result

    def _read(self, name: str, make: Callable[..., Affine | Relu | None] | None, args: tuple, kwargs: dict) -> _Value:
        if make is None or not isinstance(args[0], _Value) or _touches_images(args[1:], kwargs):
            instead = ", write it as AdaptiveAvgPool2d(1) and flatten if it is over positions" if name == "mean" else ""
            raise UnsupportedLayerError(name, f"it is none of these{instead}")
        value, *rest = args
        _check_present(name, value)
        try:
            layer = make(value.example, *rest, **kwargs)
        except (TypeError, ValueError) as error:
            raise UnsupportedLayerError(name, f"these options of it are not covered ({error})") from error
        if layer is None:
            return value
        example = value.example.relu() if isinstance(layer, Relu) else layer.linear(value.example) + layer.bias
        result = self._append(layer, (value.index,), example)
        return replace(result, memory=value.memory, writes=value.writes) if isinstance(layer, Reshape) else result

    def _combine(self, name: str, operation: Callable, left: Any, right: Any) -> _Value:
        if isinstance(left, _Value) and isinstance(right, _Value):
            _check_present(name, left, right)
            if operation is operator.sub:
                right = self._combine(name, operator.mul, right, -1.0)
            if operation not in (operator.add, operator.sub) or left.example.shape != right.example.shape:
                raise UnsupportedLayerError(name, "two branches meet otherwise than in a sum of equal shapes")
            return self._append(Add(), (left.index, right.index), left.example + right.example)
        value = left if isinstance(left, _Value) else right
        at_zero, at_one = (  # affine, so its values at 0 and 1 are all there is to know
            operation(*(fill(side.example) if side is value else side for side in (left, right)))
            for fill in (torch.zeros_like, torch.ones_like)
        )
        if at_zero.shape != value.example.shape or not (at_zero.isfinite() & at_one.isfinite()).all():
            raise UnsupportedLayerError(name, "the constant changes the shape, or the images are what is divided by")
        return self._read(name, lambda _: Scale((at_one - at_zero)[0], at_zero[0]), (value,), {})

    def _append(self, layer: Affine | Relu | Add | None, sources: tuple[int, ...], example: Tensor) -> _Value:
        self.nodes.append(Node(layer, sources, tuple(example.shape[1:])))
        return _Value(len(self.nodes) - 1, example)


def _touches_images(args: Iterable, kwargs: dict) -> bool:
    return any(
        isinstance(arg, _Value) or (isinstance(arg, tuple | list) and _touches_images(arg, {}))
        for arg in (*args, *kwargs.values())
    )


def _check_present(name: str, *values: _Value) -> None:
    if any(value.overwritten for value in values):
        raise UnsupportedLayerError(name, "it reads what a layer before it has overwritten in place")


def _put(name: str, target: Any, result: _Value) -> _Value:
    if not isinstance(target, _Value) or target.memory.lent:
        raise UnsupportedLayerError(name, "it overwrites the images or a constant in place")
    target.memory.writes += 1
    return replace(result, memory=target.memory, writes=target.memory.writes)
