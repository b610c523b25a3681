"""The theorem and the identity, as properties: every epsilon and every threshold tried, every pair compared."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from margincons.errors import DegenerateError, ShapeError
from margincons.studies.separation import (
    margin_consistent,
    mean_auroc,
    rank_correlation,
    separable_epsilons,
    separable_everywhere,
    separating_threshold,
)

PAIRS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=8)  # many ties in both
UNTIED = st.permutations(range(1, 9)).flatmap(
    lambda margins: st.tuples(st.just(margins), st.lists(st.integers(0, 9), min_size=8, max_size=8))
)


def columns(pairs):
    margins, scores = zip(*pairs, strict=True)
    return np.array(margins, dtype=float), np.array(scores, dtype=float)


def some_threshold_separates(margins, scores, epsilon):
    """Try every threshold that flags another set of images."""
    candidates = [-np.inf, *scores]
    return any(((scores <= threshold) == (margins <= epsilon)).all() for threshold in candidates)


@given(PAIRS)
def test_every_epsilon_has_a_threshold_exactly_where_a_smaller_margin_comes_with_a_smaller_score(pairs):
    margins, scores = columns(pairs)
    tried = [some_threshold_separates(margins, scores, epsilon) for epsilon in np.arange(-0.5, 7, 0.5)]
    ordered = all(s < t for (d, s), (e, t) in itertools.permutations(pairs, 2) if d < e)
    assert all(tried) == ordered == separable_everywhere(margins, scores)


@given(PAIRS, st.integers(-1, 6))
def test_the_threshold_that_is_returned_separates_and_none_is_returned_where_none_does(pairs, epsilon):
    margins, scores = columns(pairs)
    threshold = separating_threshold(margins, scores, epsilon)
    assert (threshold is not None) == some_threshold_separates(margins, scores, epsilon)
    if threshold is not None:
        assert ((scores <= threshold) == (margins <= epsilon)).all()


@given(PAIRS)
def test_the_epsilons_listed_are_all_at_which_the_answer_can_change(pairs):
    margins, scores = columns(pairs)
    epsilons, separated = separable_epsilons(margins, scores)
    assert epsilons.tolist() == sorted(set(margins.tolist()))[:-1]
    for epsilon, answer in zip(epsilons, separated, strict=True):
        assert answer == some_threshold_separates(margins, scores, epsilon)
    assert some_threshold_separates(margins, scores, margins.max())


@given(PAIRS)
def test_consistency_is_every_pair_ordered_alike_and_implies_separability(pairs):
    margins, scores = columns(pairs)
    alike = all((d <= e) == (s <= t) for (d, s), (e, t) in itertools.product(pairs, repeat=2))
    assert margin_consistent(margins, scores) == alike
    assert not alike or separable_everywhere(margins, scores)


@given(UNTIED)
def test_without_ties_in_the_margins_separability_is_consistency(columns):
    assert separable_everywhere(*columns) == margin_consistent(*columns)


def test_the_converse_fails_where_margins_tie():
    margins, scores = [1, 1, 2], [1, 2, 3]
    assert separable_everywhere(margins, scores)
    assert not margin_consistent(margins, scores)


@given(UNTIED)
def test_the_mean_auroc_is_one_plus_the_rank_correlation_over_two(columns):
    margins, scores = (np.array(column, dtype=float) for column in columns)
    n = len(margins)
    by_hand = sum(
        k * (n - k) * roc_auc_score(margins <= k, -scores)  # margins are the numbers 1 to n
        for k in range(1, n)
    ) / (n * (n**2 - 1) / 6)
    assert mean_auroc(margins, scores) == pytest.approx(by_hand, abs=1e-12)
    assert mean_auroc(margins, scores) == pytest.approx((1 + rank_correlation(margins, scores)) / 2, abs=1e-12)


@given(st.permutations(range(12)))
def test_without_ties_the_rank_correlation_is_spearmans(scores):
    assert rank_correlation(range(12), scores) == pytest.approx(spearmanr(range(12), scores).statistic, abs=1e-12)


def test_with_ties_in_the_scores_spearmans_rho_is_larger_and_the_identity_is_not_its():
    margins, scores = np.arange(6.0), np.array([0, 0, 0, 1, 1, 1.0])
    rho = spearmanr(margins, scores).statistic
    assert rho > rank_correlation(margins, scores)
    assert mean_auroc(margins, scores) < (1 + rho) / 2 - 0.01


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: mean_auroc([1, 1, 2], [1, 2, 3]), DegenerateError, "two margins or more, no two alike, got 3"),
        (lambda: mean_auroc([1], [1]), DegenerateError, "no two alike, got 1"),
        (lambda: separable_everywhere([1, np.nan], [1, 2]), DegenerateError, "1 margins or scores are NaN"),
        (lambda: separable_everywhere([1, 2], [1]), ShapeError, "(n,), got (2,) and (1,)"),
        (lambda: margin_consistent([[1, 2]], [[1, 2]]), ShapeError, "(n,), got (1, 2) and (1, 2)"),
    ],
)
def test_what_has_no_answer_is_refused(call, error, text):
    with pytest.raises(error) as caught:
        call()
    assert text in str(caught.value)
