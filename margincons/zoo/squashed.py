"""A map of the logits that keeps every decision, and with it every input margin, and changes every logit margin."""

import torch
from torch import Tensor, nn


class Squashed(nn.Module):
    """A network whose logits f became tanh(strength * f): strictly increasing, so no decision changes.

    In single precision tanh reaches 1 near 9: there logits tie and decisions can change after all. Choose a strength
    that keeps strength * f well below, and count the decisions that changed.

    Args:
        network: Maps images (n, c, h, w) to logits (n, k).
        strength: Above 0; the smaller, the nearer to a linear map.
    """

    def __init__(self, network: nn.Module, strength: float) -> None:
        super().__init__()
        self.network, self.strength = network, strength

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (n, k) in [-1, 1] of images (n, c, h, w)."""
        return torch.tanh(self.strength * self.network(inputs))
