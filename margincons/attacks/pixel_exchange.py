"""Single pixels, tried one by one: what a gradient cannot tell, where images are small enough for forward passes to.

A descent in the l_inf ball ends with nearly every pixel at one end of its range. Where it ends in a local minimum, most
often one or two pixels of a small image are at the wrong end, and their gradients, taken where they are, do not say so.
"""

import torch
from torch import Tensor

from margincons.attacks.crossings import Crossings, gap
from margincons.attacks.descent import Pairs
from margincons.threat import per_item

FEW_PIXELS = 256  # beyond that a single pixel matters too little for a forward pass of its own
TOGETHER = (1, 2, 3, 5, 8)  # how many of the best exchanges are tried at once
SMALLEST_BATCH = 256
WORTHWHILE = 0.3  # of the radius: pixels that the box keeps from moving this far are left alone


def exchange_pixels(nearest: Crossings) -> None:
    """Move each pixel to the other end of its range, alone; keep the best few together where the gap falls.

    The radii stay as they are: a lower gap is what `Crossings.line_search` turns into a shorter distance.

    Args:
        nearest: l_inf crossings; those that are still infinite are left alone.
    """
    radius, delta, inputs = nearest.radius.clamp(max=1), nearest.delta.flatten(1), nearest.inputs.flatten(1)
    other_end = torch.where(delta >= 0, -radius[:, None], radius[:, None])
    other_end = (inputs + other_end).clamp(0, 1) - inputs
    movable = ((other_end - delta).abs() > WORTHWHILE * radius[:, None]) & nearest.radius.isfinite()[:, None]
    image, pixel = movable.nonzero(as_tuple=True)
    if len(image) == 0:
        return
    tried = delta[image].scatter(1, pixel[:, None], other_end[image, pixel][:, None])
    gaps = torch.full_like(delta, torch.inf)
    gaps[image, pixel] = _gaps(nearest, tried, image)
    order = gaps.argsort(dim=1)[:, : max(TOGETHER)]
    ends = torch.where(gaps.gather(1, order) < nearest.gap[:, None], other_end.gather(1, order), delta.gather(1, order))
    everyone = torch.arange(len(delta), device=delta.device)
    for together in TOGETHER:
        tried = delta.scatter(1, order[:, :together], ends[:, :together])
        lower = _gaps(nearest, tried, everyone)
        better = (lower < nearest.gap) & nearest.radius.isfinite()
        nearest.gap = torch.where(better, lower, nearest.gap)
        nearest.delta = torch.where(per_item(better, nearest.delta), tried.view_as(nearest.delta), nearest.delta)


def exchange_for_each_rival(nearest: Crossings, pairs: Pairs) -> None:
    """Exchange pixels on the way to every rival that was kept: another than the nearest may come to lie nearer.

    Args:
        nearest: l_inf crossings; what is found goes in here.
        pairs: Where a descent ended.
    """
    each = Crossings.none_yet(nearest.model, nearest.inputs[pairs.image], nearest.labels[pairs.image], nearest.norm)
    everyone = torch.arange(len(pairs.image), device=pairs.image.device)
    each.delta = pairs.delta.clone()
    each.update(everyone, pairs.radius, pairs.delta, nearest.model(each.points()), pairs.rate)
    each.stretch_misses()
    each.line_search()
    exchange_pixels(each)
    each.line_search()
    nearest.update(pairs.image, each.radius, each.delta, nearest.model(each.points()), each.rate)


def _gaps(nearest: Crossings, delta: Tensor, image: Tensor) -> Tensor:
    """Gap of each of the perturbations (m, pixels) of the images (m,)."""
    points = (nearest.inputs[image] + delta.view(-1, *nearest.inputs.shape[1:])).clamp(0, 1)
    parts = points.split(max(SMALLEST_BATCH, len(nearest.inputs)))  # as much memory as the search itself, no more
    return gap(torch.cat([nearest.model(part) for part in parts]), nearest.labels[image])
