"""Point values against brute force over pairs and thresholds, scipy and scikit-learn; what is refused, and how."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sklearn_metrics

from margincons.errors import DegenerateError, ShapeError, UsageError
from margincons.statistics import metrics

TWO_CLASS = (
    metrics.auroc,
    metrics.average_precision,
    metrics.aupr_trapezoid,
    metrics.fpr_at_tpr,
    metrics.threshold_at_tpr,
    metrics.augrc,
)
INF = math.inf


@st.composite
def flagged_scores(draw):
    """A few rows of both classes, whose scores often tie."""
    rows = draw(st.lists(st.tuples(st.booleans(), st.integers(-4, 4)), min_size=2, max_size=25))
    positive, score = (np.array(column) for column in zip(*rows, strict=True))
    assume(0 < positive.sum() < len(positive))
    return positive, score.astype(float)


@st.composite
def two_columns(draw):
    """A few rows of two columns with many ties and infinities, neither constant."""
    values = st.sampled_from([-INF, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, INF])
    rows = draw(st.lists(st.tuples(values, values), min_size=2, max_size=25))
    x, y = (np.array(column) for column in zip(*rows, strict=True))
    assume(len(set(x)) > 1 and len(set(y)) > 1)
    return x, y


def tau_b_over_all_pairs(x, y):
    rows = itertools.combinations(zip(x.tolist(), y.tolist(), strict=True), 2)
    signs = [((a > b) - (a < b), (c > d) - (c < d)) for (a, c), (b, d) in rows]
    apart = [sum(sign[column] != 0 for sign in signs) for column in (0, 1)]
    return sum(a * b for a, b in signs) / math.sqrt(apart[0] * apart[1])


def augrc_over_all_thresholds(positive, score):
    """Trapezoids between the points (coverage, accepted failures) of all sets that a threshold accepts."""
    points = [(0.0, 0.0)]
    for threshold in np.unique(score):
        accepted = score <= threshold
        points.append((accepted.mean(), (accepted & positive).mean()))
    return sum((c - a) * (b + d) / 2 for (a, b), (c, d) in itertools.pairwise(points))


@settings(max_examples=60, deadline=None)
@given(two_columns())
def test_kendall_tau_is_tau_b_over_all_pairs_with_infinities_tied(columns):
    assert metrics.kendall_tau(*columns) == pytest.approx(tau_b_over_all_pairs(*columns), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(two_columns())
def test_spearman_is_the_pearson_correlation_of_scipys_midranks(columns):
    ranks = [stats.rankdata(column) for column in columns]
    assert metrics.spearman(*columns) == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(flagged_scores())
def test_auroc_is_the_share_of_pairs_in_order_with_ties_one_half(rows):
    positive, score = rows
    pairs = [(a > b) + (a == b) / 2 for a in score[positive] for b in score[~positive]]
    assert metrics.auroc(positive, score) == pytest.approx(np.mean(pairs), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(flagged_scores())
def test_areas_under_precision_and_recall_agree_with_scikit_learn(rows):
    positive, score = rows
    precision, recall, _ = sklearn_metrics.precision_recall_curve(positive, score)
    trapezoid = sklearn_metrics.auc(recall, precision)
    assert metrics.aupr_trapezoid(positive, score) == pytest.approx(trapezoid, abs=1e-12)
    averaged = sklearn_metrics.average_precision_score(positive, score)
    assert metrics.average_precision(positive, score) == pytest.approx(averaged, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(flagged_scores(), st.sampled_from([0.05, 0.5, 0.75, 0.8, 0.95, 1.0]))
def test_fpr_at_tpr_is_the_least_over_all_thresholds(rows, tpr):
    positive, score = rows
    flagged = [score >= threshold for threshold in score]
    found = [
        (flags[~positive].mean(), -t) for flags, t in zip(flagged, score, strict=True) if flags[positive].mean() >= tpr
    ]
    least, threshold = min(found)
    assert metrics.fpr_at_tpr(positive, score, tpr) == least
    assert metrics.threshold_at_tpr(positive, score, tpr) == -threshold
    fpr, sklearn_tpr, _ = sklearn_metrics.roc_curve(positive, score, drop_intermediate=False)
    assert metrics.fpr_at_tpr(positive, score, tpr) == fpr[sklearn_tpr >= tpr].min()


def test_fpr_at_95_tpr_stops_at_the_nineteenth_of_twenty_positives():
    positive = np.array([True] * 19 + [False] + [True] + [False] * 3)
    assert metrics.fpr_at_tpr(positive, -np.arange(24.0)) == 0
    assert metrics.threshold_at_tpr(positive, -np.arange(24.0)) == -18


def test_fpr_counts_every_negative_that_ties_with_the_last_positive():
    positive, score = np.array([1, 1, 0, 0, 0]), np.array([2.0, 1.0, 1.0, 1.0, 0.0])
    assert metrics.fpr_at_tpr(positive, score) == pytest.approx(2 / 3)


@settings(max_examples=60, deadline=None)
@given(flagged_scores())
def test_augrc_is_the_area_of_its_definition(rows):
    assert metrics.augrc(*rows) == pytest.approx(augrc_over_all_thresholds(*rows), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(flagged_scores())
def test_auroc_of_a_score_and_of_its_negative_sum_to_one(rows):
    positive, score = rows
    assert metrics.auroc(positive, score) + metrics.auroc(positive, -score) == pytest.approx(1, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(flagged_scores(), st.sampled_from([np.exp, np.cbrt, lambda s: np.where(s == 4, INF, s)]))
def test_strictly_increasing_maps_of_the_score_change_nothing(rows, increasing):
    positive, score = rows
    for statistic in set(TWO_CLASS) - {metrics.threshold_at_tpr}:
        assert statistic(positive, increasing(score)) == statistic(positive, score)
    assume(len(set(score)) > 1)
    for statistic in (metrics.kendall_tau, metrics.spearman):
        assert statistic(positive, increasing(score)) == statistic(positive, score)


@settings(max_examples=60, deadline=None)
@given(two_columns())
def test_correlations_are_odd_in_a_column_and_symmetric(columns):
    x, y = columns
    for statistic in (metrics.kendall_tau, metrics.spearman):
        assert statistic(x, -y) == pytest.approx(-statistic(x, y), abs=1e-12)
        assert statistic(y, x) == pytest.approx(statistic(x, y), abs=1e-12)
        assert statistic(x, x) == pytest.approx(1, abs=1e-12)


def test_accuracies_are_shares_and_a_margin_of_exactly_epsilon_is_brittle():
    correct = np.array([True, True, True, False])
    assert metrics.accuracy(correct) == 0.75
    assert metrics.robust_accuracy(correct, np.array([0.1, 0.2, INF, INF]), 0.1) == 0.5
    assert metrics.accuracy([1]) == 1


@pytest.mark.parametrize("statistic", TWO_CLASS)
@pytest.mark.parametrize(("flag", "count"), [(True, "all"), (False, "none")])
def test_a_single_class_is_refused_by_name(statistic, flag, count):
    with pytest.raises(DegenerateError, match=rf"is not defined here: {count} of 5 rows are positive\.$"):
        statistic(np.full(5, flag), np.arange(5.0))


@pytest.mark.parametrize("statistic", [metrics.kendall_tau, metrics.spearman])
def test_a_constant_column_is_refused_even_an_infinite_one(statistic):
    with pytest.raises(DegenerateError, match="all 3 rows of y are 7"):
        statistic([1, 2, 3], [7, 7, 7])
    with pytest.raises(DegenerateError, match="all 3 rows of x are inf"):
        statistic([INF] * 3, [1, 2, 3])


def test_nan_too_few_rows_and_unlike_lengths_are_refused():
    with pytest.raises(DegenerateError, match="AUROC is not defined here: 1 of 3 rows of score are NaN"):
        metrics.auroc([0, 1, 1], [0.5, math.nan, 1])
    with pytest.raises(DegenerateError, match="1 of 2 rows of margin are NaN"):
        metrics.robust_accuracy([0, 1], [0.5, math.nan], 0.1)
    with pytest.raises(DegenerateError, match="it needs 2 rows or more, got 1"):
        metrics.kendall_tau([1], [1])
    with pytest.raises(DegenerateError, match="it needs 1 rows or more, got 0"):
        metrics.accuracy([])
    with pytest.raises(ShapeError, match=r"Expected y to be one number a row, \(3,\), got \(2,\)"):
        metrics.spearman([1, 2, 3], [1, 2])
    with pytest.raises(ShapeError, match=r"Expected score .* got \(2, 1\)"):
        metrics.auroc([0, 1], [[1], [2]])


def test_labels_that_are_not_flags_and_percentages_are_refused():
    with pytest.raises(ShapeError, match="Expected positive to be booleans or 0/1, got values such as 3"):
        metrics.auroc([0, 3, 1], [1, 2, 3])
    with pytest.raises(UsageError, match=r"true positive rate in \(0, 1\], got 95; is it a percentage\?"):
        metrics.fpr_at_tpr([0, 1], [1, 2], tpr=95)
    with pytest.raises(UsageError, match="true positive rate"):
        metrics.threshold_at_tpr([0, 1], [1, 2], tpr=0)


def test_the_spread_of_logarithms_ignores_the_unit_and_is_the_normals_of_a_lognormal():
    values = stats.lognorm(s=0.3).ppf((np.arange(20_000) + 0.5) / 20_000)
    assert metrics.log_spread(values) == pytest.approx(0.3, rel=1e-3)
    assert metrics.log_spread(255 * values) == pytest.approx(metrics.log_spread(values), rel=1e-12)
    assert metrics.log_spread(np.array([1, math.e**2])) == pytest.approx(1)
    assert metrics.log_spread(np.full(5, 0.2)) == pytest.approx(0)


@pytest.mark.parametrize("wrong", [0.0, -1.0, INF])
def test_a_spread_of_what_has_no_logarithm_is_refused(wrong):
    with pytest.raises(DegenerateError, match="1 of 3 values are not positive and finite"):
        metrics.log_spread(np.array([1.0, wrong, 2.0]))
