"""A near adversarial image by hopping between linear regions: where the exact search starts."""

import torch
from torch import Tensor

from margincons.certificates.boxes import Ball, whole_box_radius
from margincons.certificates.projection import nearest_in_region
from margincons.certificates.relu_graph import ReluGraph
from margincons.threat import vector_norm

LENGTHS = torch.logspace(-3, 0, 31, dtype=torch.float64)  # of the straight first steps, in pixel boxes
FOLLOWED = 3  # first steps that are followed up
HAIR = 1e-6  # by which a hop goes on beyond the end of a region


def nearby_adversarial(graph: ReluGraph, image: Tensor, label: int, *, norm: str) -> Tensor | None:
    """Find an adversarial image that is near, though not for certain the nearest.

    From the image straight down the gap to each class until the class is left; from there to the nearest point of that
    linear region, a hair beyond into the next one, and on for as long as it comes nearer.

    Args:
        graph: The network.
        image: One image, (1, c, h, w), double.
        label: Class to leave.
        norm: "Linf", "L2" or "L1".

    Returns:
        An image (1, c, h, w) with another class ahead or level; None where no straight step left the class.
    """
    crossings = []
    for target, form in enumerate(graph.gap_forms(torch.tensor([label]))[0]):
        if target == label:
            continue
        with torch.enable_grad():
            watched = image.clone().requires_grad_()
            (slope,) = torch.autograd.grad(graph(watched)[0] @ form, watched)
        direction = slope.sign() if norm == "Linf" else slope / slope.norm().clamp_min(torch.finfo(slope.dtype).tiny)
        path = (image - whole_box_radius(image, norm) * LENGTHS.view(-1, 1, 1, 1) * direction).clamp(0, 1)
        crossed = (graph(path) @ form <= 0).nonzero()[:, 0]
        if len(crossed):
            point = path[crossed[:1]]
            crossings.append((vector_norm(point - image, norm).item(), point, form))
    crossings.sort(key=lambda crossing: crossing[0])
    ends = [_hop(graph, image, point, form, norm) for _, point, form in crossings[:FOLLOWED]]
    return min(ends, key=lambda end: vector_norm(end - image, norm).item(), default=None)


def _hop(graph: ReluGraph, image: Tensor, point: Tensor, form: Tensor, norm: str) -> Tensor:
    while True:
        length = vector_norm(point - image, norm)
        beyond = image + (1 + HAIR) * (point - image)
        nearer = nearest_in_region(graph, Ball(image, 2 * length, norm), form, beyond.clamp(0, 1))
        if vector_norm(nearer - image, norm) > (1 - HAIR) * length or (graph(nearer)[0] @ form) > HAIR:
            return point
        point = nearer
