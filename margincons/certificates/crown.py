"""CROWN: linear bounds of a network's outputs, carried backwards from the outputs to the images.

Source: Zhang et al., 2018, "Efficient neural network robustness certification with general activation functions",
arXiv:1811.00866. A linear form in some node's units is rewritten, layer by layer, as a form in the images that is
never larger. Affine layers are exact. A ReLU with input in [l, u], l < 0 < u, lies between the chord
u (z - l) / (u - l) and, by the adaptive rule, the line z where u > -l, else 0: a negative coefficient takes the chord,
a positive one the line below.
"""

import torch
from torch import Tensor

from margincons.certificates.boxes import Ball, Interval, propagate
from margincons.certificates.relu_graph import Add, Relu, ReluGraph

CHUNK = 2**19  # coefficients held at once for one node: 4 MiB, which stays in the processor's cache
REFINE = 4096  # unstable units of one node that are worth a backward pass each


def crown_boxes(
    graph: ReluGraph, ball: Ball, *, limits: dict[int, Interval] | None = None, refine: int = REFINE
) -> dict[int, Interval]:
    """Box every node, with the inputs of the ReLUs tightened by backward bounds.

    Args:
        graph: The network.
        ball: Where the images may be.
        limits: What is demanded of ReLU inputs besides; a box is empty where nothing in the ball meets it.
        refine: ReLU inputs with more unstable units than this, in any image, keep their interval boxes.
    """

    def tighten(index: int, box: Interval, boxes: dict[int, Interval]) -> Interval:
        if limits is not None:
            box = box.intersect(limits[index])
        unstable = box.unstable.flatten(1)  # the sign of the others is known already
        unstable &= unstable.sum(dim=1, keepdim=True) <= refine
        count = int(unstable.sum(dim=1).max())
        if count == 0 or (ball.norm == "Linf" and not _sees_a_relu(graph, index)):
            return box
        lower, upper = box.lower.flatten(1).clone(), box.upper.flatten(1).clone()
        size = max(map(graph.size, range(index + 1)))
        for units in unstable.byte().topk(count).indices.split(max(1, CHUNK // (2 * size * len(lower))), dim=1):
            rows = lower.new_zeros(*units.shape, lower.shape[1]).scatter(2, units.unsqueeze(2), 1.0)
            forms = torch.cat([rows, -rows], dim=1).unflatten(2, graph.nodes[index].shape)
            below, above = lower_bound(graph, ball, boxes, index, forms).chunk(2, dim=1)
            asked = unstable.gather(1, units)  # images with fewer than others have their list filled up
            low, high = lower.gather(1, units), upper.gather(1, units)
            lower.scatter_(1, units, torch.where(asked, torch.maximum(low, below), low))
            upper.scatter_(1, units, torch.where(asked, torch.minimum(high, -above), high))
        return Interval(lower.view_as(box.lower), upper.view_as(box.upper))

    return propagate(graph, ball, tighten)


def lower_bound(
    graph: ReluGraph,
    ball: Ball,
    boxes: dict[int, Interval],
    index: int,
    forms: Tensor,
    *,
    relax: bool = True,
    losses: dict[int, Tensor] | None = None,
) -> Tensor:
    """Bound linear forms in the units of one node from below, over the ball.

    Args:
        graph: The network.
        ball: Where the images may be.
        boxes: Bounds of the inputs of every ReLU before the node.
        index: The node.
        forms: Coefficients on its units, (n, s, *shape).
        relax: Carry the forms through ReLUs; without it they end at the boxes of the nearest ReLUs.
        losses: Filled, by ReLU input, with what each unit's chord may cost the bound, (n, s, *shape).

    Returns:
        One bound for each form, (n, s).
    """
    n, s = forms.shape[:2]
    pending = {index: forms.flatten(0, 1)}
    constant = forms.new_zeros(n, s)
    for place in range(index, 0, -1):
        if place not in pending:
            continue
        node, form = graph.nodes[place], pending.pop(place)
        if isinstance(node.layer, Relu) and not relax:
            constant += boxes[place].minimum(form.view(n, s, *node.shape))
            continue
        if isinstance(node.layer, Relu):
            box = boxes[node.inputs[0]]
            form, loss = _through_relu(form.view(n, s, *node.shape), box)
            constant -= loss.flatten(2).sum(dim=2)
            if losses is not None:
                losses[node.inputs[0]] = loss
            sent = [form.flatten(0, 1)]
        elif isinstance(node.layer, Add):
            sent = [form, form]
        else:
            constant += (form * node.layer.bias).flatten(1).sum(dim=1).view(n, s)
            sent = [node.layer.adjoint(form)]
        for source, part in zip(node.inputs, sent, strict=True):
            pending[source] = pending[source] + part if source in pending else part
    if 0 not in pending:
        return constant
    return constant + ball.minimum(pending[0].view(n, s, *graph.nodes[0].shape))


def _through_relu(form: Tensor, box: Interval) -> tuple[Tensor, Tensor]:
    lower, upper = box.lower.clamp(max=0).unsqueeze(1), box.upper.clamp(min=0).unsqueeze(1)
    chord = upper / (upper - lower).clamp_min(torch.finfo(form.dtype).tiny)
    line = (upper > -lower).to(form.dtype)
    above = form.clamp(max=0) * chord
    return form.clamp(min=0) * line + above, above * lower


def _sees_a_relu(graph: ReluGraph, index: int) -> bool:
    return any(isinstance(node.layer, Relu) for node in graph.nodes[:index])
