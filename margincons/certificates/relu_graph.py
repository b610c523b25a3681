"""A network as a short list of affine maps, ReLUs and sums: all that a certificate reasons about.

Everything linear about a layer is in four methods. ``linear`` is the map without its bias, ``adjoint`` its transpose
(bounds travel backwards through it), and ``magnitude`` the layer with the absolute values of its weights (intervals
travel forwards through it). Average pooling is a convolution; normalisation and batch normalisation are a `Scale`.
"""

from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_input


@dataclass(frozen=True)
class Linear:
    """Multiply the last axis by a matrix."""

    weight: Tensor  # (out, in)
    bias: Tensor | float  # (out,)

    def linear(self, values: Tensor) -> Tensor:
        """Map (m, in) to (m, out), without the bias."""
        return values @ self.weight.T

    def adjoint(self, coefficients: Tensor) -> Tensor:
        """Map coefficients on the outputs, (m, out), to coefficients on the inputs, (m, in)."""
        return coefficients @ self.weight

    def magnitude(self) -> "Linear":
        """Take absolute values of the weights."""
        return replace(self, weight=self.weight.abs())


@dataclass(frozen=True)
class Convolution:
    """Convolve images, padded with zeros."""

    weight: Tensor  # (out, in / groups, kh, kw)
    bias: Tensor | float  # (out, 1, 1)
    input_shape: tuple[int, ...]  # (in, h, w)
    options: dict[str, int | tuple[int, ...]]  # stride, padding, dilation, groups

    def linear(self, values: Tensor) -> Tensor:
        """Map (m, in, h, w) to (m, out, h', w'), without the bias."""
        return F.conv2d(values, self.weight, **self.options)

    def adjoint(self, coefficients: Tensor) -> Tensor:
        """Map coefficients on the outputs, (m, out, h', w'), to coefficients on the inputs, (m, in, h, w)."""
        shape = (len(coefficients), *self.input_shape)
        return conv2d_input(shape, self.weight, coefficients, **self.options)

    def magnitude(self) -> "Convolution":
        """Take absolute values of the weights."""
        return replace(self, weight=self.weight.abs())


@dataclass(frozen=True)
class Scale:
    """Multiply each unit by a number of its own."""

    weight: Tensor  # broadcasts against one item
    bias: Tensor | float

    def linear(self, values: Tensor) -> Tensor:
        """Map (m, ...) to (m, ...), without the bias."""
        return values * self.weight

    adjoint = linear

    def magnitude(self) -> "Scale":
        """Take absolute values of the weights."""
        return replace(self, weight=self.weight.abs())


@dataclass(frozen=True)
class Reshape:
    """Keep the values, change the axes."""

    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    bias: float = 0.0

    def linear(self, values: Tensor) -> Tensor:
        """Map (m, *input_shape) to (m, *output_shape)."""
        return values.reshape(-1, *self.output_shape)

    def adjoint(self, coefficients: Tensor) -> Tensor:
        """Map (m, *output_shape) to (m, *input_shape)."""
        return coefficients.reshape(-1, *self.input_shape)

    def magnitude(self) -> "Reshape":
        """Return itself: its weights are ones."""
        return self


class Relu:
    """The maximum of a value and zero."""


class Add:
    """The sum of two nodes: where a residual branch joins."""


Affine = Linear | Convolution | Scale | Reshape


@dataclass(frozen=True)
class Node:
    """One step of the network, its inputs given by their place in the list."""

    layer: Affine | Relu | Add | None  # None: the images
    inputs: tuple[int, ...]
    shape: tuple[int, ...]  # of one item


@dataclass(frozen=True)
class ReluGraph:
    """A network as nodes in an order in which they can be computed; the first is the images, the last the logits."""

    nodes: tuple[Node, ...]

    @property
    def relu_inputs(self) -> list[int]:
        """Places of the nodes that feed a ReLU, each once."""
        return list(dict.fromkeys(node.inputs[0] for node in self.nodes if isinstance(node.layer, Relu)))

    def size(self, index: int) -> int:
        """Units of a node."""
        return prod(self.nodes[index].shape)

    def gap_forms(self, labels: Tensor) -> Tensor:
        """Coefficients on the logits, (n, k, k), of the gaps f_c - f_t: c the label of a row, t every class in turn."""
        identity = torch.eye(self.size(-1), dtype=torch.float64, device=labels.device)
        return identity[labels].unsqueeze(1) - identity

    def __call__(self, inputs: Tensor) -> Tensor:
        """Logits (n, k) of images (n, c, h, w), in double precision."""
        return self.values(inputs)[-1]

    def values(self, inputs: Tensor) -> list[Tensor]:
        """What every node is for images (n, c, h, w), in double precision."""
        values = [inputs.double()]
        for node in self.nodes[1:]:
            sources = [values[source] for source in node.inputs]
            if isinstance(node.layer, Relu):
                values.append(sources[0].relu())
            elif isinstance(node.layer, Add):
                values.append(sources[0] + sources[1])
            else:
                values.append(node.layer.linear(sources[0]) + node.layer.bias)
        return values
