from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize
from torch import nn
from torch.testing import assert_close

from margincons.attacks.pgd import pgd
from margincons.certificates import exact_margins, lower_bounds
from margincons.data import load_images
from margincons.errors import PixelRangeError, UnknownNameError, UnsupportedLayerError
from margincons.threat import dual_norm, vector_norm
from margincons.zoo import load_model

NORMS = ("Linf", "L2", "L1")


def shortest(rows, ends, image, norm):
    """Least distance from an image to {x: rows @ x + ends <= 0}, infinite where that is empty."""
    size = len(image)
    if norm == "L2":
        inside = linprog(np.zeros(size), A_ub=rows, b_ub=-ends, bounds=(None, None))
        if inside.status == 2:
            return np.inf
        constraint = {"type": "ineq", "fun": lambda x: -(rows @ x + ends), "jac": lambda x: -rows}
        options = {"ftol": 1e-15, "maxiter": 1000}
        found = minimize(
            lambda x: ((x - image) ** 2).sum(),
            inside.x,
            jac=lambda x: 2 * (x - image),
            constraints=constraint,
            method="SLSQP",
            options=options,
        )
        return np.linalg.norm(found.x - image)
    slack = np.ones((size, 1)) if norm == "Linf" else np.eye(size)
    identity, lengths = np.eye(size), slack.shape[1]
    above = np.block([[identity, -slack], [-identity, -slack], [rows, np.zeros((len(rows), lengths))]])
    cost = np.r_[np.zeros(size), np.ones(lengths)]
    found = linprog(cost, A_ub=above, b_ub=np.r_[image, -image, -ends], bounds=(None, None))
    return np.inf if found.status == 2 else found.fun


def brute_force(network, image, norm):
    """The margin by solving every activation pattern of a fully connected network and every class."""
    layers = [
        [p.detach().double().numpy() for p in layer.parameters()] for layer in network if isinstance(layer, nn.Linear)
    ]
    point = image.flatten().double().numpy()
    size, label = len(point), int(network(image).argmax())
    best = np.inf
    for pattern in product((False, True), repeat=sum(len(bias) for _, bias in layers[:-1])):
        signs = iter(pattern)
        linear, constant, rows, ends = (
            np.eye(size),
            np.zeros(size),
            [-np.eye(size), np.eye(size)],
            [np.zeros(size), -np.ones(size)],
        )
        for weight, bias in layers[:-1]:
            linear, constant = weight @ linear, weight @ constant + bias
            on = np.array([next(signs) for _ in bias])
            rows.append(np.where(on, -1, 1)[:, None] * linear)
            ends.append(np.where(on, -1, 1) * constant)
            linear, constant = linear * on[:, None], constant * on
        linear, constant = layers[-1][0] @ linear, layers[-1][0] @ constant + layers[-1][1]
        if (
            linprog(np.zeros(size), A_ub=np.concatenate(rows), b_ub=-np.concatenate(ends), bounds=(None, None)).status
            == 2
        ):
            continue
        for target in set(range(len(constant))) - {label}:
            gap = (linear[label] - linear[target])[None], [constant[label] - constant[target]]
            best = min(best, shortest(np.concatenate([*rows, gap[0]]), np.concatenate([*ends, gap[1]]), point, norm))
    return best


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("widths", [(2, 6, 3), (3, 3, 3, 2)])
def test_margins_are_those_of_brute_force_over_all_activation_patterns(dense, norm, widths):
    for seed in range(3):
        network, image = dense(seed, *widths), torch.rand(1, 1, 1, widths[0])
        result = exact_margins(network, image, norm=norm)
        expected = brute_force(network, image, norm)
        assert result.status == (("infeasible",) if expected == np.inf else ("optimal",))
        for end in (result.lower, result.upper):
            assert end.item() == pytest.approx(expected, abs=3e-6)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    norm=st.sampled_from(NORMS),
    widths=st.sampled_from([(2, 8, 3), (3, 4, 4, 3), (2, 2, 2, 2, 2)]),
)
def test_margins_of_any_tiny_network_are_those_of_brute_force(dense, seed, norm, widths):
    network, image = dense(seed, *widths), torch.rand(1, 1, 1, widths[0])
    logits = network(torch.rand(64, 1, 1, widths[0]))
    assume(logits.std(dim=0).max() > 0.01)  # of a constant network, a general solver may call a gap of 1e-8 a tie
    expected = brute_force(network, image, norm)
    result = exact_margins(network, image, norm=norm)
    assert result.lower.item() == pytest.approx(expected, abs=3e-6)
    assert result.upper.item() == pytest.approx(expected, abs=3e-6)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), norm=st.sampled_from(NORMS), convolutional=st.booleans())
def test_intervals_crown_exact_and_attacks_stand_in_this_order(dense, residual, seed, norm, convolutional):
    network = residual(seed) if convolutional else dense(seed, 4, 8, 6, 3)
    images = torch.rand(2, 1, 2, 2) if convolutional else torch.rand(2, 1, 1, 4)
    labels = network(images).argmax(dim=1)
    interval, crown = (lower_bounds(network, images, norm=norm, method=method) for method in ("interval", "crown"))
    exact = exact_margins(network, images, norm=norm)
    assert "time_limit" not in exact.status
    assert (interval <= crown * (1 + 1e-3)).all()
    assert (crown <= exact.upper + 1e-6).all()
    assert (exact.lower <= exact.upper).all()
    assert (exact.upper - exact.lower).nan_to_num(0).max() <= 1e-6
    for factor in (1.0, 1.5):
        budget = (exact.upper * factor).nan_to_num(posinf=1.0)
        for i in range(2):
            attack = pgd(network, images[i : i + 1], labels[i : i + 1], norm=norm, epsilon=min(budget[i].item(), 1.0))
            assert (attack.upper >= exact.lower[i] * (1 - 1e-5) - 1e-6).all()


@pytest.mark.parametrize("norm", NORMS)
def test_a_linear_network_inside_the_box_has_its_closed_form(norm):
    network = nn.Sequential(nn.Flatten(), nn.Linear(9, 2)).eval()
    network[1].bias.data = -0.5 * network[1].weight.data.sum(dim=1)
    images = 0.4 + 0.2 * torch.rand(10, 1, 3, 3)
    weight, bias = (parameter.detach().double() for parameter in network[1].parameters())
    gap = images.double().flatten(1) @ (weight[0] - weight[1]) + bias[0] - bias[1]
    expected = gap.abs() / vector_norm(weight[:1] - weight[1:], dual_norm(norm))
    result = exact_margins(network, images, norm=norm)
    assert_close(result.upper, expected, rtol=0, atol=2e-6)
    assert_close(result.lower, expected, rtol=0, atol=2e-6)


def test_a_linear_network_in_a_corner_has_the_margin_of_the_pixels_that_can_move():
    """f = x1 + x2 - 0.5 at (0.9, 0): only x1 can fall, so the margin is 0.4 in every norm."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, 2)).eval()
    network[1].weight.data = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    network[1].bias.data = torch.tensor([-0.5, 0.0])
    for norm in NORMS:
        result = exact_margins(network, torch.tensor([0.9, 0.0]).view(1, 1, 1, 2), norm=norm)
        assert result.upper.item() == pytest.approx(0.4, abs=2e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_incumbents_are_on_the_boundary_and_witnesses_just_beyond_it(residual, norm):
    network, images = residual(1), torch.rand(6, 1, 2, 2)
    result = exact_margins(network, images, norm=norm)
    found = result.upper.isfinite()
    assert found.sum() >= 3
    assert result.lead[found].abs().max() < 1e-4
    assert_close(vector_norm(result.incumbent - images, norm).double()[found], result.upper[found], rtol=0, atol=1e-6)
    assert result.witness.success[found].all()
    assert (result.witness.upper[found] <= result.upper[found] * 1.01 + 1e-3).all()
    assert (result.witness.upper[found] >= result.lower[found] - 1e-6).all()
    assert not result.witness.success[~found].any()


@pytest.mark.parametrize("factor", [0.3, 0.999, 1.0, 1.001, 3.0])
def test_a_hint_changes_the_time_and_not_the_answer(residual, factor):
    network, images = residual(2), torch.rand(4, 1, 2, 2)
    plain = exact_margins(network, images)
    hinted = exact_margins(network, images, upper=factor * plain.upper)
    assert hinted.status == plain.status
    assert_close(hinted.upper, plain.upper, rtol=0, atol=1e-6)
    assert_close(hinted.lower, plain.lower, rtol=0, atol=1e-6)


def test_a_tie_has_margin_zero_without_a_witness_at_zero():
    """Three classes, two of them equal everywhere: argmax takes the first, nobody ever leads clearly."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval()
    nn.init.zeros_(network[1].weight)
    network[1].bias.data = torch.tensor([1.0, 1.0, 0.0])
    result = exact_margins(network, torch.rand(1, 1, 2, 2))
    assert result.lower.item() == result.upper.item() == 0
    assert result.status == ("optimal",)
    assert not result.witness.success.any()


def test_a_class_that_is_everywhere_is_infeasible_to_leave():
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval()
    network[1].bias.data = torch.tensor([9.0, 0.0, 0.0])
    images = torch.rand(2, 1, 2, 2)
    result = exact_margins(network, images)
    assert result.status == ("infeasible", "infeasible")
    assert (result.lower == torch.inf).all()
    assert (result.upper == torch.inf).all()
    assert torch.equal(result.incumbent, images)


def test_labels_that_are_not_predicted_are_at_distance_zero(residual):
    network, images = residual(1), torch.rand(3, 1, 2, 2)
    result = exact_margins(network, images, labels=network(images).argmin(dim=1))
    assert result.upper.tolist() == [0, 0, 0]
    assert torch.equal(result.incumbent, images)


def test_without_time_the_bracket_is_still_right(residual):
    network, images = residual(1), torch.rand(5, 1, 2, 2)
    solved, hurried = exact_margins(network, images), exact_margins(network, images, time_limit=0.0)
    assert "time_limit" in hurried.status
    assert (hurried.lower <= solved.upper + 1e-6).all()
    assert (hurried.upper >= solved.lower - 1e-6).all()
    assert (hurried.lower > 0).all()


def test_images_solved_side_by_side_have_the_same_margins(residual):
    network, images = residual(1), torch.rand(4, 1, 2, 2)
    alone, together = exact_margins(network, images), exact_margins(network, images, jobs=2)
    assert torch.equal(alone.upper, together.upper)
    assert alone.status == together.status


def test_margins_of_a_bundled_network_are_witnessed_and_no_attack_is_below():
    network, images = load_model("digits/mlp"), load_images("digits", split="test", n=16).inputs[10:]
    labels = network(images).argmax(dim=1)
    result = exact_margins(network, images)
    assert set(result.status) == {"optimal"}
    assert result.witness.success.all()
    assert (result.witness.upper <= result.upper + 1e-4).all()
    for i, upper in enumerate(result.upper.tolist()):
        attack = pgd(network, images[i : i + 1], labels[i : i + 1], norm="Linf", epsilon=0.999 * upper, loss="log_odds")
        assert not attack.success.any()


def test_bad_arguments_are_refused(residual):
    network, images = residual(0), torch.rand(2, 1, 2, 2)
    with pytest.raises(UnknownNameError, match="Unknown norm 'l2'"):
        exact_margins(network, images, norm="l2")
    with pytest.raises(PixelRangeError):
        exact_margins(network, 255 * images)
    with pytest.raises(UnsupportedLayerError, match=r"1 \(Tanh\)"):
        exact_margins(nn.Sequential(nn.Flatten(), nn.Tanh()), images)
