"""Simultaneous intervals against the percentile ones, the normal law, and the error they promise over many trials."""

import numpy as np
import pytest
from scipy import stats

from margincons.errors import DegenerateError, MissingColumnError, UsageError
from margincons.statistics.intervals import estimate, paired_difference
from margincons.statistics.simultaneous import compare_scores


def noisy_copies(n, scores, *, seed):
    """A target and scores that all follow it equally well: no difference is there to be found."""
    draw = np.random.default_rng(seed)
    target = draw.normal(size=n)
    return target, {f"score {i}": target + draw.normal(size=n) for i in range(scores)}


def test_values_and_gains_are_those_of_one_pair_at_a_time():
    target, scores = noisy_copies(90, 4, seed=0)
    found = compare_scores("kendall_tau", target, scores, reference="score 2", replicates=400, seed=5)
    for name, one in found.items():
        alone = estimate("kendall_tau", target, scores[name], replicates=400, seed=5)
        pair = paired_difference("kendall_tau", target, scores[name], scores["score 2"], replicates=400, seed=5)
        assert (one.value.value, one.value.low, one.value.high) == (alone.value, alone.low, alone.high)
        assert one.gain.value == pytest.approx(pair.value, abs=1e-12)
        assert one.gain.standard_error == pytest.approx(pair.standard_error, abs=1e-12)
    assert found["score 2"].gain.low == found["score 2"].gain.value == found["score 2"].gain.high == 0


def test_one_comparison_reaches_as_far_as_the_normal_law_says_and_more_reach_further():
    target, scores = noisy_copies(300, 12, seed=1)
    reach = {}
    for count in (2, 12):
        few = dict(list(scores.items())[:count])
        gain = compare_scores("spearman", target, few, reference="score 0", replicates=2000)["score 1"].gain
        reach[count] = (gain.high - gain.value) / gain.standard_error
    assert reach[2] == pytest.approx(stats.norm.ppf(0.975), abs=0.15)
    bonferroni = stats.norm.ppf(1 - 0.025 / 11)
    assert reach[2] + 0.3 < reach[12] < bonferroni + 0.15  # all gains share the reference: less than Bonferroni


def test_among_scores_that_are_alike_a_difference_is_claimed_in_about_one_study_of_twenty():
    trials, together, alone = 150, 0, 0
    for seed in range(trials):
        target, scores = noisy_copies(80, 10, seed=seed)
        found = compare_scores("auroc", target > 0.3, scores, reference="score 0", replicates=300, seed=seed)
        gains = [one.gain for name, one in found.items() if name != "score 0"]
        together += any(gain.low > 0 or gain.high < 0 for gain in gains)
        alone += any(abs(gain.value) > 1.96 * gain.standard_error for gain in gains)
    assert together <= stats.binom.ppf(0.999, trials, 0.05)
    assert alone > 2 * stats.binom.ppf(0.999, trials, 0.05)  # what the intervals are widened for


def test_a_better_score_is_found_and_its_twin_has_no_gain():
    target, scores = noisy_copies(200, 3, seed=3)
    scores |= {"twin": 2 * scores["score 0"] + 1, "better": target + 0.1 * np.random.default_rng(9).normal(size=200)}
    found = compare_scores("kendall_tau", target, scores, reference="score 0", replicates=300)
    assert found["better"].gain.low > 0
    assert (found["twin"].gain.low, found["twin"].gain.high) == (0, 0)


def test_what_cannot_be_compared_is_refused():
    target, scores = noisy_copies(30, 2, seed=4)
    with pytest.raises(MissingColumnError, match="Expected a column 'score 9'"):
        compare_scores("kendall_tau", target, scores, reference="score 9")
    with pytest.raises(DegenerateError, match="all of 30 rows are positive"):
        compare_scores("auroc", np.ones(30), scores, reference="score 0")
    with pytest.raises(UsageError, match="a level in"):
        compare_scores("auroc", target > 0, scores, reference="score 0", level=95)
