"""Norms, dual norms and projections against numpy, Hoelder's equality and convex optimisation by scipy."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize
from torch.testing import assert_close

from margincons.data import load_images
from margincons.errors import LabelRangeError, PixelRangeError, ShapeError, UnknownNameError, UsageError
from margincons.threat import NORMS, ThreatModel, check_images, check_labels, dual_norm, per_item, project, vector_norm

ORDER = {"Linf": np.inf, "L2": 2, "L1": 1}
vectors = arrays(np.float64, (3, 5), elements=st.floats(-4, 4, width=16))
radii = arrays(np.float64, 3, elements=st.floats(0, 3, width=16))


@settings(deadline=None)
@given(vectors, st.sampled_from(NORMS))
def test_a_norm_is_numpys_over_all_axes_but_the_first(values, norm):
    batch = torch.from_numpy(values).view(3, 1, 5, 1)
    assert_close(vector_norm(batch, norm), torch.from_numpy(np.linalg.norm(values, ORDER[norm], axis=1)))


@settings(deadline=None)
@given(vectors, st.sampled_from(NORMS))
def test_the_dual_norm_is_the_most_that_a_unit_step_gains(values, norm):
    gradient = torch.from_numpy(values)
    steepest = {
        "Linf": gradient.sign(),
        "L2": gradient / vector_norm(gradient, "L2").clamp_min(1e-300)[:, None],
        "L1": gradient.sign() * torch.eye(5, dtype=torch.float64)[gradient.abs().argmax(dim=1)],
    }[norm]
    assert (vector_norm(steepest, norm) <= 1 + 1e-12).all()
    assert_close((steepest * gradient).sum(dim=1), vector_norm(gradient, dual_norm(norm)))


@settings(deadline=None)
@given(vectors, radii, st.sampled_from(NORMS))
def test_a_projection_lies_in_the_ball_and_obeys_the_variational_inequality(values, radius, norm):
    deltas, bound = torch.from_numpy(values), torch.from_numpy(radius)
    projected = project(deltas, bound, norm)
    assert (vector_norm(projected, norm) <= bound + 1e-9).all()
    # p is nearest to d where (d - p) . (q - p) <= 0 for all q of the ball; the worst q gives r ||d - p||_dual.
    residual = deltas - projected
    furthest = bound * vector_norm(residual, dual_norm(norm)) - (residual * projected).sum(dim=1)
    assert (furthest <= 1e-8).all()


@pytest.mark.parametrize("norm", NORMS)
def test_a_projection_is_the_nearest_point_that_a_solver_finds(norm):
    delta, radius = np.random.default_rng(0).normal(size=6), 0.8
    split = minimize(  # p - n with p, n >= 0 makes the three norms smooth
        lambda v: ((v[:6] - v[6:] - delta) ** 2).sum(),
        np.zeros(12),
        bounds=[(0, None if norm != "Linf" else radius)] * 12,
        constraints={
            "Linf": [],
            "L2": [{"type": "ineq", "fun": lambda v: radius**2 - ((v[:6] - v[6:]) ** 2).sum()}],
            "L1": [{"type": "ineq", "fun": lambda v: radius - v.sum()}],
        }[norm],
        method="SLSQP",
        options={"ftol": 1e-12},
    )
    expected = torch.from_numpy(split.x[:6] - split.x[6:])[None]
    projected = project(torch.from_numpy(delta)[None], torch.tensor([radius], dtype=torch.float64), norm)
    assert_close(projected, expected, atol=1e-4, rtol=0)


@settings(deadline=None)
@given(vectors, st.sampled_from(NORMS))
def test_a_projection_keeps_what_is_inside_and_each_item_has_its_own_radius(values, norm):
    deltas = torch.from_numpy(values).view(3, 1, 5, 1)
    radius = vector_norm(deltas, norm) * torch.tensor([1.001, torch.inf, 0])
    radius[1] = torch.inf
    projected = project(deltas, radius, norm)
    assert projected.shape == deltas.shape
    assert_close(projected[:2], deltas[:2])
    assert (projected[2] == 0).all()


def test_values_per_item_broadcast_against_a_batch():
    batch = torch.ones(2, 3, 4, 4)
    assert_close((per_item(torch.tensor([1.0, 2.0]), batch) * batch)[:, 2, 3, 3], torch.tensor([1.0, 2.0]))


@pytest.mark.parametrize(
    ("norm", "epsilon", "error", "text"),
    [
        ("linf", 0.1, UnknownNameError, "Unknown norm 'linf'; the nearest are: Linf"),
        (float("inf"), 0.1, UnknownNameError, "Unknown norm inf; the nearest are: Linf"),
        ("Linf", "8/255", UsageError, "a number >= 0, such as 0.1 or 8/255, got '8/255'."),
        ("Linf", -0.1, UsageError, "Expected epsilon to be a number >= 0, such as 0.1 or 8/255, got -0.1."),
        ("L2", float("inf"), UsageError, "number >= 0, such as 0.1 or 8/255, got inf."),
        ("L2", float("nan"), UsageError, "number >= 0, such as 0.1 or 8/255, got nan."),
        ("Linf", 8, UsageError, "got 8; did you mean 8/255?"),
    ],
)
def test_a_threat_that_cannot_be_meant_is_refused(norm, epsilon, error, text):
    with pytest.raises(error) as caught:
        ThreatModel(norm=norm, epsilon=epsilon)
    assert text in str(caught.value)


def test_every_function_refuses_an_unknown_norm():
    batch = torch.zeros(1, 2)
    for call in (dual_norm, lambda norm: vector_norm(batch, norm), lambda norm: project(batch, torch.ones(1), norm)):
        with pytest.raises(UnknownNameError, match="Unknown norm 'L0'"):
            call("L0")


@pytest.mark.parametrize(
    ("low", "high", "likely"),
    [
        (0, 255, "divide by 255"),
        (0, 16, "divide by 16"),
        (-2.1, 2.6, "they look mean-normalised"),
        (0, 1.0001, "clamp them"),
        (-1e-6, 1, "clamp them"),
        (0, 65535, "divide by 65535"),
        (0, 1e6, "rescale them"),
        (0, float("nan"), "NaN came in"),
    ],
)
def test_images_out_of_range_are_refused_with_the_likely_cause(low, high, likely):
    images = torch.full((1, 1, 1, 2), 0.5)
    images[0, 0, 0] = torch.tensor([low, high])
    with pytest.raises(PixelRangeError, match=r"Expected images in \[0, 1\], got") as caught:
        check_images(images)
    assert likely in str(caught.value)


@pytest.mark.parametrize(
    "images", [torch.zeros(3, 8, 8), torch.zeros(1, 1, 8, 8, dtype=torch.uint8), np.zeros((1, 1, 8, 8))]
)
def test_what_is_not_a_batch_of_images_is_refused(images):
    with pytest.raises(ShapeError, match="Expected images to be a floating-point tensor"):
        check_images(images)


@pytest.mark.parametrize(
    ("kind", "high", "factor"), [(torch.uint8, 255, 255), (torch.uint8, 16, 16), (torch.long, 9, 16)]
)
def test_whole_numbers_are_refused_with_the_likely_factor(kind, high, factor):
    with pytest.raises(ShapeError, match=rf"{kind}, up to {high}; convert to float and divide by {factor}\."):
        check_images(torch.full((1, 1, 2, 2), high, dtype=kind))


def test_the_ends_of_the_pixel_range_are_images_and_so_is_an_empty_batch():
    check_images(torch.tensor([0.0, 1.0]).view(1, 1, 1, 2))
    check_images(torch.zeros(0, 3, 8, 8))


def test_the_object_that_holds_the_images_is_told_from_them():
    with pytest.raises(ShapeError, match=r"got Images; pass its \.inputs\."):
        check_images(load_images("digits", n=2))


@pytest.mark.parametrize(
    ("labels", "got"),
    [
        (torch.tensor([0, 1]), "(2,) torch.int64"),
        (torch.tensor([[0], [1], [2]]), "(3, 1) torch.int64"),
        (torch.tensor([0.0, 1.0, 2.0]), "(3,) torch.float32"),
        (np.array([0, 1, 2]), "ndarray"),
    ],
)
def test_what_is_not_one_label_per_image_is_refused(labels, got):
    with pytest.raises(ShapeError) as caught:
        check_labels(labels, 3, what="indices")
    assert str(caught.value) == f"Expected indices to be one per image, (3,) torch.int64, got {got}."


@settings(deadline=None)
@given(st.lists(st.integers(-3, 6), max_size=5), st.integers(1, 5))
def test_labels_are_refused_exactly_where_one_is_no_class(values, classes):
    labels = torch.tensor(values, dtype=torch.int64)
    outside = any(value not in range(classes) for value in values)
    with pytest.raises(LabelRangeError) if outside else nullcontext():
        check_labels(labels, len(values), classes=classes)
