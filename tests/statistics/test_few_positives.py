"""Limits that few positives do not break: binomial sums by hand, SciPy's quantile test, and coverage on records."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from margincons.detection import detection, is_brittle
from margincons.records import read_record
from margincons.statistics.few_positives import few_positives, fpr_limits, threshold_limits
from margincons.statistics.intervals import estimate, paired_difference
from margincons.statistics.metrics import fpr_at_tpr, threshold_at_tpr
from margincons.statistics.simultaneous import compare_scores

TRIALS = 400


def least_hits(trials):
    """Hits of 95% intervals that only one study of a thousand falls short of."""
    return stats.binom.ppf(0.001, trials, 0.95)


def chance_of_fewer(count, m, p):
    """Chance that fewer than ``count`` of m happen, each with chance p."""
    return sum(math.comb(m, i) * p**i * (1 - p) ** (m - i) for i in range(count))


@given(st.integers(1, 150), st.sampled_from([0.5, 0.8, 0.9, 0.95, 0.99]), st.sampled_from([0.8, 0.95, 0.999]))
def test_threshold_limits_are_the_narrowest_ranks_whose_binomial_tails_are_small_enough(m, tpr, level):
    positive, score = np.arange(2 * m) < m, np.append(np.arange(1.0, m + 1), np.full(m, 1e9))  # score = rank
    low, high = threshold_limits(positive, score, tpr=tpr, level=level)
    tail, p = (1 - level) / 2 + 1e-12, 1 - tpr
    below, above = (0 if low == -np.inf else int(low)), (m + 1 if high == np.inf else int(high))
    assert below == 0 or chance_of_fewer(below, m, p) <= tail
    assert chance_of_fewer(below + 1, m, p) > tail - 2e-12
    assert above == m + 1 or 1 - chance_of_fewer(above, m, p) <= tail
    assert 1 - chance_of_fewer(above - 1, m, p) > tail - 2e-12
    ends = stats.quantile_test(score[:m], p=p).confidence_interval(level)
    assert (low, high) == (-np.inf if np.isnan(ends.low) else ends.low, np.inf if np.isnan(ends.high) else ends.high)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5) | st.just(np.inf)), min_size=2, max_size=40), st.data())
def test_limits_enclose_the_values_of_the_sample_with_ties_and_infinities(rows, data):
    positive, score = (np.array(column) for column in zip(*rows, strict=True))
    if 0 < positive.sum() < len(positive):
        tpr = data.draw(st.sampled_from([0.05, 0.5, 0.95, 1.0]))
        low, high = threshold_limits(positive, score, tpr=tpr)
        assert low <= threshold_at_tpr(positive, score, tpr=tpr) <= high
        low, high = fpr_limits(positive, score, tpr=tpr)
        assert 0 <= low <= fpr_at_tpr(positive, score, tpr=tpr) <= high <= 1


def test_rate_limits_are_exact_limits_of_the_shares_at_threshold_limits_with_a_fifth_of_the_error():
    draw = np.random.default_rng(0)
    positive = np.arange(290) < 90
    score = draw.normal(size=290) + 2 * positive
    ends = threshold_limits(positive, score, level=0.96)
    assert np.isfinite(ends).all()
    counts = [int((score[~positive] >= end).sum()) for end in ends]
    low, high = fpr_limits(positive, score)
    assert stats.binom(200, low).sf(counts[1] - 1) == pytest.approx(0.005)
    assert stats.binom(200, high).cdf(counts[0]) == pytest.approx(0.005)


@pytest.mark.parametrize(("positives", "known"), [(71, (0, 0)), (72, (1, 0)), (76, (1, 0)), (77, (1, 1))])
def test_from_72_positives_on_a_threshold_has_a_lower_limit_and_from_77_on_its_rate_an_upper_one(positives, known):
    positive = np.arange(400) < positives
    score = np.where(positive, 10.0, 0.0) + np.random.default_rng(2).random(400)
    assert (threshold_limits(positive, score)[0] > -np.inf, fpr_limits(positive, score)[1] < 1) == known


def test_what_so_few_positives_cannot_know_is_left_open():
    table = read_record("digits/trades/Linf/minimum_norm")
    brittle = np.flatnonzero(is_brittle(table, 0.1))
    ten = table.drop(index=table.index[brittle[10:]])
    found = detection(ten, epsilon=0.1)
    assert found.threshold95.high == np.inf  # logits: no largest one is known
    assert found.threshold95.low <= found.threshold95.value
    assert found.fpr95.low <= found.fpr95.value < found.fpr95.high == 1
    assert found.fpr95.method == found.threshold95.method == "order statistics of 10 positives"
    assert found.fpr95.standard_error is None
    assert f"{found.threshold95}".endswith(", inf]")


@pytest.mark.parametrize(("positives", "tpr", "few"), [(99, 0.95, 1), (100, 0.95, 0), (49, 0.9, 1), (50, 0.9, 0)])
def test_neighbours_have_limits_of_one_kind_and_only_differences_are_resampled_from_a_hundred_positives_on(
    positives, tpr, few
):
    positive = np.arange(300) < positives
    score = np.random.default_rng(1).normal(size=300) + positive
    assert few_positives(positive, tpr=tpr) == few
    exact = f"order statistics of {positives} positives"
    for name in ("fpr_at_tpr", "threshold_at_tpr"):
        assert estimate(name, positive, score, tpr=tpr).method == exact
    pair = {"other": np.arange(300.0), "score": score}
    change = paired_difference("fpr_at_tpr", positive, *pair.values(), tpr=tpr, replicates=20)
    assert change.method == (exact if few else "bootstrap, 20 replicates")
    compared = compare_scores("fpr_at_tpr", positive, pair, reference="other", tpr=tpr, replicates=20)
    assert compared["score"].value == estimate("fpr_at_tpr", positive, score, tpr=tpr)
    assert few_positives(positive, tpr=1.0)  # no number of positives shows what the lowest of all will be
    assert few_positives(positive, tpr=0.01)


def population():
    """A shipped record's brittleness, which samples are drawn from with replacement: so its values are the truth."""
    table = read_record("digits/trades/Linf/minimum_norm")
    return is_brittle(table, 0.1), -table["logit_margin"].to_numpy()


def sampled(draw, brittle, columns, m):
    """Draw m brittle rows and seven times as many robust ones: flags, and the columns' values there."""
    rows = np.append(draw.choice(np.flatnonzero(brittle), m), draw.choice(np.flatnonzero(~brittle), 7 * m))
    return brittle[rows], [column[rows] for column in columns]


@pytest.mark.parametrize("m", [10, 20, 50])
def test_intervals_hold_the_truth_as_often_as_they_say_with_ten_twenty_and_fifty_positives(m):
    brittle, score = population()
    draw, held = np.random.default_rng(m), {"fpr_at_tpr": 0, "threshold_at_tpr": 0}
    truths = {"fpr_at_tpr": fpr_at_tpr(brittle, score), "threshold_at_tpr": threshold_at_tpr(brittle, score)}
    for _ in range(TRIALS):
        flags, (column,) = sampled(draw, brittle, [score], m)
        for name, truth in truths.items():
            found = estimate(name, flags, column)
            held[name] += found.low <= truth <= found.high
    assert min(held.values()) >= least_hits(TRIALS), held


@pytest.mark.parametrize("m", [20, pytest.param(10, marks=pytest.mark.slow), pytest.param(50, marks=pytest.mark.slow)])
def test_all_gains_over_a_reference_lie_in_their_intervals_as_often_as_these_say(m):
    brittle, score = population()
    draw = np.random.default_rng(m)
    spread = score.std()
    others = [score + noise * spread * draw.normal(size=len(score)) for noise in (0.0, 0.5, 3.0)]
    truth = np.array([fpr_at_tpr(brittle, one) - fpr_at_tpr(brittle, score) for one in others])
    assert truth.max() > 0.1
    together = pair = alone = 0
    trials = TRIALS // 4
    for _ in range(trials):
        flags, columns = sampled(draw, brittle, [score, *others], m)
        named = {str(place): column for place, column in enumerate(columns)}
        found = compare_scores("fpr_at_tpr", flags, named, reference="0")
        gains = [found[str(place)].gain for place in (1, 2, 3)]
        together += all(gain.low <= gap <= gain.high for gain, gap in zip(gains, truth, strict=True))
        alone += found["0"].value.low <= fpr_at_tpr(brittle, score) <= found["0"].value.high
        difference = paired_difference("fpr_at_tpr", flags, columns[3], columns[0])
        pair += difference.low <= truth[2] <= difference.high
    assert min(together, pair, alone) >= least_hits(trials), (together, pair, alone)


def test_gains_are_set_against_the_reference_at_a_level_shared_by_all_scores():
    draw = np.random.default_rng(4)
    flags = np.arange(500) < 96
    scores = {name: draw.normal(size=500) + shift * flags for name, shift in (("good", 4.0), ("poor", 0.0))}
    found = compare_scores("fpr_at_tpr", flags, scores, reference="poor", level=0.9)
    (good_low, good_high), (poor_low, poor_high) = (fpr_limits(flags, scores[n], level=0.95) for n in ("good", "poor"))
    gain = found["good"].gain
    assert (gain.low, gain.high, gain.level) == (good_low - poor_high, good_high - poor_low, 0.9)
    assert gain.high < 0  # a difference as large as this is found
    assert (found["good"].value.low, found["good"].value.high) == fpr_limits(flags, scores["good"])
    assert found["poor"].gain.low == found["poor"].gain.high == 0
    pair = paired_difference("fpr_at_tpr", flags, scores["good"], scores["poor"], level=0.9)
    assert (pair.value, pair.low, pair.high) == (gain.value, gain.low, gain.high)  # two scores share as one pair does
