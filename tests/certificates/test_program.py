import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from margincons.certificates import relu_graph
from margincons.certificates.boxes import Ball
from margincons.certificates.crown import crown_boxes
from margincons.certificates.program import INFEASIBLE, Program, add_radius, encode, pad, tighten

NORMS = ("Linf", "L2", "L1")


def setting(network, radius, norm, shape=(1, 2, 2)):
    ball = Ball(torch.rand(1, *shape, dtype=torch.float64), torch.tensor([radius], dtype=torch.float64), norm)
    graph = relu_graph(network, ball.centre.float())
    return graph, ball, crown_boxes(graph, ball)


def test_a_linear_program_of_two_variables_has_its_corner():
    program = Program()
    x, y = pad(program.add_variables(np.zeros(1), np.ones(1)), 3), program.add_variables(np.zeros(1), np.ones(1))
    one = np.eye(1, 3)
    program.require(x + y - 1.5 * one, 2 * x - y - one)
    assert program.minimise((one - 3 * x - 2 * y)[0]).fun == pytest.approx(1 - 3 * 2.5 / 3 - 2 * 2 / 3)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_program_round_one_image_has_its_logits(residual, seed):
    graph, ball, _ = setting(residual(seed), 0.0, "Linf")
    encoding = encode(graph, ball, crown_boxes(graph, ball))
    add_radius(encoding, ball)
    for logit, value in zip(encoding.logits, graph(ball.centre)[0].tolist(), strict=True):
        assert encoding.program.minimise(logit).fun == pytest.approx(value, abs=1e-6)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), norm=st.sampled_from(NORMS))
def test_every_image_of_the_ball_is_a_solution_of_its_relaxation(residual, points_of, seed, norm):
    graph, ball, boxes = setting(residual(seed), 0.4, norm)
    encoding = encode(graph, ball, boxes)
    radius = add_radius(encoding, ball)
    program = encoding.program
    for image in points_of(ball, 20)[:, 0]:
        values = graph.values(image[None])
        solution = np.zeros(len(program.lower))
        solution[:4] = image.flatten()
        for index in graph.relu_inputs:
            unstable = boxes[index].unstable.flatten().numpy()
            place = encoding.relu_outputs[index][unstable].argmax(axis=1) - 1
            solution[place] = values[index].relu().flatten()[unstable]
        if norm == "L1":
            solution[-5:-1] = (image - ball.centre[0]).abs().flatten()
        solution[-1] = ball.radius.item()
        assert (solution >= np.array(program.lower) - 1e-9).all()
        assert (solution <= np.array(program.upper) + 1e-9).all()
        for block in program.rows:
            assert (block[:, 0] + block[:, 1:] @ solution[: block.shape[1] - 1] <= 1e-9).all()
        logits = encoding.logits[:, 0] + encoding.logits[:, 1:] @ solution[: encoding.logits.shape[1] - 1]
        assert logits == pytest.approx(values[-1][0].numpy(), abs=1e-9)
    assert radius.argmax() == len(solution)


@pytest.mark.parametrize("norm", NORMS)
def test_tightened_boxes_hold_every_image_whose_form_is_not_positive(residual, points_of, norm):
    graph, ball, boxes = setting(residual(0), 0.5, norm)
    values = graph.values(points_of(ball, 2000)[:, 0])
    form = torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64)
    form_values = values[-1] @ form
    graph_shift = form_values.quantile(0.3)  # as if the class were left by 30% of the images
    graph.nodes[-1].layer.bias.add_(-graph_shift * torch.tensor([1.0, 0.0, 0.0]))
    tight = tighten(graph, ball, boxes, form.numpy(), deadline=np.inf)
    left = form_values <= graph_shift
    for index in graph.relu_inputs:
        assert (tight[index].lower - 1e-9 <= values[index][left]).all()
        assert (values[index][left] <= tight[index].upper + 1e-9).all()
    last = graph.relu_inputs[-1]
    width = (boxes[last].upper - boxes[last].lower).sum()
    assert (tight[last].upper - tight[last].lower).sum() < 0.95 * width


def test_a_form_that_is_positive_on_the_ball_leaves_nothing_to_tighten(residual):
    graph, ball, boxes = setting(residual(0), 0.5, "Linf")
    graph.nodes[-1].layer.bias.add_(torch.tensor([1000.0, 0.0, 0.0]))
    assert tighten(graph, ball, boxes, np.array([1.0, -1.0, 0.0]), deadline=np.inf) is None


def test_no_box_moves_after_the_deadline(residual):
    graph, ball, boxes = setting(residual(0), 0.5, "Linf")
    tight = tighten(graph, ball, boxes, np.array([1.0, -1.0, 0.0]), deadline=-np.inf)
    assert all(torch.equal(tight[index].lower, boxes[index].lower) for index in graph.relu_inputs)


@pytest.mark.parametrize(("norm", "distance"), [("Linf", 0.3), ("L1", 0.4), ("L2", 0.3)])
def test_the_radius_is_the_distance_to_the_image(residual, norm, distance):
    """The image is moved by 0.3 and 0.1; an L2 distance without tangents counts only the larger."""
    graph, ball, _ = setting(residual(0), 2.0, norm)
    ball = Ball(torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64), ball.radius, norm)
    encoding = encode(graph, ball, crown_boxes(graph, ball))
    radius = add_radius(encoding, ball)
    for pixel, value in zip(encoding.pixels, (0.8, 0.4, 0.5, 0.5), strict=True):
        one = np.eye(1, len(pixel))[0]
        encoding.program.require((pixel - value * one)[None], (value * one - pixel)[None])
    assert encoding.program.minimise(radius).fun == pytest.approx(distance, abs=1e-7)


def test_a_tangent_in_the_right_direction_makes_the_l2_distance_exact(residual):
    graph, ball, _ = setting(residual(0), 2.0, "L2")
    moved = torch.tensor([0.3, 0.4, 0.0, 0.0], dtype=torch.float64)
    ball = Ball(torch.full((1, 1, 2, 2), 0.2, dtype=torch.float64), ball.radius, "L2")
    encoding = encode(graph, ball, crown_boxes(graph, ball))
    radius = add_radius(encoding, ball, (moved / moved.norm())[None].numpy())
    for pixel, step in zip(encoding.pixels, moved.tolist(), strict=True):
        encoding.program.require((0.2 + step) * np.eye(1, len(pixel)) - pixel)
    assert encoding.program.minimise(radius).fun == pytest.approx(0.5, abs=1e-7)


def test_a_ball_without_any_image_is_infeasible(residual):
    graph, ball, boxes = setting(residual(0), 0.1, "Linf")
    encoding = encode(graph, ball, boxes)
    encoding.program.require((ball.box.upper.flatten()[0].item() + 0.01) * np.eye(1, 5) - encoding.pixels[:1])
    assert encoding.program.minimise(encoding.logits[0]).status == INFEASIBLE
