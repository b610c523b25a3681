"""Threat models: a norm and a radius, and the geometry that attacks need of them."""

import math
import numbers
from dataclasses import dataclass

import torch
from torch import Tensor

from margincons.errors import LabelRangeError, PixelRangeError, ShapeError, UnknownNameError, UsageError

NORMS = ("Linf", "L2", "L1")
_DUAL = {"Linf": "L1", "L2": "L2", "L1": "Linf"}


@dataclass(frozen=True, kw_only=True)
class ThreatModel:
    """What an adversary may do: move an image by at most ``epsilon`` in ``norm``, inside [0, 1].

    Args:
        norm: "Linf", "L2" or "L1", as RobustBench spells them.
        epsilon: Radius on the [0, 1] pixel scale: 8/255, not 8.

    Raises:
        UnknownNameError: If the norm is none of the three.
        UsageError: If epsilon is no number, negative, or so large that it must be on the [0, 255] scale.
    """

    norm: str
    epsilon: float

    def __post_init__(self) -> None:
        """Refuse norms that do not exist and radii that cannot be meant."""
        check_norm(self.norm)
        if not isinstance(self.epsilon, numbers.Real) or not 0 <= self.epsilon < math.inf:
            raise UsageError(f"Expected epsilon to be a number >= 0, such as 0.1 or 8/255, got {self.epsilon!r}.")
        if self.norm == "Linf" and self.epsilon > 1:
            got = f"{self.epsilon:g}"
            raise UsageError(f"Expected an Linf epsilon on the [0, 1] scale, got {got}; did you mean {got}/255?")


def check_norm(norm: str) -> None:
    """Raise `UnknownNameError` unless ``norm`` is "Linf", "L2" or "L1"."""
    if norm not in NORMS:
        raise UnknownNameError("norm", norm, NORMS)


def dual_norm(norm: str) -> str:
    """Name the norm q with 1/p + 1/q = 1: distances in p are measured on gradients in q."""
    check_norm(norm)
    return _DUAL[norm]


def vector_norm(vectors: Tensor, norm: str) -> Tensor:
    """Norm of each item of a batch, all axes but the first taken together.

    Args:
        vectors: Any batch (n, ...).
        norm: "Linf", "L2" or "L1".

    Returns:
        One norm per item, (n,).
    """
    check_norm(norm)
    flat = vectors.flatten(1)
    if norm == "Linf":
        return flat.abs().amax(dim=1)
    return flat.norm(p=2, dim=1) if norm == "L2" else flat.abs().sum(dim=1)


def per_item(values: Tensor, like: Tensor) -> Tensor:
    """View one value per item, (n,), so that it broadcasts against a batch (n, ...)."""
    return values.view(-1, *[1] * (like.dim() - 1))


def project(deltas: Tensor, radius: Tensor, norm: str) -> Tensor:
    """Nearest point (in Euclidean distance) of the ball of each item's own radius.

    Source of the l_1 case: Duchi et al., 2008, "Efficient projections onto the l1-ball", ICML.

    Args:
        deltas: Perturbations (n, ...).
        radius: One radius per item, (n,), on the [0, 1] pixel scale.
        norm: "Linf", "L2" or "L1".

    Returns:
        The projected perturbations, (n, ...).
    """
    check_norm(norm)
    bound = per_item(radius, deltas)
    if norm == "Linf":
        return torch.maximum(torch.minimum(deltas, bound), -bound)
    if norm == "L2":
        length = per_item(vector_norm(deltas, "L2"), deltas)
        return deltas * (bound / length.clamp_min(torch.finfo(deltas.dtype).tiny)).clamp(max=1)
    magnitude = deltas.flatten(1).abs()
    descending = magnitude.sort(dim=1, descending=True).values
    excess = descending.cumsum(dim=1) - radius[:, None]
    rank = torch.arange(1, magnitude.shape[1] + 1, device=deltas.device)
    kept = ((descending * rank > excess).sum(dim=1, keepdim=True) - 1).clamp_min(0)
    shrink = (excess.gather(1, kept) / (kept + 1)).clamp_min(0)
    return (deltas.flatten(1).sign() * (magnitude - shrink).clamp_min(0)).view_as(deltas)


def check_images(inputs: Tensor) -> None:
    """Raise unless ``inputs`` is a floating-point batch (n, c, h, w) inside [0, 1].

    Raises:
        ShapeError: If it is not a floating-point tensor of four axes.
        PixelRangeError: If a pixel is NaN or leaves [0, 1].
    """
    if not isinstance(inputs, Tensor) or inputs.dim() != 4 or not inputs.is_floating_point():
        got = f"{tuple(inputs.shape)} {inputs.dtype}" if isinstance(inputs, Tensor) else type(inputs).__name__
        if hasattr(inputs, "inputs"):
            got += "; pass its .inputs"
        if isinstance(inputs, Tensor) and not inputs.is_floating_point() and inputs.numel() and inputs.max() > 1:
            got += f", up to {inputs.max()}; convert to float and divide by {16 if inputs.max() <= 16 else 255}"
        raise ShapeError("images", "a floating-point tensor (n, c, h, w)", got)
    if inputs.numel():
        low, high = (bound.item() for bound in inputs.aminmax())
        if not (low >= 0 and high <= 1):
            raise PixelRangeError(low, high)


def places(indices: Tensor | None, n: int) -> Tensor:
    """Each image's place in its data set, (n,), to which its random draws belong; its place in the batch unless given.

    Raises:
        ShapeError: If there is not one index per image, as a whole number.
    """
    if indices is None:
        return torch.arange(n)
    check_labels(indices, n, what="indices")
    return indices


def check_labels(labels: Tensor, n: int, *, what: str = "labels", classes: int | None = None) -> None:
    """Raise unless ``labels`` are n whole numbers, and each a class where the number of classes is known.

    Args:
        labels: One per image.
        n: Images.
        what: What to call them: "labels", "indices".
        classes: Logits of the network; None leaves the range alone.

    Raises:
        ShapeError: If they are no int64 tensor (n,).
        LabelRangeError: If one is no class.
    """
    if not isinstance(labels, Tensor) or labels.shape != (n,) or labels.dtype != torch.int64:
        got = f"{tuple(labels.shape)} {labels.dtype}" if isinstance(labels, Tensor) else type(labels).__name__
        raise ShapeError(what, f"one per image, ({n},) torch.int64", got)
    if n and classes is not None:
        low, high = (int(bound) for bound in labels.aminmax())
        if low < 0 or high >= classes:
            raise LabelRangeError(low, high, classes)
