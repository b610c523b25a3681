"""Brackets of input margins: a certificate below, an attack above."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from margincons.brief import Brief
from margincons.certificates.certified import lower_bounds
from margincons.errors import ShapeError, UsageError

CONTRADICTION = 1e-5  # relative; an attack may end below a certificate by float32's rounding, by no more


@dataclass(frozen=True, kw_only=True, repr=False)
class Bracket(Brief):
    """Where each input margin lies, one entry per image."""

    lower: Tensor  # (n,), certified
    upper: Tensor  # (n,), witnessed; infinite where no attack succeeded

    @property
    def gap(self) -> Tensor:
        """Width as a fraction of the upper end, (n,): 0 where the margin is known, 1 where nothing is."""
        return torch.where(self.lower == self.upper, 0.0, 1 - self.lower / self.upper)


def bracket(
    model: nn.Module,
    inputs: Tensor,
    *,
    upper: Tensor,
    norm: str = "Linf",
    method: str = "crown",
    labels: Tensor | None = None,
) -> Bracket:
    """Bracket input margins between a certificate and an attack's bounds.

    For small ReLU networks `exact_margins` is a bracket too, and closes it.

    Args:
        model: Maps images (n, c, h, w) to logits (n, k), in evaluation mode; see `relu_graph` for its layers.
        inputs: Images (n, c, h, w) in [0, 1].
        upper: Verified bounds from attacks in the same norm, (n,); infinite where they failed.
        norm: "Linf", "L2" or "L1".
        method: "crown" or "interval", see `lower_bounds`.
        labels: Classes to leave, (n,); the predictions unless given.

    Raises:
        ShapeError: If there is not one upper bound for each image.
        UsageError: If an upper bound is below what is certified, so one of the two is wrong.
        UnsupportedLayerError: If the network has a layer that cannot be bounded.
    """
    if upper.shape != (len(inputs),):
        raise ShapeError("upper", f"one bound for each image, ({len(inputs)},)", tuple(upper.shape))
    lower = lower_bounds(model, inputs, norm=norm, method=method, labels=labels)
    upper = upper.to(lower)
    wrong = (upper < lower * (1 - CONTRADICTION)).nonzero()[:, 0]
    if len(wrong):
        first = wrong[0].item()
        raise UsageError(
            f"Expected upper bounds in {norm} above the certified ones, got {upper[first]:.6g} under "
            f"{lower[first]:.6g} for image {first}; are they verified, of the same norm and of the same labels?"
        )
    return Bracket(lower=torch.minimum(lower, upper), upper=upper)
