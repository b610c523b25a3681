"""Witnesses of incumbents: what lies on the boundary, pushed over it."""

import torch
from torch import Tensor, nn

from margincons.attacks.result import STRETCHES, AttackResult, rival_lead, step_outwards
from margincons.threat import per_item, project, vector_norm

STARTS = 16  # of a climb; at a kink the way up may leave into any of the regions that meet there
STEPS = 40  # of a climb, the k-th of radius / k: along a ridge, steps of equal length only cross it


def push_over(
    model: nn.Module, inputs: Tensor, incumbent: Tensor, labels: Tensor, *, found: Tensor, norm: str
) -> AttackResult:
    """Make witnesses of incumbents: outwards, or else up the lead of the rival class, no further than needed.

    Args:
        model: Maps images (n, c, h, w) to logits (n, k).
        inputs: Clean images (n, c, h, w) in [0, 1].
        incumbent: Where another class is about level, (n, c, h, w).
        labels: Classes to leave, (n,).
        found: Which incumbents there are, (n,); the others are left alone.
        norm: Norm in which the witnesses' distance is measured.
    """
    moved = step_outwards(model, inputs, incumbent, labels)
    witness = AttackResult.judge(model, inputs, moved, labels, norm=norm)
    for radius in STRETCHES:
        short = found & ~witness.success
        if not short.any():
            break
        moved[short] = _climb(model, incumbent[short], labels[short], radius)
        witness = AttackResult.judge(model, inputs, moved, labels, norm=norm)
    return witness


def _climb(model: nn.Module, points: Tensor, labels: Tensor, radius: float) -> Tensor:
    """Where within an L2 radius of each point the lead of the best rival is greatest, as far as gradients tell."""
    noise = torch.randn(STARTS, *points.shape[1:], generator=torch.Generator().manual_seed(0)).to(points)
    noise = noise / per_item(vector_norm(noise, "L2"), noise)
    noise[0] = 0  # one climb starts at the point itself
    centre, labels = points.repeat_interleave(STARTS, dim=0), labels.repeat_interleave(STARTS)
    moved = (centre + radius * noise.repeat(len(points), 1, 1, 1)).clamp(0, 1)
    radii = centre.new_full((len(centre),), radius)
    for k in range(1, STEPS + 1):
        with torch.enable_grad():
            watched = moved.clone().requires_grad_()
            (slope,) = torch.autograd.grad(rival_lead(model(watched), labels).sum(), watched)
        step = slope / per_item(vector_norm(slope, "L2").clamp_min(torch.finfo(slope.dtype).tiny), slope)
        moved = (centre + project(moved + radius / k * step - centre, radii, "L2")).clamp(0, 1)
    best = rival_lead(model(moved), labels).view(-1, STARTS).argmax(dim=1)
    return moved.unflatten(0, (-1, STARTS))[torch.arange(len(points)), best]
