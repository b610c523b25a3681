"""Intervals against closed forms: coverage where the truth is known, DeLong's error, Wilson's from scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from margincons.errors import DegenerateError, ShapeError, UnknownNameError, UsageError
from margincons.statistics import intervals, metrics, weighted
from margincons.statistics.intervals import (
    Estimate,
    difference,
    estimate,
    over_seeds,
    paired_difference,
    share_difference,
)

PRECISION = "bootstrap, 300 replicates, or Wilson score of the positives"
BY_RANK = "order statistics of {positives} positives"
CLOSED = {
    "auroc": "Newcombe's method 5, or DeLong's on the logit scale",
    "average_precision": PRECISION,
    "aupr_trapezoid": PRECISION,
    "fpr_at_tpr": BY_RANK,
    "threshold_at_tpr": BY_RANK,
}
NOT_SHARES = [name for name in metrics.STATISTICS if "accuracy" not in name]
RESAMPLED = [name for name in NOT_SHARES if name not in CLOSED]


def normal_columns(n, *, seed=0, correlation=0.6):
    """Two normal columns (n,) of a known correlation."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    return x, correlation * x + math.sqrt(1 - correlation**2) * rng.normal(size=n)


def columns_for(name, n, *, seed=0):
    x, y = normal_columns(n, seed=seed)
    if name == "log_spread":
        return (np.exp(y),)
    return (x, y) if name in {"kendall_tau", "spearman"} else (x > 0.3, y)


def test_an_estimate_prints_its_value_and_interval_without_leading_zeros():
    result = Estimate(value=0.8312, low=-0.0401, high=1, n=800, method="")
    assert str(result) == ".83 [-.04, 1.00]"
    assert f"{result:.3f}" == ".831 [-.040, 1.000]"
    assert f"{result:+.2f}" == "+.83 [-.04, +1.00]"
    assert str(Estimate(value=0.9982, low=0.9951, high=0.9996, n=800, method="")) == ".998 [.995, 1.000]"
    assert str(Estimate(value=1, low=1, high=1, n=800, method="")) == "1.0000 [1.0000, 1.0000]"
    assert str(Estimate(value=10.5, low=-0.001, high=math.inf, n=2, method="")) == "10.50 [.00, inf]"


@pytest.mark.parametrize("name", NOT_SHARES)
def test_an_interval_holds_the_value_and_repeats_with_its_seed(name):
    columns = columns_for(name, 400)
    method = CLOSED.get(name, "bootstrap, 300 replicates").format(positives=int((columns[0] > 0).sum()))
    first, again, other = (estimate(name, *columns, seed=seed, replicates=300) for seed in (3, 3, 4))
    assert first == again
    assert (first != other) == (CLOSED.get(name, PRECISION) == PRECISION)
    assert first.value == getattr(metrics, name)(*columns)
    assert first.low < first.value < first.high
    assert (first.n, first.level, first.method) == (400, 0.95, method)
    assert estimate(getattr(metrics, name), *columns, seed=3, replicates=300) == first


@pytest.mark.parametrize("name", RESAMPLED)
def test_the_bounds_are_the_percentiles_of_naive_resampling(name):
    columns = columns_for(name, 300)
    rng = np.random.default_rng(1)
    rows = rng.integers(300, size=(600, 300))
    naive = np.sort([getattr(metrics, name)(*(column[r] for column in columns)) for r in rows])
    result = estimate(name, *columns, level=0.8)
    four_errors = 4 * 600 * math.sqrt(0.1 * 0.9 * (1 / 600 + 1 / 1000))  # both bounds are found by sampling
    for bound, expected in ((result.low, 60), (result.high, 540)):
        first, last = np.searchsorted(naive, bound, side="left"), np.searchsorted(naive, bound, side="right")
        assert first - four_errors < expected < last + four_errors


def test_intervals_cover_known_truths_nineteen_times_in_twenty():
    distance, correlation, trials = 1.0, 0.6, 300
    truths = {
        "auroc": stats.norm.cdf(distance / math.sqrt(2)),
        "kendall_tau": 2 / math.pi * math.asin(correlation),
        "spearman": 6 / math.pi * math.asin(correlation / 2),
    }
    covered = dict.fromkeys(truths, 0)
    for trial in range(trials):
        x, y = normal_columns(100, seed=trial, correlation=correlation)
        positive = np.random.default_rng(trial).random(100) < 0.4
        columns = {"auroc": (positive, x + distance * positive)}
        for name, truth in truths.items():
            result = estimate(name, *columns.get(name, (x, y)), replicates=200, seed=trial)
            covered[name] += result.low <= truth <= result.high
    for name, count in covered.items():
        assert 0.89 < count / trials < 0.995, name


def delong_error(positive, score):
    """Standard error of AUROC: DeLong, DeLong and Clarke-Pearson, 1988, through midranks."""
    high, low = score[positive], score[~positive]
    ranks = stats.rankdata(np.concatenate([high, low]))
    above = (ranks[: len(high)] - stats.rankdata(high)) / len(low)
    below = (ranks[len(high) :] - stats.rankdata(low)) / len(high)
    return math.sqrt(above.var(ddof=1) / len(high) + below.var(ddof=1) / len(low))


def test_above_the_limit_the_interval_is_subsampled_rescaled_and_says_so(monkeypatch):
    monkeypatch.setattr(intervals, "MOST_ROWS", 2000)
    values = (np.exp(normal_columns(50_000)[0]),)
    result = estimate("log_spread", *values)
    assert result.value == metrics.log_spread(*values)
    assert result.method == "bootstrap on a subsample of 2000, rescaled to 50000 rows, 1000 replicates"
    assert result.n == 50_000
    error = 1 / math.sqrt(2 * 50_000)  # of the standard deviation of normal logarithms
    assert result.high - result.low == pytest.approx(2 * stats.norm.ppf(0.975) * error, rel=0.1)
    assert abs((result.high + result.low) / 2 - result.value) < error / 2
    assert result.standard_error == pytest.approx(error, rel=0.1)


def test_the_standard_error_of_auroc_is_delongs():
    positive, score = columns_for("auroc", 800)
    score = np.round(score, 1)  # ties, too
    assert estimate("auroc", positive, score).standard_error == pytest.approx(delong_error(positive, score))
    assert estimate("accuracy", positive).standard_error is None  # Wilson's interval is not a multiple of one


def test_batches_of_replicates_do_not_change_an_interval(monkeypatch):
    columns = columns_for("augrc", 120)
    whole = estimate("augrc", *columns)
    monkeypatch.setattr(intervals, "BATCH_CELLS", 120 * 77)
    assert estimate("augrc", *columns) == whole


def test_accuracies_get_wilsons_interval_with_room_above_a_perfect_share():
    correct = np.arange(40) < 30
    result = estimate("accuracy", correct, level=0.9)
    expected = stats.binomtest(30, 40).proportion_ci(0.9, method="wilson")
    assert (result.low, result.high) == pytest.approx((expected.low, expected.high))
    assert result.method == "Wilson score"
    perfect = estimate(metrics.robust_accuracy, np.ones(40), np.full(40, math.inf), epsilon=0.1)
    assert perfect.value == perfect.high == 1
    assert perfect.low == pytest.approx(stats.binomtest(40, 40).proportion_ci(method="wilson").low)


def test_samples_on_which_the_statistic_is_undefined_are_left_out_and_counted():
    positive = np.array([True] + [False] * 9)
    result = estimate("augrc", positive, np.arange(10.0))
    kept, total = result.method.removeprefix("bootstrap, ").removesuffix(" replicates").split(" of ")
    assert total == "1000"
    share = 1 - 0.9**10  # of samples that hold the one positive row
    assert abs(int(kept) / 1000 - share) < 5 * math.sqrt(share * (1 - share) / 1000)
    assert not math.isnan(result.low + result.high)


def test_a_score_does_not_differ_from_itself_nor_from_an_increasing_map_of_it():
    for name in sorted({*RESAMPLED, "fpr_at_tpr"} - {"log_spread"}):
        target, score = columns_for(name, 300)
        for other in (score, np.exp(score)):
            result = paired_difference(name, target, score, other, replicates=50)
            assert (result.value, result.low, result.high) == (0, 0, 0)


def test_a_paired_difference_resamples_both_scores_together():
    x, y = normal_columns(300)
    better = x + 0.2 * np.random.default_rng(5).normal(size=300)
    result = paired_difference("kendall_tau", x, better, y)
    assert result.value == metrics.kendall_tau(x, better) - metrics.kendall_tau(x, y)
    assert 0 < result.low < result.value < result.high
    rows = np.random.default_rng(1).integers(300, size=(500, 300))
    naive = [metrics.kendall_tau(x[r], better[r]) - metrics.kendall_tau(x[r], y[r]) for r in rows]
    assert result.high - result.low == pytest.approx(2 * stats.norm.ppf(0.975) * np.std(naive), rel=0.15)


def test_options_reach_every_sample():
    positive, score = columns_for("fpr_at_tpr", 200)
    half = estimate("fpr_at_tpr", positive, score, tpr=0.5)
    assert half.low <= metrics.fpr_at_tpr(positive, score, tpr=0.5) <= half.high
    assert half.high < estimate("fpr_at_tpr", positive, score).low
    difference = paired_difference("robust_accuracy", positive, score, score - 5, epsilon=0.0)
    assert difference.value == (positive & (score > 0)).mean()
    assert difference.low < difference.value < difference.high


def test_what_cannot_be_meant_is_refused(monkeypatch):
    columns = columns_for("auroc", 30)
    with pytest.raises(UnknownNameError, match="Unknown statistic 'auc'; the nearest are: auroc"):
        estimate("auc", *columns)
    with pytest.raises(UnknownNameError, match="Unknown statistic 'mean'"):
        estimate(np.mean, *columns)
    for options in ({"level": 95}, {"replicates": 0}):
        with pytest.raises(UsageError, match=r"replicates >= 1 and a level in \(0, 1\)"):
            estimate("auroc", *columns, **options)
    with pytest.raises(UsageError, match="compares two scores, got threshold_at_tpr"):
        paired_difference("threshold_at_tpr", *columns, columns[1])
    with pytest.raises(DegenerateError, match="all of 30 rows are positive"):
        estimate("auroc", np.ones(30), columns[1])
    monkeypatch.setattr(intervals, "MOST_ROWS", 10)
    rare = np.arange(1000) == 7
    with pytest.raises(DegenerateError, match="none of 1000 samples of 10 rows has both classes"):
        estimate("augrc", rare, np.arange(1000.0))


@pytest.mark.slow
def test_tau_on_the_most_rows_fits_in_a_gigabyte():
    import tracemalloc

    x, y = normal_columns(intervals.MOST_ROWS)
    tracemalloc.start()
    result = estimate("kendall_tau", x, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e9
    assert result.low < 2 / math.pi * math.asin(0.6) < result.high
    once = weighted.once(weighted.kendall_tau, x, y)
    assert once == pytest.approx(metrics.kendall_tau(x, y), abs=1e-12)


def test_a_difference_of_paired_shares_is_the_textbooks_on_many_rows():
    rng = np.random.default_rng(0)
    first = rng.random(100_000) < 0.7
    second = np.where(rng.random(100_000) < 0.1, ~first, first)
    result = share_difference(first, second)
    gap = first.astype(float) - second
    error = stats.norm.ppf(0.975) * gap.std() / math.sqrt(len(gap))
    assert (result.value, result.n) == (pytest.approx(gap.mean()), 100_000)
    assert (result.low, result.high) == pytest.approx((gap.mean() - error, gap.mean() + error), rel=0.01)
    other = share_difference(second, first)
    assert (other.value, other.low, other.high) == pytest.approx((-result.value, -result.high, -result.low))


def test_a_difference_of_paired_shares_covers_the_truth_and_keeps_a_width_where_nothing_differs():
    rng = np.random.default_rng(1)
    for more, fewer, n in ((0.05, 0.05, 40), (0.1, 0.02, 100), (0.4, 0.3, 60), (0.01, 0.0, 50)):
        draws = rng.choice([1, -1, 0], size=(1000, n), p=[more, fewer, 1 - more - fewer])
        results = [share_difference(draw > 0, draw < 0) for draw in draws]
        covered = np.mean([result.low <= more - fewer <= result.high for result in results])
        assert covered >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / 1000), (more, fewer, n)
    alike = share_difference([True] * 20, [True] * 20)
    wilson = stats.binomtest(0, 20).proportion_ci(method="wilson").high
    assert (alike.value, alike.low, alike.high) == pytest.approx((0, -wilson, wilson))


def test_shares_are_of_flags_of_the_same_rows():
    with pytest.raises(ShapeError, match="Expected second to be one number a row"):
        share_difference([1, 0, 1], [1, 0])
    with pytest.raises(ShapeError, match="Expected first to be booleans or 0/1"):
        share_difference([2, 0], [1, 0])
    with pytest.raises(UsageError, match=r"a level in \(0, 1\)"):
        share_difference([1, 0], [1, 0], level=95)


def test_the_interval_over_seeds_is_students():
    values = np.array([0.61, 0.64, 0.6, 0.66, 0.62])
    found = over_seeds(values)
    expected = stats.t.interval(0.95, 4, loc=values.mean(), scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected)
    assert (found.value, found.n, found.method) == (pytest.approx(0.626), 5, "Student's t over 5 seeds")
    alone = over_seeds(np.array([0.5]))
    assert (alone.value, alone.low, alone.high) == (0.5, -np.inf, np.inf)


def test_a_difference_of_two_networks_is_paired_by_image():
    x, y = normal_columns(300, seed=4)
    z = y + 0.1 * np.random.default_rng(1).normal(size=300)
    same_target = paired_difference("kendall_tau", x, y, z, seed=2)
    found = difference("kendall_tau", (x, y), (x, z), seed=2)
    assert (found.value, found.low, found.high) == (same_target.value, same_target.low, same_target.high)
    itself = difference("kendall_tau", (x, y), (3 * x, y), seed=2)  # another network of the same order
    assert (itself.value, itself.low, itself.high) == (0, 0, 0)
    other = normal_columns(300, seed=9)
    apart = difference("kendall_tau", (x, y), other, seed=2)
    assert apart.value == pytest.approx(stats.kendalltau(x, y).statistic - stats.kendalltau(*other).statistic)
    assert apart.high - apart.low > found.high - found.low  # pairing pays where networks are alike


def test_a_difference_covers_the_truth_about_as_often_as_it_says():
    held = 0
    for seed in range(150):
        first, second = normal_columns(120, seed=seed), normal_columns(120, seed=seed + 1000, correlation=0.3)
        truth = 2 / math.pi * (math.asin(0.6) - math.asin(0.3))
        found = difference("kendall_tau", first, second, replicates=200, seed=seed)
        held += found.low <= truth <= found.high
    assert stats.binomtest(held, 150, 0.95).pvalue > 0.001


def test_networks_on_other_images_have_no_paired_difference():
    x, y = normal_columns(50)
    with pytest.raises(ShapeError, match="of 50 rows, got 49"):
        difference("spearman", (x, y), (x[1:], y[1:]))
