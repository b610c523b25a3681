"""Truth: power laws drawn by inversion, linear networks solved by a linear program, curves counted by hand."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import linprog, minimize
from scipy.stats import gamma, kstest
from torch import nn
from torch.testing import assert_close

from margincons.detection import clean_accuracy, robust_accuracy
from margincons.errors import DegenerateError, UsageError
from margincons.scores import first_order_margin
from margincons.studies.scaling import added_error, curve_gap, linearised_margins, tail_exponent


def record(upper, correct=None, **columns):
    correct = np.ones(len(upper), dtype=bool) if correct is None else np.asarray(correct)
    return pd.DataFrame({"label": np.where(correct, 0, 1), "predicted": 0, "upper": upper, **columns})


def linear(classes=3, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(6, classes)).double().eval()


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.5])
def test_the_exponent_of_a_power_law_is_covered_as_often_as_promised(exponent):
    """Beyond the k least the margins follow another law, which must not matter."""
    rng, covered, values = np.random.default_rng(0), 0, []
    for _ in range(400):
        uniform = rng.uniform(size=400)
        margins = np.where(uniform < 0.25, uniform ** (1 / exponent), 0.25 ** (1 / exponent) + uniform)
        found = tail_exponent(margins, k=60)
        covered += found.low <= exponent <= found.high
        values.append(found.value)
    assert abs(covered / 400 - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 400)
    assert np.median(values) == pytest.approx(exponent, rel=0.05)


def test_the_exponent_does_not_depend_on_the_unit_of_the_margins():
    margins = np.random.default_rng(1).uniform(size=50)
    assert tail_exponent(255 * margins, k=20).value == pytest.approx(tail_exponent(margins, k=20).value)


@pytest.mark.parametrize(("margins", "k"), [([0.1, 0.2, 0.3], 3), ([0.1, 0.2, 0.3], 1)])
def test_an_exponent_needs_a_margin_beyond_those_it_uses(margins, k):
    with pytest.raises(UsageError, match=r"Expected k of at least 2 and below the number of margins, 3; got \d"):
        tail_exponent(np.array(margins), k=k)


@pytest.mark.parametrize("margins", [[0.0, 0.1, 0.2, 0.3], [0.1, 0.1, 0.1, 0.2], [0.1, 0.2, np.inf, np.inf]])
def test_no_exponent_of_margins_that_are_zero_equal_or_infinite(margins):
    with pytest.raises(DegenerateError, match="the 2 least margins are 0, infinite, or all equal"):
        tail_exponent(np.array(margins), k=2)


def test_added_error_counts_images_that_are_right_and_near():
    table = record([0.1, 0.2, 0.3, 0.05], correct=[True, True, True, False])
    assert added_error(table, np.array([0.01, 0.1, 0.25, 1.0])).tolist() == [0, 0.25, 0.5, 0.75]


def test_added_error_is_clean_accuracy_less_robust_accuracy_at_margins_that_spent_epsilon_and_an_ulp():
    table = record(
        np.array([0.1, np.float32(0.1), 0.1 + 5e-7, 0.1 + 5e-6, 0.3]), correct=[True, True, True, True, False]
    )
    epsilons = np.array([0.05, 0.1, 0.2])
    lost = [clean_accuracy(table).value - robust_accuracy(table, epsilon=epsilon).value for epsilon in epsilons]
    assert added_error(table, epsilons) == pytest.approx(lost)
    assert added_error(table, epsilons)[1] == 3 / 5


def test_the_interval_of_an_exponent_is_that_of_2k_degrees_of_freedom():
    """The sum of k logarithms is gamma: its quantiles at the interval's ends are the level's."""
    margins = np.random.default_rng(6).uniform(size=9)
    found, k = tail_exponent(margins, k=2), 2
    total = k / found.value
    assert gamma(k, scale=1 / found.low).cdf(total) == pytest.approx(0.025)
    assert gamma(k, scale=1 / found.high).cdf(total) == pytest.approx(0.975)


@pytest.mark.parametrize("norm", ["Linf", "L1"])
def test_margins_of_a_linear_network_inside_the_box_are_those_of_a_linear_program(norm):
    network = linear()
    inputs = torch.rand(12, 1, 2, 3, dtype=torch.float64).mul(1.8).sub(0.4).clamp(0, 1)  # many pixels at 0 and 1
    weight, bias = network[1].weight.detach().numpy(), network[1].bias.detach().numpy()
    exact = []
    for image in inputs.flatten(1).numpy():
        own = (weight @ image + bias).argmax()
        best = np.inf
        for rival in set(range(3)) - {own}:
            w, b = weight[own] - weight[rival], bias[own] - bias[rival]
            # variables: up, down (6 each) and, in l_inf, the radius; the sum of moves in l_1
            side = np.hstack([np.eye(6), np.eye(6)])
            if norm == "Linf":
                cost = np.append(np.zeros(12), 1.0)
                rows = np.vstack([np.hstack([side, -np.ones((6, 1))]), np.hstack([w, -w, 0.0])])
            else:
                cost, rows = np.ones(12), np.vstack([np.zeros((6, 12)), np.hstack([w, -w])])
            limits = np.append(np.zeros(6), -(w @ image + b))
            bounds = (
                [(0, 1 - pixel) for pixel in image] + [(0, pixel) for pixel in image] + [(0, None)] * (norm == "Linf")
            )
            solved = linprog(cost, A_ub=rows, b_ub=limits, bounds=bounds)
            best = min(best, solved.fun if solved.status == 0 else np.inf)
        exact.append(best)
    assert np.isfinite(exact).any()
    assert_close(
        linearised_margins(network, inputs, norm=norm), torch.tensor(exact, dtype=torch.float64), rtol=1e-6, atol=1e-8
    )


def test_margins_of_a_linear_network_in_l2_are_those_of_a_quadratic_program():
    network = linear(classes=2, seed=1)
    inputs = torch.rand(8, 1, 2, 3, dtype=torch.float64).mul(1.4).sub(0.2).clamp(0, 1)
    found = linearised_margins(network, inputs, norm="L2")
    weight, bias = network[1].weight.detach().numpy(), network[1].bias.detach().numpy()
    w, b = weight[0] - weight[1], bias[0] - bias[1]
    for image, margin in zip(inputs.flatten(1).numpy(), found.tolist(), strict=True):
        if not np.isfinite(margin):
            continue
        solved = minimize(
            lambda x, image=image: ((x - image) ** 2).sum(), image, bounds=[(0, 1)] * 6, method="SLSQP",
            constraints={"type": "eq", "fun": lambda x: w @ x + b}, options={"ftol": 1e-14, "maxiter": 500},
        )  # fmt: skip
        assert margin == pytest.approx(np.sqrt(solved.fun), rel=1e-4)
    assert found.isfinite().sum() >= 4


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_away_from_the_walls_of_the_box_they_are_first_order_margins(norm):
    network, inputs = linear(), 0.5 + 0.01 * torch.rand(10, 1, 2, 3, dtype=torch.float64)
    network[1].bias.data = -network[1].weight.data.sum(dim=1) * 0.5  # boundaries meet at the middle of the box
    boxed = linearised_margins(network, inputs, norm=norm)
    assert_close(boxed, first_order_margin(network, inputs, norm=norm), rtol=1e-5, atol=1e-8)


def test_the_gap_of_two_curves_is_kolmogorovs_distance_when_every_image_is_right():
    rng = np.random.default_rng(2)
    upper, guess = rng.uniform(size=60), rng.uniform(size=60) ** 2
    found = curve_gap(record(upper, guess=guess), predicted="guess")
    assert found.largest.value == pytest.approx(kstest(guess, upper).statistic)


def test_both_intervals_hold_the_truth_as_often_as_promised_and_the_estimate_always():
    """If u is uniform, u**2 is at most r with probability sqrt(r): the curves differ by sqrt(r) - r, 1/4 at most."""
    tolerance, rng, held = 0.1, np.random.default_rng(3), []
    reach = ((1 - np.sqrt(1 - 4 * tolerance)) / 2) ** 2
    for seed in range(150):
        upper = rng.uniform(size=150)
        found = curve_gap(record(upper, guess=upper**2), predicted="guess", tolerance=tolerance, seed=seed)
        held.append((found.largest.low <= 0.25 <= found.largest.high, found.reach.low <= reach <= found.reach.high))
        assert all(one.low <= one.value <= one.high for one in (found.largest, found.reach))
        assert found.largest.high - found.largest.low < 0.25
    assert (np.mean(held, axis=0) > 0.95 - 2 * np.sqrt(0.95 * 0.05 / 150)).all()


def test_the_band_of_a_reach_leaves_half_of_the_error_to_either_end():
    rng = np.random.default_rng(7)
    upper = rng.uniform(size=80)
    guess, radii = upper**2, np.sort(np.concatenate([upper, upper**2]))
    draws = np.random.default_rng(0)
    rows = [draws.integers(80, size=80) for _ in range(200)]
    seen, *drawn = (
        np.array([(guess[r] <= radius).mean() - (upper[r] <= radius).mean() for radius in radii])
        for r in (np.arange(80), *rows)
    )
    strayed = np.sort([np.abs(one - seen).max() for one in drawn])
    ends = {}
    for chance in (0.975, 0.95):
        band = strayed[round(200 * chance) - 1]
        beyond = [np.abs(seen) - band > tolerance + 1e-12 for tolerance in np.arange(0.01, 0.2, 0.01)]
        ends[chance] = [radii[one.argmax()] if one.any() else np.inf for one in beyond]
    table = record(upper, guess=guess)
    found = [curve_gap(table, predicted="guess", tolerance=t).reach.high for t in np.arange(0.01, 0.2, 0.01)]
    assert found == ends[0.975] != ends[0.95]


def test_where_both_curves_are_one_and_only_the_images_differ_no_difference_is_found():
    rng, nothing, nowhere = np.random.default_rng(4), [], []
    for seed in range(100):
        table = record(rng.uniform(size=100), guess=rng.uniform(size=100))
        found = curve_gap(table, predicted="guess", seed=seed)
        nothing.append(found.largest.low == 0)
        nowhere.append(found.reach.high == np.inf)
    assert np.mean(nothing) > 0.88
    assert np.mean(nowhere) > 0.88


def test_more_images_narrow_both_intervals():
    rng = np.random.default_rng(5)
    few, many = (rng.uniform(size=n) for n in (100, 5000))
    narrow, wide = (curve_gap(record(u, guess=u**2), predicted="guess", tolerance=0.1) for u in (many, few))
    assert narrow.largest.high - narrow.largest.low < (wide.largest.high - wide.largest.low) / 3
    assert narrow.reach.high - narrow.reach.low < (wide.reach.high - wide.reach.low) / 3


def test_a_prediction_reaches_to_where_it_first_leaves_the_tolerance():
    upper = np.arange(1, 101) / 100
    guess = np.where(upper > 0.5, upper / 2, upper)  # right up to a half, and there all at once half too near
    found = curve_gap(record(upper, guess=guess), predicted="guess", tolerance=0.02)
    assert found.reach.value == pytest.approx(0.265)  # three images of a hundred too many
    assert curve_gap(record(upper, guess=upper), predicted="guess").reach.value == np.inf
    assert curve_gap(record(upper, guess=upper), predicted="guess").largest.value == 0


def test_images_that_are_wrong_anyway_move_no_curve():
    upper, guess = np.array([0.1, 0.2, 0.3]), np.array([0.1, 0.2, 9.0])
    found = curve_gap(record(upper, correct=[True, True, False], guess=guess), predicted="guess")
    assert found.largest.value == 0
    with pytest.raises(DegenerateError, match="no image is classified correctly"):
        curve_gap(record(upper, correct=[False] * 3, guess=guess), predicted="guess")
