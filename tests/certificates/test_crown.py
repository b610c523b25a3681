import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from margincons.certificates import relu_graph
from margincons.certificates.boxes import Ball, Interval, propagate
from margincons.certificates.crown import crown_boxes, lower_bound
from margincons.certificates.program import add_radius, encode

NORMS = ("Linf", "L2", "L1")


def one_ball(shape, radius, norm):
    return Ball(torch.rand(1, *shape, dtype=torch.float64), torch.tensor([radius], dtype=torch.float64), norm)


def logit_forms(graph):
    return torch.eye(graph.size(-1), dtype=torch.float64)[None]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), radius=st.floats(0, 1), norm=st.sampled_from(NORMS))
def test_no_image_of_the_ball_is_below_the_bound_or_outside_a_box(residual, points_of, seed, radius, norm):
    network = residual(seed)
    ball = one_ball((1, 2, 2), radius, norm)
    graph = relu_graph(network, ball.centre.float())
    boxes = crown_boxes(graph, ball)
    values = graph.values(points_of(ball)[:, 0])
    assert (lower_bound(graph, ball, boxes, len(graph.nodes) - 1, logit_forms(graph)) <= values[-1] + 1e-12).all()
    for index in graph.relu_inputs:
        assert (boxes[index].lower - 1e-12 <= values[index]).all()
        assert (values[index] <= boxes[index].upper + 1e-12).all()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), radius=st.floats(0, 1))
def test_crown_is_never_above_the_linear_program_that_it_relaxes(dense, seed, radius):
    network = dense(seed, 3, 5, 4, 3)
    ball = one_ball((1, 1, 3), radius, "Linf")
    graph = relu_graph(network, ball.centre.float())
    boxes = crown_boxes(graph, ball)
    bounds = lower_bound(graph, ball, boxes, len(graph.nodes) - 1, logit_forms(graph))[0]
    encoding = encode(graph, ball, boxes)
    add_radius(encoding, ball)
    for bound, logit in zip(bounds.tolist(), encoding.logits, strict=True):
        assert bound <= encoding.program.minimise(logit).fun + 1e-6


def test_on_one_hidden_layer_the_right_lower_lines_reach_the_linear_program(dense):
    """With at most one unstable ReLU for each logit's negative side, chord and line are all that an LP could use."""
    network = dense(0, 2, 1, 2)
    network[1].weight.data = torch.tensor([[1.0, 1.0]])
    network[1].bias.data = torch.tensor([-1.2])  # over the unit square the input runs from -1.2 to 0.8
    network[3].weight.data = torch.tensor([[1.0], [-1.0]])
    network[3].bias.data = torch.zeros(2)
    ball = Ball(torch.full((1, 1, 1, 2), 0.5).double(), torch.tensor([0.5]).double(), "Linf")
    graph = relu_graph(network, ball.centre.float())
    bounds = lower_bound(graph, ball, crown_boxes(graph, ball), len(graph.nodes) - 1, logit_forms(graph))
    assert_close(bounds[0], torch.tensor([0.0, -0.8]).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_boxes_are_never_wider_than_by_intervals_and_refining_narrows_them(residual, norm):
    ball = one_ball((1, 2, 2), 0.3, norm)
    graph = relu_graph(residual(3), ball.centre.float())
    plain, coarse, fine = propagate(graph, ball), crown_boxes(graph, ball, refine=0), crown_boxes(graph, ball)
    last = graph.relu_inputs[-1]
    for index in graph.relu_inputs:
        assert (fine[index].lower >= plain[index].lower - 1e-12).all()
        assert (fine[index].upper <= plain[index].upper + 1e-12).all()
        assert torch.equal(coarse[index].lower, plain[index].lower)
    assert (fine[last].upper - fine[last].lower).sum() < 0.99 * (plain[last].upper - plain[last].lower).sum()


def test_the_bound_of_a_single_point_is_its_value(residual):
    ball = one_ball((1, 2, 2), 0.0, "Linf")
    graph = relu_graph(residual(0), ball.centre.float())
    bounds = lower_bound(graph, ball, crown_boxes(graph, ball), len(graph.nodes) - 1, logit_forms(graph))
    assert_close(bounds, graph(ball.centre))


def test_a_batch_is_bounded_like_its_images_alone(residual):
    images, radius = torch.rand(5, 1, 2, 2, dtype=torch.float64), torch.linspace(0.05, 0.5, 5, dtype=torch.float64)
    graph = relu_graph(residual(2), images.float())
    together = crown_boxes(graph, Ball(images, radius, "L2"))
    for i in range(5):
        alone = crown_boxes(graph, Ball(images[i : i + 1], radius[i : i + 1], "L2"))
        for index in graph.relu_inputs:
            assert_close(together[index].lower[i], alone[index].lower[0])
            assert_close(together[index].upper[i], alone[index].upper[0])


def test_limits_hold_for_every_image_that_meets_them(residual, points_of):
    ball = one_ball((1, 2, 2), 0.5, "Linf")
    graph = relu_graph(residual(0), ball.centre.float())
    values = graph.values(points_of(ball, 3000)[:, 0])
    limits = {
        index: Interval(torch.full_like(values[index][:1], -torch.inf), torch.full_like(values[index][:1], torch.inf))
        for index in graph.relu_inputs
    }
    first, last = graph.relu_inputs
    limits[first].lower[0, 0, 0, 0] = 0.0
    limits[last].upper[0, 1, 1, 0] = 0.0
    boxes = crown_boxes(graph, ball, limits=limits)
    meets = (values[first][:, 0, 0, 0] >= 0) & (values[last][:, 1, 1, 0] <= 0)
    assert meets.sum() > 20
    for index in graph.relu_inputs:
        assert (boxes[index].lower - 1e-12 <= values[index][meets]).all()
        assert (values[index][meets] <= boxes[index].upper + 1e-12).all()
    bound = lower_bound(graph, ball, boxes, len(graph.nodes) - 1, logit_forms(graph))
    assert (bound <= values[-1][meets] + 1e-12).all()
