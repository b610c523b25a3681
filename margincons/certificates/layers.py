"""What each of torch's layers is as a layer of a `ReluGraph`, all of its options honoured or refused.

Every maker takes the example (1, ...) that comes in, then the module or the function's other arguments. It returns the
layer, or None for one that does nothing, and raises ValueError or TypeError for options that are not covered.
"""

import operator
from typing import Any

from torch import Tensor, nn

from margincons.certificates.relu_graph import Convolution, Linear, Relu, Reshape, Scale


def _convolution(x: Tensor, weight: Tensor, bias: Tensor | None = None, *values: Any, **options: Any) -> Convolution:
    options |= dict(zip(("stride", "padding", "dilation", "groups"), values, strict=False))
    if x.dim() != 4:
        raise ValueError("images without a batch axis")
    if isinstance(options.get("padding"), str):
        raise ValueError(f"padding {options['padding']!r}")
    return Convolution(weight, 0.0 if bias is None else bias.view(-1, 1, 1), tuple(x.shape[1:]), options)


def _convolution_module(x: Tensor, m: nn.Conv2d) -> Convolution:
    if m.padding_mode != "zeros":
        raise ValueError(f"padding mode {m.padding_mode!r}")
    return _convolution(x, m.weight, m.bias, m.stride, m.padding, m.dilation, m.groups)


def _average(
    x: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, *, divisor: int | None = None
) -> Convolution:
    high, wide = _pair(kernel_size)
    channels = x.shape[1]
    weight = x.new_full((channels, 1, high, wide), 1 / (divisor or high * wide))
    return _convolution(x, weight, stride=stride or (high, wide), padding=padding, groups=channels)


def _average_module(x: Tensor, m: nn.AvgPool2d) -> Convolution:
    if m.ceil_mode or (_pair(m.padding) != (0, 0) and not m.count_include_pad):
        raise ValueError("ceil_mode, or padding that is not counted")
    return _average(x, m.kernel_size, m.stride, m.padding, divisor=m.divisor_override)


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


MODULES = {
    nn.Linear: lambda x, m: Linear(m.weight, 0.0 if m.bias is None else m.bias),
    nn.Conv2d: _convolution_module,
    nn.ReLU: lambda x, m: Relu(),
    nn.Flatten: lambda x, m: _reshape(x, m(x)),
    nn.AvgPool2d: _average_module,
    nn.AdaptiveAvgPool2d: lambda x, m: _adaptive_average(x, m.output_size),
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.Identity: lambda x, m: None,
    nn.Dropout: lambda x, m: None,
}
FUNCTIONS = {
    "linear": lambda x, weight, bias=None: Linear(weight, 0.0 if bias is None else bias),
    "conv2d": _convolution,
    "relu": lambda x: Relu(),
    "flatten": lambda x, *axes, **named: _reshape(x, x.flatten(*axes, **named)),
    "reshape": lambda x, *shape: _reshape(x, x.reshape(*shape)),
    "view": lambda x, *shape: _reshape(x, x.reshape(*shape)),
    "avg_pool2d": _average,
    "adaptive_avg_pool2d": _adaptive_average,
}
ARITHMETIC = {
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
IN_PLACE = {name for name in ARITHMETIC if name.startswith("i")}
