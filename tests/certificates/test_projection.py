import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize

from margincons.certificates import relu_graph
from margincons.certificates.boxes import Ball
from margincons.certificates.nearby import nearby_adversarial
from margincons.certificates.projection import nearest_in_region
from margincons.threat import vector_norm

NORMS = ("Linf", "L2", "L1")


def region(network, point):
    """Rows G, h of the point's region, gap and pixel box, G x + h <= 0, by automatic differentiation."""
    first, second = network[1], network[3]
    weight, bias = (parameter.detach().double().numpy() for parameter in first.parameters())
    on = weight @ point + bias > 0
    head, shift = (parameter.detach().double().numpy() for parameter in second.parameters())
    masked = (head[0] - head[1]) * on
    rows = np.concatenate([np.where(on, -1, 1)[:, None] * weight, (masked @ weight)[None], -np.eye(3), np.eye(3)])
    ends = np.concatenate([np.where(on, -1, 1) * bias, [masked @ bias + shift[0] - shift[1]], np.zeros(3), -np.ones(3)])
    return rows, ends


def shortest(rows, ends, image, norm):
    if norm == "L2":
        constraint = {"type": "ineq", "fun": lambda x: -(rows @ x + ends), "jac": lambda x: -rows}
        start = linprog(np.zeros(3), A_ub=rows, b_ub=-ends, bounds=(None, None)).x
        found = minimize(
            lambda x: ((x - image) ** 2).sum(),
            start,
            jac=lambda x: 2 * (x - image),
            constraints=constraint,
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        return np.linalg.norm(found.x - image)
    identity, slack = np.eye(3), np.ones((3, 1)) if norm == "Linf" else np.eye(3)
    lengths = slack.shape[1]
    above = np.block([[identity, -slack], [-identity, -slack], [rows, np.zeros((len(rows), lengths))]])
    cost = np.r_[np.zeros(3), np.ones(lengths)]
    return linprog(cost, A_ub=above, b_ub=np.r_[image, -image, -ends], bounds=(None, None)).fun


@pytest.mark.parametrize("norm", NORMS)
def test_the_nearest_point_of_a_region_is_as_near_as_a_general_solver_says(dense, norm):
    solved = 0
    for seed in range(20):
        network = dense(seed, 3, 5, 2)
        image, point = torch.rand(2, 1, 1, 1, 3, dtype=torch.float64)
        graph = relu_graph(network, image.float())
        form = torch.tensor([1.0, -1.0], dtype=torch.float64)
        if graph(point)[0] @ form > 0:  # the region may have no solution
            continue
        ball = Ball(image, 2 * vector_norm(point - image, norm), norm)
        nearest = nearest_in_region(graph, ball, form, point)
        expected = shortest(*region(network, point.flatten().numpy()), image.flatten().numpy(), norm)
        assert vector_norm(nearest - image, norm).item() == pytest.approx(expected, abs=1e-6)
        rows, ends = region(network, point.flatten().numpy())
        assert (rows @ nearest.flatten().numpy() + ends <= 1e-6).all()
        solved += 1
    assert solved >= 4


@pytest.mark.parametrize("norm", NORMS)
def test_an_empty_region_gives_the_point_back(dense, norm):
    network = dense(0, 3, 5, 2)
    network[3].bias.data = torch.tensor([1000.0, 0.0])
    image, point = torch.rand(2, 1, 1, 1, 3, dtype=torch.float64)
    graph = relu_graph(network, image.float())
    ball = Ball(image, torch.ones(1, dtype=torch.float64) * 3, norm)
    assert torch.equal(nearest_in_region(graph, ball, torch.tensor([1.0, -1.0]).double(), point), point)


@pytest.mark.parametrize("norm", NORMS)
def test_hopping_ends_at_an_adversarial_image_nearer_than_a_straight_step(residual, norm):
    found = 0
    for seed in range(8):
        image = torch.rand(1, 1, 2, 2, dtype=torch.float64)
        graph = relu_graph(residual(seed), image.float())
        label = int(graph(image).argmax())
        near = nearby_adversarial(graph, image, label, norm=norm)
        if near is None:
            continue
        logits = graph(near)[0]
        assert (logits >= logits[label] - 1e-6).sum() >= 2
        assert near.min() >= 0
        assert near.max() <= 1
        found += 1
    assert found >= 4


def test_a_class_that_is_everywhere_has_no_adversarial_image_nearby(dense):
    network = dense(0, 3, 5, 2)
    network[3].bias.data = torch.tensor([1000.0, 0.0])
    image = torch.rand(1, 1, 1, 3, dtype=torch.float64)
    assert nearby_adversarial(relu_graph(network, image.float()), image, 0, norm="Linf") is None
