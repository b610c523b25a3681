"""Margin consistency on tables whose correlations are known by hand, or by scipy."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from margincons.consistency import binned_medians, column, consistency
from margincons.errors import DegenerateError, MissingColumnError, UnknownNameError
from margincons.scores import SCORES


def table_of(upper, score, name="logit_margin"):
    return pd.DataFrame({"upper": upper, name: score})


def test_a_score_in_the_order_of_the_margins_is_wholly_consistent_and_the_reverse_wholly_not():
    margins = np.linspace(0.1, 1, 20)
    same, reverse = consistency(table_of(margins, margins**3)), consistency(table_of(margins, -margins))
    assert (same.tau.value, same.rho.value, same.n, same.unbounded) == (pytest.approx(1), pytest.approx(1), 20, 0)
    assert (reverse.tau.value, reverse.rho.value) == (pytest.approx(-1), pytest.approx(-1))


def test_one_swapped_pair_of_four_images_costs_a_third():
    swapped = consistency(table_of([1, 2, 3, 4], [1, 3, 2, 4]))
    assert swapped.tau.value == pytest.approx(4 / 6)  # (5 concordant - 1 discordant) / 6 pairs
    assert swapped.rho.value == pytest.approx(1 - 6 * 2 / (4 * 15))


@pytest.mark.parametrize("name", SCORES)
def test_the_sign_is_the_scores_own_and_never_taken_from_data(name):
    margins = np.arange(10.0)
    expected = {"low": 1, "high": -1}[SCORES[name].brittle_when]
    assert consistency(table_of(margins, margins, name), score=name).tau.value == pytest.approx(expected)
    assert consistency(table_of(margins, -margins, name), score=name).tau.value == pytest.approx(-expected)


def test_failed_attacks_tie_at_the_top_of_the_order():
    rng = np.random.default_rng(0)
    margins, score = rng.random(60), rng.random(60)
    margins[score > 0.7] = np.inf
    found = consistency(table_of(margins, score))
    finite = np.where(np.isinf(margins), 99, margins)
    assert found.tau.value == pytest.approx(stats.kendalltau(finite, score).statistic)
    assert found.rho.value == pytest.approx(stats.spearmanr(finite, score).statistic)
    assert found.unbounded == (score > 0.7).sum()


def test_the_estimates_have_intervals_that_repeat_with_the_seed():
    rng = np.random.default_rng(0)
    margins = rng.random(80)
    table = table_of(margins, margins + 0.3 * rng.random(80))
    first, again = (consistency(table, replicates=200, seed=3) for _ in range(2))
    assert first == again
    assert first.tau.low < first.tau.value < first.tau.high < 1
    assert consistency(table, replicates=200, seed=4).tau.low != first.tau.low


def test_another_margin_column_may_be_asked_for():
    table = table_of([1, 2, 3], [1, 2, 3]).assign(exact=[3, 2, 1])
    assert consistency(table, margin="exact").tau.value == pytest.approx(-1)


@pytest.mark.parametrize(
    ("table", "options", "error", "text"),
    [
        (table_of([1, 2], [1, 2]), {"score": "entropy"}, MissingColumnError, "Expected a column 'entropy', the table"),
        (table_of([1, 2], [1, 2]), {"margin": "lower"}, MissingColumnError, "has: upper, logit_margin"),
        (table_of([1, 2], [1, 2]), {"score": "upper"}, UnknownNameError, "Unknown score 'upper'"),
        (table_of([1, 1], [1, 2]), {}, DegenerateError, "all 2 rows of x are 1"),
        (table_of([1, 2], [5, 5]), {}, DegenerateError, "all 2 rows of y are 5"),
        (table_of([np.inf, np.inf], [1, 2]), {}, DegenerateError, "all 2 rows of x are inf"),
        (table_of([1.0], [1.0]), {}, DegenerateError, "it needs 2 rows or more, got 1"),
        (table_of([1, np.nan, 2], [1, 2, 3]), {}, DegenerateError, "1 of 3 rows of x are NaN"),
    ],
)
def test_what_has_no_correlation_is_refused(table, options, error, text):
    with pytest.raises(error) as caught:
        consistency(table, **options)
    assert text in str(caught.value)


def test_a_column_is_float64_whatever_its_type():
    table = pd.DataFrame({"flag": [True, False], "single": np.array([0.5, np.inf], dtype=np.float32)})
    assert column(table, "flag").tolist() == [1, 0]
    assert column(table, "single").dtype == np.float64


def test_medians_of_bins_are_those_of_the_sorted_images():
    margins = np.arange(1.0, 31)
    score = np.random.default_rng(0).permutation(margins)
    bins = binned_medians(table_of(margins[::-1], score[::-1]), bins=3)
    assert bins["images"].tolist() == [10, 10, 10]
    assert bins["margin"].tolist() == [5.5, 15.5, 25.5]
    for number, row in bins.iterrows():
        own = np.sort(score[10 * number : 10 * number + 10])
        assert row["median"] == np.median(own)
        # P(2nd order statistic <= median <= 9th) = 1 - 2 (1 + 10) / 2^10 = 97.9%; the next pair holds only 89.1%.
        assert (row["low"], row["high"]) == (own[1], own[8])
        assert own[0] <= row["lower quartile"] <= row["median"] <= row["upper quartile"] <= own[-1]


def test_bins_leave_out_failed_attacks_and_never_outnumber_the_images():
    bins = binned_medians(table_of([3, np.inf, 1, np.inf], [30, 5, 10, 7]), bins=10)
    assert bins[["margin", "median", "images"]].to_numpy().tolist() == [[1, 10, 1], [3, 30, 1]]
    assert bins[["low", "high"]].isna().all(axis=None)  # one image says nothing of a median
    assert binned_medians(table_of([np.inf, np.inf], [1, 2])).empty
