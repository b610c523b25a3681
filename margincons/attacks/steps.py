"""What gradient attacks share: the gradient they climb and the step that climbs it fastest."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from margincons.attacks.result import rival_lead
from margincons.errors import UnknownNameError
from margincons.threat import check_labels, check_norm, per_item, vector_norm


def cross_entropy_sum(logits: Tensor, labels: Tensor) -> Tensor:
    """The textbook loss; in single precision its gradient is 0 where ``labels`` lead by about 103 logits or more."""
    return cross_entropy(logits, labels, reduction="sum")


def log_odds_sum(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-odds against ``labels``: the cross-entropy's direction without its factor 1 - p, so it never saturates."""
    rivals = logits.scatter(1, labels[:, None], -torch.inf).logsumexp(dim=1)
    return (rivals - logits.gather(1, labels[:, None])[:, 0]).sum()


def hinge_sum(logits: Tensor, labels: Tensor, kappa: float = 0.0) -> Tensor:
    """The lead of the best other class over ``labels``, capped at ``kappa`` logits: flat, with no gradient, beyond.

    An attack that climbs it stops one step past the boundary, or where the wrong class leads by ``kappa``.

    Source: Carlini and Wagner, 2017, arXiv:1608.04644, section VI-A. There a target's hinge is kept low beside a
    distance; here any other class will do, and the negative is climbed inside a ball.
    """
    return rival_lead(logits, labels).clamp(max=kappa).sum()


LOSSES = {"cross_entropy": cross_entropy_sum, "log_odds": log_odds_sum, "hinge": hinge_sum}
Loss = str | Callable[[Tensor, Tensor], Tensor]  # a name of `LOSSES`, or a function of logits and labels like those


def input_gradient(model: nn.Module, inputs: Tensor, labels: Tensor, *, loss: Loss = "cross_entropy") -> Tensor:
    """Gradient of a loss that rises as ``labels`` are left.

    The cross-entropy and the log-odds climb the same way. The former's gradient is that of the latter times the
    probability of error; where a label leads by about 103 logits or more, single precision makes that factor 0 (its
    smallest number is 2^-149), and an attack that sees a flat loss reports robustness. The hinge is flat where it has
    what it wants.

    Args:
        model: Maps images (n, c, h, w) to logits (n, k).
        inputs: Where to take the gradient, (n, c, h, w).
        labels: Classes to leave, (n,).
        loss: "cross_entropy", "log_odds", "hinge", or a function of logits (n, k) and labels (n,), summed over images.

    Returns:
        One gradient per image, (n, c, h, w); the network's parameters collect none.

    Raises:
        UnknownNameError: If no loss has that name.
        ShapeError: If there is not one label per image, as a whole number.
        LabelRangeError: If a label is no class of the network.
    """
    if isinstance(loss, str) and loss not in LOSSES:
        raise UnknownNameError("loss", loss, LOSSES)
    climbed = LOSSES[loss] if isinstance(loss, str) else loss
    with torch.enable_grad():
        inputs = inputs.detach().requires_grad_()
        logits = model(inputs)
        check_labels(labels, len(inputs), classes=logits.shape[1])
        return torch.autograd.grad(climbed(logits, labels), inputs)[0]


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
