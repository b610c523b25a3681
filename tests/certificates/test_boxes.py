import pytest
import torch
from torch.testing import assert_close

from margincons.certificates import relu_graph
from margincons.certificates.boxes import Ball, Interval, propagate, whole_box_radius
from margincons.threat import dual_norm, vector_norm

NORMS = ("Linf", "L2", "L1")


@pytest.fixture
def ball():
    def make(norm, shape=(1, 2, 2), n=4):
        centre = torch.rand(n, *shape, dtype=torch.float64)
        centre[0], centre[1] = 0.0, 1.0  # corners of the pixel box
        return Ball(centre, torch.linspace(0.05, 0.6, n, dtype=torch.float64), norm)

    return make


@pytest.mark.parametrize("norm", NORMS)
def test_no_point_of_the_ball_is_below_the_minimum_of_a_linear_form(ball, points_of, norm):
    domain = ball(norm)
    forms = torch.randn(4, 5, 1, 2, 2, dtype=torch.float64)
    values = torch.einsum("pnchw,nschw->pns", points_of(domain), forms)
    assert (values >= domain.minimum(forms) - 1e-12).all()


def test_the_linf_minimum_is_attained_at_a_corner(ball):
    domain = ball("Linf")
    forms = torch.randn(4, 5, 1, 2, 2, dtype=torch.float64)
    corners = torch.stack([domain.box.lower, domain.box.upper])  # (2, n, 1, 2, 2)
    choices = torch.cartesian_prod(*[torch.arange(2)] * 4)
    flat = corners.flatten(2)  # (2, n, 4)
    vertices = torch.stack([flat[choice, :, torch.arange(4)].T for choice in choices])  # (16, n, 4)
    attained = torch.einsum("pnd,nsd->pns", vertices, forms.flatten(2)).amin(dim=0)
    assert_close(domain.minimum(forms), attained)


@pytest.mark.parametrize(("norm", "form", "least"), [("L2", [1, 1, 1], 1 - 0.1 * 2**0.5), ("L1", [2, 1, 1], 0.9)])
def test_a_black_pixel_adds_nothing_to_the_minimum(norm, form, least):
    """At (0, 0.5, 0.5) only the last two pixels can fall: the ball's box would allow 0.8 in either norm."""
    centre = torch.tensor([0.0, 0.5, 0.5]).double().view(1, 1, 1, 3)
    domain = Ball(centre, torch.tensor([0.1]).double(), norm)
    assert domain.minimum(torch.tensor(form).double().view(1, 1, 1, 1, 3)).item() == pytest.approx(least)


@pytest.mark.parametrize("norm", NORMS)
def test_far_from_the_pixel_box_the_minimum_is_the_dual_norm(norm):
    domain = Ball(torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64), torch.tensor([0.1], dtype=torch.float64), norm)
    form = torch.randn(1, 1, 1, 2, 2, dtype=torch.float64)
    expected = 0.5 * form.sum() - 0.1 * vector_norm(form.flatten(1), dual_norm(norm))
    assert_close(domain.minimum(form)[0], expected)


@pytest.mark.parametrize("norm", NORMS)
def test_a_black_pixel_cannot_go_darker(norm):
    black = Ball(torch.zeros(1, 1, 2, 2, dtype=torch.float64), torch.tensor([0.3], dtype=torch.float64), norm)
    assert black.minimum(torch.ones(1, 1, 1, 2, 2, dtype=torch.float64)).item() == 0


@pytest.mark.parametrize("norm", NORMS)
def test_every_unit_stays_in_its_box(ball, residual, points_of, norm):
    domain = ball(norm)
    graph = relu_graph(residual(0), domain.centre.float())
    boxes = propagate(graph, domain)
    for part in points_of(domain, 100):
        for index, values in enumerate(graph.values(part)):
            assert (boxes[index].lower - 1e-12 <= values).all()
            assert (values <= boxes[index].upper + 1e-12).all()


def test_boxes_of_a_single_point_are_its_values(residual):
    images = torch.rand(3, 1, 2, 2, dtype=torch.float64)
    graph = relu_graph(residual(1), images.float())
    boxes = propagate(graph, Ball(images, torch.zeros(3, dtype=torch.float64), "Linf"))
    for index, values in enumerate(graph.values(images)):
        assert_close(boxes[index].lower, values)
        assert_close(boxes[index].upper, values)


@pytest.mark.parametrize("norm", NORMS)
def test_the_largest_ball_reaches_from_corner_to_corner(norm):
    corner = torch.zeros(1, 3, 2, 2)
    assert whole_box_radius(corner, norm) == pytest.approx(vector_norm(corner + 1, norm).item())


def test_intersections_hold_what_both_hold():
    both = Interval(torch.tensor([0.0, 2.0]), torch.tensor([3.0, 4.0])).intersect(
        Interval(torch.tensor([1.0, -1.0]), torch.tensor([5.0, 1.0]))
    )
    assert both.lower.tolist() == [1, 2]
    assert both.upper.tolist() == [3, 1]  # the second is empty
