"""Limits in closed form: the equations they solve, SciPy's for shares, and coverage where the true area is known."""

import numpy as np
import pytest
from scipy import optimize, special, stats

from margincons.statistics.intervals import difference, estimate, paired_difference
from margincons.statistics.limits import auroc_influence, auroc_limits, square_and_add, wilson
from margincons.statistics.metrics import auroc
from margincons.statistics.simultaneous import compare_scores

IMAGES = 800


def two_normals(draw, areas, brittle, *, spread=1.0, alike=0.9):
    """Flags and correlated scores of known AUROC; the brittle ones' spread is a multiple of the others'."""
    flags = np.arange(IMAGES) < brittle
    noise = alike**0.5 * draw.normal(size=IMAGES) + (1 - alike) ** 0.5 * draw.normal(size=(len(areas), IMAGES))
    shifts = special.ndtri(np.array(areas))[:, None] * np.hypot(1, spread)
    return flags, noise * np.where(flags, spread, 1) + shifts * flags


def precision_of(area, brittle, *, spread):
    """The average precision that infinitely many such images would have."""
    share, shift = brittle / IMAGES, special.ndtri(area) * np.hypot(1, spread)
    recall = (np.arange(20_000) + 0.5) / 20_000
    flagged = stats.norm.sf(shift + spread * stats.norm.isf(recall))
    return float((share * recall / (share * recall + (1 - share) * flagged)).mean())


def held(draw, area, brittle, *, spread, trials, turned=False):
    """Shares of trials whose intervals of AUROC, and of average precision, hold the truth."""
    hits = np.zeros(2)
    precision = precision_of(area, brittle, spread=spread)
    for _ in range(trials):
        flags, (score,) = two_normals(draw, [area], brittle, spread=spread)
        found = estimate("auroc", ~flags, -score) if turned else estimate("auroc", flags, score)
        aupr = estimate("average_precision", flags, score, replicates=100)
        hits += found.low <= area <= found.high, aupr.low <= precision <= aupr.high
        assert min(found.high - found.low, aupr.high - aupr.low) > 0
    return hits / trials


def least(trials):
    """A share that intervals which hold 92% fall short of once in a thousand studies."""
    return stats.binom.ppf(0.001, trials, 0.92) / trials


@pytest.mark.parametrize(("area", "brittle", "turned"), [(0.99, 5, False), (0.998, 15, True), (0.97, 100, False)])
def test_intervals_of_areas_hold_the_truth_with_few_images_of_a_class_and_near_one(area, brittle, turned):
    shares = held(np.random.default_rng(brittle), area, brittle, spread=1.0, trials=120, turned=turned)
    assert shares.min() >= least(120), shares


@pytest.mark.slow
@pytest.mark.parametrize("spread", [1.0, 2.0])
@pytest.mark.parametrize("area", [0.7, 0.9, 0.97, 0.99, 0.998])
@pytest.mark.parametrize("brittle", [5, 10, 20, 50, 100, 200])
def test_intervals_of_areas_hold_the_truth_over_the_whole_range(area, brittle, spread):
    shares = held(np.random.default_rng(brittle), area, brittle, spread=spread, trials=300)
    assert shares.min() >= least(300), shares


def differences_held(draw, areas, brittle, *, spread, trials):
    """Shares of trials whose paired difference, and whose two gains at once, hold the truth."""
    hits, truth = np.zeros(2), areas[1] - areas[0]
    for _ in range(trials):
        flags, scores = two_normals(draw, [*areas, areas[1]], brittle, spread=spread)
        pair = paired_difference("auroc", flags, scores[1], scores[0])
        both = compare_scores("auroc", flags, dict(zip("abc", scores, strict=True)), reference="a")
        ends = [(both[name].gain.low, both[name].gain.high) for name in "bc"]
        hits += pair.low <= truth <= pair.high, all(low <= truth <= high for low, high in ends)
        assert pair.low < pair.high
    return hits / trials


@pytest.mark.parametrize(("areas", "brittle"), [((0.99, 0.95), 10), ((0.98, 0.998), 50)])
def test_differences_of_areas_hold_the_truth_alone_and_together(areas, brittle):
    shares = differences_held(np.random.default_rng(brittle), areas, brittle, spread=1.0, trials=100)
    assert shares.min() >= least(100), shares


@pytest.mark.slow
@pytest.mark.parametrize("spread", [1.0, 2.0])
@pytest.mark.parametrize("areas", [(0.9, 0.8), (0.99, 0.99), (0.99, 0.95), (0.998, 0.98)])
@pytest.mark.parametrize("brittle", [5, 10, 20, 50, 100, 200])
def test_differences_of_areas_hold_the_truth_over_the_whole_range(areas, brittle, spread):
    shares = differences_held(np.random.default_rng(brittle), areas, brittle, spread=spread, trials=200)
    assert shares.min() >= least(200), shares


@pytest.mark.parametrize(("brittle", "robust"), [(2, 798), (4, 96), (400, 400)])
def test_around_a_perfect_area_the_lower_limit_is_where_newcombes_equation_says(brittle, robust):
    flags = np.arange(brittle + robust) < brittle
    low, high = auroc_limits(flags, flags, level=0.9)
    half = (brittle + robust) / 2 - 1
    variance = low * (1 - low) * (1 + half * (1 - low) / (2 - low) + half * low / (1 + low)) / (brittle * robust)
    assert (1 - low) / variance**0.5 == pytest.approx(stats.norm.ppf(0.95))
    assert high == 1
    assert auroc_limits(flags, ~flags, level=0.9) == pytest.approx((0, 1 - low))
    assert auroc_limits(~flags, ~flags, level=0.9) == pytest.approx((low, 1))


def test_one_image_of_a_class_leaves_its_area_open_and_more_close_it():
    widths = [np.diff(auroc_limits(np.arange(90) < m, np.arange(90) < m))[0] for m in (1, 2, 5, 20, 45)]
    assert widths[0] == 1
    assert (np.diff(widths) < 0).all()


def test_delongs_limits_take_over_where_one_class_is_spread_more_widely():
    flags, (score,) = two_normals(np.random.default_rng(0), [0.9], 50, spread=4.0)
    found = estimate("auroc", flags, score)
    reach = stats.t.ppf(0.975, 49) * found.standard_error / (found.value * (1 - found.value))
    ends = special.expit(special.logit(found.value) + np.array([-reach, reach]))
    assert (found.low, found.high) == pytest.approx(tuple(ends))


def test_influences_give_the_covariance_of_two_areas_whose_classes_differ():
    draw, found, products = np.random.default_rng(1), [], []
    for _ in range(600):
        score = draw.normal(size=IMAGES)
        margin = score + draw.normal(size=IMAGES)
        pairs = [(margin < -0.5, -score), (margin < 1.0, -score - 0.5 * draw.normal(size=IMAGES))]
        found.append([auroc(*pair) for pair in pairs])
        one, other = (auroc_influence(*pair) for pair in pairs)
        products.append([one @ one, one @ other])
    covariance = np.cov(np.array(found).T)
    assert np.mean(products, axis=0) == pytest.approx(covariance[0], rel=0.2)


def test_square_and_add_gives_the_root_of_squares_and_the_plain_difference_of_reaches():
    low, high = square_and_add((0.9, 0.86, 0.93), (0.5, 0.46, 0.57), 0.0)
    assert (low, high) == pytest.approx((0.4 - np.hypot(0.04, 0.07), 0.4 + np.hypot(0.03, 0.04)))
    low, high = square_and_add((0.9, 0.86, 0.93), (0.5, 0.46, 0.57), 1.0)
    assert (low, high) == pytest.approx((0.4 - 0.03, 0.4 + 0.01))


def test_a_twin_has_a_width_and_two_networks_are_compared_as_two_scores_are():
    flags, scores = two_normals(np.random.default_rng(3), [0.95, 0.9], 60)
    twin = paired_difference("auroc", flags, scores[0], 2 * scores[0])
    assert twin.low < twin.value == 0 < twin.high
    pair = paired_difference("auroc", flags, *scores)
    assert difference("auroc", (flags, scores[0]), (flags, scores[1])) == pair
    aupr = paired_difference("average_precision", flags, *scores, replicates=50)
    parts = [estimate("average_precision", flags, one, replicates=50) for one in scores]
    reach = np.hypot(parts[0].value - parts[0].low, parts[1].high - parts[1].value)
    assert aupr.value - aupr.low == pytest.approx(reach)


def test_wilsons_limits_are_the_shares_that_lie_as_many_of_their_errors_away():
    low, high = wilson(0.9, 40, 0.95)
    for end, bracket in ((low, (1e-9, 0.9)), (high, (0.9, 1 - 1e-9))):
        solved = optimize.brentq(lambda p: (p - 0.9) ** 2 - stats.norm.ppf(0.975) ** 2 * p * (1 - p) / 40, *bracket)
        assert end == pytest.approx(solved)


def test_aupr_is_no_surer_than_a_share_of_its_positives():
    flags = np.arange(IMAGES) < 4
    found = estimate("average_precision", flags, flags.astype(float), replicates=50)
    assert (found.low, found.high) == pytest.approx(wilson(1.0, 4, 0.95))
    assert found.method == "bootstrap, 50 replicates, or Wilson score of the positives"
