"""Read a torch network into a `ReluGraph` by symbolic tracing, or name the first layer that cannot be read."""

import operator
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from margincons.certificates.relu_graph import Add, Affine, Convolution, Linear, Node, Relu, ReluGraph, Reshape, Scale
from margincons.errors import UnsupportedLayerError

AGREEMENT = 1e-4  # of the largest logit: float32 differs by less, a layer read wrongly by more


def relu_graph(model: nn.Module, inputs: Tensor) -> ReluGraph:
    """Read a network, in double precision.

    Args:
        model: Maps images (n, c, h, w) to logits (n, k), in evaluation mode, made of linear, convolution, average
            pooling, batch normalisation, flattening, ReLU and residual layers, and arithmetic with constants.
        inputs: Images (n, c, h, w); the first gives the shapes, and a check that graph and network agree.

    Raises:
        UnsupportedLayerError: At the first layer that is none of these.
    """
    name = type(model).__name__
    try:
        traced = fx.symbolic_trace(model)
    except (fx.proxy.TraceError, TypeError, AttributeError, ValueError) as error:
        raise UnsupportedLayerError(name, f"it cannot be traced ({error})") from error
    reader = _Reader(deepcopy(traced).double().requires_grad_(False))
    image = inputs[:1].detach()
    with torch.no_grad():
        output = reader.run(image.double())
        if not isinstance(output, _Value) or output.example.dim() != 2:
            raise UnsupportedLayerError(f"the output of {name}", "it is not logits (n, k) computed from the images")
        graph = ReluGraph(tuple(reader.nodes[: output.index + 1]))
        expected = model(image).double()
        error = (graph(image) - expected).abs().max().item()
    if not error <= AGREEMENT * (1 + expected.abs().max()):
        raise UnsupportedLayerError(name, f"its logits differ from those of its traced layers by {error:.3g}")
    return graph


@dataclass(frozen=True)
class _Value:
    """Something computed from the images: its node, and what it is for the example."""

    index: int
    example: Tensor  # (1, ...)


class _Reader(fx.Interpreter):
    """Run a traced network on `_Value`s, writing a node for each layer that touches them."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.extra_traceback = False  # it would bury our message
        self.nodes: list[Node] = []

    def placeholder(self, target: str, args: tuple, kwargs: dict) -> _Value:
        """Open the list of nodes with the images."""
        return self._append(None, (), super().placeholder(target, args, kwargs))

    def call_module(self, target: str, args: tuple, kwargs: dict) -> _Value:
        """Read one of torch's own modules."""
        module = self.fetch_attr(target)
        name = f"{target} ({type(module).__name__})"
        if module.training and isinstance(module, nn.Dropout | nn.BatchNorm1d | nn.BatchNorm2d):
            raise UnsupportedLayerError(name, "it is in training mode, call model.eval() first")
        return self._read(name, _MODULES.get(type(module)), (*args[:1], module, *args[1:]), kwargs)

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
        if key in _ARITHMETIC and len(args) == 2 and not kwargs:
            return self._combine(name, _ARITHMETIC[key], *args)
        return self._read(name, _FUNCTIONS.get(key), args, {k: v for k, v in kwargs.items() if k != "inplace"})

    def _read(self, name: str, make: Callable[..., Affine | Relu | None] | None, args: tuple, kwargs: dict) -> _Value:
        if make is None or not isinstance(args[0], _Value) or _touches_images(args[1:], kwargs):
            raise UnsupportedLayerError(name, "it is none of these")
        value, *rest = args
        try:
            layer = make(value.example, *rest, **kwargs)
        except (TypeError, ValueError) as error:
            raise UnsupportedLayerError(name, f"these options of it are not covered ({error})") from error
        if layer is None:
            return value
        example = value.example.relu() if isinstance(layer, Relu) else layer.linear(value.example) + layer.bias
        return self._append(layer, (value.index,), example)

    def _combine(self, name: str, operation: Callable, left: Any, right: Any) -> _Value:
        if isinstance(left, _Value) and isinstance(right, _Value):
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


def _touches_images(args: tuple, kwargs: dict) -> bool:
    return any(isinstance(arg, _Value) for arg in (*args, *kwargs.values()))


def _convolution(x: Tensor, weight: Tensor, bias: Tensor | None = None, *values: Any, **options: Any) -> Convolution:
    options |= dict(zip(("stride", "padding", "dilation", "groups"), values, strict=False))
    if isinstance(options.get("padding"), str):
        raise ValueError(f"padding {options['padding']!r}")
    return Convolution(weight, 0.0 if bias is None else bias.view(-1, 1, 1), tuple(x.shape[1:]), options)


def _convolution_module(x: Tensor, m: nn.Conv2d) -> Convolution:
    if m.padding_mode != "zeros":
        raise ValueError(f"padding mode {m.padding_mode!r}")
    return _convolution(x, m.weight, m.bias, m.stride, m.padding, m.dilation, m.groups)


def _average(x: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, *rounding: Any) -> Convolution:
    ceil_mode, counts_padding = rounding or (False, True)
    if ceil_mode or (padding not in (0, (0, 0)) and not counts_padding):
        raise ValueError("ceil_mode, or padding that is not counted")
    high, wide = _pair(kernel_size)
    channels = x.shape[1]
    weight = x.new_full((channels, 1, high, wide), 1 / (high * wide))
    return _convolution(x, weight, stride=stride or (high, wide), padding=padding, groups=channels)


def _pair(size: Any) -> tuple[Any, Any]:
    return tuple(size) if isinstance(size, tuple | list) else (size, size)


def _adaptive_average(x: Tensor, output_size: Any) -> Convolution:
    wanted = _pair(output_size)
    sizes = [(size, out or size) for size, out in zip(x.shape[2:], wanted, strict=True)]
    if any(size % out for size, out in sizes):
        raise ValueError("windows of unequal size")
    return _average(x, tuple(size // out for size, out in sizes))


def _batch_norm(x: Tensor, m: nn.BatchNorm1d | nn.BatchNorm2d) -> Scale:
    if m.running_var is None:
        raise ValueError("no running statistics")
    weight = 1 / (m.running_var + m.eps).sqrt() * (1.0 if m.weight is None else m.weight)
    bias = (0.0 if m.bias is None else m.bias) - m.running_mean * weight
    axes = (-1, *[1] * (x.dim() - 2))
    return Scale(weight.view(axes), bias.view(axes))


def _reshape(x: Tensor, after: Tensor) -> Reshape:
    if len(after) != 1:
        raise ValueError("the batch axis changes")
    return Reshape(tuple(x.shape[1:]), tuple(after.shape[1:]))


_MODULES = {
    nn.Linear: lambda x, m: Linear(m.weight, 0.0 if m.bias is None else m.bias),
    nn.Conv2d: _convolution_module,
    nn.ReLU: lambda x, m: Relu(),
    nn.Flatten: lambda x, m: _reshape(x, m(x)),
    nn.AvgPool2d: lambda x, m: _average(x, m.kernel_size, m.stride, m.padding, m.ceil_mode, m.count_include_pad),
    nn.AdaptiveAvgPool2d: lambda x, m: _adaptive_average(x, m.output_size),
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.Identity: lambda x, m: None,
    nn.Dropout: lambda x, m: None,
}
_FUNCTIONS = {
    "linear": lambda x, weight, bias=None: Linear(weight, 0.0 if bias is None else bias),
    "conv2d": _convolution,
    "relu": lambda x: Relu(),
    "flatten": lambda x, *axes, **named: _reshape(x, x.flatten(*axes, **named)),
    "reshape": lambda x, *shape: _reshape(x, x.reshape(*shape)),
    "view": lambda x, *shape: _reshape(x, x.reshape(*shape)),
    "avg_pool2d": _average,
    "adaptive_avg_pool2d": _adaptive_average,
}
_ARITHMETIC = {
    "add": operator.add,
    "iadd": operator.add,
    "sub": operator.sub,
    "isub": operator.sub,
    "mul": operator.mul,
    "imul": operator.mul,
    "div": operator.truediv,
    "truediv": operator.truediv,
    "itruediv": operator.truediv,
}
