"""Robust accuracy from a few images: unbiased by counting every draw, exact on all, covered as promised."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from margincons.errors import MissingColumnError, UnknownNameError, UsageError
from margincons.records import read_record
from margincons.robust_accuracy import RULES, fewest_mistakes, prediction_powered, share_of_few, study, thresholded

EPSILON = 0.5


def record(correct, brittle, scores):
    """A table whose images have margins 0 or 1."""
    correct = np.asarray(correct)
    margins = np.where(brittle, 0.0, 1.0)
    columns = {"label": np.zeros(len(correct)), "predicted": (~correct).astype(int), "logit_margin": scores}
    return pd.DataFrame(columns | {"upper": margins})


def drawn(n, *, seed=0, noise=0.5):
    """Images whose score is the margin's order, disturbed."""
    rng = np.random.default_rng(seed)
    score = rng.gamma(2.0, size=n)
    return record(rng.random(n) < 0.9, score + noise * rng.normal(size=n) < 1, score)


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([-np.inf, 0, 1, 2, np.inf])), min_size=1, max_size=9))
def test_no_threshold_makes_fewer_mistakes(rows):
    brittle, score = (np.array(column) for column in zip(*rows, strict=True))

    def mistakes(threshold):
        return ((score <= threshold) != brittle).sum()

    assert mistakes(fewest_mistakes(brittle, score)) == min(mistakes(t) for t in [-np.inf, *score])


@given(st.lists(st.booleans(), min_size=2, max_size=12), st.randoms(use_true_random=False))
def test_the_other_rules_flag_as_many_as_are_brittle_and_find_95_percent(brittle, random):
    score = np.array(random.sample(range(100), len(brittle)), dtype=float)
    brittle = np.array(brittle)
    assert (score <= RULES["as many as brittle"](brittle, score)).sum() == brittle.sum()
    found = (score <= RULES["95% found"](brittle, score))[brittle]
    assert found.mean() >= 0.95 if len(found) else not found.any()


@pytest.mark.parametrize(("few", "images"), [(4, 7), (5, 6)])
def test_prediction_powered_is_unbiased_over_every_draw_whatever_the_score(few, images):
    rng = np.random.default_rng(3)
    for noise in (0.0, 5.0):
        table = drawn(images, seed=5, noise=noise)
        table["logit_margin"] = rng.permutation(table["logit_margin"]) if noise else table["logit_margin"]
        truth = ((table["predicted"] == 0) & (table["upper"] > EPSILON)).mean()
        draws = itertools.permutations(range(images), few)
        values = [prediction_powered(table, rows, epsilon=EPSILON).value for rows in draws]
        assert 0 < truth < 1
        assert np.mean(values) == pytest.approx(truth, abs=1e-12)


def test_choosing_and_correcting_on_the_same_images_would_be_biased():
    table = drawn(60, noise=3.0)
    truth = ((table["predicted"] == 0) & (table["upper"] > EPSILON)).mean()
    rng = np.random.default_rng(0)
    biased = [thresholded(table, rng.permutation(60)[:10], epsilon=EPSILON) for _ in range(400)]
    assert np.mean(biased) - truth > 5 * np.std(biased) / 20  # upwards, as the paper's estimates are
    fair = [prediction_powered(table, rng.permutation(60)[:10], epsilon=EPSILON).value for _ in range(400)]
    assert abs(np.mean(fair) - truth) < 4 * np.std(fair) / 20


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(4, 30))
def test_only_the_margins_of_the_few_are_read(seed, few):
    table, rows = drawn(40, seed=seed), np.random.default_rng(seed).permutation(40)[:few]
    hidden = table.copy()
    hidden.loc[~hidden.index.isin(rows), "upper"] = np.nan  # anything that read one of these would raise
    for estimator in (prediction_powered, share_of_few, thresholded):
        assert estimator(hidden, rows, epsilon=EPSILON) == estimator(table, rows, epsilon=EPSILON)


def test_on_all_images_the_estimates_are_the_truth_without_an_interval():
    table = drawn(50)
    truth = ((table["predicted"] == 0) & (table["upper"] > EPSILON)).mean()
    for estimator in (prediction_powered, share_of_few):
        found = estimator(table, np.arange(50)[::-1], epsilon=EPSILON)
        assert (found.value, found.low, found.high) == pytest.approx((truth, truth, truth))


def test_a_perfect_score_leaves_an_interval_narrower_than_the_shares_own():
    table, rows = drawn(2000, noise=0), np.arange(200)
    powered, plain = (estimator(table, rows, epsilon=EPSILON) for estimator in (prediction_powered, share_of_few))
    assert powered.high - powered.low < 0.6 * (plain.high - plain.low)
    wilson = stats.binomtest(round(plain.value * 200), 200).proportion_ci(method="wilson")
    assert plain.high - plain.value == pytest.approx(np.sqrt(0.9) * (wilson.high - plain.value))


@pytest.mark.parametrize("noise", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("few", [20, 100])
def test_intervals_hold_the_share_over_all_images_nineteen_times_in_twenty(few, noise):
    found = study(drawn(600, noise=noise), epsilon=EPSILON, sizes=[few], draws=200, seed=1).loc[few]
    for name in ("prediction-powered", "share of the few"):
        assert found.loc[name, "coverage"] >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / 200), name
        assert abs(found.loc[name, "bias"]) < 4 * found.loc[name, "bias_error"] + 1e-12, name


@pytest.mark.slow
@pytest.mark.parametrize("network", ["trades", "clp", "rescaled", "standard", "mlp"])
def test_intervals_hold_the_truth_of_bundled_networks(network):
    table = read_record(f"digits/{network}/Linf/minimum_norm")
    found = study(table, epsilon=0.1, sizes=[50, 200], draws=1000)
    powered = found.xs("prediction-powered", level="estimator")
    assert (powered["coverage"] >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / 1000)).all()
    assert (powered["bias"].abs() < 4 * powered["bias_error"]).all()


def test_a_study_measures_errors_against_the_whole_table():
    table = drawn(30)
    found = study(table, epsilon=EPSILON, sizes=[10, 30], draws=5, seed=2)
    rng = np.random.default_rng(2)
    values = [share_of_few(table, rng.permutation(30)[:10], epsilon=EPSILON).value for _ in range(5)]
    plain = found.loc[10, "share of the few"]
    assert plain["bias"] == pytest.approx(np.mean(values) - plain["truth"])
    assert plain["rmse"] == pytest.approx(np.sqrt(np.mean((np.array(values) - plain["truth"]) ** 2)))
    assert found.loc[30, "prediction-powered"]["rmse"] == pytest.approx(0, abs=1e-12)
    assert found.loc[30, "prediction-powered"]["coverage"] == 1


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (
            lambda t: prediction_powered(t, [0, 1, 2], epsilon=0.1),
            UsageError,
            "Expected 4 or more different rows, got 3",
        ),
        (lambda t: prediction_powered(t, [0, 1, 2, 2], epsilon=0.1), UsageError, "got 4, 3 different"),
        (lambda t: prediction_powered(t, [9, 2, 3, -1], epsilon=0.1), UsageError, "rows from 0 to 9, got -1 to 9"),
        (lambda t: share_of_few(t, [0, 10], epsilon=0.1), UsageError, "rows from 0 to 9, got 0 to 10"),
        (lambda t: thresholded(t, [0], epsilon=0.1, rule="fewest"), UnknownNameError, "Unknown rule for a threshold"),
        (lambda t: thresholded(t.drop(columns="upper"), [0], epsilon=0.1), MissingColumnError, "Expected a column"),
    ],
)
def test_what_cannot_be_meant_is_refused(call, error, text):
    with pytest.raises(error) as caught:
        call(drawn(10))
    assert text in str(caught.value)
