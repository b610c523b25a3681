import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from margincons.certificates import relu_graph
from margincons.certificates.boxes import Ball
from margincons.certificates.branching import surviving_boxes
from margincons.certificates.crown import crown_boxes, lower_bound

NORMS = ("Linf", "L2", "L1")


def setting(network, radius, norm, shape=(1, 2, 2)):
    ball = Ball(torch.rand(1, *shape, dtype=torch.float64), torch.tensor([radius], dtype=torch.float64), norm)
    return relu_graph(network, ball.centre.float()), ball


def shift(graph, logit, by):
    bias = torch.zeros(graph.size(-1), dtype=torch.float64)
    bias[logit] = by
    graph.nodes[-1].layer.bias.add_(bias)


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    norm=st.sampled_from(NORMS),
    share=st.floats(0.01, 0.5),
    most=st.sampled_from([1, 8, 512]),
)
def test_what_survives_holds_every_image_whose_form_is_not_positive(residual, points_of, seed, norm, share, most):
    graph, ball = setting(residual(seed), 0.5, norm)
    form = torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64)
    images = points_of(ball, 1000)[:, 0]
    shift(graph, 0, -(graph(images) @ form).quantile(share))
    values = graph.values(images)
    left = values[-1] @ form <= 0
    boxes = surviving_boxes(graph, ball, form, most=most, deadline=time.monotonic() + 60)
    for index in graph.relu_inputs:
        assert (boxes[index].lower - 1e-9 <= values[index][left]).all()
        assert (values[index][left] <= boxes[index].upper + 1e-9).all()


def test_branching_proves_what_one_relaxation_cannot(residual, points_of):
    """Half-way between what one relaxation proves of a form's least value and the least that was seen."""
    graph, ball = setting(residual(0), 0.5, "Linf")
    form = torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64)
    boxes = crown_boxes(graph, ball)
    relaxed = lower_bound(graph, ball, boxes, len(graph.nodes) - 1, form.view(1, 1, -1)).item()
    least = (graph(points_of(ball, 5000)[:, 0]) @ form).min().item()
    assert relaxed < least - 0.1
    shift(graph, 0, -(relaxed + least) / 2)
    options = {"deadline": time.monotonic() + 60}
    assert surviving_boxes(graph, ball, form, most=1, **options) is not None
    assert surviving_boxes(graph, ball, form, most=4096, **options) is None


@pytest.mark.parametrize(("constant", "survives"), [(-0.4001, True), (-0.3999, False)])
def test_a_form_survives_exactly_where_it_reaches_zero(constant, survives):
    """f = max(x, 0) + c on [0.4, 0.6]: its ReLU is on, so its least value is 0.4 + c."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 2)).eval()
    for parameter, values in zip(network.parameters(), ([[1]], [0], [[1], [0]], [constant, 0]), strict=True):
        parameter.data = torch.tensor(values, dtype=torch.float32)
    ball = Ball(torch.full((1, 1, 1, 1), 0.5).double(), torch.tensor([0.1]).double(), "Linf")
    graph, form = relu_graph(network, ball.centre.float()), torch.tensor([1.0, -1.0]).double()
    boxes = surviving_boxes(graph, ball, form, most=8, deadline=time.monotonic() + 60)
    assert (boxes is not None) == survives


def test_more_branches_leave_smaller_boxes(residual, points_of):
    graph, ball = setting(residual(0), 0.5, "Linf")
    form = torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64)
    shift(graph, 0, -(graph(points_of(ball, 2000)[:, 0]) @ form).min() - 0.01)
    widths = []
    for most in (1, 16, 4096):
        boxes = surviving_boxes(graph, ball, form, most=most, deadline=time.monotonic() + 60)
        widths.append(sum((boxes[index].upper - boxes[index].lower).sum().item() for index in graph.relu_inputs))
    assert widths[0] > widths[1] > widths[2]


def test_past_the_deadline_one_relaxation_is_all(residual):
    graph, ball = setting(residual(0), 0.5, "Linf")
    form = torch.tensor([0.0, 1.0, -1.0], dtype=torch.float64)
    shift(graph, 2, 5.0)
    boxes = surviving_boxes(graph, ball, form, most=10**6, deadline=0.0)
    whole = crown_boxes(graph, ball)
    assert all(torch.equal(boxes[index].lower, whole[index].lower) for index in graph.relu_inputs)
