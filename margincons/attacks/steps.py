"""What gradient attacks share: the gradient they climb and the step that climbs it fastest."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from margincons.errors import UnknownNameError
from margincons.threat import check_norm, per_item, vector_norm


def cross_entropy_sum(logits: Tensor, labels: Tensor) -> Tensor:
    """The textbook loss; single precision rounds its gradient to 0 where the network is sure of ``labels``."""
    return cross_entropy(logits, labels, reduction="sum")


def log_odds_sum(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-odds against ``labels``: the cross-entropy's direction without its factor 1 - p, so it never saturates."""
    rivals = logits.scatter(1, labels[:, None], -torch.inf).logsumexp(dim=1)
    return (rivals - logits.gather(1, labels[:, None])[:, 0]).sum()


LOSSES = {"cross_entropy": cross_entropy_sum, "log_odds": log_odds_sum}


def input_gradient(model: nn.Module, inputs: Tensor, labels: Tensor, *, loss: str = "cross_entropy") -> Tensor:
    """Gradient of a loss that rises as ``labels`` are left.

    Both losses climb the same way. The cross-entropy's gradient is that of the log-odds times the probability of error;
    where a network is sure (logit margins above about 17) single precision makes that factor 0, and an attack
    that sees a flat loss reports robustness.

    Args:
        model: Maps images (n, c, h, w) to logits (n, k).
        inputs: Where to take the gradient, (n, c, h, w).
        labels: Classes to leave, (n,).
        loss: "cross_entropy" or "log_odds".

    Returns:
        One gradient per image, (n, c, h, w); the network's parameters collect none.

    Raises:
        UnknownNameError: If the loss is neither.
    """
    if loss not in LOSSES:
        raise UnknownNameError("loss", loss, LOSSES)
    with torch.enable_grad():
        inputs = inputs.detach().requires_grad_()
        return torch.autograd.grad(LOSSES[loss](model(inputs), labels), inputs)[0]


def steepest_step(gradient: Tensor, at: Tensor, length: float, norm: str) -> Tensor:
    """Step of at most ``length`` in ``norm`` that climbs a linear function fastest.

    Linf moves every pixel alike and L2 follows the gradient; the box is left to the caller's clamp. L1 puts
    all it has on the steepest pixels, so there the box decides: each is filled before the next is touched.

    Args:
        gradient: Gradients (n, c, h, w).
        at: Where the step starts, (n, c, h, w), in [0, 1].
        length: Length of the step on the [0, 1] pixel scale.
        norm: "Linf", "L2" or "L1".

    Returns:
        Steps (n, c, h, w); zero where the gradient is zero.
    """
    check_norm(norm)
    if norm == "Linf":
        return length * gradient.sign()
    if norm == "L2":
        largest = vector_norm(gradient, "Linf").clamp_min(torch.finfo(gradient.dtype).tiny)
        scaled = gradient / per_item(largest, gradient)  # before squaring: tiny gradients would vanish
        return length * scaled / per_item(vector_norm(scaled, "L2").clamp_min(1), gradient)
    uphill = gradient.flatten(1).sign()
    room = torch.where(uphill > 0, 1 - at.flatten(1), at.flatten(1)) * uphill.abs()
    order = gradient.flatten(1).abs().argsort(dim=1, descending=True)
    sorted_room = room.gather(1, order)
    spent = sorted_room.cumsum(dim=1) - sorted_room
    filled = torch.minimum(sorted_room, (length - spent).clamp_min(0))
    return (uphill * torch.zeros_like(room).scatter(1, order, filled)).view_as(gradient)
