import math

import pytest
import torch
from scipy.optimize import OptimizeResult
from torch import nn

from margincons.certificates import relu_graph
from margincons.certificates.boxes import Ball
from margincons.certificates.crown import crown_boxes
from margincons.certificates.least_distance import least_distance, settle
from margincons.certificates.program import Program
from margincons.threat import vector_norm

NORMS = ("Linf", "L2", "L1")
FORM = torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64)


def setting(network, radius, norm):
    ball = Ball(torch.rand(1, 1, 2, 2, dtype=torch.float64), torch.tensor([radius], dtype=torch.float64), norm)
    graph = relu_graph(network, ball.centre.float())
    bias = torch.zeros(3, dtype=torch.float64)
    bias[0] = 0.2 - graph(ball.centre)[0] @ FORM  # so that the form is 0.2 at the centre
    graph.nodes[-1].layer.bias.add_(bias)
    return graph, ball, {index: crown_boxes(graph, ball)[index] for index in graph.relu_inputs}


@pytest.mark.parametrize("norm", NORMS)
def test_bound_and_point_meet_and_no_sampled_image_is_nearer(residual, points_of, norm):
    graph, ball, boxes = setting(residual(1), 0.5, norm)
    outcome = least_distance(graph, ball, boxes, FORM, lower=0.0, deadline=math.inf)
    distance = vector_norm(outcome.point - ball.centre, norm).item()
    assert outcome.lower == pytest.approx(distance, abs=1e-6)
    assert (graph(outcome.point)[0] @ FORM).item() <= 1e-9
    nearer = points_of(Ball(ball.centre, torch.tensor([distance * 0.9999]).double(), norm), 5000)[:, 0]
    assert (graph(nearer) @ FORM > 0).all()


@pytest.mark.parametrize("norm", NORMS)
def test_an_empty_ball_is_proved_up_to_its_radius(residual, norm):
    graph, ball, boxes = setting(residual(1), 0.01, norm)
    outcome = least_distance(graph, ball, boxes, FORM, lower=0.0, deadline=math.inf)
    assert outcome.point is None
    assert outcome.lower == ball.radius.item()


def test_without_time_what_was_known_is_returned(residual):
    graph, ball, boxes = setting(residual(1), 0.5, "Linf")
    outcome = least_distance(graph, ball, boxes, FORM, lower=0.003, deadline=-math.inf)
    assert outcome.lower == 0.003
    assert outcome.point is None


def test_what_the_solver_gives_up_on_is_not_proved(residual, monkeypatch):
    graph, ball, boxes = setting(residual(1), 0.5, "Linf")
    monkeypatch.setattr(Program, "minimise", lambda program, expression: OptimizeResult(status=4, x=None))
    outcome = least_distance(graph, ball, boxes, FORM, lower=0.003, deadline=math.inf)
    assert outcome.lower == 0.003
    assert outcome.point is None


def test_a_hyperplane_in_l2_takes_one_program_to_project_and_one_to_prove(monkeypatch):
    """f = x1 + 2 x2 + 3 x3 + 4 x4 - 3 is 2 at the centre of the pixel box, 2 / sqrt(30) from its plane."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
    network[1].weight.data = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 0.0]])
    network[1].bias.data = torch.tensor([-3.0, 0.0])
    ball = Ball(torch.full((1, 1, 2, 2), 0.5).double(), torch.tensor([0.5]).double(), "L2")
    calls, minimise = [], Program.minimise
    monkeypatch.setattr(Program, "minimise", lambda *args: calls.append(1) or minimise(*args))
    graph = relu_graph(network, ball.centre.float())
    outcome = least_distance(graph, ball, {}, FORM[:2], lower=0.0, deadline=math.inf)
    assert outcome.lower == pytest.approx(2 / 30**0.5, abs=1e-6)
    assert len(calls) == 2


@pytest.mark.parametrize("pixels", [[0.5, 0.5, 0.5, 0.5], [1.0, 1.0, 0.0, 0.0]])
def test_a_point_a_hair_short_of_the_boundary_is_settled(residual, pixels):
    graph, ball, _ = setting(residual(1), 0.5, "Linf")
    point = torch.tensor(pixels, dtype=torch.float64).view(1, 1, 2, 2)
    graph.nodes[-1].layer.bias[0] += 1e-8 - graph(point)[0] @ FORM
    settled = settle(graph, ball.centre, point, FORM)
    assert (graph(settled)[0] @ FORM).item() <= 1e-9
    assert (settled - point).abs().max() <= 1e-6
