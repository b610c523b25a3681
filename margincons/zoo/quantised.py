"""A defence by input preprocessing: pixels are rounded before the network sees them, and gradients end there."""

import torch
from torch import Tensor, nn


def quantise(inputs: Tensor, levels: int) -> Tensor:
    """Round pixels in [0, 1] to the nearest of equally spaced levels; the gradient is 0 almost everywhere.

    Source: the bit-depth reduction of Xu et al., 2018, "Feature squeezing", NDSS, arXiv:1704.01155.

    Args:
        inputs: Images (n, c, h, w) in [0, 1].
        levels: Number of levels, 2 or more; the digits are stored with 17.
    """
    return (inputs * (levels - 1)).round() / (levels - 1)


class Quantised(nn.Module):
    """A network behind rounded pixels.

    Args:
        network: Maps images (n, c, h, w) to logits (n, k).
        levels: Number of levels that pixels are rounded to.
        straight_through: Whether the backward pass treats the rounding as the identity. The forward pass is the same,
            so what an attack finds with such gradients holds for the defended network. Source: Athalye et al., 2018,
            "Obfuscated gradients", arXiv:1802.00420, section 4.1.
    """

    def __init__(self, network: nn.Module, *, levels: int, straight_through: bool = False) -> None:
        super().__init__()
        self.network, self.levels, self.straight_through = network, levels, straight_through

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (n, k) of images (n, c, h, w)."""
        rounded = quantise(inputs, self.levels)
        if self.straight_through:
            rounded = _StraightThrough.apply(inputs, rounded)
        return self.network(rounded)


class _StraightThrough(torch.autograd.Function):
    """Forward, the rounded pixels to the last bit; backward, the gradient as it arrives."""

    @staticmethod
    def forward(context: object, inputs: Tensor, rounded: Tensor) -> Tensor:
        return rounded.view_as(rounded)

    @staticmethod
    def backward(context: object, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None
