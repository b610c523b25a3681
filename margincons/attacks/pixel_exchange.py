"""Single pixels, tried one by one: what a gradient cannot tell, where images are small enough for forward passes to.

A descent in the l_inf ball ends with nearly every pixel at one end of its range. Where it ends in a local minimum, most
often one or two pixels of a small image are at the wrong end, and their gradients, taken where they are, do not say so.

In the l_1 ball few pixels move, and far: which ones is what a gradient at the image tells least. Its corners are single
pixels that take the whole radius; a step towards the best of them is Frank and Wolfe's, whose choice of a corner is by
gradient, and here by trying. In the l_2 ball, too, a network may be misled by few pixels where its gradient names many.
"""

import torch
from torch import Tensor

from margincons.attacks.crossings import Crossings, gap
from margincons.attacks.descent import Pairs
from margincons.threat import per_item, vector_norm

FEW_PIXELS = 256  # beyond that a single pixel matters too little for a forward pass of its own
TOGETHER = (1, 2, 3, 5, 8)  # how many of the best exchanges are tried at once
SMALLEST_BATCH = 256
TINY = 1e-12  # against division by 0, where one pixel has it all
SHARES = (1.0, 0.5)  # of the radius, in l_2 and l_1, that one pixel takes; the others are scaled to keep the norm
ORDER = {"L2": 2, "L1": 1}
WORTHWHILE = 0.3  # of the radius: pixels that the box keeps from moving this far are left alone


def exchange_pixels(nearest: Crossings) -> None:
    """Try single pixels, keep what lowers the gap at the same radius, and follow the ray back to the boundary.

    Args:
        nearest: What a search has found; images whose radius is still infinite are left alone.
    """
    if nearest.norm == "Linf":
        _to_the_other_end(nearest)
        nearest.line_search()
        return
    for share in SHARES:
        _onto_one_pixel(nearest, share)
        nearest.line_search()


def _onto_one_pixel(nearest: Crossings, share: float) -> None:
    """Put a share of the radius, or what its range takes of it, onto one pixel; scale the others to the same norm."""
    order, inputs = ORDER[nearest.norm], nearest.inputs.flatten(1)
    finite = nearest.radius.isfinite()
    radius = torch.where(finite, nearest.radius, 0)[:, None]
    images, pixels = inputs.shape
    everyone = torch.arange(images, device=inputs.device)
    own = torch.eye(pixels, dtype=torch.bool, device=inputs.device)
    for direction, room in ((1, 1 - inputs), (-1, inputs)):
        delta = nearest.delta.flatten(1)
        taken = torch.minimum(room, share * radius)
        powers = delta.abs() ** order
        others = (powers.sum(dim=1, keepdim=True) - powers).clamp_min(TINY)
        scale = ((radius**order - taken**order).clamp_min(0) / others) ** (1 / order)
        tried = torch.where(own, direction * taken[:, :, None], scale[:, :, None] * delta[:, None, :])
        tried = tried.clamp(-inputs[:, None], 1 - inputs[:, None])
        gaps = _gaps(nearest, tried.flatten(0, 1), everyone.repeat_interleave(pixels)).view(images, pixels)
        lowest, pixel = gaps.min(dim=1)
        better = finite & (lowest < nearest.gap)
        nearest.gap = torch.where(better, lowest, nearest.gap)
        found = tried[everyone, pixel].view_as(nearest.delta)
        nearest.delta = torch.where(per_item(better, found), found, nearest.delta)
    nearest.radius = torch.where(finite, vector_norm(nearest.delta, nearest.norm), nearest.radius)


def _to_the_other_end(nearest: Crossings) -> None:
    """Move each pixel to the other end of its range, alone; keep the best few together where the gap falls."""
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
        nearest: What a search has found; what is found here goes in.
        pairs: Where a descent ended.
    """
    each = Crossings.none_yet(nearest.model, nearest.inputs[pairs.image], nearest.labels[pairs.image], nearest.norm)
    everyone = torch.arange(len(pairs.image), device=pairs.image.device)
    each.delta = pairs.delta.clone()
    each.update(everyone, pairs.radius, pairs.delta, nearest.model(each.points()), pairs.rate)
    each.stretch_misses()
    each.line_search()
    exchange_pixels(each)
    nearest.update(pairs.image, each.radius, each.delta, nearest.model(each.points()), each.rate)


def _gaps(nearest: Crossings, delta: Tensor, image: Tensor) -> Tensor:
    """Gap of each of the perturbations (m, pixels) of the images (m,)."""
    points = (nearest.inputs[image] + delta.view(-1, *nearest.inputs.shape[1:])).clamp(0, 1)
    parts = points.split(max(SMALLEST_BATCH, len(nearest.inputs)))  # as much memory as the search itself, no more
    return gap(torch.cat([nearest.model(part) for part in parts]), nearest.labels[image])
